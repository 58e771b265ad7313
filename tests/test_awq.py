"""AWQ's arithmetic against what it stands for: real outputs of real activations, and folded layers that compute the same."""

from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Gemma2Config, GemmaConfig, GPT2Config, Qwen2Config, Qwen3Config

from biomistral.errors import UserError
from biomistral.quantization.calibrated.activations import Statistics, first_hidden, run_layer, watch
from biomistral.quantization.calibrated.awq import (
    CLIP_STEP,
    CLIP_STEPS,
    GRID,
    candidate,
    output_error,
    search_clip,
    search_scales,
)
from biomistral.quantization.calibrated.groups import group_range, quantize_groups, rounded, scales_and_zeros
from biomistral.quantization.calibrated.mappings import INPUTS, LINEARS, check_structure, prove
from tiny import make_model


def naive_round(weight: torch.Tensor, group: int) -> torch.Tensor:
    """Round to nearest with a zero point, one group at a time, in float64 but for the float16 scale."""
    out = torch.empty_like(weight, dtype=torch.float64)
    for n in range(weight.shape[0]):
        for start in range(0, weight.shape[1], group):
            part = weight[n, start:start + group]  # float32 throughout: exact quotients would round halves another way
            low, high = part.min().clamp(max=0), part.max().clamp(min=0)
            scale = ((high - low) / 15).to(torch.float16).float()
            scale = scale if scale else torch.tensor(1.0)
            zero = (-low / scale).round().clamp(0, 15)
            levels = ((part / scale).round() + zero).clamp(0, 15)
            out[n, start:start + group] = (levels - zero).double() * scale.double()
    return out


