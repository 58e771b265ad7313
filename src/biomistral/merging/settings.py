"""Settings of the ``merge`` stage."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from biomistral.merging.config import local_models
from biomistral.recipe import Input, StageSettings


class MergeSettings(StageSettings):
    """Merge models of one architecture as a mergekit YAML file says."""

    kind: ClassVar[str] = "merge"
    version: ClassVar[int] = 5
    make: ClassVar[str] = "biomistral.merging.merge:merge_models"

    config: Input = Field(description="mergekit YAML file", json_schema_extra={"argument": True})
    models: dict[str, Input] = Field(default_factory=dict, description=(
        "where the models that the file names lie: NAME=FOLDER; a name that is a local folder needs no entry"))
    fit_layers: bool = Field(False, description=(
        "fit a layer_range that spans a published model's whole depth to the depth of the models given"))
    dare_rescale: Literal["mergekit", "paper"] = Field("mergekit", description=(
        "how DARE and DELLA make up for what they dropped: mergekit restores the task vector's L1 norm, paper divides by the "
        "probability of staying"))
    ties_trim: Literal["tensor", "model"] = Field("tensor", description=(
        "what TIES keeps the largest of: each tensor's share, as mergekit does, or the model's whole task vector, as the paper"))
    slerp_over: Literal["tensor", "row"] = Field("tensor", description=(
        "what SLERP takes the angle of: a whole tensor, as mergekit does, or each of its rows"))
    max_shard_bytes: int = Field(5_000_000_000, ge=1, description="largest weight file written, in bytes")

    @model_validator(mode="before")
    @classmethod
    def _name_local_models(cls, data: Any) -> Any:
        """Make inputs of the folders that the file itself names: what they hold then enters the artifact's key."""
        if not isinstance(data, dict) or not isinstance(data.get("models", {}), dict):
            return data
        named = {name: name for name in local_models(str(data.get("config", "")))}
        return {**data, "models": {**named, **data.get("models", {})}}
