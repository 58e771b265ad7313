"""The local engine's answers, written part by part, so that what was cut off goes on where it was."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from biomistral.progress import bar
from biomistral.recipe import canonical_hash
from biomistral.records import ANSWER_SCHEMA, read_rows, write_table
from biomistral.scoring.engine import Engine, batches
from biomistral.scoring.groups import Group
from biomistral.scoring.rows import answer_rows
from biomistral.scoring.tally import Row

BATCHES_A_PART = 8


def _parts(batches_of_group: list[list[int]]) -> list[list[list[int]]]:
    return [batches_of_group[start: start + BATCHES_A_PART] for start in range(0, len(batches_of_group), BATCHES_A_PART)]


def answer_all(folder: Path, groups: Sequence[Group], engine: Engine, tokenizer: Any, name: str) -> Iterator[Row]:
    """Rows of all groups, part by part; a part that was written before a cut is read, not computed again.

    Batches are a function of group, precision and device, which name the folder of the parts: what is resumed has the very
    numbers it would have had.
    """
    folder /= canonical_hash([engine.device.type, str(engine.model.dtype), engine.max_batch_tokens])[:12]
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    with bar(f"evaluating {name}", sum(len(group.items) for group in groups)) as progress:
        for group in groups:
            rows = [item.prompt for item in group.items]
            shared = engine.shared_length(rows)
            prefix = None
            costs = [engine.cost(len(item.prompt) - shared, shared) for item in group.items]
            for part in _parts(batches(costs, engine.max_batch_tokens)):
                file, number = folder / f"{number:06d}.parquet", number + 1
                if not file.is_file():
                    prefix = prefix or engine.prefix(rows[0][:shared])
                    answers = (row for batch in part for row in answer_rows(engine, prefix, group, batch, tokenizer, name))
                    write_table(file, answers, ANSWER_SCHEMA)
                progress.advance(sum(map(len, part)))
                yield from read_rows(file)
