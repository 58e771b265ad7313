"""Models with different vocabularies: rows are brought together by the text of the tokens, against a naive reference."""

import functools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from biomistral.errors import UserError
from biomistral.merging.alignment import runs_of
from biomistral.merging.plan import plan_merge
from biomistral.merging.settings import MergeSettings
from biomistral.merging.stream import stream
from biomistral.merging.tokenizer import TEMPLATES
from biomistral.merging.vocabulary import Donors
from biomistral.models.load import load_model, load_tokenizer
from biomistral.run import execute
from tiny import make_model

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
CHAT = ["<|im_start|>", "<|im_end|>"]
LINEAR = """merge_method: linear
models:
  - {model: A, parameters: {weight: 0.25}}
  - {model: B, parameters: {weight: 0.75}}
"""
THREE = LINEAR + "  - {model: C, parameters: {weight: 1}}\n"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A with 400 tokens; B with two chat tokens more, and three rows of padding; C with its own order and 380 tokens."""
    root = tmp_path_factory.mktemp("vocabularies")
    sizes = {"A": 400, "B": 405, "C": 380}
    folders = {name: make_model(root / name, seed, hidden=16, layers=1, vocab_size=size, dtype="bfloat16", tied=False)
               for seed, (name, size) in enumerate(sizes.items())}
    for name, seed in (("B", 0), ("C", 1)):
        chat = load_tokenizer(folders["A"]) if name == "B" else load_tokenizer(folders["C"])
        if name == "B":
            chat.add_special_tokens({"additional_special_tokens": CHAT})
        chat.save_pretrained(folders[name])
        if name == "C":
            rotate_vocabulary(folders["C"] / "tokenizer.json", seed)
    return folders


def rotate_vocabulary(path: Path, by: int) -> None:
    """Give every ordinary token past the first hundred another id."""
    data = json.loads(path.read_text())
    vocab = data["model"]["vocab"]
    moved = [token for token, number in vocab.items() if number >= 100]
    numbers = sorted(vocab[token] for token in moved)
    for token, number in zip(moved, numbers[by:] + numbers[:by], strict=True):
        vocab[token] = number
    path.write_text(json.dumps(data))


def merged(folder: Path, text: str, models: dict[str, Path]) -> dict[str, torch.Tensor]:
    path = folder / "merge.yaml"
    path.write_text(text)
    used = {name: str(place) for name, place in models.items() if f"model: {name}," in text or f"model: {name}}}" in text}
    return load_file(execute(MergeSettings(config=str(path), models=used), folder / "out").path / "model.safetensors")


@functools.cache
def tokens_of(folder: Path) -> dict[str, int]:
    found: dict[str, int] = load_tokenizer(folder).get_vocab()
    return found


def naive_rows(token: str, name: str, models: dict[str, Path], tensor: str, base: str | None) -> torch.Tensor:
    """mergekit's rules, for one token of one model: its own row, the base's, or the mean of those that have one."""
    having = {model: load_file(folder / "model.safetensors")[tensor][tokens_of(folder)[token]]
              for model, folder in models.items() if token in tokens_of(folder)}
    if name in having:
        return having[name]
    if base in having:
        return having[base]
    total = torch.zeros(16, dtype=torch.bfloat16)
    for row in having.values():
        total = total + row
    return total / max(1, len(having))


@pytest.mark.parametrize(("source", "base"), [("base", "A"), ("union", "A"), ("B", None), ("C", "C")])
def test_rows_come_together_by_token(tmp_path: Path, models: dict[str, Path], source: str, base: str | None) -> None:
    text = THREE + f"tokenizer_source: {source}\n" + (f"base_model: {base}\n" if base else "")
    found = merged(tmp_path, text, models)
    ids = tokens_of(tmp_path / "out")
    wanted = set(tokens_of(models["A" if source in ("base", "union") else source]))
    assert set(ids) == (wanted | set(CHAT) if source == "union" else wanted)
    for tensor in (EMBEDDING, HEAD):
        assert found[tensor].shape == (len(ids), 16)
        for token in [*CHAT, *sorted(ids)[::9]]:
            if token in ids:
                rows = [naive_rows(token, name, models, tensor, base).float() for name in "ABC"]
                mean = (0.25 * rows[0] + 0.75 * rows[1] + rows[2]) / 2
                assert torch.allclose(found[tensor][ids[token]].float(), mean, rtol=2**-7, atol=1e-6), token


def test_a_token_that_two_of_three_have_is_their_mean(tmp_path: Path, models: dict[str, Path]) -> None:
    """Without a base; C's 380 tokens lack some that A and B have."""
    text = THREE.replace("weight: 0.25", "weight: 0").replace("weight: 0.75", "weight: 0") + "tokenizer_source: A\n"
    found = merged(tmp_path, text, models)[EMBEDDING]
    lacking = sorted(set(tokens_of(models["A"])) - set(tokens_of(models["C"])))
    assert len(lacking) == 20
    for token in lacking:
        number = tokens_of(models["A"])[token]
        first, second = (load_file(models[name] / "model.safetensors")[EMBEDDING][number] for name in "AB")
        assert found[number].equal((first + second) / 2)


