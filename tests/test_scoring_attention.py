"""The compiled attention by itself: against PyTorch's in float32, and the same bits however a sequence is cut."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biomistral.scoring.lean.engine import packed
from biomistral.scoring.lean.native import attention_space, has_tiles, run
from biomistral.scoring.lean.store import Store

KINDS = ["attend_by_loops", pytest.param("attend_by_tiles", marks=pytest.mark.skipif(not has_tiles(), reason="needs AMX"))]
HEADS, GROUPS = 4, 2


def numbers(tokens, width, seed):
    """Queries (tokens, heads * width), keys and values (tokens, heads / groups * width)."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(tokens, heads * width, generator=generator).bfloat16()
            for heads in (HEADS, HEADS // GROUPS, HEADS // GROUPS)]


def attended(kind, queries, keys, values, shared, window):
    """Attention of the tokens behind the first ``shared``, asked as two sequences that are the same."""
    tokens, width = len(queries), queries.shape[1] // HEADS
    own = tokens - shared
    store = Store(1, shared + 2 * own, HEADS // GROUPS * width)
    for kept, given_ in zip(store.layer(0), (keys, values), strict=True):
        kept.copy_(torch.cat((given_, given_[shared:])))
    store.used = shared
    now = packed([np.arange(shared)] * 2, [own] * 2, store, [0], 32, lambda places: (places[:, None].float(),) * 2)
    room = (now.longest + 63) // 64 * 64 + 16
    asked = torch.cat((queries[shared:], queries[shared:], torch.full((16, HEADS * width), float("nan"), dtype=torch.bfloat16)))
    out, spare = torch.empty(2 * own, HEADS * width, dtype=torch.bfloat16), torch.full((attention_space(room, width),), 1e30)
    stored = store.layer(0)
    run(kind, asked, *stored, len(stored[0]), out, len(out), now.starts, 2, now.places, now.ends, now.kept, 0, 2, HEADS, GROUPS,
        width, window, width ** -0.5, room, spare)
    assert torch.equal(out[:own].view(torch.int16), out[own:].view(torch.int16))
    return out[:own]


def exactly(queries, keys, values, window):
    """The same in float32."""
    width = queries.shape[1] // HEADS
    parts = [rows.float().view(len(rows), -1, width).transpose(0, 1) for rows in (queries, keys, values)]
    behind = torch.arange(len(queries))[:, None] - torch.arange(len(queries))
    seen = (behind >= 0) & (behind < (window or len(queries)))
    found = torch.nn.functional.scaled_dot_product_attention(parts[0], *(part.repeat_interleave(GROUPS, 0) for part in parts[1:]),
                                                             attn_mask=seen)
    return found.transpose(0, 1).reshape(len(queries), -1)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(tokens=st.integers(1, 200), width=st.sampled_from([32, 64, 96]), window=st.sampled_from([0, 1, 5, 17, 64, 130]),
       cut=st.floats(0, 1), seed=st.integers(0, 9))
def test_is_attention_and_the_same_bits_behind_any_number_of_shared_tokens(kind, tokens, width, window, cut, seed):
    queries, keys, values = numbers(tokens, width, seed)
    whole = attended(kind, queries, keys, values, 0, window)
    assert (whole.float() - exactly(queries, keys, values, window)).abs().max() < 0.04
    shared = int(cut * (tokens - 1))
    assert torch.equal(attended(kind, queries, keys, values, shared, window), whole[shared:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damaged", ["queries", "keys"])
def test_what_is_no_number_is_not_lost(kind, damaged):
    queries, keys, values = numbers(70, 32, 0)
    (queries if damaged == "queries" else keys)[40, 3] = float("nan")
    found = attended(kind, queries, keys, values, 0, 0)
    assert torch.isfinite(found[:40]).all()
    assert torch.isnan(found[40]).any()
