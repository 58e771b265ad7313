"""The ``corpus`` stage: sources -> screened documents -> no copies -> token budget -> packed shards."""

import csv
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from biomistral.artifact import Workspace
from biomistral.corpus.account.page import write_statistics
from biomistral.corpus.choosing.select import achieved, choose_heldout, order_keys, select
from biomistral.corpus.cleaning import language
from biomistral.corpus.cleaning.copies import refuse_copies
from biomistral.corpus.cleaning.decontaminate import QuestionIndex, build_index, write_report
from biomistral.corpus.cleaning.language import UNKNOWN
from biomistral.corpus.gather import clean, gather
from biomistral.corpus.ledger import Ledger
from biomistral.corpus.packing.encoder import Encoder, TokenizersDifferError
from biomistral.corpus.packing.pack import pack
from biomistral.corpus.packing.pieces import Packer, packer_for
from biomistral.corpus.packing.token_store import TokenStore
from biomistral.corpus.screen import Rules, screen
from biomistral.corpus.settings import CorpusSettings
from biomistral.corpus.sources import units as sources
from biomistral.corpus.sources.code_articles import read_taught
from biomistral.errors import UserError
from biomistral.executor import executor
from biomistral.files import write_json
from biomistral.progress import log
from biomistral.records import DOCUMENT_SCHEMA, REFUSED_SCHEMA, iter_questions, write_table
from biomistral.seeds import seed

_SCRATCH, _QUESTIONS = "scratch", "scratch-questions"
_ROWS_A_GROUP = 1000
_SLOW = "slow-tokenizer.txt"
_REPEATED = ["source", "licence", "language", "language_declared", "journal", "article_type", "year"]
_ATTRIBUTION = ("id", "title", "authors", "journal", "year", "licence", "url")


def build_corpus(work: Workspace) -> None:
    """Build a corpus in ``work.path`` (docs/formats.md, "Corpus folder").

    Parts already read survive an interruption; everything after them is done again and gives the same bytes.

    Raises:
        UserError: an input cannot be used (said before any work), or no document is left (with the counts of why).
    """
    settings: CorpusSettings = work.settings
    rules = _rules(work)
    units = [unit for index, source in enumerate(settings.sources)
             for unit in sources.units_of(index, source, work.locate(source.input))]
    only = {index: work.locate(source.only) for index, source in enumerate(settings.sources) if source.only is not None}
    for index, folder in only.items():
        read_taught(folder, settings.sources[index].vocabulary or "")
    scratch = work.path / _SCRATCH
    parts, rules = _gathered(work, units, only, scratch, rules)
    ledger = Ledger(parts, [unit.source for unit in units], [unit.kind == "codes" for unit in units])
    refuse_copies(ledger, settings.deduplicate, scratch, work.path)
    _some_left(ledger, ledger.kept())
    keys = order_keys(ledger, settings.seed)
    heldout = choose_heldout(ledger, settings)
    order = select(ledger, keys, heldout, settings)
    _some_left(ledger, order)
    _write_documents(work.path, ledger)
    write_report(work.path, ledger, rules.index)
    packing = _pack(work.path, ledger, keys, heldout, order, TokenStore(parts, rules.packer.dtype), rules.packer, settings)
    _note(work, ledger, order, packing, rules)
    write_statistics(work.path, {"settings": _shown(settings), **work.counts, **work.facts})
    clean(scratch)
    clean(work.path / _QUESTIONS)


def _gathered(work: Workspace, units: list[sources.Unit], only: dict[int, Path], scratch: Path,
              rules: Rules) -> tuple[list[Path], Rules]:
    """All parts; read anew with the Hugging Face tokenizer if the fast one proves to differ from it on a document."""
    settings: CorpusSettings = work.settings
    marker = scratch / _SLOW
    if marker.exists():
        rules = _slowly(rules, marker.read_text(encoding="utf-8"))
    try:
        with executor(screen, rules, work.machine) as apply:
            return gather(units, settings.sources, only, scratch, apply, settings.seed), rules
    except TokenizersDifferError as error:
        log.warning("corpus: gigatoken gives %s; all is read again with the Hugging Face tokenizer", error)
        clean(scratch)
        scratch.mkdir(parents=True)
        marker.write_text(str(error), encoding="utf-8")
        return _gathered(work, units, only, scratch, rules)


