"""The thread that computes: prompts one by one, then all sequences together, a token each at a time; who comes later joins."""

import math
import queue
import sys
import threading
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from biomistral.chat.rows import Rows
from biomistral.chat.speech import Ask, Said, Speech
from biomistral.errors import UserError
from biomistral.scoring.engine import AnswerHead

MOST_TOGETHER = 64
"""Sequences continued at once; others wait."""


@dataclass
class _Speaking:
    """A sequence being continued: its last token, its length, and what draws."""

    speech: Speech
    last: int
    length: int
    left: int
    draws: torch.Generator


class Speaker:
    """A model that continues several prompts at once, in a thread of its own until `close`.

    Every prompt is computed alone, so that its first token does not depend on who else asks.
    """

    def __init__(self, model: PreTrainedModel, ends: frozenset[int]) -> None:
        self.model, self.ends = model, ends
        self._head = AnswerHead(model.get_output_embeddings())
        self._head.exact = True
        model.set_output_embeddings(self._head)
        self._asked: queue.SimpleQueue[Speech | None] = queue.SimpleQueue()
        self._closed = False
        self._beginning: list[Speech] = []
        self._thread = threading.Thread(target=self._work, name="speaker", daemon=True)
        self._thread.start()

    def say(self, ask: Ask) -> Speech:
        """Begin to continue a prompt."""
        assert ask.ids, "an empty prompt"
        assert ask.longest >= 0
        speech = Speech(ask)
        self._asked.put(speech)
        if not self._thread.is_alive():
            speech.put(RuntimeError("the model's thread has ended"))
        return speech

    def close(self) -> None:
        """End the thread; sequences under way end as cancelled."""
        self._asked.put(None)
        self._thread.join()
        self.model.set_output_embeddings(self._head.head)

    # ---- in the thread ----------------------------------------------------------------------------------------------

    @torch.inference_mode()  # type: ignore[misc,untyped-decorator]
    def _work(self) -> None:
        speaking: list[_Speaking] = []
        rows = Rows()
        try:
            while not self._closed:
                for speech in self._newcomers(len(speaking)):
                    if (one := self._begin(speech, rows)) is not None:
                        speaking.append(one)
                if speaking:
                    speaking = self._go_on(speaking, rows)
        finally:  # whoever waits has to hear of our bug too
            self._end([one.speech for one in speaking], sys.exception())

    def _end(self, waiting: list[Speech], error: BaseException | None) -> None:
        """Tell all who wait that nothing more comes."""
        self._closed = True
        while (left := self._next(wait=False)) is not None:
            waiting.append(left)
        for speech in [*self._beginning, *waiting]:
            speech.put(error or "cancelled")

    def _newcomers(self, speaking: int) -> list[Speech]:
        """Those who asked meanwhile; waits for one where nobody is speaking."""
        found: list[Speech] = []
        while len(found) + speaking < MOST_TOGETHER:
            speech = self._next(wait=not found and not speaking)
            if speech is None:
                break
            found.append(speech)
        return found

    def _next(self, wait: bool) -> Speech | None:
        try:
            speech = self._asked.get(block=wait)
        except queue.Empty:
            return None
        self._closed = self._closed or speech is None
        return speech

    def _begin(self, speech: Speech, rows: Rows) -> _Speaking | None:
        """Compute a prompt and its first token; None: that was all."""
        ask = speech.ask
        self._beginning = [speech]
        try:
            one = _Speaking(speech, 0, len(ask.ids), ask.longest, torch.Generator().manual_seed(ask.seed))
            logits = self._forward(torch.tensor([list(ask.ids)]), rows, ask.echo)
            if ask.echo:
                speech.prompt.extend(_prompt(ask, logits))
            if not ask.longest:
                speech.put("length")
                return None
            if not self._hand_over(one, logits[-1]):
                return None
            rows.join(one.length)
            return one
        except torch.OutOfMemoryError:
            speech.put(UserError("no memory for this prompt; ask a shorter one"))
            return None
        finally:
            if sys.exception() is None:
                self._beginning.clear()

    def _go_on(self, speaking: list[_Speaking], rows: Rows) -> list[_Speaking]:
        """One more token for all; returns those who have more to say."""
        places = torch.arange(len(speaking), device=self.model.device)
        self._head.read = (places, torch.zeros_like(places))
        logits = rows.step(self.model, [one.last for one in speaking], [one.length for one in speaking])
        left, kept = [], []
        for place, one in enumerate(speaking):
            one.length += 1
            if self._hand_over(one, logits[place]):
                left.append(one)
                kept.append(place)
        if len(kept) < len(speaking):
            rows.keep(kept)
        return left

    def _forward(self, ids: Tensor, rows: Rows, every: bool) -> Tensor:
        """Logits of a prompt's last token, or of every one; its keys and values are ready to join the rows."""
        device, length = self.model.device, ids.shape[1]
        positions = torch.arange(0 if every else length - 1, length, device=device)
        self._head.read = (torch.zeros_like(positions), positions)
        return rows.prompt(self.model, ids.to(device))

    def _hand_over(self, one: _Speaking, logits: Tensor) -> bool:
        """Choose a token and give it to who asked; whether there is more to say."""
        speech, ask = one.speech, one.speech.ask
        if speech.cancelled:
            speech.put("cancelled")
            return False
        scores = logits.float().log_softmax(-1).cpu()
        if not bool(torch.isfinite(scores).any()) or bool(scores.isnan().any()):
            speech.put(UserError("the model computed NaN; its weights are damaged, or too large for this type of numbers"))
            return False
        one.last = _choose(scores, ask, one.draws)
        one.left -= 1
        if one.last in self.ends:
            speech.put("stop")
            return False
        speech.put(_said(one.last, scores, ask.top))
        if not one.left:
            speech.put("length")
        return bool(one.left)


def _choose(scores: Tensor, ask: Ask, draws: torch.Generator) -> int:
    if ask.temperature == 0:
        return int(scores.argmax())
    probabilities, order = (scores / ask.temperature).softmax(-1).sort(descending=True, stable=True)
    probabilities[probabilities.cumsum(0) - probabilities >= ask.top_p] = 0
    return int(order[torch.multinomial(probabilities, 1, generator=draws)])


def _said(token: int, scores: Tensor, top: int) -> Said:
    values, tokens = scores.topk(min(top, len(scores)))
    return Said(token, float(scores[token]), list(zip(tokens.tolist(), values.tolist(), strict=True)))


def _prompt(ask: Ask, logits: Tensor) -> list[Said]:
    """The prompt's own tokens; the first is given by nothing before it."""
    scores = logits[:-1].float().log_softmax(-1).cpu()
    return [Said(ask.ids[0], math.nan), *(_said(token, row, ask.top) for token, row in zip(ask.ids[1:], scores, strict=True))]
