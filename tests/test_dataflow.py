"""What feeds what in decoder layers of many families, and the proof that scales can move there."""

from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from biomistral.errors import UserError
from biomistral.quantization.calibrated.activations import first_hidden, run_layer, watch
from biomistral.quantization.calibrated.dataflow import Group, Mapping, Probe, random_weights
from biomistral.quantization.calibrated.mappings import check_structure, fold, prove
from tiny import make_model

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
         "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
NOISE = torch.randn(1, 12, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LLAMA = {"q_proj k_proj v_proj": "input_layernorm", "o_proj": "v_proj", "gate_proj up_proj": "post_attention_layernorm",
         "down_proj": "up_proj"}
FUSED = {"qkv_proj": "input_layernorm", "o_proj": "qkv_proj", "gate_up_proj": "post_attention_layernorm",
         "down_proj": "gate_up_proj"}
GEMMA = {**LLAMA, "gate_proj up_proj": "pre_feedforward_layernorm"}
AFTER = {"q_proj k_proj v_proj": None, "o_proj": "v_proj", "gate_proj up_proj": None, "down_proj": "up_proj"}
PARALLEL = {"q_proj k_proj v_proj gate_proj up_proj": "input_layernorm", "o_proj": "v_proj", "down_proj": "up_proj"}
GELU = {"q_proj k_proj v_proj fc1": "input_layernorm", "dense": "v_proj", "fc2": None}
NEOX = {"query_key_value": "input_layernorm", "dense": None, "dense_h_to_4h": "post_attention_layernorm",
        "dense_4h_to_h": None}
FAMILIES = [
    ("Llama", LLAMA, 0, {}), ("Mistral", LLAMA, 0, {}), ("Qwen2", LLAMA, 0, {}), ("Qwen3", LLAMA, 0, {"head_dim": 8}),
    ("Gemma", LLAMA, 1, {"head_dim": 8}), ("Gemma2", GEMMA, 1, {"head_dim": 8}), ("Gemma3Text", GEMMA, 1, {"head_dim": 8}),
    ("Phi3", FUSED, 0, {}), ("StableLm", LLAMA, 0, {}), ("StableLm", LLAMA, 0, {"use_qkv_bias": True}),
    ("Cohere", PARALLEL, 0, {}), ("Olmo2", AFTER, 0, {}), ("Phi", GELU, 0, {}), ("GPTNeoX", NEOX, 0, {}),
]


def probe_of(config: Any) -> tuple[Probe, str]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    _, calls = first_hidden(model.base_model, "layers", torch.arange(12)[None])
    layer = model.base_model.layers[0]
    layer.load_state_dict(random_weights(layer), assign=True)
    layer.requires_grad_(False)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return Probe(layer, calls[0], NOISE, [8 * heads]), str(config.model_type)


def last(name: str) -> str:
    return name.rpartition(".")[2]


@pytest.mark.parametrize(("family", "expected", "offset", "more"), FAMILIES)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_mappings_are_found_and_proved(family: str, expected: dict[str, str | None], offset: float, more: dict[str, Any],
                                       kv_heads: int) -> None:
    probe, name = probe_of(getattr(transformers, f"{family}Config")(**SIZES, **more, num_key_value_heads=kv_heads))
    groups = probe.groups()
    found = {" ".join(map(last, group.consumers)): group.mapping and last(group.mapping.previous) for group in groups}
    assert found == expected
    assert {group.mapping.offset for group in groups if group.mapping and group.mapping.is_norm} <= {offset}
    assert {group.mapping.distinct for group in groups if group.mapping and not group.mapping.is_norm} <= {True, kv_heads == 4}
    before = {key: values.clone() for key, values in probe.layer.state_dict().items()}
    prove(probe, groups, name)
    changed = {last(key.removesuffix(".weight")) for key, values in probe.layer.state_dict().items()
               if not torch.equal(values, before[key]) and key.endswith(".weight")}
    assert changed >= {mapped for mapped in expected.values() if mapped}


def test_the_values_of_grouped_queries_are_followed_to_their_heads() -> None:
    probe, _ = probe_of(LlamaConfig(**SIZES, num_key_value_heads=2))
    (mapping,) = [group.mapping for group in probe.groups() if group.consumers == ("self_attn.o_proj",)]
    assert mapping is not None
    assert mapping.channels.tolist() == [*range(8), *range(8), *range(8, 16), *range(8, 16)]


def test_a_mapping_that_does_not_hold_is_refused_by_the_proof() -> None:
    probe, family = probe_of(LlamaConfig(**SIZES, num_key_value_heads=4))
    wrong = Group(("mlp.down_proj",), Mapping("mlp.gate_proj", torch.arange(64), is_norm=False))
    with pytest.raises(UserError, match=r"architecture 'llama' cannot be quantised with awq: moving scales from 'mlp\.gate_proj' "
                                        r"into 'mlp\.down_proj' changes .* use --method gptq or rtn"):
        prove(probe, [wrong], family)
    with pytest.raises(UserError, match="no operation was found that scales could move out of"):
        prove(probe, [Group(("mlp.down_proj",))], family)


def test_layers_that_keep_matrices_elsewhere_are_refused() -> None:
    gpt2 = AutoModelForCausalLM.from_config(GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=64))
    with pytest.raises(UserError, match=r"architecture 'gpt2'.*keep weights in 'attn\.c_attn\.weight', which is no linear layer"):
        check_structure(gpt2.transformer.h[0], "gpt2")
    with pytest.raises(UserError, match="no linear layers"):
        check_structure(nn.LayerNorm(4), "norms")


