"""Settings of the ``corpus`` stage."""

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from biomistral.recipe import Input, Settings, StageSettings


class SourceSettings(Settings):
    """One place documents come from."""

    input: Input = Field(description="folder, archive or file of documents")
    type: Literal["auto", "jats", "records", "codes"] = Field(
        "auto", description="jats: articles in XML; records: JSONL or Parquet rows; codes: a list of medical codes; "
        "auto tells by the file names")
    name: str | None = Field(None, description="name in the documents' 'source' column; default: from the input")
    licence: str | None = Field(None, description="licence of records or code lists that do not state their own")
    vocabulary: str | None = Field(None, description="codes: the vocabulary, e.g. ICD10CM")
    only: Input | None = Field(None, description="codes: a benchmark folder; only the categories its taught.json names")
    repeat: int = Field(4, ge=1, le=64, description="codes: how often each fact is told, each time in another wording and order")
    max_tokens: int | None = Field(None, ge=1, description="most tokens taken from this source")
    share: float | None = Field(None, gt=0, le=1, description="most of the corpus' max_tokens this source may fill")

    @model_validator(mode="after")
    def _sound(self) -> "SourceSettings":
        if self.type == "codes" and not self.vocabulary:
            raise ValueError("a source of codes needs its 'vocabulary', e.g. ICD10CM")
        if self.type != "codes" and (self.vocabulary or self.only):
            raise ValueError("'vocabulary' and 'only' belong to a source of type codes")
        return self


class CorpusSettings(StageSettings):
    """Build a corpus: articles, records and code lists to clean, licensed documents, packed for training."""

    kind: ClassVar[str] = "corpus"
    version: ClassVar[int] = 1
    make: ClassVar[str] = "biomistral.corpus.build:build_corpus"

    sources: list[SourceSettings] = Field(
        min_length=1, description="where documents come from: folders, .tar.gz archives, XML, JSONL or Parquet files",
        json_schema_extra={"argument": True})
    tokenizer: Input = Field(description="model folder whose tokenizer packs the corpus")

    licences: list[Literal["cc0", "cc-by", "cc-by-sa", "cc-by-nd", "cc-by-nc", "cc-by-nc-sa", "cc-by-nc-nd"]] = Field(
        default=["cc0", "cc-by", "cc-by-sa", "cc-by-nd"], min_length=1,
        description="families of licences that pass; public domain passes with cc0")
    languages: list[str] = Field(default=[], description="languages kept, e.g. en and fr; none given: all")
    language_from: Literal["auto", "declared", "detected"] = Field(
        "auto", description="declared: what the document says; detected: also look at its text (needs the extra "
        "'language'); auto: detect where that extra is installed")
    skip_article_types: list[str] = Field(
        default=["retraction", "correction", "expression-of-concern", "addendum"],
        description="JATS article types that are refused")
    min_words: int = Field(50, ge=1, description="shortest document")
    max_repetition: float = Field(0.3, gt=0, le=1, description="largest share of 10-word sequences that only repeat others")

    deduplicate: float | None = Field(
        0.8, gt=0.5, le=1, description="estimated Jaccard similarity of 5-word shingles from which two documents are one; "
        "null: exact copies only")
    decontaminate: list[Input] = Field(default=[], description="benchmark folders whose questions must not be in the corpus")
    decontaminate_fields: list[Literal["stem", "context", "option"]] = Field(
        default=["stem", "context", "option"], min_length=1, description="parts of a question that are looked for")
    decontaminate_ngram: int = Field(13, ge=4, le=50, description="words of overlap that count as contamination")
    decontaminate_shortest: int = Field(
        8, ge=2, description="shorter parts are looked for as a whole, down to this many words")
    decontaminate_policy: Literal["drop", "cut"] = Field(
        "drop", description="drop the document, or cut its paragraphs that match")

    max_tokens: int | None = Field(
        None, ge=1, description="budget of training tokens: code articles, then other languages, then English until it is full")
    heldout: float = Field(0.01, ge=0, lt=1, description="share of the articles and records kept out of training, by document id")
    sequence_length: int = Field(2048, ge=8, description="tokens a block")
    piece_words: int | None = Field(1000, ge=1, description="most words a piece; null: whole documents")
    bos: Literal["auto", "always", "never"] = Field(
        "auto", description="BOS before each piece; auto: if the tokenizer itself adds it to a text")
    eos: Literal["piece", "document", "never"] = Field(
        "piece", description="EOS after each piece, or only after a document's last")

    @field_validator("sources", mode="before")
    @classmethod
    def _bare_names(cls, value: Any) -> Any:
        """A bare string is a source with nothing else said, as on the command line."""
        value = [value] if isinstance(value, str) else value
        return [{"input": item} if isinstance(item, str) else item for item in value] if isinstance(value, list) else value

    @model_validator(mode="after")
    def _sound(self) -> "CorpusSettings":
        if self.max_tokens is None and any(source.share is not None for source in self.sources):
            raise ValueError("a source's 'share' is a share of 'max_tokens', which is not set")
        if self.decontaminate_shortest > self.decontaminate_ngram:
            raise ValueError("decontaminate_shortest cannot exceed decontaminate_ngram")
        return self
