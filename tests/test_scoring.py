"""The engine against one-by-one float32 forward passes over whole prompts, without cache, padding or shared prefix."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biomistral.errors import UserError
from biomistral.models.load import load_model
from biomistral.scoring.engine import Engine, batches, common_prefix
from biomistral.scoring.score import Item, cloze_item, score_cloze, score_letters
from scoring_items import items
from tiny import make_model

LETTERS = [(5, 9), (6,), (7,), (8,)]


@pytest.fixture(scope="module", params=["llama", "mistral", "window"])
def folder(request, tmp_path_factory):
    place = make_model(tmp_path_factory.mktemp("model"), architecture="mistral" if request.param == "window" else request.param)
    if request.param == "window":
        config = (place / "config.json").read_text()
        (place / "config.json").write_text(config.replace('"sliding_window": 4096', '"sliding_window": 8'))
        assert '"sliding_window": 8' in (place / "config.json").read_text()
    return place


def logprobs(model, ids):
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].double().log_softmax(-1)


def reference_letters(model, item):
    last = logprobs(model, item.prompt)[-1]
    masses = torch.stack([last[list(forms)].exp().sum() for forms in LETTERS])
    return (masses / masses.sum()).tolist(), float(masses.sum()), int(last.argmax())


def reference_cloze(model, item):
    sums = []
    for option in item.options:
        table = logprobs(model, item.prompt + option)
        sums.append(sum(float(table[len(item.prompt) - 1 + place, token]) for place, token in enumerate(option)))
    return sums


def run(engine, asked, share=True):
    rows = [item.prompt for item in asked]
    shared = engine.shared_length(rows) if share else 0
    prefix = engine.prefix(rows[0][:shared])
    letters, cloze = {}, {}
    for batch in batches([engine.cost(len(row) - shared, shared) for row in rows], engine.max_batch_tokens):
        chosen = [asked[index] for index in batch]
        letters |= dict(zip(batch, score_letters(engine, prefix, chosen, [LETTERS] * len(batch)), strict=True))
        cloze |= dict(zip(batch, score_cloze(engine, prefix, chosen), strict=True))
    return [letters[i] for i in range(len(asked))], [cloze[i] for i in range(len(asked))]


@pytest.mark.parametrize("budget", [1, 64, 4096])
@pytest.mark.parametrize("share", [True, False])
def test_equals_one_by_one(folder, budget, share):
    asked, reference = items(), load_model(folder, torch.float32)
    letters, cloze = run(Engine(load_model(folder, torch.float32), budget), asked, share)
    for item, by_letter, by_text in zip(asked, letters, cloze, strict=True):
        probabilities, mass, argmax = reference_letters(reference, item)
        assert by_letter.probabilities == pytest.approx(probabilities, abs=1e-5)
        assert by_letter.mass == pytest.approx(mass, rel=1e-4)
        assert by_letter.open_token == argmax
        assert by_text.sums == pytest.approx(reference_cloze(reference, item), abs=1e-4)
        assert by_text.means == pytest.approx([s / len(o) for s, o in zip(by_text.sums, item.options, strict=True)])


def test_bfloat16_is_within_its_noise(folder):
    asked = items()
    letters, cloze = run(Engine(load_model(folder, torch.bfloat16), 128), asked)
    reference = load_model(folder, torch.float32)
    for item, by_letter, by_text in zip(asked, letters, cloze, strict=True):
        assert by_letter.probabilities == pytest.approx(reference_letters(reference, item)[0], abs=0.03)
        assert by_text.sums == pytest.approx(reference_cloze(reference, item), rel=0.01)


def test_order_changes_nothing(folder):
    asked, engine = items(), Engine(load_model(folder, torch.float32), 100)
    letters, cloze = run(engine, asked)
    backwards, cloze_backwards = run(engine, asked[::-1])
    for mine, other in zip(letters, backwards[::-1], strict=True):
        assert mine.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    for mine, other in zip(cloze, cloze_backwards[::-1], strict=True):
        assert mine.sums == pytest.approx(other.sums, abs=1e-4)


def test_letters_keep_float32_apart_when_the_model_is_bfloat16(tmp_path):
    """Logits near 20 are 0.125 apart in bfloat16: letters closer than that would tie, and every tie goes to A."""
    model = load_model(make_model(tmp_path, tied=False), torch.bfloat16)
    with torch.no_grad():
        weight = model.get_output_embeddings().weight
        weight.mul_(60)
        weight[6] = weight[5]
        weight[6, 0] *= 1.05
    engine = Engine(model)
    answers = score_letters(engine, engine.prefix([]), items(5), [[(5,), (6,)]] * 5)
    assert all(answer.probabilities[0] != answer.probabilities[1] for answer in answers)


def test_a_damaged_model_is_refused_by_question(folder):
    model = load_model(folder, torch.float32)
    with torch.no_grad():
        model.get_input_embeddings().weight[123] = float("nan")
    sound = Item("sound", (4, 5, 6, 7), ((4, 5), (5,)))
    damaged = Item("broken", (4, 5, 123, 7), ((4, 5), (5,)))
    option = Item("option", (4, 5, 6, 7), ((4, 123, 9), (5,)))
    if model.config.tie_word_embeddings:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(torch.nan_to_num(model.lm_head.weight.detach().clone()))
    engine = Engine(model)
    nothing = engine.prefix([])
    with pytest.raises(UserError, match=r"'broken': .* NaN"):
        score_letters(engine, nothing, [sound, damaged], [[(5,), (6,)]] * 2)
    with pytest.raises(UserError, match=r"'broken': .* NaN"):
        score_cloze(engine, nothing, [sound, damaged])
    with pytest.raises(UserError, match=r"'option': .* NaN"):
        score_cloze(engine, nothing, [sound, option])


def test_cloze_is_cut_where_all_tokenisations_agree():
    """'Answer:' + ' yes' may become 'Answer', ': y', 'es': the merged token belongs to every option."""
    assert cloze_item("q", [1, 2, 3], [[1, 2, 3, 4], [1, 2, 3, 5, 6]]) == Item("q", (1, 2, 3), ((4,), (5, 6)))
    assert cloze_item("q", [1, 2, 3], [[1, 2, 9, 4], [1, 2, 3, 5]]) == Item("q", (1, 2), ((9, 4), (3, 5)))
    with pytest.raises(UserError, match="'q'"):
        cloze_item("q", [1, 2, 3], [[1, 2, 3], [1, 2, 3, 5]])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 200), st.booleans())
def test_batches_hold_every_row_once_and_keep_the_budget(costs, budget, padded):
    found = batches(costs, budget, padded)
    assert sorted(index for batch in found for index in batch) == list(range(len(costs)))
    spent = [len(own) * max(own) if padded else sum(own) for own in ([costs[i] for i in batch] for batch in found)]
    assert all(len(batch) == 1 or one <= budget for batch, one in zip(found, spent, strict=True))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 1), max_size=6), min_size=1, max_size=6))
def test_common_prefix_is_the_naive_one(rows):
    length = 0
    while all(len(row) > length for row in rows) and len({row[length] for row in rows}) == 1:
        length += 1
    assert common_prefix(rows) == length
