"""Settings of the ``quantize`` stage."""

from typing import ClassVar, Literal

from pydantic import Field

from biomistral.recipe import Input, StageSettings

_CALIBRATED = "biomistral.quantization.calibrated.stage:quantize"
MAKERS = {"awq": _CALIBRATED, "rtn": _CALIBRATED}
"""Who makes what: method -> module:function of a workspace."""


class QuantizeSettings(StageSettings):
    """Quantise a model's linear layers to 4 bits and measure what it cost: perplexity, KL divergence, size."""

    kind: ClassVar[str] = "quantize"
    version: ClassVar[int] = 1
    make: ClassVar[str] = "biomistral.quantization.quantize:quantize"

    model: Input = Field(description="16-bit model folder", json_schema_extra={"argument": True})
    calibration: Input = Field(description="corpus folder (its held-out shards are read), .txt, or .jsonl with a 'text' field")
    method: Literal["awq", "rtn"] = Field(
        "awq", description="awq: activation-aware scales and clipping; rtn: round to nearest, the baseline")
    group_size: Literal[32, 64, 128] = Field(128, description="weights that share a scale and a zero point")
    samples: int = Field(16, ge=1, description="calibration samples (awq)")
    sequence_length: int = Field(512, ge=16, description="tokens a sample, for calibration and evaluation")
    clip: bool = Field(True, description="also search how far each group's range is clipped (awq)")
    evaluation_samples: int = Field(4, ge=1, description="samples, disjoint from the calibration's, that the report measures on")
