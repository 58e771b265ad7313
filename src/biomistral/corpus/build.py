"""The ``corpus`` stage: sources -> screened documents -> no copies -> token budget -> packed shards."""

import csv
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from biomistral.artifact import Workspace
from biomistral.corpus import language, sources
from biomistral.corpus.code_articles import read_taught
from biomistral.corpus.decontaminate import QuestionIndex, build_index
from biomistral.corpus.gather import clean, gather, workers
from biomistral.corpus.ledger import Ledger, refuse_copies
from biomistral.corpus.pack import pack
from biomistral.corpus.pieces import Packer
from biomistral.corpus.screen import Rules
from biomistral.corpus.select import TokenStore, choose_heldout, order_keys, select
from biomistral.corpus.settings import CorpusSettings
from biomistral.errors import UserError
from biomistral.files import write_json
from biomistral.progress import log
from biomistral.records import DOCUMENT_SCHEMA, REFUSED_SCHEMA, read_questions, write_table
from biomistral.seeds import seed

_SCRATCH = "scratch"
_ATTRIBUTION = ("id", "title", "authors", "journal", "year", "licence", "url")
_MATCH_SCHEMA = pa.schema([(name, pa.string()) for name in ("document", "question", "task", "field", "span")])


def build_corpus(work: Workspace) -> None:
    """Build a corpus in ``work.path`` (docs/formats.md, "Corpus folder").

    Parts already read survive an interruption; everything after them is done again and gives the same bytes.

    Raises:
        UserError: an input cannot be used (said before any work), or no document is left (with the counts of why).
    """
    settings: CorpusSettings = work.settings
    packer = Packer(work.locate(settings.tokenizer), settings.piece_words, settings.bos, settings.eos)
    units = [unit for index, source in enumerate(settings.sources)
             for unit in sources.units_of(index, source, work.locate(source.input))]
    only = {index: work.locate(source.only) for index, source in enumerate(settings.sources) if source.only is not None}
    for index, folder in only.items():
        read_taught(folder, settings.sources[index].vocabulary or "")
    rules = _rules(settings, _question_index(work))
    scratch = work.path / _SCRATCH
    with workers(rules, work.machine.workers) as apply:
        parts = gather(units, settings.sources, only, scratch, apply, settings.seed)
    ledger = Ledger(parts, [unit.source for unit in units], [unit.kind == "codes" for unit in units])
    refuse_copies(ledger, settings.deduplicate, scratch)
    _some_left(ledger, ledger.kept())
    keys = order_keys(ledger, settings.seed)
    heldout = choose_heldout(ledger, settings)
    store = select(ledger, keys, heldout, settings, packer, scratch / "tokens.bin")
    _some_left(ledger, ledger.kept()[~heldout[ledger.kept()]])
    _write_documents(work.path, ledger)
    packing = _pack(work.path, ledger, keys, heldout, store, packer, settings.sequence_length)
    _note(work, ledger, store, packing, rules)
    clean(scratch)


def _question_index(work: Workspace) -> QuestionIndex | None:
    settings: CorpusSettings = work.settings
    if not settings.decontaminate:
        return None
    places = [work.locate(name) for name in settings.decontaminate]
    files = [place / "questions.parquet" if place.is_dir() else place for place in places]
    return build_index((question for file in files for question in read_questions(file)), settings.decontaminate_fields,
                       settings.decontaminate_ngram, settings.decontaminate_shortest)


def _rules(settings: CorpusSettings, index: QuestionIndex | None) -> Rules:
    can_detect = language.can_detect()
    if settings.language_from == "detected" and not can_detect:
        raise UserError("language_from: detected needs the extra 'language'; bring it with: pip install 'biomistral[language]', "
                        "or set language_from to declared")
    return Rules(
        licences=frozenset(settings.licences), languages=frozenset(settings.languages),
        detect=can_detect and settings.language_from != "declared", skip_article_types=frozenset(settings.skip_article_types),
        min_words=settings.min_words, max_repetition=settings.max_repetition, index=index,
        policy=settings.decontaminate_policy, near=settings.deduplicate is not None, seed=seed(settings.seed, "minhash"))


def _some_left(ledger: Ledger, chosen: npt.NDArray[np.int64]) -> None:
    """Refuse a corpus with nothing to train on, saying why nothing is left."""
    if not len(chosen):
        reasons = ", ".join(f"{reason} {count}" for reason, count in ledger.refusals().items()) or "the sources are empty"
        first = next((f"; first: {name}: {detail}" for name, detail in zip(ledger.id, ledger.detail, strict=True) if detail), "")
        raise UserError(f"no document is left of {len(ledger)} read ({reasons}{first}); change the sources or the settings that "
                        "refuse them (licences, languages, min_words, decontaminate_*, max_tokens)")