def _slowly(rules: Rules, why: str) -> Rules:
    return replace(rules, packer=replace(rules.packer, encoder=Encoder(rules.packer.encoder.tokenizer),
                                         why=f"tokenizers: gigatoken gives {why}"))


def _rules(work: Workspace) -> Rules:
    settings: CorpusSettings = work.settings
    can_detect = language.can_detect()
    if settings.language_from == "detected" and not can_detect:
        raise UserError("language_from: detected needs the extra 'language'; bring it with: pip install 'biomistral[language]', "
                        "or set language_from to declared")
    packer = packer_for(work.locate(settings.tokenizer), settings.piece_words, settings.bos, settings.eos)
    return Rules(settings, packer, _question_index(work), can_detect and settings.language_from != "declared",
                 seed(settings.seed, "minhash"))


def _question_index(work: Workspace) -> QuestionIndex | None:
    settings: CorpusSettings = work.settings
    if not settings.decontaminate:
        return None
    places = [work.locate(name) for name in settings.decontaminate]
    files = [place / "questions.parquet" if place.is_dir() else place for place in places]
    shared = work.machine.executor == "local"  # workers of one machine map one index; those of a cluster are sent it
    asked = (question for file in files for _, question in iter_questions(file) if question.split != "train")
    return build_index(asked, settings.decontaminate_fields, settings.decontaminate_ngram, settings.decontaminate_shortest,
                       settings.decontaminate_except, settings.decontaminate_with_answer,
                       work.path / _QUESTIONS if shared else None)


def _some_left(ledger: Ledger, chosen: npt.NDArray[np.int64]) -> None:
    """Refuse a corpus with nothing to train on, saying why nothing is left."""
    if not len(chosen):
        reasons = ", ".join(f"{reason} {count}" for reason, count in ledger.refusals().items()) or "the sources are empty"
        first = next((f"; first: {row['id']}: {row['detail']}" for row in ledger.rejected() if row["detail"]), "")
        raise UserError(f"no document is left of {len(ledger)} read ({reasons}{first}); change the sources or the settings that "
                        "refuse them (licences, languages, min_words, decontaminate_*, max_tokens)")


# ---- what is written ------------------------------------------------------------------------------------------------


def _write_documents(folder: Path, ledger: Ledger) -> None:
    """documents.parquet, ATTRIBUTION.tsv and refused.parquet, each streamed from the parts."""
    kept: npt.NDArray[np.bool_] = np.zeros(len(ledger), np.bool_)
    kept[ledger.kept()] = True
    temporary, attribution = folder / ".documents.parquet.tmp", folder / ".ATTRIBUTION.tsv.tmp"
    with pq.ParquetWriter(temporary, DOCUMENT_SCHEMA, compression="zstd", use_dictionary=_REPEATED) as writer, \
            attribution.open("w", encoding="utf-8", newline="") as stream:
        stream.write(_tsv([_ATTRIBUTION]))
        for table in _by_thousands(ledger, kept):
            writer.write_table(table)
            stream.write(_tsv([row[name] for name in _ATTRIBUTION] for row in table.select(list(_ATTRIBUTION)).to_pylist()))
    temporary.replace(folder / "documents.parquet")
    attribution.replace(folder / "ATTRIBUTION.tsv")
    write_table(folder / "refused.parquet", ledger.rejected(), REFUSED_SCHEMA)


def _by_thousands(ledger: Ledger, kept: npt.NDArray[np.bool_]) -> Iterator[pa.Table]:
    """The kept documents, 1,000 or so at a time: the groups of a part are so small that a footer of millions would be large."""
    pending: list[pa.Table] = []
    for _, table in ledger.groups(kept, DOCUMENT_SCHEMA.names):
        pending.append(table.select(DOCUMENT_SCHEMA.names))
        if sum(map(len, pending)) >= _ROWS_A_GROUP:
            yield pa.concat_tables(pending)
            pending = []
    if pending:
        yield pa.concat_tables(pending)


