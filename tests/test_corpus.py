"""The corpus stage through its door: what is kept, refused, written and packed; interrupted, on any number of workers."""

import gzip
import importlib.util
import io
import json
import signal
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from biomistral.artifact import Artifact
from biomistral.corpus.packing import encoder
from biomistral.corpus.settings import CorpusSettings
from biomistral.errors import UserError
from biomistral.models.load import load_tokenizer
from biomistral.recipe import Machine, parse
from biomistral.records import DOCUMENT_SCHEMA, REFUSED_SCHEMA
from biomistral.run import execute
from test_jats import article
from tiny import make_model

STEM = "A patient presents with polyuria and thirst and weight loss after a long summer holiday by the sea"


def prose(seed: int, words: int = 120) -> str:
    """Sentences no other seed shares."""
    generator = np.random.default_rng(seed)
    names = [f"{'abcdefghij'[number % 10]}{'klmnopqrst'[number // 10 % 10]}{'uvwxyzaeio'[number // 100]}ine"
             for number in generator.integers(0, 1000, words)]
    return " ".join(names) + "."


def xml(seed: int, body: str = "", language: str = "", licence: str = "by/4.0", identifier: bool = True) -> bytes:
    data = article(f"<sec><title>Results</title><p>{body or prose(seed)}</p></sec>", language=language)
    data = data.replace(b"by/4.0", licence.encode()).replace(b"Effects of", f"Effects {seed} of".encode())
    if not identifier:
        return data.replace(b'<article-id pub-id-type="pmc">1234</article-id>', b"").replace(
            b'<article-id pub-id-type="doi">10.1/ABC</article-id>', b"")
    return data.replace(b">1234<", f">{1000 + seed}<".encode())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "pico")


@pytest.fixture
def articles(tmp_path: Path) -> Path:
    folder = tmp_path / "articles"
    folder.mkdir()
    for seed in range(12):
        (folder / f"{seed:02d}.xml").write_bytes(xml(seed))
    return folder


def build(model: Path, out: Path, machine: Machine | None = None, **settings: Any) -> Artifact:
    defaults: dict[str, Any] = {"tokenizer": str(model), "language_from": "declared", "sequence_length": 64, "min_words": 20}
    return execute(parse(CorpusSettings, {**defaults, **settings}), out, machine or Machine(workers=1))


def rows(artifact: Artifact, name: str) -> list[dict[str, Any]]:
    return list(pq.read_table(artifact.path / f"{name}.parquet").to_pylist())


def reasons(artifact: Artifact) -> dict[str, str]:
    return {row["id"]: row["reason"] for row in rows(artifact, "refused")}


