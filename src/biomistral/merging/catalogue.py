"""The merge methods: what each is called, which parameters it takes, and how many models it needs.

Names, parameters and defaults are mergekit 0.1.5's. Sources: linear arXiv 2203.05482; task arithmetic 2212.04089; TIES
2306.01708; DARE 2311.03099; Model Breadcrumbs 2312.06795; DELLA 2406.11617; Model Stock 2403.19522; SCE 2408.07990; RAM
2601.13572. nuslerp, multislerp and nearswap are mergekit's own.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

Value = float | bool | None
Thinning = Literal["nothing", "magnitude", "random", "outliers", "magprune"]


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method.

    ``of`` says whom it belongs to: the merge as a whole, each input, or each input but the base. ``idle`` ones are read and
    change nothing.
    """

    name: str
    of: Literal["merge", "input", "other"]
    type: type = float
    default: Value = None
    required: bool = False
    low: float = -math.inf
    high: float = math.inf
    idle: bool = False


@dataclass(frozen=True)
class Method:
    """What a merge method needs: its parameters, whether it has a base, how many inputs it takes (base included), and how
    it thins task vectors before it adds them (None: it adds none), with or without TIES' consensus on signs."""

    parameters: tuple[Parameter, ...]
    base: Literal["none", "optional", "required"]
    inputs: tuple[int, float]
    thins: Thinning | None = None
    consensus: bool = False

    def of(self, *owners: str) -> dict[str, Parameter]:
        return {parameter.name: parameter for parameter in self.parameters if parameter.of in owners}

    def has_base(self, base: str | None) -> bool:
        """Whether a merge with this base model treats it as a base, not as one more input."""
        return self.base != "none" and base is not None


def _task_vectors(thins: Thinning, consensus: bool, normalize: bool = False) -> Method:
    none = thins == "nothing"
    parameters = [Parameter("weight", "other", required=True), Parameter("normalize", "merge", bool, normalize),
                  Parameter("lambda", "merge", default=1.0), Parameter("int8_mask", "merge", bool, False, idle=True),
                  Parameter("density", "other", default=1.0, low=0, high=1, idle=none),
                  Parameter("rescale", "merge", bool, thins in ("random", "magprune"), idle=none)]
    if thins == "outliers":
        parameters.append(Parameter("gamma", "other", default=0.01, low=0, high=1))
    if thins == "magprune":
        parameters.append(Parameter("epsilon", "other", default=0.15, low=0, high=0.5))
    return Method(tuple(parameters), "required", (2, math.inf), thins, consensus)


METHODS = {
    "linear": Method((Parameter("weight", "input", required=True), Parameter("normalize", "merge", bool, True)),
                     "none", (1, math.inf)),
    "slerp": Method((Parameter("t", "merge", required=True),), "required", (2, 2)),
    "nuslerp": Method((Parameter("weight", "other", required=True), Parameter("nuslerp_flatten", "merge", bool, True),
                       Parameter("nuslerp_row_wise", "merge", bool, False)), "optional", (2, 2)),
    "multislerp": Method((Parameter("weight", "other", required=True), Parameter("normalize_weights", "merge", bool, True),
                          Parameter("eps", "merge", default=1e-8, low=0)), "optional", (1, math.inf)),
    "nearswap": Method((Parameter("t", "merge", required=True),), "required", (2, 2)),
    "ram": Method((Parameter("epsilon", "merge", default=1e-5, low=0),), "required", (2, math.inf)),
    "sce": Method((Parameter("select_topk", "merge", default=1.0), Parameter("int8_mask", "merge", bool, False, idle=True)),
                  "required", (2, math.inf)),
    "passthrough": Method((Parameter("scale", "input"),), "none", (1, 1)),
    "model_stock": Method((Parameter("filter_wise", "merge", bool, False),), "required", (3, math.inf)),
    "task_arithmetic": _task_vectors("nothing", consensus=False),
    "ties": _task_vectors("magnitude", consensus=True, normalize=True),
    "dare_ties": _task_vectors("random", consensus=True),
    "dare_linear": _task_vectors("random", consensus=False),
    "breadcrumbs": _task_vectors("outliers", consensus=False),
    "breadcrumbs_ties": _task_vectors("outliers", consensus=True),
    "della": _task_vectors("magprune", consensus=True, normalize=True),
    "della_linear": _task_vectors("magprune", consensus=False),
}
"""``inputs`` of nuslerp and multislerp are those it turns between; a base comes on top. ``int8_mask`` saves mergekit memory."""

UNSUPPORTED = ("arcee_fusion", "karcher", "ramplus_tl")
"""Methods that mergekit has and this package has not."""


@dataclass(frozen=True)
class Variants:
    """Where the published algorithm and mergekit differ: which of the two is wanted."""

    dare_rescale: Literal["mergekit", "paper"] = "mergekit"
    ties_trim: Literal["tensor", "model"] = "tensor"
    slerp_over: Literal["tensor", "row"] = "tensor"


DEFAULT = Variants()
"""mergekit's."""


def odd_values(method: str, shared: dict[str, Any], inputs: list[dict[str, Any]]) -> str | None:
    """What is wrong with values that are each within range, if anything; ``inputs`` are those of each input but the base."""
    if method == "linear" and shared["normalize"] and not sum(values["weight"] for values in inputs):
        return "the weights sum to 0 and cannot be normalised; change them or set normalize: false"
    if method == "multislerp" and shared["normalize_weights"] and not sum(values["weight"] for values in inputs):
        return "the weights sum to 0 and cannot be normalised; change them or set normalize_weights: false"
    if METHODS[method].thins == "magprune":
        for values in inputs:
            density, epsilon = values["density"], values["epsilon"]
            if 0 < density < 1 and not 0 < density - epsilon <= density + epsilon < 1:
                return (f"epsilon {epsilon:g} takes density {density:g} out of the range between 0 and 1; DELLA keeps elements "
                        "with probabilities from density - epsilon to density + epsilon")
    return None
