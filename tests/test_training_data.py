"""What training reads: packed corpora and examples, isolated; and what it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from biomistral.errors import UserError
from biomistral.models.load import load_model, load_tokenizer
from biomistral.training.compute import attention
from biomistral.training.compute.attention import isolated_attention, use_isolated_attention
from biomistral.training.compute.segments import Segments
from biomistral.training.data.batch import IGNORE, Block, check_model, collate, final_hidden
from biomistral.training.data.jsonl import read_examples
from biomistral.training.data.packed import PackedCorpus
from biomistral.training.data.sources import Examples
from biomistral.training.data.supervised import SupervisedBlocks
from biomistral.training.guard import check_corpus, check_model_folder
from tiny import make_model
from training_inputs import make_corpus, make_examples


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("data") / "model")


@pytest.fixture
def corpus(model: Path, tmp_path: Path) -> Path:
    return make_corpus(tmp_path / "corpus", model)


def test_blocks_are_what_the_shards_hold(corpus: Path) -> None:
    """Every block against a token-by-token reading of the files."""
    blocks = PackedCorpus(corpus, "train")
    number = 0
    for shard in ("00000", "00001"):
        tokens = np.load(corpus / "shards" / f"train-{shard}.tokens.npy")
        pieces = pq.read_table(corpus / "shards" / f"train-{shard}.pieces.parquet").to_pylist()
        owner = [index for index, piece in enumerate(pieces) for _ in range(piece["length"])]
        for row in range(len(tokens)):
            block, begin = blocks[number], row * 32
            assert block.tokens.tolist() == tokens[row].tolist()
            for place in range(32):
                same = place < 31 and owner[begin + place] == owner[begin + place + 1]
                assert block.labels[place] == (tokens[row][place + 1] if same else IGNORE)
            assert block.documents == tuple(dict.fromkeys(pieces[index]["document"] for index in owner[begin:begin + 32]))
            assert sum(block.lengths) == 32
            number += 1
    assert number == len(blocks)


def test_segments_equal_documents_alone(corpus: Path, model: Path) -> None:
    """What a packed segment computes is what its document computes by itself, through transformers' own attention."""
    blocks = PackedCorpus(corpus, "train")
    packed, plain = load_model(model, torch.float32), load_model(model, torch.float32)
    use_isolated_attention(packed)
    batch = [blocks[index] for index in range(4)]
    assert max(len(block.lengths) for block in batch) > 1
    with torch.no_grad():
        hidden = final_hidden(packed, collate(batch, packed.device))
        start = 0
        for block in batch:
            for ids in np.split(block.tokens, np.cumsum(block.lengths)[:-1]):
                alone = plain.model(torch.from_numpy(ids)[None]).last_hidden_state[0]
                torch.testing.assert_close(hidden[start:start + len(ids)], alone, rtol=1e-4, atol=1e-5)
                start += len(ids)


def test_cross_document_is_plain_attention(corpus: Path, model: Path) -> None:
    block = PackedCorpus(corpus, "train", cross_document=True)[0]
    assert block.lengths == (32,)
    assert block.labels.tolist() == [*block.tokens[1:].tolist(), IGNORE]
    packed, plain = load_model(model, torch.float32), load_model(model, torch.float32)
    use_isolated_attention(packed)
    with torch.no_grad():
        hidden = final_hidden(packed, collate([block, block], packed.device))
        alone = plain.model(torch.from_numpy(block.tokens)[None]).last_hidden_state[0]
    torch.testing.assert_close(hidden, torch.cat([alone, alone]), rtol=1e-4, atol=1e-5)