def test_the_folder(model: Path, articles: Path, tmp_path: Path) -> None:
    made = build(model, tmp_path / "out", sources=[str(articles)], heldout=0.2)
    names = {path.relative_to(made.path).as_posix() for path in made.path.rglob("*") if path.is_file()}
    assert names == {"manifest.json", "documents.parquet", "refused.parquet", "decontamination.parquet", "ATTRIBUTION.tsv",
                     "duplicates.parquet", "packing.json", "statistics.json", "statistics.html",
                     *(f"shards/{split}-00000.{kind}" for split in ("train", "heldout")
                                       for kind in ("tokens.npy", "pieces.parquet"))}
    assert pq.read_schema(made.path / "documents.parquet").equals(DOCUMENT_SCHEMA)
    assert pq.read_schema(made.path / "refused.parquet").equals(REFUSED_SCHEMA)
    documents = rows(made, "documents")
    assert [row["id"] for row in documents] == [f"PMC{1000 + seed}" for seed in range(12)]
    first = documents[0]
    assert first["text"] == f"Effects 0 of E. coli on H2O\n\nResults\n\n{prose(0)}"
    assert (first["licence"], first["language"], first["source"], first["year"]) == ("CC-BY-4.0", "en", "articles", 2018)
    lines = (made.path / "ATTRIBUTION.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["id", "title", "authors", "journal", "year", "licence", "url"]
    assert lines[1].split("\t") == ["PMC1000", "Effects 0 of E. coli on H2O", "Marie Curie; The Group", "Journal of Tests",
                                    "2018", "CC-BY-4.0", "https://pmc.ncbi.nlm.nih.gov/articles/PMC1000/"]
    assert made.manifest["counts"]["documents"] == 12
    assert made.manifest["licences"] == {"CC-BY-4.0": 12}


def unpack(artifact: Artifact, split: str) -> dict[str, list[int]]:
    """Document -> its tokens, read from the shards as docs/formats.md says."""
    found: dict[str, list[int]] = {}
    for path in sorted((artifact.path / "shards").glob(f"{split}-*.tokens.npy")):
        flat = np.load(path, mmap_mode="r").reshape(-1)
        at = 0
        for piece in pq.read_table(str(path).replace("tokens.npy", "pieces.parquet")).to_pylist():
            assert piece["start"] == at
            at += piece["length"]
            found.setdefault(piece["document"], []).extend(flat[piece["start"]:at].tolist())
        assert at == flat.size
    return found


@pytest.mark.parametrize(("bos", "eos", "words"), [("always", "piece", 50), ("auto", "piece", None), ("never", "document", 50),
                                                   ("always", "never", 7)])
def test_shards_hold_the_documents(model: Path, articles: Path, tmp_path: Path, bos: str, eos: str, words: int | None) -> None:
    made = build(model, tmp_path / "out", sources=[str(articles)], bos=bos, eos=eos, piece_words=words, heldout=0.2)
    packing = json.loads((made.path / "packing.json").read_text())
    tokenizer = load_tokenizer(model)
    head = [tokenizer.bos_token_id] if bos == "always" else []  # this tokenizer adds none by itself
    expected, sizes = {}, {}
    for row in rows(made, "documents"):
        parts = row["text"].split()
        size = words or len(parts)
        pieces = [" ".join(parts[start:start + size]) for start in range(0, len(parts), size)]
        assert len(pieces) >= 1
        tail = [tokenizer.eos_token_id]
        ids: list[int] = []
        text = row["text"]
        at = 0
        for number, piece in enumerate(pieces):  # the same words, with the white space that stands between them in the text
            end = at
            for word in piece.split():
                end = text.index(word, end) + len(word)
            last = number == len(pieces) - 1
            ids += [*head, *tokenizer(text[at:end], add_special_tokens=False)["input_ids"],
                    *(tail if eos == "piece" or (eos == "document" and last) else [])]
            at = end
            while at < len(text) and text[at].isspace():
                at += 1
        expected[row["id"]] = ids
        sizes[row["id"]] = len(text.encode())
    found = {split: unpack(made, split) for split in ("train", "heldout")}
    assert not set(found["train"]) & set(found["heldout"])
    assert set(found["train"]) | set(found["heldout"]) == set(expected)
    for split, documents in found.items():
        numbers = packing[split]
        order = list(documents)
        for name in order[:-1]:
            assert documents[name] == expected[name]
        assert documents[order[-1]] == expected[order[-1]][:len(documents[order[-1]])]
        total = sum(len(expected[name]) for name in order)
        assert numbers["blocks"] == total // 64
        assert (numbers["tokens"], numbers["waste"], numbers["documents"]) == (total // 64 * 64, total % 64, len(order))
        assert sum(sizes[name] for name in order[:-1]) <= numbers["bytes"] + len(order) * 40
        assert numbers["bytes"] <= sum(sizes[name] for name in order)
    assert packing["dtype"] == "uint16"
    assert np.load(made.path / "shards/train-00000.tokens.npy").dtype == np.uint16


def test_a_split_shorter_than_a_block_is_filled(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(xml(1))
    made = build(model, tmp_path / "out", sources=[str(tmp_path / "a.xml")], sequence_length=4096)
    tokens = np.load(made.path / "shards/train-00000.tokens.npy")
    pieces = pq.read_table(made.path / "shards/train-00000.pieces.parquet").to_pylist()
    assert tokens.shape == (1, 4096)
    assert [piece["document"] for piece in pieces] == ["PMC1001", ""]
    assert set(tokens[0, pieces[1]["start"]:].tolist()) == {2}
    packing = json.loads((made.path / "packing.json").read_text())
    assert (packing["train"]["tokens"], packing["train"]["waste"]) == (pieces[0]["length"], pieces[1]["length"])
    assert packing["train"]["bytes"] == len(rows(made, "documents")[0]["text"].encode())
    assert packing["heldout"]["blocks"] == 0
    assert not list((made.path / "shards").glob("heldout*"))


def test_special_tokens_in_a_text_are_only_text(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(xml(1, body=f"{prose(1)} &lt;/s&gt; &lt;s&gt; {prose(2)}"))
    made = build(model, tmp_path / "out", sources=[str(tmp_path / "a.xml")], sequence_length=8, piece_words=None)
    tokens = np.load(made.path / "shards/train-00000.tokens.npy")
    assert (tokens == 2).sum() <= 1
    assert (tokens == 1).sum() == 0


def test_every_refusal_has_its_reason(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    files = {
        "good.xml": xml(1), "copy.xml": xml(1, identifier=False), "nc.xml": xml(2, licence="by-nc/4.0"),
        "misprint.xml": xml(3, licence="by-ncnd/4.0"), "broken.xml": xml(4)[:-40], "short.xml": xml(5, body="Too short."),
        "retracted.xml": xml(6).replace(b'"research-article"', b'"retraction"'), "near.xml": xml(7, body=prose(8, 400)),
        "near2.xml": xml(8, body=prose(8, 400) + " another ending"), "empty.xml": b"", "book.xml": b"<book/>",
        "cut.xml.gz": gzip.compress(xml(9))[:-200], "fine.xml.gz": gzip.compress(xml(10)),
        "digits.xml": xml(11, body="1.5 22 " * 300), "notes.txt": b"not a source",
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    made = build(model, tmp_path / "out", sources=[str(folder)])
    assert reasons(made) == {
        "mixed:copy.xml": "duplicate", "PMC1002": "licence", "PMC1003": "licence", "mixed:broken.xml": "malformed",
        "PMC1005": "too_short", "PMC1006": "retracted", "PMC1007": "near_duplicate", "mixed:empty.xml": "malformed",
        "mixed:book.xml": "not_an_article", "mixed:cut.xml.gz": "truncated", "PMC1011": "not_prose"}
    assert [row["id"] for row in rows(made, "documents")] == ["PMC1010", "PMC1001", "PMC1008"]
    counts = made.manifest["counts"]
    assert counts["refused"] == dict(Counter(reasons(made).values()))
    assert counts["read"] == counts["documents"] + sum(counts["refused"].values())
    everything = build(model, tmp_path / "all", sources=[str(folder)], licences=["cc-by", "cc-by-nc"])
    assert "PMC1002" in {row["id"] for row in rows(everything, "documents")}


def archive(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("PMC/link.xml")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        device = tarfile.TarInfo("PMC/device.xml")
        device.type = tarfile.CHRTYPE
        tar.addfile(device)


def test_archives_are_read_safely(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "bulk.tar.gz"
    archive(path, {"PMC/1.xml": xml(1), "../../escape.xml": xml(2), "/absolute.xml": xml(3),
                   "PMC/2.nxml.gz": gzip.compress(xml(4)), "PMC/figure.jpg": b"\xff"})
    made = build(model, tmp_path / "out", sources=[str(path)])
    assert [row["id"] for row in rows(made, "documents")] == ["PMC1001", "PMC1004"]
    assert reasons(made) == {f"bulk.tar.gz:{name}": "unsafe_member" for name in
                             ("../../escape.xml", "/absolute.xml", "PMC/link.xml", "PMC/device.xml")}
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    cut = build(model, tmp_path / "cut", sources=[str(path), {"input": str(archive_of_one(tmp_path))}])
    assert reasons(cut)["bulk.tar.gz:bulk.tar.gz"] == "truncated"
    assert "PMC1050" in {row["id"] for row in rows(cut, "documents")}  # the run went on


def archive_of_one(folder: Path) -> Path:
    archive(folder / "second.tar.gz", {"a.xml": xml(50)})
    return folder / "second.tar.gz"


def test_records(model: Path, tmp_path: Path) -> None:
    lines = [{"id": "r1", "text": prose(1), "licence": "CC-BY-4.0", "language": "fr-FR", "year": 2020, "authors": ["A", "B"]},
             {"id": "r2", "text": prose(2)}, {"id": "r3"}, [1], {"id": "r4", "text": prose(4), "license": "CC BY-NC"}]
    text = "\n".join(map(json.dumps, lines)) + "\nnot json\n"
    (tmp_path / "records.jsonl").write_text(text)
    pq.write_table(pa.table({"id": ["p1"], "text": [prose(5)], "license": ["CC0"]}), tmp_path / "records.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing")
    names = ("records.jsonl", "records.parquet", "broken.parquet")
    made = build(model, tmp_path / "out", sources=[str(tmp_path / name) for name in names])
    documents = rows(made, "documents")
    assert [(row["id"], row["licence"], row["language"]) for row in documents] == [
        ("r1", "CC-BY-4.0", "fr"), ("p1", "CC0-1.0", "und")]
    assert (documents[0]["year"], documents[0]["authors"]) == (2020, ["A", "B"])
    assert Counter(reasons(made).values()) == {"licence": 2, "malformed": 4}
    given = build(model, tmp_path / "given", sources=[{"input": str(tmp_path / "records.jsonl"), "licence": "CC0-1.0"}])
    assert [row["id"] for row in rows(given, "documents")] == ["r1", "r2"]


def benchmark(folder: Path) -> Path:
    folder.mkdir()
    (folder / "questions.jsonl").write_text(json.dumps(
        {"id": "q1", "task": "t", "stem": STEM, "options": ["diabetes insipidus", "sunburn"], "answer": "A"}))
    return folder / "questions.jsonl"


def test_text_settings(model: Path, tmp_path: Path) -> None:
    table = """<table-wrap><label>Table 1</label><caption><p>Doses</p></caption><table><tr><td>5</td><td>6</td></tr></table>
      </table-wrap>"""
    body = f"<p>{prose(1)}<fn><p>A note.</p></fn> after [<xref ref-type='bibr'>7</xref>].</p>{table}"
    (tmp_path / "one.xml").write_bytes(xml(1, body))
    (tmp_path / "two.xml").write_bytes(xml(2))
    texts = [rows(build(model, tmp_path / str(number), sources=[str(tmp_path)], **chosen), "documents")[0]["text"]
             for number, chosen in enumerate([{}, {"tables": False, "footnotes": True, "citations": "keep"}])]
    assert "5 | 6" in texts[0]
    assert "A note." not in texts[0]
    assert "after." in texts[0]
    assert "5 | 6" not in texts[1]
    assert "Table 1. Doses." in texts[1]
    assert "\n\nA note.\n\nafter [7]." in texts[1]


def test_best_fit_cuts_no_piece_that_fits(model: Path, articles: Path, tmp_path: Path) -> None:
    made = build(model, tmp_path / "out", sources=[str(articles)], packing="best_fit", piece_words=20, sequence_length=256)
    loose = build(model, tmp_path / "loose", sources=[str(articles)], piece_words=20, sequence_length=256)
    assert loose.manifest["facts"]["packing"]["train"]["cut"] > 0
    packing = made.manifest["facts"]["packing"]["train"]
    assert packing["cut"] == 0
    assert packing["tokens"] + packing["waste"] == packing["blocks"] * 256
    found = unpack(made, "train")
    assert len(found.pop("", [])) == packing["waste"]
    whole = {name: tokens for name, tokens in unpack(loose, "train").items() if len(tokens) == len(found[name])}
    assert len(whole) >= len(found) - 1  # the last may be cut off with the last block
    assert {name: Counter(found[name]) for name in whole} == {name: Counter(tokens) for name, tokens in whole.items()}
    assert sum(map(len, found.values())) == packing["tokens"] == int(sum(
        row["tokens"] for row in rows(made, "documents") if row["id"] in found))


def test_another_tokenizer_than_was_proved_is_noticed(model: Path, articles: Path, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    sound = build(model, tmp_path / "sound", sources=[str(articles)])
    if not sound.manifest["facts"]["tokenised_by"].startswith("gigatoken"):
        pytest.skip("the extra 'fast' is not installed")
    true = encoder._Gigatoken.encode

    def wrong(self: Any, texts: Any) -> Any:
        ids, lengths = true(self, texts)
        return (ids ^ 1 if len(texts) > 1 and "e" in texts[0] else ids), lengths

    monkeypatch.setattr(encoder, "CHECKED_ONE_IN", 1)
    monkeypatch.setattr(encoder, "HARD_TEXTS", ("", "x"))
    monkeypatch.setattr(encoder._Gigatoken, "encode", wrong)
    made = build(model, tmp_path / "wrong", Machine(workers=1), sources=[str(articles)])
    assert made.manifest["facts"]["tokenised_by"].startswith("tokenizers: gigatoken gives other ids for the text")
    assert unpack(made, "train") == unpack(sound, "train")


@pytest.mark.parametrize("policy", ["drop", "cut"])
def test_decontamination(model: Path, articles: Path, tmp_path: Path, policy: str) -> None:
    questions = benchmark(tmp_path / "bench")
    (articles / "zz.xml").write_bytes(xml(30, body=f"{prose(30)}</p><p>Case: {STEM.lower()}, she said.</p><p>{prose(31)}"))
    made = build(model, tmp_path / "out", sources=[str(articles)], decontaminate=[str(questions)], decontaminate_policy=policy)
    assert rows(made, "decontamination") == [
        {"document": "PMC1030", "question": "q1", "task": "t", "field": "stem", "span": STEM.lower()}]
    kept = {row["id"]: row["text"] for row in rows(made, "documents")}
    assert len(kept) == (12 if policy == "drop" else 13)
    assert all(STEM.lower() not in text for text in kept.values())
    assert reasons(made) == ({"PMC1030": "contaminated"} if policy == "drop" else {})
    if policy == "cut":
        assert kept["PMC1030"].endswith(f"{prose(30)}\n\n{prose(31)}")


def test_what_a_benchmark_only_trains_on_may_be_in_the_corpus(model: Path, articles: Path, tmp_path: Path) -> None:
    """PubMedQA's 211,269 training questions stand with the abstracts of as many articles: these are no test of anything."""
    questions = benchmark(tmp_path / "bench")
    questions.write_text(json.dumps({**json.loads(questions.read_text()), "split": "train"}))
    (articles / "zz.xml").write_bytes(xml(30, body=f"Case: {STEM.lower()}, she said."))
    made = build(model, tmp_path / "out", sources=[str(articles)], decontaminate=[str(questions)])
    assert "PMC1030" in {row["id"] for row in rows(made, "documents")}


def test_budget_takes_other_languages_first(model: Path, articles: Path, tmp_path: Path) -> None:
    for seed in (40, 41):
        (articles / f"{seed}.xml").write_bytes(xml(seed, language='xml:lang="fr"'))
    everything = build(model, tmp_path / "all", sources=[str(articles)])
    budget = everything.manifest["counts"]["tokens"] // 2
    made = build(model, tmp_path / "half", sources=[str(articles)], max_tokens=budget)
    kept = {row["id"]: row["language"] for row in rows(made, "documents")}
    assert {"PMC1040", "PMC1041"} <= set(kept)
    assert 0.6 * budget < made.manifest["facts"]["packing"]["train"]["tokens"] <= budget
    assert set(reasons(made).values()) == {"over_budget"}
    assert len(kept) + len(reasons(made)) == 14


def test_code_lists_come_first_and_share_the_budget(model: Path, articles: Path, tmp_path: Path) -> None:
    listing = "".join(f"A{number:02d},,Disease of the {prose(number, 3)}\n" for number in range(80))
    (tmp_path / "codes.csv").write_text("code,parent_code,name\n" + listing)
    codes = {"input": str(tmp_path / "codes.csv"), "type": "codes", "vocabulary": "ICD9CM", "repeat": 2}
    articles_part = {"input": str(articles), "max_tokens": 900}
    made = build(model, tmp_path / "out", sources=[articles_part, codes], heldout=0.5)
    sources = made.manifest["counts"]["sources"]
    assert sources["codes.csv"]["documents"] == 160
    assert made.manifest["licences"]["PD-US-Gov"] == 160
    trained = sum(len(tokens) for name, tokens in unpack(made, "train").items() if not name.startswith("ICD9CM"))
    assert 0 < trained <= 900
    assert sources["articles"]["tokens"] > 900  # what is held out does not count against the budget
    assert unpack(made, "heldout")
    assert not any(name.startswith("ICD9CM") for name in unpack(made, "heldout"))
    part = {**articles_part, "max_tokens": None, "share": 0.1}
    shared = build(model, tmp_path / "share", sources=[part, codes], max_tokens=9000, heldout=0.0)
    tokens = {name: source["tokens"] for name, source in shared.manifest["counts"]["sources"].items()}
    assert sum(tokens.values()) <= 9000
    assert 0.05 < tokens["articles"] / sum(tokens.values()) <= 0.1
    with pytest.raises(UserError, match=r"no document is left of 80 read \(licence 80; first: ATC:A00"):
        build(model, tmp_path / "atc", sources=[{**codes, "vocabulary": "ATC", "repeat": 1}])


def test_same_bytes_on_any_number_of_workers_and_after_an_interruption(model: Path, articles: Path, tmp_path: Path) -> None:
    archive(articles / "more.tar.gz", {f"{seed}.xml": xml(seed) for seed in range(20, 290)})  # more than one batch
    one = build(model, tmp_path / "one", sources=[str(articles)])
    two = build(model, tmp_path / "two", Machine(workers=2), sources=[str(articles)])
    assert one.manifest["content"] == two.manifest["content"]
    if importlib.util.find_spec("ray") is not None:
        ray = build(model, tmp_path / "ray", Machine(workers=2, executor="ray"), sources=[str(articles)])
        assert one.manifest["content"] == ray.manifest["content"]
    script = f"""
import os, signal, sys
from pathlib import Path
sys.path[:0] = {sys.path!r}
import test_corpus
from biomistral.corpus import build, gather
written = gather._write
def cut_off(part, tables):
    written(part, tables)
    os.kill(os.getpid(), signal.SIGKILL)
gather._write = cut_off
test_corpus.build(Path({str(model)!r}), Path({str(tmp_path / "three")!r}), sources=[{str(articles)!r}])
"""
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    parts = list(tmp_path.glob(".three.*.partial/scratch/part-*.parquet"))
    assert [part.name for part in parts] == ["part-00000.parquet"]
    three = build(model, tmp_path / "three", sources=[str(articles)])
    assert three.manifest["content"] == one.manifest["content"]


def test_refused_before_any_work(model: Path, articles: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    for settings, message in (
        ({"sources": []}, "sources"),
        ({"sources": [str(tmp_path / "none")]}, "nothing here that a source of type auto reads"),
        ({"sources": [{"input": str(articles), "type": "codes"}]}, "needs its 'vocabulary'"),
        ({"sources": [{"input": str(articles), "share": 0.5}]}, "they must sum to 1, not 0.5"),
        ({"sources": [str(articles)], "tokenizer": str(articles)}, "a model without a tokenizer"),
        ({"sources": [str(articles)], "licences": ["by"]}, "licences"),
        ({"sources": [str(articles)], "decontaminate": [str(tmp_path / "none")]}, "no such file"),
    ):
        with pytest.raises(UserError, match=message):
            build(model, tmp_path / "out", **settings)
    assert not list(tmp_path.glob(".out*"))


def test_nothing_left_says_why(model: Path, articles: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no document is left of 12 read \(licence 12; first: PMC1000: CC-BY-4.0"):
        build(model, tmp_path / "out", sources=[str(articles)], licences=["cc0"])
    with pytest.raises(UserError, match="over_budget 11"):
        build(model, tmp_path / "out", sources=[str(articles)], max_tokens=10)
    with pytest.raises(UserError, match="language 12"):
        build(model, tmp_path / "out", sources=[str(articles)], languages=["de"])
