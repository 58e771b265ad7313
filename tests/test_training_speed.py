"""What is computed in another way for speed, against the plain way in float64 and against transformers in bfloat16."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from biomistral.models.load import load_model
from biomistral.training.compute.attention import isolated_attention
from biomistral.training.compute.fused import ELEMENTS, use_fused_norms
from biomistral.training.compute.loss import chunked_cross_entropy
from biomistral.training.compute.segments import Segments
from tiny import make_model


def _close(found: torch.Tensor, plain: torch.Tensor, exact: torch.Tensor) -> bool:
    """Whether ``found`` is as near to the float64 value as the plain bfloat16 one is, within a tenth."""
    scale = exact.norm()
    return bool((found.double() - exact).norm() / scale <= 1.1 * (plain.double() - exact).norm() / scale + 1e-4)


def _gradients(output: torch.Tensor, weight: torch.Tensor, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    return [output.detach(), *torch.autograd.grad(output, inputs, weight.to(output.dtype))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 5, 2 * (ELEMENTS // 96) + 3])
def test_norm_is_as_exact_as_transformers(dtype: torch.dtype, rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    norm = LlamaRMSNorm(96, eps=1e-5).to(dtype)
    norm.weight.data = torch.randn(96, generator=generator).to(dtype)
    x = (3 * torch.randn(1, rows, 96, generator=generator)).to(dtype).requires_grad_()
    weight = torch.randn(x.shape, generator=generator)
    plain = _gradients(norm(x), weight, [x, norm.weight])
    doubles = [tensor.detach().double().requires_grad_() for tensor in (x, norm.weight)]
    exact = _gradients(torch.rms_norm(doubles[0], (96,), doubles[1], 1e-5), weight.to(dtype), doubles)
    assert use_fused_norms(norm) == 1
    for mine, theirs, true in zip(_gradients(norm(x), weight, [x, norm.weight]), plain, exact, strict=True):
        assert mine.dtype == theirs.dtype
        assert mine.shape == theirs.shape
        assert _close(mine, theirs, true)


def test_another_kind_of_norm_keeps_its_forward() -> None:
    """Gemma multiplies by 1 + weight: seen by its values."""
    norm = GemmaRMSNorm(16)
    norm.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    norm.variance_epsilon = norm.eps
    assert use_fused_norms(norm) == 0
    assert "forward" not in vars(norm)


def test_norms_of_a_model_are_replaced_and_its_weights_keep_their_names(tmp_path: Path) -> None:
    model = load_model(make_model(tmp_path / "model"), torch.float32)
    names, ids = list(model.state_dict()), torch.arange(5, 25)[None]
    before = model(input_ids=ids, labels=ids)
    before.loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    assert use_fused_norms(model) == 5
    assert list(model.state_dict()) == names
    after = model(input_ids=ids, labels=ids)
    after.loss.backward()
    assert after.loss.item() == pytest.approx(before.loss.item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("lengths", [[7, 20, 3], [300], [64, 65, 129]])
def test_attention_in_bfloat16_is_as_exact_as_torch(lengths: list[int]) -> None:
    generator = torch.Generator().manual_seed(len(lengths))
    inputs = [torch.randn(1, heads, sum(lengths), 48, generator=generator).bfloat16().requires_grad_() for heads in (6, 2, 2)]
    weight = torch.randn(1, sum(lengths), 6, 48, generator=generator).bfloat16()

    def by_torch(tensors: list[torch.Tensor]) -> torch.Tensor:
        parts = zip(*(tensor.split(lengths, 2) for tensor in tensors), strict=True)
        outputs = [scaled_dot_product_attention(*part, is_causal=True, enable_gqa=True) for part in parts]
        return torch.cat(outputs, 2).transpose(1, 2)

    found = _gradients(isolated_attention(torch.nn.Identity(), *inputs, None, segments=Segments(lengths))[0], weight, inputs)
    plain = _gradients(by_torch(inputs), weight, inputs)
    doubles = [tensor.detach().double().requires_grad_() for tensor in inputs]
    for mine, theirs, exact in zip(found, plain, _gradients(by_torch(doubles), weight, doubles), strict=True):
        assert (mine.double() - exact).norm() <= 1.5 * (theirs.double() - exact).norm()
    assert torch.backends.mkldnn.matmul.fp32_precision != "bf16"


def test_loss_in_bfloat16_is_as_exact_as_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(300, 32, generator=generator).bfloat16().requires_grad_()
    head = torch.randn(500, 32, generator=generator).bfloat16().requires_grad_()
    labels = torch.randint(0, 500, (300,), generator=generator)
    one = torch.ones(())
    found = _gradients(chunked_cross_entropy(hidden, head, labels, 300), one, [hidden, head])
    plain = _gradients(cross_entropy((hidden @ head.T).float(), labels), one, [hidden, head])
    doubles = [tensor.detach().double().requires_grad_() for tensor in (hidden, head)]
    exact = _gradients(cross_entropy(doubles[0] @ doubles[1].T, labels), one, doubles)
    for mine, theirs, true in zip(found, plain, exact, strict=True):
        assert _close(mine, theirs, true)