def test_a_linear_layer_that_takes_no_part_is_told() -> None:
    probe, _ = probe_of(LlamaConfig(**SIZES, num_key_value_heads=4))
    probe.layer.mlp.spare = nn.Linear(4, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"'mlp\.spare' takes no part"):
        probe.groups()


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_a_norm_written_in_16_bits_loses_nothing(offset: float) -> None:
    layer = nn.ModuleDict({"norm": nn.LayerNorm(64, dtype=torch.float64), "linear": nn.Linear(64, 8, dtype=torch.float64)})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        layer["norm"].weight.copy_(torch.rand(64, generator=generator).bfloat16().double() - (0.5 if offset else 0))
        layer["norm"].weight[5] = -offset  # a dead channel
    before = (layer["norm"].weight + offset) * layer["linear"].weight
    scales = torch.rand(64, generator=generator, dtype=torch.float64) * 3 + 0.2
    moved = fold(layer, Group(("linear",), Mapping("norm", torch.arange(64), offset)), scales, torch.bfloat16)
    norm = layer["norm"].weight
    assert torch.equal(norm, norm.bfloat16().double())
    assert torch.allclose((norm + offset) * layer["linear"].weight, before, rtol=1e-12, atol=1e-14)
    assert float(moved[5]) == 1.0
    moved[5] = scales[5]
    assert torch.allclose(moved, scales, rtol=0.1 if offset else 0.01)


def test_layers_run_one_by_one_as_the_model_does(tmp_path: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_model(tmp_path / "model", layers=3))
    sequences = torch.arange(60).view(2, 30)
    hidden = [first_hidden(model.model, "layers", tokens[None])[0] for tokens in sequences]
    _, calls = first_hidden(model.model, "layers", sequences[:1])
    with watch(model.model.layers[0], ["self_attn.q_proj", "mlp.down_proj"]) as statistics:
        for layer, call in zip(model.model.layers, calls, strict=True):
            run_layer(layer, call, hidden, hidden, "layer")
    with torch.inference_mode():
        expected = model.model(sequences).last_hidden_state
        assert torch.allclose(model.model.norm(torch.cat(hidden)), expected, atol=1e-5)
    assert {name: seen.rows for name, seen in statistics.items()} == {"self_attn.q_proj": 60, "mlp.down_proj": 60}
    assert statistics["mlp.down_proj"].gram.shape == (128, 128)
