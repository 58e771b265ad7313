"""Cards: metadata that the hub's own classes read back, text in which no name is markup, commands that the form can serve."""

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import DatasetCard, ModelCard
from hypothesis import given
from hypothesis import strategies as st

from biomistral.artifact import input_key, open_artifact, verify
from biomistral.cards.card import Wanted, write_card
from biomistral.cards.running import Form, commands, form_of
from biomistral.cards.wording import code, fenced, plain
from biomistral.cli import main
from biomistral.errors import UserError
from biomistral.models.settings import ModelSettings
from biomistral.recipe import canonical_hash
from biomistral.reporting.compare import paired
from biomistral.reporting.results import read_results
from biomistral.reporting.words import p_words, points
from biomistral.run import execute
from tiny import make_model
from tiny_papers import TinyFinetune, make_papers
from tiny_results import made, make_results, rewrite


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_papers(tmp_path_factory.mktemp("papers"))


def card(papers: dict[str, Path], name: str, tmp_path: Path, **wanted: Any) -> ModelCard | DatasetCard:
    place = write_card(papers[name], tmp_path / f"{name}.md", Wanted(**wanted))
    kind = DatasetCard if name in ("corpus", "suite", "translated") else ModelCard
    return kind(place.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["base", "adapted", "tuned", "merged", "awq", "nf4", "gguf-Q4_0", "corpus", "suite",
                                  "translated"])
def test_every_kind_has_a_card_that_the_hubs_classes_read(papers: dict[str, Path], tmp_path: Path, name: str) -> None:
    found = card(papers, name, tmp_path)
    assert found.data.license
    assert "For research only" in found.text
    assert found.data.to_dict()["biomistral"]["key"] == open_artifact(papers[name]).key
    again = type(found)(str(found))
    assert again.data.to_dict() == found.data.to_dict()
    assert str(papers["base"].parent) not in str(found), "no place of this machine"
    assert "\n\n\n" not in found.text
    assert "{{" not in found.text.replace("{{ messages", "")


def test_results_become_a_model_index_and_tables(papers: dict[str, Path], tmp_path: Path) -> None:
    found = card(papers, "tuned", tmp_path, results=[papers["results"]], repo="someone/tuned-7b")
    assert found.data.model_name == "tuned-7b"
    results = found.data.eval_results
    assert len(results) == 2 * 3  # two protocols, each two tasks and their mean
    summary = json.loads((papers["results"] / "results.json").read_text())["protocols"]["letters-3shot"]
    one = next(r for r in results if r.dataset_config == "task0" and r.metric_args["protocol"] == "letters-3shot")
    assert one.metric_value == round(100 * summary["tasks"]["task0"]["accuracy"], 2)
    assert one.metric_args["definition_hash"] == summary["definition_hash"]
    assert one.metric_args["interval_95"] == [round(100 * bound, 2) for bound in summary["tasks"]["task0"]["interval"]]
    low, high = summary["tasks"]["task0"]["interval"]
    assert f"{100 * low:.1f} to {100 * high:.1f}" in found.text
    assert summary["definition_hash"][:16] in found.text
    assert "answers B to 100 % of the questions" in found.text
    assert "gives the option letters only 20.0 % of its probability" in found.text
    assert "expected calibration error 12.3 points" in found.text
    assert "vllm serve someone/tuned-7b" in found.text


