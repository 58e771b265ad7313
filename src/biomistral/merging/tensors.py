"""Chunks as PyTorch's tensors, in the same memory."""

import numpy as np
import torch

from biomistral.merging.floats import Float


def as_tensor(values: np.ndarray, dtype: Float) -> torch.Tensor:
    """An array of values in their storage, as a tensor."""
    if dtype is Float.BF16:
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(values)


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """A tensor, wherever it is, as an array of its values in their storage."""
    tensor = tensor.cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        found: np.ndarray = tensor.view(torch.int16).numpy().view(np.uint16)
    else:
        found = tensor.numpy()
    return found
