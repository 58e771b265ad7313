"""The statistics page of a corpus: its numbers against naive counts, its HTML, and what hostile documents cannot do to it."""

import contextlib
import json
import statistics as standard
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lxml import etree
from lxml import html as lxml_html

from biomistral.artifact import SCHEMA
from biomistral.corpus.account import show
from biomistral.corpus.account.numbers import TOP
from biomistral.corpus.account.page import write_statistics
from biomistral.corpus.account.tallies import LONGEST, Lengths
from biomistral.errors import UserError
from biomistral.records import DOCUMENT_SCHEMA, REFUSED_SCHEMA

EVIL = "</script><script>alert('x')</script><img src=x onerror=alert(1)> & \"quotes\" 'too'"
ARABIC = "\u202eتأثير الأسبرين < 100 ملغ & السكري"
UNCOUNTED = pa.schema([field for field in DOCUMENT_SCHEMA
                       if field.name not in ("language_declared", "article_type", "words", "tokens")])
COPIES = pa.schema([("document", pa.string()), ("kept", pa.string()), ("kind", pa.string()), ("similarity", pa.float32())])


def document(number: int, **changes: Any) -> dict[str, Any]:
    row = {"id": f"PMC{number}", "title": f"Title {number}", "text": f"Text {number} " + "word " * (number % 400),
           "licence": ["CC-BY-4.0", "CC0-1.0", "CC-BY-ND-3.0"][number % 3], "language": ["en", "en", "fr"][number % 3],
           "source": ["one", "two"][number % 2], "year": 1990 + number % 30 or None, "journal": f"Journal {number % 41}",
           "sections": [], "authors": ["A. Author"], "url": f"https://example.org/{number}",
           "language_declared": ["en", "fr", "fr"][number % 3], "article_type": "research-article",
           "words": 37 * number % 9000 + 1, "tokens": 59 * number % 14000 + 2}
    return {**row, **changes}


def split(documents: int = 0, **changes: Any) -> dict[str, Any]:
    return {"blocks": 3 * documents, "tokens": 6000 * documents, "pieces": 5 * documents, "documents": documents,
            "bytes": 31_000 * documents, "waste": 17 * documents, "sequences_unpacked": 8 * documents,
            "reduction": 0.625 if documents else 0.0} | changes


def task(**changes: int) -> dict[str, Any]:
    names = ("questions", "too_short", "found", "by_stem", "by_context", "by_option", "documents", "dropped", "cut",
             "words_lost", "words_lost_alone")
    return {**dict.fromkeys(names, 0), "found": 4321, "by_stem": 5432, **changes}


