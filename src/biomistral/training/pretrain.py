"""The ``pretrain`` stage: continue the training of every weight on a packed corpus."""

import torch

from biomistral.artifact import Workspace
from biomistral.models.load import load_tokenizer
from biomistral.models.stored import open_model
from biomistral.training.compute.compiled import check_compiler
from biomistral.training.data.packed import PackedCorpus
from biomistral.training.foresight.memory import foresee
from biomistral.training.guard import check_corpus, check_model_folder
from biomistral.training.output import give_weights, pass_on_licences, write_model
from biomistral.training.start import train
from biomistral.training.watching.sinks import check_sinks
from biomistral.training.watching.validation import make_validation


def pretrain(work: Workspace) -> None:
    """Train on the corpus' blocks and write a model folder.

    Raises:
        UserError: the corpus was packed with another tokenizer, is damaged or empty, or does not fit the model; a loss is
            not finite.
    """
    settings, folder, corpus = work.settings, work.locate(work.settings.model), work.locate(work.settings.corpus)
    check_sinks(work.machine.log_to)
    if settings.compile:
        check_compiler()
    check_corpus(corpus, folder)
    blocks, heldout = (PackedCorpus(corpus, split, settings.cross_document) for split in ("train", "heldout"))
    check_model_folder(folder, blocks.sequence_length)
    validation = make_validation(work, folder, load_tokenizer(folder))
    foreseen = foresee(work, folder, blocks.sequence_length)
    model, stored = open_model(folder, torch.float32)
    training = train(work, model, stored, blocks, heldout, blocks.sequence_length, foreseen, validation)
    work.facts["sequence_length"] = blocks.sequence_length
    pass_on_licences(work, folder, corpus)
    give_weights(model, training.weights.masters, getattr(torch, settings.output_dtype))
    write_model(model, work, folder)
    training.checkpoints.delete()
