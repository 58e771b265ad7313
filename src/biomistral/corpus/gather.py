"""Read every source through the screen into parts on the disk, each unit once: what was read survives a kill."""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow.parquet as pq

from biomistral.corpus.articles.licences import US_GOVERNMENT, identify
from biomistral.corpus.cleaning.language import Language
from biomistral.corpus.packing.token_store import PIECES, TOKENS
from biomistral.corpus.screen import CANDIDATE_SCHEMA, Batch, Draft, Screened
from biomistral.corpus.settings import SourceSettings
from biomistral.corpus.sources.code_articles import PUBLIC_DOMAIN, code_articles
from biomistral.corpus.sources.units import Unit, batches, items_of
from biomistral.executor import Apply
from biomistral.progress import bar

ENGLISH = Language("en", "en")
_CODES_A_BATCH = 200
_REPEATED = ["source", "licence", "language", "language_declared", "language_detected", "journal", "article_type", "reason"]


def gather(units: list[Unit], sources: list[SourceSettings], only: dict[int, Path], folder: Path,
           apply: "Apply[Batch, Screened]", root_seed: int) -> list[Path]:
    """Write one part a unit: its rows (Parquet, `screen.CANDIDATE_SCHEMA`), tokens and pieces (`packing.token_store`).

    A part that is there is not made again: its Parquet file appears last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [folder / f"part-{number:05d}.parquet" for number in range(len(units))]
    with bar("reading sources (MB)", sum(unit.bytes for unit in units) / 1e6) as progress:
        for part, unit in zip(parts, units, strict=True):
            if not part.exists():
                tasks = _batches(unit, sources[unit.source], only.get(unit.source), root_seed)
                progress.say(unit.name)
                _write(part, apply(tasks))
            progress.advance(unit.bytes / 1e6)
    return parts


def _write(part: Path, screened: Iterable[Screened]) -> None:
    paths = [part, part.with_suffix(TOKENS), part.with_suffix(PIECES)]
    temporary = [path.with_name(f".{path.name}.tmp") for path in paths]
    # a part is written and read once: no dictionary of texts, which are all different, and the fastest compression
    with pq.ParquetWriter(temporary[0], CANDIDATE_SCHEMA, compression="lz4", use_dictionary=_REPEATED, write_statistics=False) \
            as writer, \
            temporary[1].open("wb") as tokens, temporary[2].open("wb") as pieces:
        for batch in screened:
            writer.write_table(batch.table)
            tokens.write(batch.tokens)
            pieces.write(batch.pieces)
    for path, written in reversed(list(zip(paths, temporary, strict=True))):
        written.replace(path)


def _batches(unit: Unit, source: SourceSettings, only: Path | None, root_seed: int) -> Iterator[Batch]:
    if unit.kind != "codes":
        for items in batches(items_of(unit)):
            yield Batch(unit.name, source.licence, items, [])
        return
    drafts: list[Draft] = []
    for draft in _code_drafts(unit, source, only, root_seed):
        drafts.append(draft)
        if len(drafts) == _CODES_A_BATCH:
            yield Batch(unit.name, None, [], drafts)
            drafts = []
    if drafts:
        yield Batch(unit.name, None, [], drafts)


def _code_drafts(unit: Unit, source: SourceSettings, only: Path | None, root_seed: int) -> Iterator[Draft]:
    vocabulary = source.vocabulary or ""
    licence, evidence = (US_GOVERNMENT, "") if vocabulary in PUBLIC_DOMAIN else identify([source.licence or ""])
    for article in code_articles(vocabulary, unit.files[0], only, source.repeat, root_seed):
        yield Draft(article.id, unit.name, article.text, article.title, licence, ENGLISH, ours=True, evidence=evidence)


def clean(folder: Path) -> None:
    """Remove the working files once the corpus stands."""
    shutil.rmtree(folder, ignore_errors=True)
