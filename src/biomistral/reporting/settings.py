"""Settings of the ``report`` stage, and of bringing in what others measured."""

from typing import ClassVar

from pydantic import Field

from biomistral.recipe import Input, StageSettings


class ReportSettings(StageSettings):
    """Put results folders side by side on a static site, with paired tests and the lineage of every row."""

    kind: ClassVar[str] = "report"
    version: ClassVar[int] = 3
    make: ClassVar[str] = "biomistral.reporting.site:build_site"

    results: list[Input] = Field(min_length=1, json_schema_extra={"argument": True}, description=(
        "results folders, one a model; and imported ones ('results import'), which get tables of their own"))
    baseline: str = Field("", description="name of the model that the paired differences refer to; empty: the first one")
    protocol: str = Field("", description="protocol whose finding and table come first; empty: the first one")
    title: str = Field("Leaderboard", min_length=1, description="title of the page")
    curves: list[Input] = Field(default_factory=list, description="model folders whose metrics.jsonl are drawn as loss curves")
    questions: int = Field(1000, ge=0, description=(
        "most questions of a task and language that the site holds with every model's answers (drawn by the seed, about 1 KB "
        "each); 0: no answers to single questions at all, the smallest site"))
    contamination: list[Input] = Field(default_factory=list, description=(
        "files that 'contamination --out' wrote about these results: scores with and without questions that stand in a corpus"))
    notes: list[str] = Field(default_factory=list, description="plain sentences shown at the top of the page")


class ImportedResultsSettings(StageSettings):
    """Bring in results that others measured, for the leaderboard: marked by origin and protocol, never ranked with another one.

    Files of lm-eval (0.4), Papers-with-Code's evaluation tables, CSV and JSON as 'results export' writes them, a results.json.
    """

    kind: ClassVar[str] = "reported"
    version: ClassVar[int] = 1
    make: ClassVar[str] = "biomistral.reporting.bringing:bring"

    file: Input = Field(json_schema_extra={"argument": True}, description=(
        "results_*.json of lm_eval, evaluation-tables.json, a .csv or .json of 'results export', or a results.json"))
    name: str = Field("", description="name of the model, where the file is about one; by default what the file calls it")
