"""Settings of the ``evaluate`` and ``select`` stages."""

from typing import ClassVar, Literal

from pydantic import Field

from biomistral.recipe import Input, StageSettings
from biomistral.scoring.names import AskedProtocolName


class EvaluateSettings(StageSettings):
    """Ask a model multiple-choice questions and record every answer: letters by constrained decoding, or cloze."""

    kind: ClassVar[str] = "evaluate"
    version: ClassVar[int] = 3
    make: ClassVar[str] = "biomistral.evaluation.evaluate:evaluate"

    model: Input = Field(description="the model folder to evaluate", json_schema_extra={"argument": True})
    benchmark: Input = Field(description="benchmark folder, or a questions file (.parquet, .jsonl)")
    protocols: list[AskedProtocolName] = Field(
        ["medconceptsqa-0shot", "cloze-sum", "cloze-mean"], min_length=1, description="how the questions are put and scored")
    split: str = Field("test", description="split of the benchmark that is asked")
    tasks: list[str] = Field(default_factory=list, description="only these tasks; empty: all of them")
    limit: int = Field(0, ge=0, description="questions a task, a sample drawn by the seed; 0: all of them")
    shot_sets: int = Field(3, ge=1, description="random shot sets of letters-3shot; the score is their mean")
    permutations: int = Field(1, ge=1, le=1000, description=(
        "ask each question under so many orders of its options, the published one first; not for cloze, which shows no options"))
    too_long: Literal["refuse", "drop", "fewer-shots"] = Field(
        "refuse", description="prompts longer than the model reads: stop, leave the question out, or leave shots out; counted")
    name: str = Field("", description="name shown in the results; by default the model folder's")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="precision of the forward pass; auto: bfloat16 where this machine is fast at it, else float32")
    max_batch_tokens: int = Field(0, ge=0, description="tokens of one forward pass, padding included; 0: by device")


class SelectSettings(StageSettings):
    """Keep the best of several models by a score measured on a validation split."""

    kind: ClassVar[str] = "select"
    version: ClassVar[int] = 1
    make: ClassVar[str] = "biomistral.evaluation.select:select"

    candidates: dict[str, Input] = Field(min_length=1, description="name -> model folder; of equals the first listed wins")
    results: list[Input] = Field(min_length=1, description="results folders of the candidates",
                                 json_schema_extra={"argument": True})
    protocol: AskedProtocolName = Field("medconceptsqa-0shot", description="protocol whose score decides")
    group: str = Field("", description="only this group of questions, e.g. taught; empty: all of them")
    metric: Literal["accuracy"] = Field("accuracy", description="the score that decides")
