"""Settings of the ``pretrain`` and ``finetune`` stages."""

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from biomistral.recipe import Input, Settings
from biomistral.scoring.names import Formulation
from biomistral.training.validation_settings import ValidationSettings


class TrainingSettings(ValidationSettings):
    """What continued pre-training and fine-tuning have in common. Training ends at the first limit that is reached."""

    together: ClassVar[bool] = True

    model: Input = Field(description="model folder to start from")
    learning_rate: float = Field(2e-5, gt=0, description="peak learning rate of AdamW (0.9, 0.999, eps 1e-8)")
    schedule: Literal["cosine", "linear", "constant", "wsd"] = Field(
        "cosine", description="learning rate after warm-up; wsd: constant, then linear to 0 over the last fifth")
    warmup_steps: int = Field(0, ge=0, description="steps over which the learning rate rises linearly to its peak")
    weight_decay: float = Field(0.01, ge=0, description="decoupled weight decay of matrices (norms and biases have none)")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of the gradient of a step")
    epochs: float = Field(1.0, gt=0, description="passes over the data; fractions are allowed")
    max_steps: int | None = Field(None, gt=0, description="most optimiser steps")
    max_tokens: int | None = Field(None, gt=0, description="most tokens trained on")
    batch_sequences: int = Field(8, gt=0, description="sequences in one optimiser step")
    micro_batch_tokens: int = Field(2048, gt=0, description="most tokens in one forward pass (at least one sequence)")
    compute_dtype: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="precision of forward and backward; master weights and AdamW are always float32")
    output_dtype: Literal["bfloat16", "float16", "float32"] = Field("bfloat16", description="precision of the saved weights")
    gradient_checkpointing: Literal["none", "selective", "full"] = Field("none", description=(
        "what is computed again in backward, for less memory: nothing; all but matrix products; all of a layer"))
    optimizer: Literal["adamw", "adamw8bit"] = Field("adamw", description=(
        "AdamW's moments in float32, or in 8 bits by blocks of 256: 2 bytes a parameter instead of 8"))
    compile: bool = Field(False, description=(
        "have torch compile the decoder's layers but for attention (with gradient_checkpointing selective norms and activations "
        "alone); needs a C++ compiler, and rounding differs"))
    evaluate_steps: int = Field(0, ge=0, description="held-out loss every so many steps; 0: only before and at the end")
    evaluate_sequences: int = Field(64, ge=0, description="most held-out sequences looked at, evenly spread; 0: none")
    checkpoint_steps: int = Field(0, ge=0, description="checkpoint every so many steps; 0: by time alone")
    checkpoint_minutes: float = Field(10.0, gt=0, description="checkpoint when so many minutes have passed")
    keep_last: int = Field(2, ge=1, description="checkpoints kept; a new one stands before the oldest is deleted")
    max_hours: float | None = Field(None, gt=0, description=(
        "training ends by then: after four fifths of it the learning rate begins to fall linearly to 0"))
    asynchronous_checkpoints: bool = Field(False, description=(
        "go on training while a checkpoint is written, from a copy of what it holds in the host's memory"))
    parallel: Literal["auto", "none", "data", "fsdp", "hsdp"] = Field("auto", description=(
        "under torchrun, what each process holds: data: all weights; fsdp: its part of them; hsdp: its part of one of several "
        "copies; auto: fsdp where the plan does not fit the GPU; none: refuse several processes"))
    shard_processes: int | None = Field(None, ge=2, description="hsdp: processes that hold one copy; default: a machine's")

    @model_validator(mode="after")
    def _parts_fit(self) -> "TrainingSettings":
        if self.optimizer == "adamw8bit" and self.parallel in ("fsdp", "hsdp"):
            raise ValueError("optimizer: adamw8bit keeps the moments of whole weights in blocks of 256, which parallel: "
                             f"{self.parallel} would cut; use adamw, which it divides among the processes, or parallel: data")
        return self

    @field_validator("gradient_checkpointing", mode="before")
    @classmethod
    def _yes_or_no(cls, value: Any) -> Any:
        """``true`` and ``false`` are ``full`` and ``none``."""
        return {True: "full", False: "none"}.get(value, value) if isinstance(value, bool) else value