def make(folder: Path, documents: list[dict[str, Any]], refused: list[tuple[str, str, str, str]], *,
         copies: list[dict[str, Any]] | None = None, decontamination: dict[str, Any] | None = None,
         schema: pa.Schema = DOCUMENT_SCHEMA, group: int = 40) -> dict[str, Any]:
    """Write a corpus folder's files; returns the facts its build would give."""
    folder.mkdir()
    rows = [{name: row.get(name) for name in schema.names} for row in documents]
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "documents.parquet", row_group_size=group)
    gone = [dict(zip(REFUSED_SCHEMA.names, row, strict=True)) for row in refused]
    pq.write_table(pa.Table.from_pylist(gone, REFUSED_SCHEMA), folder / "refused.parquet")
    (folder / "ATTRIBUTION.tsv").write_text("id\ttitle\n" + "".join(f"{row['id']}\t\n" for row in documents))
    heldout = len(documents) // 10
    packing = {"sequence_length": 2048, "vocab_size": 49152, "dtype": "uint16", "tokenizer": "ab" * 32, "bos": None, "eos": 0,
               "train": split(len(documents) - heldout), "heldout": split(heldout)}
    (folder / "packing.json").write_text(json.dumps(packing))
    if copies is not None:
        pq.write_table(pa.Table.from_pylist(copies, COPIES), folder / "duplicates.parquet")
    if decontamination is not None:
        (folder / "decontamination.json").write_text(json.dumps(decontamination))
    return {"read": len(documents) + len(refused), "documents": len(documents), "words": sum(row["words"] for row in documents),
            "tokens": sum(row["tokens"] for row in documents), "refused": dict(Counter(row[2] for row in refused)),
            "settings": {"min_words": 50, "licences": ["cc0", "cc-by"], "tokenizer": EVIL}}


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """250 documents of 41 journals, 12 refused, copies, decontamination, and names that attack the page."""
    documents = [document(number) for number in range(1, 251)]
    documents[41] |= {"title": EVIL, "text": EVIL + "\x00\x1b[31m" + "x" * 900, "journal": EVIL, "source": EVIL, "id": EVIL}
    documents[125] |= {"title": ARABIC, "text": ARABIC * 60, "language": "ar", "journal": ARABIC, "year": None}
    documents[125] |= {"article_type": None}
    refused = [(f"r{number}", "two", "licence", f"CC-BY-NC-4.0: {number}") for number in range(5)]
    refused += [(f"s{number}", "three", "too_short", f"{number} words") for number in range(2)]
    refused += [(EVIL, EVIL, "malformed", EVIL), (ARABIC, "one", "a_new_reason", "")]
    copies = [{"document": f"d{number}", "kept": f"PMC{number % 4}", "kind": kind, "similarity": 0.9}
              for number, kind in enumerate(["near_duplicate"] * 7 + ["duplicate"] * 2)]
    refused += [(row["document"], "two", row["kind"], f"copy of {row['kept']}") for row in copies]
    tasks = {"medqa <test>": task(questions=1273, documents=4, words_lost=51_234), "mmlu": task(questions=99, too_short=11)}
    found = {**task(questions=1372, documents=4, words_lost=51_234, too_short=11), "words_kept": 1_098_125, "tasks": tasks,
             "spans": [{"span": EVIL, "documents": 3}, {"span": ARABIC, "documents": 2}]}
    return tmp_path / "corpus", make(tmp_path / "corpus", documents, refused, copies=copies,
                                     decontamination=found)


def written(folder: Path, facts: dict[str, Any]) -> tuple[dict[str, Any], str]:
    write_statistics(folder, facts)
    return json.loads((folder / "statistics.json").read_text()), (folder / "statistics.html").read_text()


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict | list):
        return [leaf for part in (value.values() if isinstance(value, dict) else value) for leaf in leaves(part)]
    return [value]


def test_numbers_against_naive_counts(corpus: tuple[Path, dict[str, Any]]) -> None:
    folder, facts = corpus
    found, _ = written(folder, facts)
    rows = pq.read_table(folder / "documents.parquet").to_pylist()
    words = [row["words"] for row in rows]
    assert found["kept"] == {"documents": 250, "words": sum(words), "tokens": facts["tokens"],
                             "tokens_per_word": round(facts["tokens"] / sum(words), 3)}
    for column in ("language", "licence", "source", "year", "article_type"):
        expected = Counter(str(row[column] or "") for row in rows)
        assert {row[column]: row["documents"] for row in found["by"][column] if row["documents"]} == expected
        for row in found["by"][column]:
            mine = [each for each in rows if str(each[column] or "") == row[column]]
            assert (row["words"], row["tokens"]) == tuple(sum(each[what] for each in mine) for what in ("words", "tokens"))
    assert [row["year"] for row in found["by"]["year"]] == sorted(row["year"] for row in found["by"]["year"])
    journals = Counter(row["journal"] for row in rows)
    assert found["by"]["journals"] == len(journals) == 43
    assert len(found["by"]["journal"]) == TOP + 1
    assert found["by"]["journal"][-1]["others"] == len(journals) - TOP
    assert sum(row["documents"] for row in found["by"]["journal"]) == 250
    pairs = Counter((row["language_declared"], row["language"]) for row in rows)
    assert {(row["language_declared"], row["language"]): row["documents"] for row in found["by"]["language_declared"]} == pairs
    assert {row["source"]: row["refused"] for row in found["by"]["source"]} == {"one": 1, "two": 14, "three": 2, EVIL: 1}
    assert all(check["agrees"] for check in found["checks"])


