"""The lean engine beside plain forward passes of `transformers`, for the architectures it takes and for those it leaves alone."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from biomistral.loops.native import has_feature
from biomistral.models.load import load_model
from biomistral.models.mapped import forget
from biomistral.scoring.engine import Engine, batches
from biomistral.scoring.lean import layer as lean_layer
from biomistral.scoring.lean import ordered
from biomistral.scoring.lean.engine import LeanEngine, engine_for
from biomistral.scoring.lean.native import has_tiles
from biomistral.scoring.score import score_cloze, score_letters, score_texts
from int_matrices import random_matrix, write_model
from scoring_items import items
from tiny import make_model

LETTERS = [(5, 9), (6,), (7,), (8,)]
COMMON = {"vocab_size": 400, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
          "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
TAKEN = {
    "llama": LlamaConfig(**COMMON, head_dim=32),
    "llama with scaled positions": LlamaConfig(**COMMON, head_dim=32, rope_parameters={
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64}),
    "mistral": MistralConfig(**COMMON, head_dim=16, sliding_window=None),
    "mistral with a window": MistralConfig(**COMMON, head_dim=32, sliding_window=9),
    "qwen2": Qwen2Config(**COMMON),
    "qwen2 with windows in some layers": Qwen2Config(**COMMON, use_sliding_window=True, sliding_window=9, max_window_layers=1),
    "qwen3": Qwen3Config(**COMMON, head_dim=32),
    "gemma": GemmaConfig(**COMMON, head_dim=32),
    "phi3": Phi3Config(**COMMON, sliding_window=None),
    "phi3 that turns a part": Phi3Config(**COMMON, partial_rotary_factor=0.5, sliding_window=9),
}
LEFT = {"gemma2": Gemma2Config(**COMMON, head_dim=32),
        "llama with positions that hang on the length": LlamaConfig(**COMMON, rope_parameters={
            "rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0})}


def made(config, dtype=torch.bfloat16, seed=0):
    """A model with weights large enough that every part of it shows, biases and gains too."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for name, parameter in model.named_parameters():
            torch.nn.init.normal_(parameter, 0.3 if "norm" in name else 0.0, 0.12)
    return model.to(torch.bfloat16).to(dtype).eval()


def run(engine, asked, shared, budget):
    """Letters, mass, the argmax and cloze sums of all, in their order."""
    prefix = engine.prefix(asked[0].prompt[:shared])
    found = {}
    for batch in batches([len(item.prompt) - shared for item in asked], budget):
        chosen = [asked[index] for index in batch]
        letters, cloze = score_letters(engine, prefix, chosen, [LETTERS] * len(batch)), score_cloze(engine, prefix, chosen)
        found |= {index: (own.probabilities, own.mass, own.open_token, other.sums)
                  for index, own, other in zip(batch, letters, cloze, strict=True)}
    return [found[index] for index in range(len(asked))]


@pytest.mark.parametrize("config", TAKEN.values(), ids=TAKEN)
def test_equals_plain_forward_passes(config):
    """Float32, a prompt at a time; no further from it than `transformers` in bfloat16 is."""
    engine, asked = engine_for(made(config)), items()
    assert isinstance(engine, LeanEngine)
    exact, rounded = made(config, torch.float32), made(config)
    found = run(engine, asked, 11, 64)
    errors = []
    for item, (probabilities, _, _, sums) in zip(asked, found, strict=True):
        truth, plain = (reference(model, item) for model in (exact, rounded))
        errors.append((largest(probabilities, truth[0]), largest(plain[0], truth[0])))
        assert sums == pytest.approx(truth[1], rel=0.01)
    mine, theirs = (max(column) for column in zip(*errors, strict=True))
    assert mine <= max(0.01, 1.5 * theirs)


def reference(model, item):
    with torch.inference_mode():
        last = model(torch.tensor([item.prompt])).logits[0, -1].double()
        letters = torch.stack([last[list(forms)].logsumexp(0) for forms in LETTERS]).softmax(0).tolist()
        sums = []
        for option in item.options:
            table = model(torch.tensor([item.prompt + option])).logits[0].double().log_softmax(-1)
            sums.append(sum(float(table[len(item.prompt) - 1 + place, token]) for place, token in enumerate(option)))
    return letters, sums


def largest(mine, others):
    return max(abs(a - b) for a, b in zip(mine, others, strict=True))


@pytest.mark.parametrize("config", [TAKEN["llama"], TAKEN["qwen2 with windows in some layers"]], ids=["llama", "windows"])
def test_batches_order_and_what_is_shared_change_no_bit(config):
    engine, asked = engine_for(made(config)), items(24)
    expected = run(engine, asked, 11, 10000)
    assert run(engine, asked, 11, 1) == expected
    assert run(engine, asked, 11, 90) == expected
    assert run(engine, asked[::-1], 11, 200)[::-1] == expected
    for shared in (0, 4, 10):
        assert run(engine, asked, shared, 300) == expected
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert run(engine, asked, 11, 10000) == expected
    finally:
        torch.set_num_threads(threads)


