"""What ``results.json`` of a results folder holds, checked when it is read (docs/formats.md)."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Part(BaseModel):
    """A piece of ``results.json``; keys added by later versions are kept and ignored."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=(), allow_inf_nan=False)


class ModelInfo(_Part):
    name: str = Field(min_length=1)
    key: str
    parameters: int | None = None
    dtype: str | None = None
    quantization: str | None = None


class TranslationInfo(_Part):
    name: str
    key: str
    languages: list[str]
    questions: int
    without_twin: int
    translated_by: list[str] = Field(default_factory=list)


class BenchmarkInfo(_Part):
    name: str
    key: str
    split: str
    limit: int | None = None
    translations: list[TranslationInfo] = Field(default_factory=list)


class Score(_Part):
    """Accuracy over ``n`` questions as a fraction, with its 95 % interval."""

    n: int = Field(gt=0)
    right: float
    accuracy: float = Field(ge=0, le=1)
    interval: tuple[float, float]
    spread: float | None = None
    letter_mass: float | None = None
    open_accuracy: float | None = None
    accuracy_of_parsed: float | None = None


class Degenerate(_Part):
    letter: str
    share: float
    score_of_always: float


class Sensitivity(_Part):
    accuracies: list[float]
    changed: float
    consistency: float


class Position(_Part):
    """How often options at one place are chosen, and are right."""

    chosen: float
    right: float


class Positions(_Part):
    shares: dict[str, Position]
    distance: float


class Bin(_Part):
    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


class Calibration(_Part):
    ece: float | None = None
    adaptive_ece: float | None = None
    brier: float | None = None
    paper_ece_5: float | None = None
    bins: list[Bin] = Field(default_factory=list)


class Gap(_Part):
    """Accuracy of a language minus that of the same questions in English; nothing but counts where there are no such pairs."""

    n: int
    without_twin: int
    accuracy: float | None
    english: float | None
    difference: float | None
    low: float | None
    high: float | None
    gained: int | None
    lost: int | None
    p: float | None
    p_holm: float | None


class Gaps(_Part):
    overall: Gap
    tasks: dict[str, Gap]


class LanguageScores(_Part):
    tasks: dict[str, Score]
    overall: Score
    average: float
    calibration: Calibration | None = None
    gap: Gaps | None = None


class LanguageFertility(_Part):
    """``per_unit``: tokens a word or character; ``premium``: tokens over those of the same questions in English."""

    unit: str
    questions: int
    tokens: int
    units: int
    per_unit: float | None
    premium: float | None
    near_limit: dict[str, float | None]


class Fertility(_Part):
    context_length: int | None
    languages: dict[str, LanguageFertility]


class Protocol(_Part):
    """What one model scored under one protocol."""

    definition: dict[str, Any]
    definition_hash: str
    tasks: dict[str, Score]
    groups: dict[str, Score] = Field(default_factory=dict)
    languages: dict[str, LanguageScores] = Field(default_factory=dict)
    overall: Score
    average: float
    degenerate: Degenerate | None = None
    positions: Positions | None = None
    shot_sets: Sensitivity | None = None
    permutations: Sensitivity | None = None
    unparsed: dict[str, int] = Field(default_factory=dict)
    calibration: Calibration | None = None
    seconds: float | None = None
    questions_per_second: float | None = None


class Summary(_Part):
    """A whole ``results.json``."""

    model: ModelInfo
    benchmark: BenchmarkInfo
    protocols: dict[str, Protocol] = Field(min_length=1)
    fertility: Fertility | None = None
