"""Any instruction model of this machine, asked through its chat template as a server is asked."""

from collections.abc import Sequence
from pathlib import Path

import torch

from biomistral.errors import UserError
from biomistral.models.load import load_model, load_tokenizer, pick_device
from biomistral.translation.engine import Answer, Deliver, Engine, Piece
from biomistral.translation.engines.asking import PROMPT_HASH, messages, read
from biomistral.translation.engines.local import batches, identity_of
from biomistral.translation.reasons import Reason

_LEAST_TOKENS = 100


class Chat(Engine):
    """Greedy answers, several questions at once, padded on the left."""

    together = True
    rewords = True
    longest = 4000

    def __init__(self, folder: Path, device: str) -> None:
        """
        Raises:
            UserError: the model has no chat template, or cannot be loaded.
        """
        self._tokenizer = load_tokenizer(folder)
        if not self._tokenizer.chat_template:
            raise UserError(f"{folder}: has no chat template: only instruction models can be asked for a translation")
        self._device = pick_device(device)
        self._model = load_model(folder, device=self._device).eval()
        self._pad = self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else self._tokenizer.eos_token_id
        self.identity = identity_of(folder) | {"prompt": PROMPT_HASH}

    def can(self, source: str, target: str) -> bool:
        return True

    def translate(self, pieces: Sequence[Piece], deliver: Deliver) -> None:
        prompts = [self._tokenizer.apply_chat_template(messages(piece), add_generation_prompt=True, tokenize=False)
                   for piece in pieces]
        for batch in batches([len(prompt) for prompt in prompts]):
            answers = self._batch([prompts[number] for number in batch])
            for number, (said, tokens, ended) in zip(batch, answers, strict=True):
                fields, faults = read(said, pieces[number].fields) if ended else (
                    {}, (Reason("cut_off", "", f"no end after {tokens[1]} tokens"),))
                deliver(pieces[number], Answer(fields, faults, tokens))

    def _batch(self, prompts: Sequence[str]) -> list[tuple[str, tuple[int, int], bool]]:
        """What is said to each prompt, the tokens of both, and whether it came to its end."""
        rows = [self._tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
        width = max(map(len, rows))
        tokens = torch.tensor([[self._pad] * (width - len(row)) + row for row in rows], device=self._device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self._device)
        with torch.inference_mode():
            made = self._model.generate(input_ids=tokens, attention_mask=mask, do_sample=False, pad_token_id=self._pad,
                                        max_new_tokens=_LEAST_TOKENS + width, eos_token_id=self._ends())
        answers = []
        for row, found in zip(rows, made[:, width:].tolist(), strict=True):
            end = next((place for place, token in enumerate(found) if token in self._ends()), None)
            said = self._tokenizer.decode(found[:end], skip_special_tokens=True)
            answers.append((said, (len(row), len(found[:end])), end is not None))
        return answers

    def _ends(self) -> list[int]:
        """Tokens that end an answer: the tokenizer's, and those that the model's own configuration names."""
        named = self._model.generation_config.eos_token_id
        return sorted({self._tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None})