def test_generates_what_one_by_one_generates():
    engine, asked = engine_for(made(TAKEN["llama"])), items(7)
    prefix = engine.prefix(asked[0].prompt[:11])
    together = [answer.tokens for answer in score_texts(engine, prefix, asked, 12, {2})]
    assert together == [score_texts(engine, prefix, [item], 12, {2})[0].tokens for item in asked]
    slow = Engine(made(TAKEN["llama"], torch.float32))
    plain = [answer.tokens for answer in score_texts(slow, slow.prefix([]), asked, 12, {2})]
    assert sum(a[:1] == b[:1] for a, b in zip(together, plain, strict=True)) >= 6  # a tie in bfloat16 may go the other way


@pytest.mark.skipif(not has_feature("amx-bf16"), reason="needs AMX")
def test_tiles_and_loops_agree(monkeypatch):
    asked = items()
    tiles = run(engine_for(made(TAKEN["llama"])), asked, 11, 100)
    monkeypatch.setattr(lean_layer, "has_tiles", lambda: False)
    loops = run(engine_for(made(TAKEN["llama"])), asked, 11, 100)
    assert all(largest(a[0], b[0]) < 0.01 for a, b in zip(tiles, loops, strict=True))


@pytest.mark.parametrize("config", LEFT.values(), ids=LEFT)
def test_what_is_not_recognised_is_computed_as_before(config):
    engine, asked = engine_for(made(config)), items(4)
    assert type(engine) is Engine
    for item, found in zip(asked, run(engine, asked, 11, 64), strict=True):
        assert largest(found[0], reference(made(config), item)[0]) < 0.05


def test_a_layer_that_only_looks_alike_is_not_taken():
    model = made(TAKEN["llama"])
    class Doubling(type(model.model.layers[1])):
        def forward(self, hidden_states, **rest):
            return 2 * super().forward(hidden_states, **rest)
    model.model.layers[1].__class__ = Doubling
    assert type(engine_for(model)) is Engine


def test_float32_is_left_alone_and_counts_are_kept(tmp_path):
    folder = make_model(tmp_path)
    whole = sum(parameter.numel() for parameter in load_model(folder).parameters())
    assert type(engine_for(load_model(folder, torch.float32))) is Engine
    engine = engine_for(load_model(folder, torch.bfloat16))
    assert isinstance(engine, LeanEngine)
    assert engine.parameters == whole


def test_forgotten_weights_are_read_again(tmp_path):
    model = load_model(make_model(tmp_path, hidden=128, dtype="bfloat16"))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    changed = torch.ones(100_000)
    forget([*model.parameters(), changed])
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert bool((changed == 1).all())


@pytest.mark.parametrize("known", [True, False], ids=["order known", "order unknown"])
@pytest.mark.parametrize("layout", ["autoawq", "compressed-tensors"])
def test_weights_in_integers_answer_with_the_bits_of_their_16_bit_twin(tmp_path, monkeypatch, layout, known):
    if not known:
        monkeypatch.setattr(ordered, "_BLOCKS", ())
    quantized, plain = write_model(make_model(tmp_path / "base", dtype="bfloat16"), tmp_path, layout)
    model = load_model(quantized, torch.bfloat16)
    model(torch.tensor([[5, 6, 7]]))  # by the kernel: an engine finds a model that has been used
    ours, theirs = engine_for(model), engine_for(load_model(plain, torch.bfloat16))
    assert isinstance(ours, LeanEngine)
    assert isinstance(theirs, LeanEngine)
    asked = items(24)
    assert run(ours, asked, 11, 90) == run(theirs, asked, 11, 10000)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("outputs", [(64,), (40, 24, 8), (7,), (300, 300)])
def test_integers_in_order_are_the_weights_that_onednn_orders(outputs, bits):
    matrices = [random_matrix(count, 96, 32, seed=count, bits=bits) for count in outputs]
    found = ordered.ordered_integers(matrices, 512, "any", {})
    if found is None and not has_tiles():
        pytest.skip("oneDNN's order on this processor is not known")
    assert found is not None
    whole = torch.cat([matrix.dequantized() for matrix in matrices]).bfloat16()
    expected = torch.ops.mkldnn._reorder_linear_weight(whole, 512)
    assert torch.equal(found.weights().to_dense(), expected.to_dense())
    assert torch.equal(found.weights().to_dense(), whole)


def test_products_of_one_shape_in_a_layer_do_not_share_room():
    matrices = [[random_matrix(64, 64, 32, seed=seed)] for seed in (1, 2)]
    places: ordered.Places = {}
    first, second = (ordered.ordered_integers(one, 512, role, places) for one, role in zip(matrices, "ab", strict=True))
    kept = first.weights()
    second.weights()
    assert torch.equal(kept.to_dense(), matrices[0][0].dequantized().bfloat16())
