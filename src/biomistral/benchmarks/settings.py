"""Settings of the ``benchmark`` stage."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, model_validator

from biomistral.recipe import Input, Settings, StageSettings

Level = Literal["easy", "medium", "hard"]
Suite = Literal["medconceptsqa", "biomistral", "bioinstructqa", "mmlu_medical", "mmmlu", "global_mmlu", "xmedbench",
                "truthfulqa"]
Vocabulary = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class TeachSettings(Settings):
    """Which codes a corpus is to teach, and which of the same kind it is not to, for a fair comparison.

    Both come from categories that are alike: all their codes stand right below them, so that a hard question offers
    codes of the same category.
    """

    vocabulary: str = Field("ICD10CM", description="vocabulary whose codes are taught; one of `vocabularies`")
    categories: int = Field(20, ge=1, description="most categories to teach")
    codes: int = Field(130, ge=1, description="most codes to teach, over all categories")
    smallest: int = Field(4, ge=4, description="fewest codes of a category that is taken")
    largest: int = Field(12, ge=4, description="most codes of a category that is taken")
    limit: int = Field(0, ge=0, description="most test questions of each group; 0 keeps all, which asks about every code")
    longest_name: int = Field(80, ge=1, description="longest description of a code that is taken, in characters")

    @model_validator(mode="after")
    def _ordered(self) -> "TeachSettings":
        if self.largest < self.smallest:
            raise ValueError(f"largest = {self.largest} is below smallest = {self.smallest}; no category can have both")
        if self.codes < self.largest:
            raise ValueError(f"codes = {self.codes} is below largest = {self.largest}; a category would not fit")
        return self


class BenchmarkSettings(StageSettings):
    """Build a benchmark's questions: BioMistral's ten tasks and others from their published files, MedConceptsQA
    (arXiv 2405.07348) from lists of medical codes."""

    kind: ClassVar[str] = "benchmark"
    version: ClassVar[int] = 3
    make: ClassVar[str] = "biomistral.benchmarks.build:build"

    suite: Suite = Field("medconceptsqa", description="which benchmark to build", json_schema_extra={"argument": True})
    files: list[Input] = Field(default_factory=list, description=(
        "files of the published benchmarks, zip archives or folders of them, as their authors or the hub have them (all suites "
        "but medconceptsqa)"))
    language: str = Field("en", pattern="^[a-z]{2}$", description=(
        "bioinstructqa, mmmlu, global_mmlu, xmedbench: language of the test (ISO 639-1); bioinstructqa has English shots beside "
        "it"))
    vocabularies: dict[Vocabulary, Input] = Field(
        {"ICD10CM": Input("embedded:icd10cm"), "ICD9CM": Input("embedded:icd9cm"), "ICD10PROC": Input("embedded:icd10pcs")},
        min_length=1, description="name of each vocabulary and the file of its codes (csv with code,parent_code,name or "
        "atc_code,atc_name; the CDC's XML; CMS' spreadsheet; the ICD-10-PCS database)")
    levels: tuple[Level, ...] = Field(("easy", "medium", "hard"), min_length=1, description="how alike the options are")
    shots: int = Field(4, ge=0, description="questions in the dev split of each set, the examples of few-shot prompts")
    validation: int = Field(0, ge=0, description="questions in the validation split of each set (and group)")
    limit: int = Field(250, ge=0, description="most test questions of each set; 0 keeps all")
    teach: TeachSettings | None = Field(None, description="choose codes to be taught, and ask about them and as many others")

    @model_validator(mode="after")
    def _sound(self) -> "BenchmarkSettings":
        if (self.suite == "medconceptsqa") == bool(self.files):
            how = ("code lists (vocabularies), not from files" if self.files
                   else "published files: name them, or the folder they lie in, with files")
            raise ValueError(f"suite {self.suite} is built from {how}")
        if self.language != "en" and self.suite not in ("bioinstructqa", "mmmlu", "global_mmlu", "xmedbench"):
            raise ValueError(f"language = '{self.language}': of the published files only those of bioinstructqa, mmmlu, "
                             "global_mmlu and xmedbench are in others")
        if len(set(self.levels)) < len(self.levels):
            raise ValueError(f"levels = {list(self.levels)} names a level twice")
        if len({name.lower() for name in self.vocabularies}) < len(self.vocabularies):
            raise ValueError(f"vocabularies {list(self.vocabularies)} differ only in case; tasks are named in lower case")
        if self.teach is not None and self.teach.vocabulary not in self.vocabularies:
            raise ValueError(f"teach.vocabulary = '{self.teach.vocabulary}' is not among the vocabularies "
                             f"{', '.join(self.vocabularies)}")
        return self


class OwnQuestionsSettings(StageSettings):
    """Bring your own multiple-choice questions (CSV, JSON, JSON Lines, Parquet) into the form that models are asked in."""

    kind: ClassVar[str] = "questions"
    version: ClassVar[int] = 1
    make: ClassVar[str] = "biomistral.benchmarks.own:bring"

    files: list[Input] = Field(min_length=1, description="your files", json_schema_extra={"argument": True})
    task: str = Field(min_length=1, description="what the results call these questions")
    stem: str = Field("question", description="column of the question's text")
    options: list[str] = Field(["options"], min_length=1, description=(
        "columns of the options, in the letters' order; or one that holds a list, or an object by letter"))
    answer: str = Field("answer", description="column that says which option is right")
    answer_as: Literal["letter", "text", "number from 0", "number from 1"] = Field("letter", description=(
        "what stands there: the option's letter, its text, or its number"))
    id: str = Field("", description="column of the questions' ids; none: their number")
    context: str = Field("", description="column of a text shown before the question; none: no such text")
    split: str = Field("test", description="split that all the questions belong to")
    split_column: str = Field("", description="column that says each question's split instead: train, dev, validation, test")
    language: str = Field("en", description="language of the questions (ISO 639-1)")
    licence: str = Field("not stated", description="licence of the questions")
