"""The examples of a fine-tuning: those to train on, and those held out; what is asked of the model is in neither."""

from collections.abc import Collection
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from biomistral.artifact import Workspace
from biomistral.progress import log
from biomistral.training.data.questions import TRAIN, Choice
from biomistral.training.data.sources import Examples, questions_file
from biomistral.training.data.supervised import SupervisedBlocks
from biomistral.training.settings import FinetuneSettings


def read_blocks(work: Workspace, tokenizer: PreTrainedTokenizerBase,
                asked: Collection[tuple[Path, str]] = ()) -> tuple[SupervisedBlocks, SupervisedBlocks | None]:
    """Blocks to train on and for the held-out loss (None: no validation files).

    Questions of the held-out files are never trained on, nor those of the ``asked`` (questions file, split) pairs.

    Raises:
        UserError: see `Examples` and `SupervisedBlocks`.
    """
    settings = work.settings
    heldout = [work.locate(name) for name in settings.validation]
    files = [file for place in heldout if (file := questions_file(place)) is not None]
    held = {(file, settings.validation_split) for file in files}
    examples = Examples([work.locate(name) for name in settings.train], choice_of(settings, settings.split), {*asked, *held})
    blocks = _blocks(examples, work, tokenizer)
    log.info("%s: %s examples, %s tokens%s", settings.kind, f"{blocks.num_examples:,}", f"{blocks.num_tokens:,}",
             f"; {blocks.dropped:,} longer than a sequence, dropped" if blocks.dropped else "")
    if not heldout:
        return blocks, None
    choice = choice_of(settings, settings.validation_split) if files else TRAIN
    return blocks, _blocks(Examples(heldout, choice), work, tokenizer)


def choice_of(settings: FinetuneSettings, split: str) -> Choice:
    """Which of a split's questions the settings take, and how they put them."""
    return Choice(split, settings.tasks, settings.form)


def _blocks(examples: Examples, work: Workspace, tokenizer: PreTrainedTokenizerBase) -> SupervisedBlocks:
    settings = work.settings
    return SupervisedBlocks(examples, tokenizer, settings.sequence_length, settings.seed, settings.loss == "full_text",
                            settings.too_long)
