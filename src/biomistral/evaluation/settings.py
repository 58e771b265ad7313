"""Settings of the ``evaluate`` and ``select`` stages."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from biomistral.endpoint.fields import json_fields, served_name
from biomistral.recipe import Input, StageSettings
from biomistral.scoring.names import AskedProtocolName


class EvaluateSettings(StageSettings):
    """Ask a model multiple-choice questions and record every answer: a letter by constrained decoding, the likeliest
    option (cloze), or words."""

    kind: ClassVar[str] = "evaluate"
    version: ClassVar[int] = 5
    make: ClassVar[str] = "biomistral.evaluation.evaluate:evaluate"
    together: ClassVar[bool] = True

    engine: Literal["local", "api"] = Field(
        "local", description="local: a model folder, computed here; api: a server that speaks OpenAI's protocol (--url)")
    model: Input = Field(description="the model folder to evaluate; with --engine api the name that the server has for it",
                         json_schema_extra={"argument": True})
    adapter: Input | None = Field(None, description="LoRA adapter (peft's format) that is put on the model")
    url: str = Field("", description="of --engine api: the server, e.g. http://localhost:8000/v1")
    body: dict[str, str] = Field(default_factory=dict, description=(
        "of --engine api: more fields of every request, as JSON, e.g. seed=1 or "
        "chat_template_kwargs={\"enable_thinking\":false}; null takes a field out"))
    top_logprobs: int = Field(20, ge=1, description="of --engine api: how many of the likeliest tokens letters are looked for in")
    benchmark: Input = Field(description="benchmark folder, or a questions file (.parquet, .jsonl)")
    translations: list[Input] = Field(default_factory=list, description=(
        "benchmarks that hold its questions in other languages, under the same ids: asked beside it and compared in pairs"))
    languages: list[str] = Field(default_factory=list, description=(
        "only questions in these languages (ISO 639-1, e.g. en,pt); empty: in all that are there. Shots stay English"))
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
    max_batch_tokens: int = Field(0, ge=0, description=(
        "tokens of one forward pass, with its padding; 0: by device (2048 on a CPU). Answers are kept pass by pass: an "
        "interrupted run loses the one it was in; 1 asks and keeps question by question, which is slower"))

    _served = field_validator("model")(served_name)
    _json = field_validator("body")(json_fields)

    @model_validator(mode="after")
    def _reachable(self) -> "EvaluateSettings":
        if (self.engine == "api") != bool(self.url):
            raise ValueError("engine api needs a url, e.g. http://localhost:8000/v1" if self.engine == "api" else
                             "a url is for engine api, and the engine is local")
        if self.engine == "local" and self.body:
            raise ValueError("body is for engine api, and the engine is local")
        if self.engine == "api" and self.adapter is not None:
            raise ValueError("an adapter is for engine local; a server has it under a name of its own")
        return self


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