def test_distributions_against_naive_counts(corpus: tuple[Path, dict[str, Any]]) -> None:
    folder, facts = corpus
    found, _ = written(folder, facts)
    rows = pq.read_table(folder / "documents.parquet").to_pylist()
    for column in ("words", "tokens"):
        values = sorted(row[column] for row in rows)
        shown = found["by"][column]
        assert shown["mean"] == round(standard.fmean(values), 1)
        assert shown["largest"] == values[-1]
        assert shown["quantiles"] == {str(q): values[-(-q * 250 // 100) - 1] for q in (5, 25, 50, 75, 95)}
        for part in shown["bins"]:
            assert part["documents"] == sum(part["from"] <= value < (part["to"] or 1e9) for value in values)
        assert sum(part["documents"] for part in shown["bins"]) == 250
    for part in found["by"]["tokens_per_word"]:
        assert part["documents"] == sum(part["from"] <= row["tokens"] / row["words"] < (part["to"] or 1e9) for row in rows)


def test_lengths_past_the_counters() -> None:
    lengths = Lengths()
    lengths.add(pa.chunked_array([pa.array([LONGEST + 5, 1, None], pa.int32())]))
    lengths.add(pa.chunked_array([pa.array([], pa.int32())]))
    found = lengths.summary()
    assert found is not None
    assert (found["documents"], found["largest"], found["mean"]) == (2, LONGEST + 5, (LONGEST + 6) / 2)
    assert sum(part["documents"] for part in found["bins"]) == 2


def test_refusals_copies_and_samples(corpus: tuple[Path, dict[str, Any]]) -> None:
    folder, facts = corpus
    found, _ = written(folder, facts)
    assert [(row["reason"], row["documents"]) for row in found["refused"]] == [
        ("near_duplicate", 7), ("licence", 5), ("duplicate", 2), ("too_short", 2), ("a_new_reason", 1), ("malformed", 1)]
    assert found["refused"][1]["examples"] == [{"id": f"r{n}", "source": "two", "detail": f"CC-BY-NC-4.0: {n}"} for n in range(3)]
    assert found["duplicates"] == {
        "kinds": [{"kind": "duplicate", "clusters": 2, "copies": 2}, {"kind": "near_duplicate", "clusters": 4, "copies": 7}],
        "largest": [{"kept": kept, "kind": "near_duplicate", "copies": count} for kept, count in
                    (("PMC0", 2), ("PMC1", 2), ("PMC2", 2))] + [
                    {"kept": kept, "kind": kind, "copies": 1} for kind, kept in (("duplicate", "PMC0"), ("duplicate", "PMC3"))]}
    assert [row["id"] for row in found["samples"]] == [EVIL, ARABIC and "PMC126", "PMC209"]
    assert found["samples"][0]["text"] == (EVIL + "\x00\x1b[31m" + "x" * 900)[:600]
    assert found["packing"]["train"]["pieces_per_document"] == 5


def test_page_is_sound_html_with_every_number(corpus: tuple[Path, dict[str, Any]]) -> None:
    found, text = written(*corpus)
    parser = etree.HTMLParser(recover=False, huge_tree=False)
    with contextlib.suppress(etree.XMLSyntaxError):  # libxml2 knows HTML 4 only: the log says what it does not know
        etree.fromstring(text, parser)
    serious = [entry for entry in parser.error_log if not entry.message.startswith("Tag ")]
    assert serious == []
    page = lxml_html.fromstring(text)
    assert len(text.encode()) < 300_000
    assert not page.xpath("//script|//img|//link|//iframe|//@onerror")
    assert [href for href in page.xpath("//@href") if not href.startswith("#")] == [
        "ATTRIBUTION.tsv", "statistics.json", "manifest.json"]
    ids = page.xpath("//@id")
    assert len(ids) == len(set(ids))
    assert {href[1:] for href in page.xpath("//nav//@href")} <= set(ids)
    shown = page.text_content()
    for part in ("read", "kept", "refused", "by", "duplicates", "decontamination", "samples", "checks"):
        for leaf in leaves(found[part]):
            if isinstance(leaf, int | float) and not isinstance(leaf, bool):
                assert f"{leaf:,}" in shown or f"{leaf - 1:,}" in shown, (part, leaf)
    for row in page.xpath("//table"):
        columns = {len(line.xpath("./*")) for line in row.xpath(".//tr")}
        assert len(columns) == 1, row.xpath("string(./caption)")


def test_what_documents_say_stays_text(corpus: tuple[Path, dict[str, Any]]) -> None:
    _, text = written(*corpus)
    assert "alert('x')" not in text
    assert not {character for character in text if ord(character) < 32 and character != "\n"}
    page = lxml_html.fromstring(text)
    titles = [node.text_content() for node in page.xpath("//article/h3")]
    assert titles == [EVIL, ARABIC, "Title 209"]
    assert page.xpath("//article/h3/@dir") == ["auto"] * 3
    for node in page.xpath("//*[contains(text(), '\u202e')]"):
        assert node.tag == "bdi" or node.get("dir") == "auto", node.tag  # a direction override ends where its element ends


def test_same_bytes_again_and_for_other_row_groups(corpus: tuple[Path, dict[str, Any]]) -> None:
    folder, facts = corpus
    first = [written(folder, facts)[1], (folder / "statistics.json").read_bytes()]
    table = pq.read_table(folder / "documents.parquet")
    pq.write_table(table, folder / "documents.parquet", row_group_size=7)
    assert [written(folder, facts)[1], (folder / "statistics.json").read_bytes()] == first


def test_numbers_that_do_not_add_up_are_said(corpus: tuple[Path, dict[str, Any]]) -> None:
    folder, facts = corpus
    found, text = written(folder, {**facts, "read": 1000})
    assert [check["agrees"] for check in found["checks"]] == [False, True, True, True, True]
    page = lxml_html.fromstring(text)
    assert "do not add up" in page.xpath("string(//header)")
    assert page.xpath("//section[@id='account']/details/@open")


def test_absent_files_and_columns(tmp_path: Path) -> None:
    facts = make(tmp_path / "bare", [document(1)], [], schema=UNCOUNTED)
    found, text = written(tmp_path / "bare", {name: facts[name] for name in ("read", "documents", "words", "tokens", "refused")})
    assert (found["duplicates"], found["decontamination"], found["by"]["language_declared"]) == (None, None, None)
    assert found["by"]["words"] is None
    shown = lxml_html.fromstring(text).text_content()
    assert "No benchmark was given" in shown
    assert "not searched for copies" in shown
    assert "No document was refused" in shown


def test_empty_corpus(tmp_path: Path) -> None:
    facts = make(tmp_path / "empty", [], [("a", "one", "licence", "states no licence")], copies=[],
                 decontamination={**task(), "words_kept": 0, "tasks": {}, "spans": []})
    found, text = written(tmp_path / "empty", facts)
    assert found["kept"] == {"documents": 0, "words": 0, "tokens": 0, "tokens_per_word": None}
    assert found["samples"] == []
    shown = lxml_html.fromstring(text).text_content()
    assert "No document is a copy of another" in shown
    assert "There is no document to show" in shown


def finish(folder: Path, facts: dict[str, Any]) -> Path:
    """A manifest, so that the folder opens as an artifact."""
    counts = {name: facts[name] for name in ("read", "documents", "words", "tokens", "refused")}
    manifest = {"schema": SCHEMA, "kind": "corpus", "key": "k" * 64, "counts": counts, "licences": {}, "facts": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_show_prints_the_numbers_of_the_page(corpus: tuple[Path, dict[str, Any]]) -> None:
    folder, facts = corpus
    written(folder, facts)
    data = show.account(finish(folder, facts))
    text = show.render(data)
    for expected in ("250 of 268 documents", "near_duplicate", "research-article", "not stated", "and 31 others", "uint16",
                     "4,321 of  1,273 questions in 4 documents, 51,234 words lost",
                     "5.0 pieces a document", "62.5\N{NO-BREAK SPACE}% fewer"):
        assert expected in text
    assert "\x1b" not in text
    assert "DOES NOT ADD UP" not in text
    (folder / "statistics.json").unlink()
    again = show.account(folder)
    assert {**again, "settings": 0} == {**data, "settings": 0}


def test_show_refused_documents_of_a_reason(corpus: tuple[Path, dict[str, Any]]) -> None:
    folder, facts = corpus
    finish(folder, facts)
    assert [row["id"] for row in show.refused(folder, "licence")] == [f"r{number}" for number in range(5)]
    assert show.render_refused(show.refused(folder, "too_short", most=1)) == "s0: 0 words"
    with pytest.raises(UserError, match=r"'licens'.*did you mean.*licence.*near_duplicate 7"):
        show.refused(folder, "licens")