def _tsv(rows: Any) -> str:
    """Tab-separated lines; a list's items are joined by "; ", white space in a field becomes one space."""
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)
    for row in rows:
        cells = ["; ".join(cell) if isinstance(cell, list) else "" if cell is None else str(cell) for cell in row]
        writer.writerow([" ".join(cell.split()) for cell in cells])
    return stream.getvalue()


def _pack(folder: Path, ledger: Ledger, keys: npt.NDArray[np.uint64], heldout: npt.NDArray[np.bool_],
          order: npt.NDArray[np.int64], store: TokenStore, packer: Packer, settings: CorpusSettings) -> dict[str, Any]:
    kept = ledger.kept()
    apart = kept[heldout[kept]]
    apart = apart[np.argsort(keys[apart], kind="stable")]
    packing = {"sequence_length": settings.sequence_length, "vocab_size": packer.vocab_size, "dtype": packer.dtype,
               "tokenizer": packer.digest, "bos": packer.bos, "eos": packer.eos, "method": settings.packing}
    for name, part in (("train", order), ("heldout", apart)):
        packing[name] = pack(folder / "shards", name, part, ledger, store, packer, settings.sequence_length, settings.packing)
    write_json(folder / "packing.json", packing)
    return packing


def _note(work: Workspace, ledger: Ledger, order: npt.NDArray[np.int64], packing: dict[str, Any], rules: Rules) -> None:
    """Counts, licences and facts for the manifest."""
    settings: CorpusSettings = work.settings
    chosen = ledger.kept()
    by_source = {}
    for code in np.unique(ledger.source_code[chosen]).tolist():
        mine = chosen[ledger.source_code[chosen] == code]
        by_source[ledger.sources[code]] = {"documents": len(mine), "words": int(ledger.words[mine].sum()),
                                           "tokens": int(ledger.tokens[mine].sum())}
    work.counts |= {
        "read": len(ledger), "documents": len(chosen), "words": int(ledger.words[chosen].sum()),
        "tokens": packing["train"]["tokens"] + packing["heldout"]["tokens"], "refused": ledger.refusals(),
        "languages": _counted(ledger.languages, ledger.language_code[chosen]), "sources": by_source}
    work.licences |= _counted(ledger.licences, ledger.licence_code[chosen])
    work.facts |= {
        "language_detection": {"on": rules.detect, "disagreements": _disagreements(ledger)},
        "selection": achieved(ledger, order, settings), "tokenised_by": rules.packer.why, "packing": packing}
    log.info("corpus: %d of %d documents, %d tokens", len(chosen), len(ledger), int(ledger.tokens[chosen].sum()))


def _shown(settings: CorpusSettings) -> dict[str, Any]:
    """The settings as a page shows them: inputs by their names, since the same corpus lies elsewhere on another machine."""
    found = settings.model_dump(mode="json")
    found["sources"] = [{name: Path(value).name if name in ("input", "only") and value else value
                         for name, value in source.items()} for source in found["sources"]]
    found["decontaminate"] = [Path(name).name for name in found["decontaminate"]]
    return found | {"tokenizer": Path(found["tokenizer"]).name}


def _disagreements(ledger: Ledger) -> int:
    """Documents whose text is surely in another language than they declare, of those that got as far as that."""
    count = 0
    for _, table in ledger.groups(np.ones(len(ledger), np.bool_), ["language_declared", "language_detected"]):
        declared, detected = table.column(0), table.column(1)
        known = pc.and_(pc.not_equal(declared, UNKNOWN), pc.not_equal(detected, UNKNOWN))
        count += pc.sum(pc.and_(known, pc.not_equal(declared, detected))).as_py() or 0
    return count


def _counted(names: list[str], codes: npt.NDArray[np.int16]) -> dict[str, int]:
    """Name -> documents, most first."""
    return dict(Counter({name: int((codes == code).sum()) for code, name in enumerate(names)}).most_common())
