"""Where a tensor is computed."""

from torch import Tensor


def on_cpu(tensor: Tensor) -> bool:
    """Whether the forms made for a CPU apply; tensors without storage (`rehearsal`) stand for such as lie there."""
    return tensor.device.type in ("cpu", "meta")
