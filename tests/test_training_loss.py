"""The chunked loss and micro-batches, against plain cross-entropy."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from biomistral.models.load import load_model
from biomistral.training.compute import loss as loss_module
from biomistral.training.compute.attention import use_isolated_attention
from biomistral.training.compute.loss import chunked_cross_entropy
from biomistral.training.data.batch import batch_loss, collate, micro_batches
from biomistral.training.data.packed import PackedCorpus
from tiny import make_model
from training_inputs import make_corpus


@pytest.mark.parametrize("rows", [1, 37, 64, 65, 200])
@pytest.mark.parametrize("frozen_head", [False, True])
def test_equals_cross_entropy(rows: int, frozen_head: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", 64 * 50)
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, 16, generator=generator, requires_grad=True)
    weight = torch.randn(50, 16, generator=generator, requires_grad=not frozen_head)
    labels = torch.randint(0, 50, (rows,), generator=generator)
    ours = chunked_cross_entropy(hidden, weight, labels, rows + 5)
    (3 * ours).backward()
    found, hidden.grad = hidden.grad, None
    found_weight, weight.grad = weight.grad, None
    expected = cross_entropy(hidden @ weight.T, labels, reduction="sum") / (rows + 5)
    (3 * expected).backward()
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(found, hidden.grad, rtol=1e-4, atol=1e-6)
    if not frozen_head:
        torch.testing.assert_close(found_weight, weight.grad, rtol=1e-4, atol=1e-6)


def test_extreme_logits_stay_finite() -> None:
    hidden = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = chunked_cross_entropy(hidden, torch.eye(2), torch.tensor([1]), 1)
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert hidden.grad is not None
    assert hidden.grad.tolist() == [[1.0, -1.0]]


def test_accumulation_equals_one_batch(tmp_path: Path) -> None:
    """Losses and gradients of micro-batches add up to the whole batch's, though their numbers of labels differ."""
    folder = make_model(tmp_path / "model")
    corpus = PackedCorpus(make_corpus(tmp_path / "corpus", folder), "train")
    model = load_model(folder, torch.float32)
    use_isolated_attention(model)
    blocks = [corpus[index] for index in range(7)]
    assert len({block.num_predicted for block in blocks}) > 1
    num_predicted = sum(block.num_predicted for block in blocks)
    gradients, losses = [], []
    for max_tokens in (10_000, 96, 1):
        model.zero_grad()
        total = 0.0
        for group in micro_batches(blocks, max_tokens):
            loss = batch_loss(model, collate(group, model.device), num_predicted)
            loss.backward()
            total += loss.item()
        losses.append(total)
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-3, atol=1e-6)


def test_micro_batches_keep_order_and_limit() -> None:
    class Sized:
        def __init__(self, size: int) -> None:
            self.tokens = [0] * size

    sizes = [[len(block.tokens) for block in group] for group in micro_batches(map(Sized, [3, 3, 9, 1, 1]), 6)]  # type: ignore[arg-type]
    assert sizes == [[3, 3], [9], [1, 1]]
    assert list(micro_batches([], 6)) == []