def skewed(rows: int, columns: int, seed: int) -> torch.Tensor:
    """Activations with a few channels far larger than the rest, as language models have."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.ones(columns)
    size[::7] = 20.0
    return torch.randn(rows, columns, generator=generator) * size


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([8, 32]), st.floats(-3, 3))
@example(93, 8, 1.8377362506147286)  # a quotient halfway between two levels
def test_rounding_equals_the_naive_one_and_errs_half_a_step(seed: int, group: int, shift: float) -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(seed)) + shift
    matrix = quantize_groups(weight, group)
    assert torch.allclose(matrix.dequantized().double(), naive_round(weight, group), atol=1e-5)
    assert torch.equal(matrix.dequantized(), rounded(weight, *scales_and_zeros(*group_range(weight, group))))
    step = matrix.scales.float().repeat_interleave(group, 1)
    assert bool(((matrix.dequantized() - weight).abs() <= step * 1.02).all())  # half a step, a whole one at a clipped zero


def test_zero_and_constant_groups() -> None:
    weight = torch.cat((torch.zeros(8, 32), torch.full((8, 32), 0.25), torch.full((8, 32), -0.25)), 1)
    assert torch.allclose(quantize_groups(weight, 32).dequantized(), weight, atol=2e-4)


def test_gram_gives_the_output_error() -> None:
    x, difference = skewed(50, 24, 0).double(), torch.randn(6, 24, dtype=torch.float64)
    assert torch.isclose(output_error(difference, x.T @ x), (x @ difference.T).square().sum())


def test_statistics_are_those_of_the_rows() -> None:
    x, statistics = skewed(60, 16, 1), Statistics(16, torch.device("cpu"))
    for part in x.view(3, 4, 5, 16):
        statistics.add(part)
    assert torch.allclose(statistics.gram, x.T @ x, rtol=1e-4, atol=1e-3)
    assert torch.allclose(statistics.mean, x.abs().mean(0), rtol=1e-5)


def test_scale_search_takes_the_best_grid_point() -> None:
    x, weight = skewed(200, 64, 2), torch.randn(16, 64, generator=torch.Generator().manual_seed(3))
    mean = x.abs().mean(0)

    def error(scales: torch.Tensor) -> float:
        return float((x.double() @ (naive_round(weight * scales, 32) / scales - weight).T.double()).square().sum())

    found = search_scales(weight, x.T @ x, mean, 32)
    errors = [error(candidate(mean, step / GRID)) for step in range(GRID)]
    assert error(found) == pytest.approx(min(errors), rel=1e-3)
    assert error(found) < 0.8 * errors[0]  # errors[0] is plain rounding


def test_clip_search_takes_the_best_factor_of_each_group() -> None:
    x, weight = skewed(100, 64, 4), torch.randn(8, 64, generator=torch.Generator().manual_seed(5))
    weight[:, 3] *= 6
    shrink = search_clip(weight, x.T @ x, 32)
    factors = [1 - step * CLIP_STEP for step in range(CLIP_STEPS)]
    for n in range(8):
        for group in range(2):
            part, seen = weight[n:n + 1, 32 * group:32 * group + 32], x[:, 32 * group:32 * group + 32]
            errors = [float((seen @ (quantize_groups(part, 32, torch.tensor([[factor]])).dequantized() - part).T).square().sum())
                      for factor in factors]
            assert errors[factors.index(pytest.approx(float(shrink[n, group])))] == pytest.approx(min(errors), rel=1e-3)
    assert bool((shrink < 1).any())


def layer_of(config: object) -> tuple[torch.nn.Module, dict[str, object], str]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    for name, parameter in model.named_parameters():
        if name.endswith(("norm.weight", "bias")):  # not all ones and zeros, as after training
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    _, calls = first_hidden(model, torch.arange(12)[None])
    return model.base_model.layers[0], calls[0], str(model.config.model_type)


SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
         "head_dim": 8}
NOISE = torch.randn(1, 12, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("config", [Qwen2Config, Qwen3Config])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_folding_is_proved_where_it_holds(config: type, kv_heads: int) -> None:
    sizes = SIZES if config is Qwen3Config else {key: value for key, value in SIZES.items() if key != "head_dim"}
    layer, call, family = layer_of(config(**sizes, num_key_value_heads=kv_heads))
    before = {name: layer.get_parameter(f"{name}.weight").clone() for name in LINEARS}
    prove(layer, call, NOISE, family)
    assert not torch.equal(before["mlp.up_proj"], layer.get_parameter("mlp.up_proj.weight"))


def test_an_architecture_whose_norms_add_one_is_refused_by_the_proof() -> None:
    layer, call, family = layer_of(GemmaConfig(**SIZES, num_key_value_heads=2))
    with pytest.raises(UserError, match="architecture 'gemma' cannot be quantised with awq: moving scales"):
        prove(layer, call, NOISE, family)


def test_unknown_structures_are_refused_by_name() -> None:
    gpt2 = AutoModelForCausalLM.from_config(GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=64))
    with pytest.raises(UserError, match=r"architecture 'gpt2'.*no 'self_attn.q_proj'"):
        check_structure(gpt2.transformer.h[0], "gpt2")
    layer, call, family = layer_of(Gemma2Config(**SIZES, num_key_value_heads=2))
    with pytest.raises(UserError, match="architecture 'gemma2'"):
        prove(layer, call, NOISE, family)


def test_layers_run_one_by_one_as_the_model_does(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_model(tmp_path / "model", layers=3))
    sequences = torch.arange(60).view(2, 30)
    hidden, calls = first_hidden(model, sequences)
    with watch(model.model.layers[0], [mapping.consumers[0] for mapping in INPUTS]) as statistics:
        hidden = run_layer(model.model.layers[0], calls[0], hidden, "layer 0")
    for layer, call in zip(model.model.layers[1:], calls[1:], strict=True):
        hidden = run_layer(layer, call, hidden, "layer")
    with torch.inference_mode():
        expected = model.model(sequences).last_hidden_state
        assert torch.allclose(model.model.norm(torch.cat(hidden)), expected, atol=1e-5)
    assert {name: seen.rows for name, seen in statistics.items()} == dict.fromkeys(statistics, 60)
    assert statistics["mlp.down_proj"].gram.shape == (128, 128)