def test_the_result_speaks_the_union(tmp_path: Path, models: dict[str, Path]) -> None:
    merged(tmp_path, LINEAR + "tokenizer_source: union\nbase_model: A\n", models)
    model, tokenizer = load_model(tmp_path / "out"), load_tokenizer(tmp_path / "out")
    assert model.config.vocab_size == len(tokenizer) == 402
    assert tokenizer.convert_ids_to_tokens(tokenizer("<|im_start|>fever")["input_ids"])[0] == "<|im_start|>"
    assert tokenizer.decode(tokenizer("heart<|im_end|>")["input_ids"], skip_special_tokens=True) == "heart"
    assert model(input_ids=torch.tensor([[1, 400, 401]])).logits.isfinite().all()
    notes = json.loads((tmp_path / "out" / "merge.json").read_text())["notes"]
    assert any("2 tokens of 'B' are added to the base's, such as '<|im_start|>'" in note for note in notes)


def test_tokens_are_given_rows_and_padding_the_mean(tmp_path: Path, models: dict[str, Path]) -> None:
    text = LINEAR + """base_model: A
tokenizer:
  source: base
  pad_to_multiple_of: 64
  tokens:
    <|im_start|>: {source: {kind: model_token, model: B, token: <|im_end|>}}
    fever-ö: {source: {kind: zero}}
    <unk>: {source: {kind: model_token, model: B, token_id: 5}, force: true}
    <s>: {source: A}
"""
    found = merged(tmp_path, text, models)[EMBEDDING].float()
    ids = tokens_of(tmp_path / "out")
    a, b = (load_file(models[name] / "model.safetensors")[EMBEDDING].float() for name in "AB")
    assert (ids["<|im_start|>"], ids["fever-ö"], len(found)) == (400, 401, 448)
    assert torch.allclose(found[400], 0.25 * b[401] + 0.75 * b[400], rtol=2**-7)  # B has the token: its own row
    assert found[401].count_nonzero() == 0
    assert found[ids["<unk>"]].equal(b[5])
    assert torch.allclose(found[ids["<s>"]], 0.25 * a[1] + 0.75 * b[1], rtol=2**-7)
    assert torch.allclose(found[402:], found[:402].mean(0).expand(46, -1), rtol=2**-6, atol=2**-10)
    assert load_model(tmp_path / "out").config.vocab_size == 448


def test_one_vocabulary_is_left_as_it_is(tmp_path: Path, models: dict[str, Path]) -> None:
    """Rows of padding stay: cutting them off is what breaks models whose embedding is longer than their vocabulary."""
    text = "merge_method: linear\nmodels: [{model: B, parameters: {weight: 1}}]\ntokenizer_source: B\n"
    assert merged(tmp_path, text, models)[EMBEDDING].equal(load_file(models["B"] / "model.safetensors")[EMBEDDING])


def test_chunks_change_no_bit(tmp_path: Path, models: dict[str, Path]) -> None:
    path = tmp_path / "merge.yaml"
    path.write_text(THREE + "tokenizer: {source: union, pad_to_multiple_of: 512}\nbase_model: A\n")
    plan, made = plan_merge(path, models), []
    for chunk in (1, 1 << 20):
        folder = tmp_path / str(chunk)
        folder.mkdir()
        stream(plan, folder, chunk=chunk)
        made.append((folder / "model.safetensors").read_bytes())
    assert made[0] == made[1]


def test_a_model_without_a_tokenizer_has_the_bases(tmp_path: Path, models: dict[str, Path]) -> None:
    bare = make_model(tmp_path / "B", 7, hidden=16, layers=1, vocab_size=400, dtype="bfloat16", tied=False)
    (bare / "tokenizer.json").unlink()
    path = tmp_path / "merge.yaml"
    path.write_text(THREE + "tokenizer_source: base\nbase_model: A\n")
    assert "'B' has no tokenizer.json: taken to have the tokens of 'A'" in plan_merge(path, {**models, "B": bare}).notes