class PretrainSettings(TrainingSettings):
    """Continue the pre-training of a model on a packed corpus; the corpus fixes the sequence length."""

    kind: ClassVar[str] = "pretrain"
    version: ClassVar[int] = 1
    make: ClassVar[str] = "biomistral.training.pretrain:pretrain"

    corpus: Input = Field(description="corpus folder")
    cross_document: bool = Field(False, description="let documents attend to those before them, as the original did")


class LoraSettings(Settings):
    """Shape of the low-rank adapter (paper: r 16, alpha 16, dropout 0.05, on every linear layer of the decoder)."""

    rank: int = Field(16, gt=0, description="rank of the update")
    alpha: int = Field(16, gt=0, description="the update is scaled by alpha / rank")
    dropout: float = Field(0.05, ge=0, lt=1, description="dropout of the adapter's input")
    targets: tuple[str, ...] = Field(("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
                                     min_length=1, description="names of the linear layers that get an adapter")


class QloraSettings(Settings):
    """How ``method: qlora`` holds the frozen weights under the adapter (Dettmers et al. 2023), through bitsandbytes."""

    storage: Literal["nf4", "int8"] = Field("nf4", description="4-bit NormalFloat in blocks of 64, or int8 by row")
    double_quantization: bool = Field(True, description="nf4: quantise the blocks' scales too (saves 0.37 bits a weight)")
    merge_into: Literal["dequantized", "base"] = Field("dequantized", description=(
        "add the adapter to the weights it was trained on, as they are after quantisation, or to the model's own"))


class FinetuneSettings(TrainingSettings):
    """Fine-tune a model on prompts and their completions, or on conversations."""

    kind: ClassVar[str] = "finetune"
    version: ClassVar[int] = 2
    make: ClassVar[str] = "biomistral.training.finetune:finetune"

    train: tuple[Input, ...] = Field(min_length=1, description=(
        "JSONL files of prompt and completion or of chat messages, benchmark folders with a train.jsonl, or a benchmark's "
        "questions (folder, .parquet or .jsonl)"))
    validation: tuple[Input, ...] = Field((), description="inputs of the same kinds, for the held-out loss")
    split: str = Field("train", description="of a benchmark's questions: the split to train on, never its test")
    validation_split: str = Field("validation", description="of a benchmark's questions: the split held out")
    tasks: tuple[str, ...] = Field((), description="of a benchmark's questions: only these tasks; empty: all of them")
    form: Formulation = Field("letters", description=(
        "how a benchmark's questions are put, as evaluation asks them without shots; the completion is the answer's letter, or "
        "for cloze its text"))
    method: Literal["lora", "qlora", "full"] = Field(
        "lora", description="train an adapter, an adapter on quantised weights, or every weight")
    lora: LoraSettings = Field(LoraSettings(), description="shape of the adapter")
    qlora: QloraSettings = Field(QloraSettings(), description="the quantised weights under it")
    adapter: Input | None = Field(None, description="adapter folder (peft's) to go on from; its rank, alpha and targets hold")
    loss: Literal["completion", "full_text"] = Field("completion", description="which tokens the loss is taken on")
    epochs: float = Field(3.0, gt=0, description="passes over the data; fractions are allowed")
    sequence_length: int = Field(2048, gt=1, description="most tokens of a sequence: whole examples share one, isolated")
    too_long: Literal["refuse", "drop"] = Field("refuse", description="examples longer than a sequence: stop, or leave out")

    @field_validator("train", "validation", "tasks", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        """A recipe may name one file, or one task, without a list."""
        return (value,) if isinstance(value, str) else () if value is None else value

    @model_validator(mode="after")
    def _method_fits(self) -> "FinetuneSettings":
        if self.adapter is not None and self.method == "full":
            raise ValueError("an adapter is given, but method is 'full', which trains the model's own weights; use lora or qlora")
        if self.method == "qlora" and self.parallel in ("fsdp", "hsdp"):
            raise ValueError(f"parallel: {self.parallel} divides float weights among processes, and method: qlora has quantised "
                             "ones; set parallel to auto")
        return self
