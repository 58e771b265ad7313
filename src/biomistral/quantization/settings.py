"""Settings of the ``quantize`` stage."""

from typing import ClassVar, Literal

from pydantic import Field

from biomistral.errors import UserError
from biomistral.recipe import Input, StageSettings
from biomistral.scoring.names import ProtocolName

_CALIBRATED = "biomistral.quantization.calibrated.stage:quantize"
_BITSANDBYTES = "biomistral.quantization.bitsandbytes:quantize"
_GGUF = "biomistral.quantization.gguf.stage:quantize"
MAKERS = {"awq": _CALIBRATED, "awq-gptq": _CALIBRATED, "gptq": _CALIBRATED, "rtn": _CALIBRATED,
          "nf4": _BITSANDBYTES, "fp4": _BITSANDBYTES, "int8": _BITSANDBYTES,
          "gguf:F32": _GGUF, "gguf:F16": _GGUF, "gguf:BF16": _GGUF, "gguf:Q8_0": _GGUF, "gguf:Q5_0": _GGUF, "gguf:Q4_1": _GGUF,
          "gguf:Q4_0": _GGUF}
"""Who makes what: method -> module:function of a workspace. Each writes a folder that `load_model` reads, and its part of
``quantization.json``; what every form is measured by is then added to that."""


class QuantizeSettings(StageSettings):
    """Quantise a model's linear layers to 4 bits and measure what it cost: perplexity, KL divergence, size."""

    kind: ClassVar[str] = "quantize"
    version: ClassVar[int] = 3
    make: ClassVar[str] = "biomistral.quantization.quantize:quantize"

    model: Input = Field(description="16-bit model folder", json_schema_extra={"argument": True})
    calibration: Input | None = Field(None, description=(
        "corpus folder (its held-out shards are read), .txt, or .jsonl with a 'text' field; methods that do not calibrate are "
        "only measured on it"))
    method: Literal["awq", "awq-gptq", "gptq", "rtn", "nf4", "fp4", "int8", "gguf:F32", "gguf:F16", "gguf:BF16", "gguf:Q8_0",
                    "gguf:Q5_0", "gguf:Q4_1", "gguf:Q4_0"] = Field("awq", description=(
        "awq: activation-aware scales and clipping; gptq: each column's error made up for by the next; awq-gptq: both, the "
        "closest; rtn: round to nearest, the baseline; nf4, fp4, int8: bitsandbytes; "
        "gguf: one file for llama.cpp and Ollama"))
    group_size: Literal[32, 64, 128] = Field(128, description="weights that share a scale and a zero point")
    bits: Literal[3, 4, 8] = Field(4, description=(
        "bits a weight (awq, gptq, rtn); 8 needs layout compressed-tensors, 3 are simulated: stored in 4"))
    symmetric: bool = Field(False, description="no zero points: the middle level is zero (awq, gptq, rtn)")
    layout: Literal["autoawq", "compressed-tensors"] = Field("autoawq", description=(
        "how integers lie on disk: AutoAWQ's GEMM layout, or pack-quantized, vLLM's own (awq, gptq, rtn)"))
    samples: int = Field(16, ge=1, description="calibration samples (awq, gptq)")
    sequence_length: int = Field(512, ge=16, description="tokens a sample, for calibration and evaluation")
    clip: bool = Field(True, description="also search how far each group's range is clipped (awq)")
    act_order: bool = Field(True, description="round the inputs with the most activity first; groups stay in place (gptq)")
    evaluation_samples: int = Field(4, ge=1, description="samples, disjoint from the calibration's, that the report measures on")
    double_quantization: bool = Field(True, description="quantise the blocks' scales too, 0.37 bits a weight less (nf4, fp4)")
    questions: Input | None = Field(None, description="benchmark folder or questions file; the report then compares answers too")
    protocol: ProtocolName = Field("medconceptsqa-0shot", description="how these questions are put and scored")
    split: str = Field("test", description="split of the questions that is asked")
    limit: int = Field(0, ge=0, description="questions a task, a sample drawn by the seed; 0: all of them")

    @property
    def calibrates(self) -> bool:
        """Whether the method looks at text while it rounds, and measures on text by itself."""
        return MAKERS[self.method] == _CALIBRATED

    def check(self) -> None:
        """
        Raises:
            UserError: the method cannot do without something that is not given.
        """
        if self.calibration is None and self.calibrates:
            raise UserError(f"method: {self.method} needs text to calibrate and to measure on; give --calibration, a corpus "
                            "folder or a text file")