def test_runs() -> None:
    a, b = (lambda row: Donors((("a", row),))), (lambda row: Donors((("b", row),)))
    rows = {0: a(3), 1: a(4), 2: b(5), 3: a(5), 4: a(6), 6: Donors(), 7: Donors()}
    found = [(run.start, run.count, run.donors.rows, run.spare) for run in runs_of(rows.items(), 9)]
    assert found == [(0, 2, (("a", 3),), False), (2, 1, (("b", 5),), False), (3, 2, (("a", 5),), False), (5, 1, (), True),
                     (6, 2, (), False), (8, 1, (), True)]


TOKEN = "{kind: model_token, model: B"
REFUSED = [
    ("base_model: A\n", r"shape \[405, 16\], in 'A' it is \[400, 16\]; .*write 'tokenizer_source: base'"),
    (f"tokenizer: {{tokens: {{drip: {{source: {TOKEN}, token: drop}}}}}}}}\n", "'B' has no token 'drop' to give a row"),
    (f"tokenizer: {{tokens: {{drip: {{source: {TOKEN}, token_id: 405}}}}}}}}\n", "'B' has 405 rows, none for the token_id 405"),
    (f"tokenizer: {{tokens: {{drip: {{source: {TOKEN}}}}}}}}}\n", "write either 'token' or 'token_id'"),
    ("tokenizer: {tokens: {drip: {source: B}}}\n", "'B' has no token 'drip'"),
    ("tokenizer: {tokens: {drip: {source: {kind: null}}}}\n", "a model is a name"),
    ("tokenizer: {pad_to_multiple_of: 0}\n", "pad_to_multiple_of = 0"),
]


@pytest.mark.parametrize(("more", "message"), REFUSED)
def test_refused(tmp_path: Path, models: dict[str, Path], more: str, message: str) -> None:
    path = tmp_path / "merge.yaml"
    path.write_text(LINEAR + more)
    with pytest.raises(UserError, match=message):
        plan_merge(path, {"A": models["A"], "B": models["B"]})


def test_a_source_whose_tokens_have_no_row_is_refused(tmp_path: Path, models: dict[str, Path]) -> None:
    short = make_model(tmp_path / "A", 7, hidden=16, layers=1, vocab_size=390, dtype="bfloat16", tied=False)
    (short / "tokenizer.json").write_bytes((models["A"] / "tokenizer.json").read_bytes())
    path = tmp_path / "merge.yaml"
    path.write_text(LINEAR + "tokenizer_source: base\n")
    with pytest.raises(UserError, match=r"is past the model's 390 rows; name another model as tokenizer_source"):
        plan_merge(path, {"A": short, "B": models["B"]})
    (short / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer.json: not a readable tokenizer"):
        plan_merge(path, {"A": short, "B": models["B"]})


def test_a_named_template(tmp_path: Path, models: dict[str, Path]) -> None:
    merged(tmp_path, LINEAR + "tokenizer_source: union\nchat_template: chatml\n", models)
    said = load_tokenizer(tmp_path / "out").apply_chat_template([{"role": "user", "content": " fever? "}], tokenize=False,
                                                                add_generation_prompt=True)
    assert said == "<|im_start|>user\nfever?<|im_end|>\n<|im_start|>assistant\n"
    (tmp_path / "odd").mkdir()
    with pytest.raises(UserError, match=r"merge.yaml:5: chat_template 'chatlm' is no template; .* or one of chatml, llama3"):
        merged(tmp_path / "odd", LINEAR + "chat_template: chatlm\ntokenizer_source: union\n", models)


@pytest.mark.parametrize(("name", "said"), [
    ("chatml", "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nFever?<|im_end|>\n"
               "<|im_start|>assistant\nYes.<|im_end|>\n<|im_start|>assistant\n"),
    ("llama3", "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
               "Fever?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nYes.<|eot_id|>"
               "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    ("mistral", "<s>[INST] Be brief. [/INST][INST] Fever? [/INST] Yes.</s>"),
    ("alpaca", "Be brief.\n\n### Instruction:\nFever?\n\n### Response:\nYes.\n\n### Response:\n"),
])
def test_templates_by_name(models: dict[str, Path], name: str, said: str) -> None:
    turns = [{"role": role, "content": text} for role, text in
             (("system", "Be brief."), ("user", "Fever?"), ("assistant", "Yes."))]
    assert load_tokenizer(models["A"]).apply_chat_template(turns, chat_template=TEMPLATES[name], tokenize=False,
                                                           add_generation_prompt=True) == said