def test_differences_to_what_it_was_made_from(papers: dict[str, Path], tmp_path: Path) -> None:
    options: dict[str, Any] = {"tasks": 2, "shot_sets": 3, "skill": {"taught": 0.1, "untaught": 0.3}}
    adapted = make_results(tmp_path, papers, "adap|ted", "adapted", protocols=("cloze-mean",), **options)
    base = make_results(tmp_path, papers, "base", "base", protocols=("letters-3shot", "cloze-mean"), letter="", **options)
    alone = card(papers, "tuned", tmp_path, results=[papers["results"]])
    assert "on the same questions" not in alone.text
    found = card(papers, "tuned", tmp_path, results=[adapted, papers["results"], base])
    assert found.data.to_dict()["model-index"] == alone.data.to_dict()["model-index"]  # the metadata is about this model alone
    letters, _, cloze = found.text.partition("**tiny, cloze-mean**")
    assert "Compared with adap" not in letters  # it was not asked under this protocol
    assert "Compared with base" in letters
    assert "| corrected |" not in letters
    own, theirs = (read_results(folder).runs["cloze-mean"] for folder in (papers["results"], adapted))
    one = paired(own, theirs, "group", "taught")
    row = next(line for line in cloze.partition("Compared with adap")[2].splitlines() if line.startswith("| group: taught |"))
    assert row.startswith(f"| group: taught | {one.n} | {100 * one.baseline_accuracy:.1f} | {100 * one.accuracy:.1f} | "
                          f"{points(one.difference)} | {points(one.low)} to {points(one.high)} | {one.gained}, {one.lost} | "
                          f"{p_words(one.p)} | ")
    tables = [block.splitlines() for block in found.text.split("\n\n") if block.startswith("| questions | number |")]
    assert [len(table) - 2 for table in tables] == [5, 5, 5]  # all, two groups, two tasks
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables[0]} == {9}
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables[-1]} == {10}


def test_results_that_nothing_on_the_card_compares_with(papers: dict[str, Path], tmp_path: Path) -> None:
    fewer = make_results(tmp_path, papers, "base", "base", limit=7)
    with pytest.raises(UserError, match=r"nothing on this card compares with these results: the limit differs \(None and 7\)"):
        card(papers, "tuned", tmp_path, results=[papers["results"], fewer])
    with pytest.raises(UserError, match="there are no results of the model itself"):
        card(papers, "tuned", tmp_path, results=[fewer])
    later = make_results(tmp_path, papers, "gguf", "gguf-Q4_0", tasks=2, shot_sets=3)  # made from the model, not the reverse
    with pytest.raises(UserError, match="give results of this very folder, or of one it was made from"):
        card(papers, "tuned", tmp_path, results=[papers["results"], later])


def test_origin_in_the_hubs_words(papers: dict[str, Path], tmp_path: Path) -> None:
    alone = card(papers, "tuned", tmp_path).data
    assert alone.base_model is None
    assert "base_model_relation" not in alone.to_dict()
    names = {str(papers["base"]): "org/base", str(papers["corpus"]): "org/texts"}
    wanted = {"tuned": (["org/base"], "finetune"), "awq": (["org/base"], "finetune"), "merged": (["org/base"], "merge")}
    for name, (bases, relation) in wanted.items():
        data = card(papers, name, tmp_path, published=names).data
        assert (data.base_model, data.base_model_relation) == (bases, relation)
        assert data.datasets == ["org/texts"]
    direct = card(papers, "awq", tmp_path, published={**names, str(papers["tuned"]): "org/tuned"}).data
    assert (direct.base_model, direct.base_model_relation) == (["org/tuned"], "quantized")


def test_an_adapter_has_a_card_of_its_own(papers: dict[str, Path], tmp_path: Path) -> None:
    names = {str(papers["adapted"]): "org/adapted"}
    place = write_card(papers["tuned"] / "adapter", tmp_path / "a.md", Wanted(published=names, repo="org/lora"))
    found = ModelCard(place.read_text())
    data = found.data
    assert (data.library_name, data.base_model, data.base_model_relation) == ("peft", ["org/adapted"], "adapter")
    assert 'PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("org/adapted"' in found.text
    assert "vllm serve org/adapted --enable-lora --lora-modules adapter=org/lora --max-lora-rank 32" in found.text
    names = {str(papers["base"]): "org/base"}
    before = input_key(papers["tuned"] / "adapter")
    assert write_card(papers["tuned"] / "adapter", None, Wanted()) == papers["tuned"] / "adapter.README.md"
    assert input_key(papers["tuned"] / "adapter") == before  # or whatever was trained with it would look stale
    unknown = write_card(papers["tuned"] / "adapter", tmp_path / "b.md", Wanted(published=names))
    assert "base_model" not in ModelCard(unknown.read_text()).data.to_dict()  # trained on adapted, which is not published
    assert "not published under a name that this card knows" in unknown.read_text()