# ---- what is written ------------------------------------------------------------------------------------------------


def _write_documents(folder: Path, ledger: Ledger) -> None:
    """documents.parquet, ATTRIBUTION.tsv, refused.parquet and decontamination.parquet, each streamed from the parts."""
    kept = np.array([reason is None for reason in ledger.reason], np.bool_)
    temporary, attribution = folder / ".documents.parquet.tmp", folder / ".ATTRIBUTION.tsv.tmp"
    with pq.ParquetWriter(temporary, DOCUMENT_SCHEMA, compression="zstd") as writer, \
            attribution.open("w", encoding="utf-8", newline="") as stream:
        stream.write(_tsv([_ATTRIBUTION]))
        for _, table in ledger.groups(kept, DOCUMENT_SCHEMA.names):
            writer.write_table(table.select(DOCUMENT_SCHEMA.names))
            stream.write(_tsv([row[name] for name in _ATTRIBUTION] for row in table.select(list(_ATTRIBUTION)).to_pylist()))
    temporary.replace(folder / "documents.parquet")
    attribution.replace(folder / "ATTRIBUTION.tsv")
    refused = ({"id": ledger.id[index], "source": ledger.source[index], "reason": reason, "detail": ledger.detail[index]}
               for index, reason in enumerate(ledger.reason) if reason is not None)
    write_table(folder / "refused.parquet", refused, REFUSED_SCHEMA)
    write_table(folder / "decontamination.parquet", _matches(ledger), _MATCH_SCHEMA)


def _tsv(rows: Any) -> str:
    """Tab-separated lines; a list's items are joined by "; ", white space in a field becomes one space."""
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)
    for row in rows:
        cells = ["; ".join(cell) if isinstance(cell, list) else "" if cell is None else str(cell) for cell in row]
        writer.writerow([" ".join(cell.split()) for cell in cells])
    return stream.getvalue()


def _matches(ledger: Ledger) -> Iterator[dict[str, str]]:
    for _, table in ledger.groups(np.ones(len(ledger), np.bool_), ["id", "matches"]):
        for row in table.to_pylist():
            for match in row["matches"]:
                yield {"document": row["id"], **match}


def _pack(folder: Path, ledger: Ledger, keys: npt.NDArray[np.uint64], heldout: npt.NDArray[np.bool_], store: TokenStore,
          packer: Packer, sequence_length: int) -> dict[str, Any]:
    chosen = ledger.kept()
    chosen = chosen[np.argsort(keys[chosen], kind="stable")]
    packing = {"sequence_length": sequence_length, "vocab_size": packer.vocab_size, "dtype": packer.dtype,
               "tokenizer": packer.digest(), "bos": packer.bos, "eos": packer.eos}
    for name, part in (("train", chosen[~heldout[chosen]]), ("heldout", chosen[heldout[chosen]])):
        entries = [(index, ledger.id[index]) for index in part.tolist()]
        packing[name] = pack(folder / "shards", name, entries, store, packer, sequence_length)
    write_json(folder / "packing.json", packing)
    return packing


def _note(work: Workspace, ledger: Ledger, store: TokenStore, packing: dict[str, Any], rules: Rules) -> None:
    """Counts, licences and facts for the manifest."""
    chosen = ledger.kept().tolist()
    by_source: dict[str, dict[str, int]] = {}
    for index in chosen:
        entry = by_source.setdefault(ledger.source[index], {"documents": 0, "words": 0, "tokens": 0})
        for name, amount in (("documents", 1), ("words", int(ledger.words[index])), ("tokens", sum(store.lengths[index]))):
            entry[name] += amount
    work.counts |= {
        "read": len(ledger), "documents": len(chosen), "words": sum(entry["words"] for entry in by_source.values()),
        "tokens": packing["train"]["tokens"] + packing["heldout"]["tokens"], "refused": ledger.refusals(),
        "languages": dict(Counter(ledger.language[index] for index in chosen).most_common()), "sources": by_source}
    work.licences |= dict(Counter(ledger.licence[index] for index in chosen).most_common())
    work.facts |= {"language_detection": rules.detect, "packing": packing}
    log.info("corpus: %d of %d documents, %d tokens", len(chosen), len(ledger), store.size)