def test_sliding_window_is_kept(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "mistral", architecture="mistral")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "sliding_window": 5}))
    ours, plain = load_model(folder, torch.float32), load_model(folder, torch.float32)
    use_isolated_attention(ours)
    check_model(ours, ours.device)
    tokens = np.arange(3, 23)
    with torch.no_grad():
        hidden = final_hidden(ours, collate([Block(tokens, tokens, (20,), ())], ours.device))
        expected = plain.model(torch.from_numpy(tokens)[None]).last_hidden_state[0]
    torch.testing.assert_close(hidden, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_that_computes_something_else_is_refused(model: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
                                                           ) -> None:
    """Exaggerated weights: in a model fresh from its initialisation attention hardly matters."""
    ours = load_model(model, dtype)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if "self_attn" in name:
                parameter.mul_(20)
    use_isolated_attention(ours)
    check_model(ours, ours.device)

    def to_later_tokens(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
        return scaled_dot_product_attention(query, key, value, scale=scaling, enable_gqa=True)

    monkeypatch.setattr(attention, "short_attention", to_later_tokens)
    with pytest.raises(UserError, match="not what transformers computes"):
        check_model(ours, ours.device)


def test_no_loss_on_filling(corpus: Path) -> None:
    path = corpus / "shards" / "heldout-00000.pieces.parquet"
    table = pq.read_table(path)
    documents = ["" if number else name for number, name in enumerate(table["document"].to_pylist())]
    pq.write_table(table.set_column(2, "document", [documents]), path)
    kept = table["length"][0].as_py()
    for cross_document in (False, True):
        block = PackedCorpus(corpus, "heldout", cross_document)[0]
        assert (block.labels != IGNORE).nonzero()[0].tolist() == list(range(min(kept, 32) - 1))
        assert block.documents == ("held0",)


def _damage_packing(corpus: Path, **changes: Any) -> None:
    path = corpus / "packing.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_another_tokenizer_or_vocabulary_is_refused(corpus: Path, model: Path, tmp_path: Path) -> None:
    check_corpus(corpus, model)
    other = make_model(tmp_path / "other", vocab_size=380)
    with pytest.raises(UserError, match=r"vocabulary of 4.. entries, the model .*other has 380"):
        check_corpus(corpus, other)
    _damage_packing(corpus, vocab_size=300)
    with pytest.raises(UserError, match="packed with another tokenizer"):
        check_corpus(corpus, other)
    with pytest.raises(UserError, match="vocabulary has 300"):
        [PackedCorpus(corpus, "train")[index] for index in range(10)]


def test_damaged_corpora_are_refused(corpus: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a corpus folder"):
        check_corpus(model, model)
    shard = corpus / "shards" / "train-00001.tokens.npy"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    with pytest.raises(UserError, match=r"train-00001\.tokens\.npy: truncated or corrupt"):
        PackedCorpus(corpus, "train")
    shard.unlink()
    with pytest.raises(UserError, match=r"train sequences, but packing\.json says"):
        PackedCorpus(corpus, "train")
    shard.write_bytes(whole)
    pieces = corpus / "shards" / "train-00001.pieces.parquet"
    pq.write_table(pq.read_table(pieces).slice(1), pieces)
    with pytest.raises(UserError, match="do not cover"):
        PackedCorpus(corpus, "train")
    _damage_packing(corpus, train={"blocks": 0})
    with pytest.raises(UserError, match="holds no sequence to train on"):
        check_corpus(corpus, model)
    (corpus / "packing.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as a packing"):
        check_corpus(corpus, model)


def test_model_folder_is_checked(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="512 positions, sequences have 513"):
        check_model_folder(model, 513)
    copy = shutil.copytree(model, tmp_path / "quantised")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(UserError, match=r"quantised model \(awq\) cannot be trained"):
        check_model_folder(copy, 32)


def test_examples_are_packed_whole(model: Path, tmp_path: Path) -> None:
    path, tokenizer = make_examples(tmp_path / "train.jsonl"), load_tokenizer(model)
    blocks = SupervisedBlocks(Examples(path), tokenizer, 64, root=0)
    rows = {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}
    seen = []
    for block in (blocks[index] for index in range(len(blocks))):
        assert len(block.tokens) <= 64
        parts = np.split(np.arange(len(block.tokens)), np.cumsum(block.lengths)[:-1])
        for name, part in zip(block.documents, parts, strict=True):
            prompt = tokenizer(rows[name]["prompt"]).input_ids
            completion = [*tokenizer(rows[name]["completion"]).input_ids, tokenizer.eos_token_id]
            assert block.tokens[part].tolist() == prompt + completion
            assert block.labels[part].tolist() == [IGNORE] * (len(prompt) - 1) + completion + [IGNORE]
            seen.append(name)
    assert sorted(seen) == sorted(rows)
    lengths = [length for index in range(len(blocks)) for length in blocks[index].lengths]
    padded = max(lengths) * len(lengths)
    assert blocks.num_tokens == sum(lengths) < padded


def test_full_text_takes_the_prompt_too(model: Path, tmp_path: Path) -> None:
    blocks = SupervisedBlocks(Examples(make_examples(tmp_path / "t.jsonl")), load_tokenizer(model), 64, root=0, full_text=True)
    block = blocks[0]
    ends = np.cumsum(block.lengths) - 1
    assert (block.labels[ends] == IGNORE).all()
    assert block.num_predicted == len(block.tokens) - len(ends)


def test_prompt_tokens_are_those_of_the_prompt_alone(model: Path, tmp_path: Path) -> None:
    """ "hyper" + "tension" is one token when written together; inference sees the prompt by itself."""
    path, tokenizer = tmp_path / "t.jsonl", load_tokenizer(model)
    path.write_text(json.dumps({"prompt": "essential hyper", "completion": "tension"}))
    block = SupervisedBlocks(Examples(path), tokenizer, 64, root=0)[0]
    prompt = tokenizer("essential hyper").input_ids
    assert block.tokens.tolist() == [*prompt, *tokenizer("tension").input_ids, tokenizer.eos_token_id]
    assert block.documents == ("t.jsonl:1",)


def test_bos_is_added_once(model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / "bos")
    data = json.loads((copy / "tokenizer.json").read_text())
    data["post_processor"] = {
        "type": "TemplateProcessing", "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
    (copy / "tokenizer.json").write_text(json.dumps(data))
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": prompt, "completion": "no", "id": "x"}) for prompt in ("Pain?", "<s>Pain?")))
    block = SupervisedBlocks(Examples(path), load_tokenizer(copy), 64, root=0)[0]
    first, second = np.split(block.tokens, [block.lengths[0]])
    assert first.tolist() == second.tolist()
    assert first.tolist().count(1) == 1
    assert first[0] == 1


@pytest.mark.parametrize(("line", "problem"), [
    ("{", "not a line of JSON"), ("[1]", "a JSON object with prompt and completion"),
    ('{"prompt": "a"}', "'completion' is missing"), ('{"prompt": 1, "completion": "b"}', "'prompt' is not a text"),
    ('{"prompt": "a", "completion": " "}', "the completion is empty"), ('{"prompt": "\udcff", "completion": "b"}', "UTF-8")])
def test_malformed_lines_are_named(line: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"prompt": "a", "completion": "b"}\n\n' + line.encode("utf-8", "surrogateescape") + b"\n")
    with pytest.raises(UserError, match=rf"t\.jsonl:3: .*{problem}"):
        list(read_examples(path))


def test_empty_files_and_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("\n")
    with pytest.raises(UserError, match="holds no examples"):
        list(read_examples(tmp_path / "t.jsonl"))
    with pytest.raises(UserError, match=r"has neither a train\.jsonl nor questions\.parquet"):
        Examples(tmp_path)


def test_too_long_is_refused_or_counted(model: Path, tmp_path: Path) -> None:
    path, tokenizer = tmp_path / "t.jsonl", load_tokenizer(model)
    rows = [{"prompt": "pain " * 50, "completion": "yes", "id": "long"}, {"prompt": "Pain?", "completion": "yes"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=r"t\.jsonl:1: example 'long' has \d+ tokens, a sequence 20"):
        SupervisedBlocks(Examples(path), tokenizer, 20, root=0)
    blocks = SupervisedBlocks(Examples(path), tokenizer, 20, root=0, too_long="drop")
    assert (blocks.dropped, blocks.num_examples, len(blocks)) == (1, 1, 1)
    with pytest.raises(UserError, match="every example is longer"):
        SupervisedBlocks(Examples(path), tokenizer, 2, root=0, too_long="drop")


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.sampled_from([1, 2, 31, 33, 64, 70, 128, 129, 300]), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_short_attention_equals_torch(lengths: list[int], seed: int) -> None:
    """Values and gradients of the dense runs against torch's kernel, one segment at a time."""
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(1, heads, sum(lengths), 8, generator=generator, requires_grad=True) for heads in (6, 2, 2)]
    found = isolated_attention(torch.nn.Identity(), *inputs, None, segments=Segments(lengths))[0]
    parts = zip(*(tensor.split(lengths, 2) for tensor in inputs), strict=True)
    outputs = [scaled_dot_product_attention(*part, is_causal=True, enable_gqa=True) for part in parts]
    expected = torch.cat(outputs, 2).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    weight = torch.randn(found.shape, generator=generator)
    for mine, theirs in zip(torch.autograd.grad((found * weight).sum(), inputs),
                            torch.autograd.grad((expected * weight).sum(), inputs), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
