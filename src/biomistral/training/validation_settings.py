"""Settings of what is asked of a model while it is trained; both kinds of training have them."""

from typing import Any

from pydantic import Field, field_validator, model_validator

from biomistral.recipe import Input, StageSettings
from biomistral.scoring.names import ProtocolName, is_test


class ValidationSettings(StageSettings):
    """Ask a benchmark's questions before training, every so many steps, and at its end."""

    validate_on: Input | None = Field(None, description="benchmark folder or questions file to ask while training")
    validate_split: str = Field("validation", description="split that is asked")
    validate_tasks: tuple[str, ...] = Field((), description="ask only these tasks; empty: all of them")
    validate_protocol: ProtocolName = Field("letters-0shot", description="how it is asked and scored, as evaluation does")
    validate_limit: int = Field(100, ge=0, description="questions asked of a task, a sample drawn by the seed; 0: all of them")
    validate_steps: int = Field(0, ge=0, description="ask every so many steps; 0: only before training and at its end")
    validate_on_test: bool = Field(False, description="allow the test split: its score is then no test of this model any more")
    keep_best: bool = Field(False, description="write the model of the step that was right most often, not the last one")

    @field_validator("validate_tasks", mode="before")
    @classmethod
    def _one_task(cls, value: Any) -> Any:
        """A recipe may name one task without a list."""
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _validation_fits(self) -> "ValidationSettings":
        if self.validate_on is None and (self.keep_best or self.validate_steps):
            raise ValueError(f"{'keep_best' if self.keep_best else 'validate_steps'} is set, but no benchmark to ask; name one "
                             "in validate_on")
        if self.validate_on is not None and is_test(self.validate_split):
            if self.keep_best:
                raise ValueError(f"validate_split '{self.validate_split}': keep_best would choose the model on the test; "
                                 "validate on another split")
            if not self.validate_on_test:
                raise ValueError(f"validate_split '{self.validate_split}' is what the benchmark asks in the end; validate on "
                                 "another split, or set validate_on_test to look at it all the same")
        return self