def test_an_adapters_results_are_those_of_base_and_adapter(tmp_path: Path) -> None:
    papers = make_papers(tmp_path)
    key = canonical_hash([input_key(papers["adapted"]), input_key(papers["tuned"] / "adapter")])  # as `evaluate --adapter` has it
    rewrite(papers["results"] / "results.json", lambda data: data["model"].update(key=key))
    found = ModelCard(write_card(papers["tuned"] / "adapter", None, Wanted(results=[papers["results"]])).read_text())
    assert len(found.data.eval_results) == 6
    with pytest.raises(UserError, match="give results of this very folder"):
        write_card(papers["tuned"], None, Wanted(results=[papers["results"]]))


RUNS = {"tuned": ("transformers", "vLLM", "biomistral"), "awq": ("transformers", "vLLM", "biomistral"),
        "nf4": ("transformers", "vLLM", "biomistral"), "int8": ("transformers", "biomistral"),
        "ct": ("transformers", "vLLM", "biomistral"), "gguf-Q4_0": ("llama.cpp", "Ollama", "biomistral")}


@pytest.mark.parametrize("name", RUNS)
def test_only_commands_that_the_form_can_serve(papers: dict[str, Path], tmp_path: Path, name: str) -> None:
    text = card(papers, name, tmp_path).text.partition("## How to run it")[2].partition("## Intended use")[0]
    shown = [line.partition(" (")[0].rstrip(":") for line in text.splitlines() if line.endswith(":") and "    " not in line]
    assert tuple(shown) == RUNS[name]


ODD = 'möd"el $HOME `x` \\'


@pytest.mark.parametrize(("chats", "name"), [(True, "model"), (False, "model"), (True, ODD)])
def test_what_the_card_says_to_type_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
                                         chats: bool, name: str) -> None:
    model = execute(ModelSettings(source=str(make_model(tmp_path / "source")), dtype="float32"), tmp_path / name).path
    if not chats:
        (model / "chat_template.jinja").unlink()
    text = write_card(model, None, Wanted()).read_text()
    snippet = text.partition("```python\n")[2].partition("```\n")[0]
    assert ("apply_chat_template" in snippet) == chats
    assert ("It has no chat template" in text) != chats
    monkeypatch.chdir(tmp_path)  # the card names the folder by its own name
    exec(snippet, {})
    assert capsys.readouterr().out


