"""Settings of the ``corpus`` stage."""

from typing import Annotated, Any, ClassVar, Literal

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
    fields: dict[Literal["id", "title", "text", "licence", "language", "year", "journal", "authors", "url"], str] = Field(
        default={}, description="records: which column holds what, where it is called otherwise: {text: abstract, id: pmid}; "
        "a dot goes into a column: meta.licence")
    max_document_mb: int = Field(64, ge=1, le=2000, description="largest document, unpacked; larger ones are refused")
    max_tokens: int | None = Field(None, ge=1, description="most tokens taken from this source")
    share: float | None = Field(None, gt=0, le=1, description="share of all training tokens that come from this source, e.g. "
                                "0.01 of general text; other sources share the rest")

    @model_validator(mode="after")
    def _sound(self) -> "SourceSettings":
        if self.type == "codes" and not self.vocabulary:
            raise ValueError("a source of codes needs its 'vocabulary', e.g. ICD10CM")
        if self.type != "codes" and (self.vocabulary or self.only):
            raise ValueError("'vocabulary' and 'only' belong to a source of type codes")
        return self


Share = Annotated[float, Field(ge=0, le=1)]


class FilterSettings(Settings):
    """What a document's text must be like; each threshold is the most that passes, and null turns it off."""

    retracted: bool = Field(True, description="refuse articles that are retracted or withdrawn, and the notices that say so")
    words: int | None = Field(None, ge=1, description="longest document, in words")
    other_characters: Share | None = Field(0.5, description="share of the characters that are digits or symbols")
    table_characters: Share | None = Field(0.8, description="share of the characters that stand in rows of tables")
    reference_lines: Share | None = Field(0.5, description="share of the lines that are entries of a reference list")
    broken_words: Share | None = Field(
        0.2, description="signs of bad character recognition per word: letters apart, digits amid them, unknown characters")
    word_length: float | None = Field(12.0, gt=0, description="mean letters a word, of scripts that part words")
    shortest_word_length: float | None = Field(2.5, gt=0, description="least mean letters a word, of scripts that part words")
    symbols: Share | None = Field(0.1, description="number signs and ellipses per word")
    bullet_lines: Share | None = Field(0.9, description="share of the lines that begin with a bullet")
    ellipsis_lines: Share | None = Field(0.3, description="share of the lines that end with an ellipsis")
    boilerplate_lines: Share | None = Field(
        0.3, description="share of the lines that are boilerplate of web pages or journals: cookies, log-in, copyright, dates")
    repeated_lines: Share | None = Field(0.5, description="share of the lines that copy an earlier one")
    repeated_characters: Share | None = Field(0.2, description="share of the characters that stand in such lines")
    repeated_paragraphs: Share | None = Field(0.5, description="share of the paragraphs that copy an earlier one")
    top_ngrams: list[Share] | None = Field(
        default=[0.2, 0.18, 0.16], min_length=3, max_length=3,
        description="shares of the words in the most frequent sequence of 2, 3 and 4 words")
    repeated_ngrams: list[Share] | None = Field(
        default=[0.6, 0.56, 0.52, 0.48, 0.45, 0.42], min_length=6, max_length=6,
        description="shares of the words in sequences of 5, 6, ... 10 words that occur more than once")


class CorpusSettings(StageSettings):
    """Build a corpus: articles, records and code lists to clean, licensed documents, packed for training."""

    kind: ClassVar[str] = "corpus"
    version: ClassVar[int] = 3
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
    filters: FilterSettings = Field(default_factory=FilterSettings, description="thresholds of the quality filters")

    deduplicate: float | None = Field(
        0.8, gt=0.5, le=1, description="estimated Jaccard similarity of 5-word shingles from which two documents are one; "
        "null: exact copies only")
    decontaminate: list[Input] = Field(default=[], description=(
        "benchmarks whose questions must not be in the corpus, those of their train split excepted"))
    decontaminate_fields: list[Literal["stem", "context", "option"]] = Field(
        default=["stem", "context", "option"], min_length=1, description="parts of a question that are looked for")
    decontaminate_ngram: int = Field(13, ge=4, le=50, description="words of overlap that count as contamination")
    decontaminate_shortest: int = Field(
        8, ge=2, description="shorter parts are looked for as a whole, down to this many words")
    decontaminate_with_answer: bool = Field(
        True, description="shorter stems, of at least 4 words, count where the right answer stands in the same paragraph")
    decontaminate_except: list[str] = Field(
        default=[], description="phrases that never count, such as boilerplate among the 'spans' of decontamination.json")
    decontaminate_policy: Literal["drop", "cut"] = Field(
        "drop", description="drop the document, or cut its paragraphs that match")

    max_tokens: int | None = Field(
        None, ge=1, description="budget of training tokens: code articles, then other languages, then English until it is full")
    mix: dict[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")], Share] = Field(
        default={}, description="shares of the budget by language, instead of that order: {fr: 0.1, es: 0.1, en: 0.8}; what they "
        "leave over is for languages not named, and what a language cannot fill is for the others")
    heldout: float = Field(0.01, ge=0, lt=1, description="share of the articles and records kept out of training, by document id")
    tables: bool = Field(True, description="rows of tables as lines of text; their captions stay in any case")
    footnotes: bool = Field(False, description="footnotes as paragraphs; a table's own notes always stay with its rows")
    citations: Literal["drop", "keep"] = Field(
        "drop", description="drop: without '[12]' and '(Smith, 2010)', unless the sentence leans on it; keep: as printed")

    sequence_length: int = Field(2048, ge=8, description="tokens a block")
    packing: Literal["concatenate", "best_fit"] = Field(
        "concatenate", description="concatenate: no room wasted, a block's border may cut a piece; best_fit: no piece that fits "
        "a block is cut, room left over is filled (0.4 % of it with piece_words: null, 13 % with pieces of 1,000 words)")
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
        _check_shares(self)
        if self.decontaminate_shortest > self.decontaminate_ngram:
            raise ValueError("decontaminate_shortest cannot exceed decontaminate_ngram")
        return self


def _check_shares(settings: CorpusSettings) -> None:
    """Shares must leave room for what has none, and a mix needs a whole to divide."""
    shares = [source.share for source in settings.sources if source.share is not None]
    if len(shares) == len(settings.sources) and abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"every source has a share: they must sum to 1, not {sum(shares):g}")
    if len(shares) < len(settings.sources) and sum(shares) > 1 - 1e-6:
        raise ValueError(f"the sources' shares sum to {sum(shares):g}, which leaves nothing for sources without one")
    if settings.mix and settings.max_tokens is None:
        raise ValueError("a 'mix' is made of shares of 'max_tokens', which is not set")
    if sum(settings.mix.values()) > 1 + 1e-6:
        raise ValueError(f"the shares of 'mix' sum to {sum(settings.mix.values()):g}, more than 1")