def test_what_an_adapters_card_says_to_type_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    base = make_model(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    command = commands(form_of(tmp_path / "adapter"), "adapter", published=False, base="base")[0]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(command.text, names)
    assert names["model"].peft_config["default"].r == 2


SHAPES = {
    "llama-cli": "-m FILE -cnv", "llama-completion": "-m FILE -no-cnv -n 64 -p TEXT", "llama-server": "-hf NAME",
    "ollama create": "NAME -f Modelfile", "ollama run": "NAME", "vllm serve": "NAME", "biomistral chat": "NAME",
    "vllm serve --enable-lora": "BASE --lora-modules adapter=NAME --max-lora-rank 32"}
"""What each program takes, checked by hand: llama.cpp's and Ollama's by their documentation, vLLM's by its config.lora page."""


@pytest.mark.parametrize("name", [ODD, "org/name"])
@pytest.mark.parametrize("form", ["gguf", "gguf-chat", "plain", "adapter"])
def test_the_other_commands_have_their_programs_shape(name: str, form: str) -> None:
    detail = {"file": f"{ODD}-Q4_0.gguf", "type": "Q4_0"} if form.startswith("gguf") else {"r": 24}
    made_in = Form(form.partition("-")[0], detail, chats=form == "gguf-chat")
    found = commands(made_in, name, published="/" in name, base="org/base")
    lines = [line for command in found if command.language == "sh" for line in command.text.splitlines()]
    for words in map(shlex.split, lines):
        place = 2 if words[0] in ("ollama", "vllm", "biomistral") else 1
        program = " ".join(words[:place]) + (" --enable-lora" if "--enable-lora" in words else "")
        given = [word for word in words[place:] if word != "--enable-lora"]
        shape = SHAPES[program].split()
        assert len(given) == len(shape), words
        for word, wanted in zip(given, shape, strict=True):
            assert word == wanted or wanted.isupper() or (wanted, word) == ("adapter=NAME", f"adapter={name}"), words
    if form.startswith("gguf"):
        created = next(line.split()[2] for line in lines if line.startswith("ollama create"))
        assert re.fullmatch("[a-z0-9_][a-z0-9_.-]*", created)


def test_vllm_knows_only_certain_ranks() -> None:
    shown = {rank: commands(Form("adapter", {"r": rank}, chats=False), "a", False)[1:] for rank in (8, 16, 17, 200, 512, 513)}
    ends = {rank: found[0].text.partition("--max-lora-rank ")[2] if found else None for rank, found in shown.items()}
    assert ends == {8: "", 16: "", 17: "32", 200: "256", 512: "512", 513: None}


def test_gguf_names_its_file_and_its_type_on_the_hub(papers: dict[str, Path], tmp_path: Path) -> None:
    text = card(papers, "gguf-Q4_0", tmp_path, repo="Org/Tiny-GGUF").text
    for command in ("llama-server -hf Org/Tiny-GGUF:Q4_0", "ollama run hf.co/Org/Tiny-GGUF:Q4_0",
                    "llama-completion -m model-Q4_0.gguf", "ollama create tiny-gguf -f Modelfile"):
        assert command in text


def test_the_licence_and_its_reason(papers: dict[str, Path], tmp_path: Path) -> None:
    found = card(papers, "adapted", tmp_path)
    assert (found.data.license, found.data.to_dict()["license_name"]) == ("other", "unknown")
    assert "Not known: the licence of the model weights.gguf" in found.text
    (tmp_path / "x").mkdir()
    stated = card(papers, "adapted", tmp_path / "x", licence="Apache 2.0")
    assert stated.data.license == "apache-2.0"
    assert "stated by whoever made the card" in stated.text
    assert "| documents of the corpus corpus | CC-BY-4.0 | 2 |" in stated.text
    assert card(papers, "corpus", tmp_path).data.license == "cc-by-4.0"  # CC0 beside it asks for less
    assert "ATTRIBUTION.tsv" in card(papers, "corpus", tmp_path).text


def test_an_adapter_that_training_went_on_from_brings_its_parts(papers: dict[str, Path], tmp_path: Path) -> None:
    more = TinyFinetune(model=str(papers["adapted"]), train=[str(papers["suite"])], adapter=str(papers["tuned"] / "adapter"))
    text = write_card(made(more, tmp_path / "more"), None, Wanted()).read_text()
    assert "the model adapter" not in text
    assert text.count("| questions of suite | MIT | 1 |") == 1


def test_data_sets(papers: dict[str, Path], tmp_path: Path) -> None:
    suite = card(papers, "suite", tmp_path)
    assert suite.data.size_categories == ["n<1K"]
    assert suite.data.language == ["en"]
    assert suite.data.license == "mit"
    assert "| codes\\|&lt;b&gt; | 2 | 10 | MIT | codes.csv |" in suite.text
    translated = card(papers, "translated", tmp_path)
    assert (translated.data.language, translated.data.multilinguality) == (["pt"], "translation")
    assert "from en to pt by gpt-x" in translated.text
    assert "No expert has read the\ntranslations" in translated.text


# ---- where it is written ----------------------------------------------------------------------------------------------


def test_the_folder_stays_as_its_manifest_says(tmp_path: Path) -> None:
    papers = make_papers(tmp_path)
    for name in ("merged", "tuned", "corpus"):
        before = open_artifact(papers[name])
        write_card(papers[name], None, Wanted(), force=True)
        assert verify(open_artifact(papers[name])) == []
        assert open_artifact(papers[name]).manifest == before.manifest


def test_what_people_write_is_kept_or_the_command_stops(tmp_path: Path) -> None:
    papers = make_papers(tmp_path)
    readme = papers["tuned"] / "README.md"
    write_card(papers["tuned"], None, Wanted())
    first = readme.read_text()
    front, _, rest = first.partition("---\n<!--")
    readme.write_text(f"{front}---\nAbove, mine.\n<!--{rest}Below, mine: ünïcode.\n")
    write_card(papers["tuned"], None, Wanted(licence="mit"))
    second = readme.read_text()
    assert "Above, mine.\n<!--" in second
    assert second.endswith("Below, mine: ünïcode.\n")
    assert "license: mit" in second
    write_card(papers["tuned"], None, Wanted(licence="mit"))
    assert readme.read_text() == second  # run twice, the same bytes
    readme.write_text(second.replace("For research only", "For everyone"))
    with pytest.raises(UserError, match=r"was edited inside the part that this command writes.*--force"):
        write_card(papers["tuned"], None, Wanted())
    assert "For everyone" in readme.read_text()
    write_card(papers["tuned"], None, Wanted(), force=True)
    assert "For everyone" not in readme.read_text()
    assert "Above, mine." in readme.read_text()
    readme.write_text("# By hand\n")
    with pytest.raises(UserError, match="was not written by this command"):
        write_card(papers["tuned"], None, Wanted())
    readme.write_bytes(second.replace("\n", "\r\n").encode())  # an editor of another system changed no word
    write_card(papers["tuned"], None, Wanted())


BAD = [
    ("results", {}, "a evaluate artifact has no card"),
    ("benchmark", {}, "not a finished artifact"),
    ("tuned", {"repo": "no-owner"}, "owner/name was expected"),
    ("tuned", {"published": {"/nowhere": "a/b"}}, "no such folder"),
    ("corpus", {"results": [Path("x")]}, "which has no results"),
    ("tuned", {"results": [Path("/nowhere")]}, "no such folder"),
]


@pytest.mark.parametrize(("name", "wanted", "message"), BAD)
def test_refused_in_one_line(papers: dict[str, Path], tmp_path: Path, name: str, wanted: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        write_card(papers[name], tmp_path / "x.md", Wanted(**wanted))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x.md").exists()


def test_results_of_another_model_or_changed_by_hand(papers: dict[str, Path], tmp_path: Path) -> None:
    other = make_results(tmp_path, papers, "merged", "merged")
    with pytest.raises(UserError, match=r"is about 'merged' .* give results of this very folder"):
        write_card(papers["tuned"], tmp_path / "x.md", Wanted(results=[other]))
    with pytest.raises(UserError, match="stands in another of these folders too"):
        write_card(papers["tuned"], tmp_path / "x.md", Wanted(results=[papers["results"], papers["results"]]))
    own = make_results(tmp_path, papers, "mine", "tuned")
    rewrite(own / "results.json", lambda data: data["protocols"]["cloze-mean"]["overall"].update(accuracy=0.9))
    with pytest.raises(UserError, match="one of the files was changed"):
        write_card(papers["tuned"], tmp_path / "x.md", Wanted(results=[own]))


def test_a_folder_whose_manifest_holds_its_readme(tmp_path: Path) -> None:
    papers = make_papers(tmp_path)
    rewrite(papers["merged"] / "manifest.json", lambda data: data["files"].update({"README.md": {"bytes": 1, "blake3": "0"}}))
    with pytest.raises(UserError, match="one of the files that the manifest holds by hash"):
        write_card(papers["merged"], None, Wanted(), force=True)


def test_the_command(papers: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["biomistral", "card", str(papers["awq"]), "--out", str(tmp_path / "c.md"), "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    data = json.loads(capsys.readouterr().out)
    assert data["metadata"]["tags"] == ["biomistral", "medical", "research-only", "quantized", "awq"]


# ---- words ------------------------------------------------------------------------------------------------------------


@given(st.text())
def test_no_value_is_markup(text: str) -> None:
    shown = plain(text)
    assert "\n" not in shown
    assert not any(f"<{name}" in shown for name in ("script", "img", "!--"))
    assert "|" not in shown.replace("\\\\", "").replace("\\|", "")
    assert code(text).count("`") == 2
    block = fenced(text, "yaml").splitlines()
    assert block[0].removesuffix("yaml") == block[-1]
    assert block[-1] not in text
