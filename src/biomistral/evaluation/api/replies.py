"""What is read of a server's reply, in the shapes that vLLM, SGLang, llama.cpp and OpenAI give it."""

from typing import Any

from pydantic import BaseModel, Field


class _Top(BaseModel):
    token: str
    logprob: float


class _Token(_Top):
    top_logprobs: list[_Top] = Field(default_factory=list)


class _Logprobs(BaseModel):
    """``content``: as chats have it, and llama.cpp everywhere; the others: as completions have it."""

    content: list[_Token] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None
    token_logprobs: list[float | None] | None = None
    text_offset: list[int] | None = None


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    text: str | None = None
    message: _Message | None = None
    logprobs: _Logprobs | None = None

    def words(self) -> str:
        """
        Raises:
            ValueError: the choice has no text at all.
        """
        if self.text is None and self.message is None:
            raise ValueError("a choice without text and without message")
        return self.text if self.text is not None else (self.message and self.message.content) or ""


class _Reply(BaseModel):
    choices: list[_Choice] = Field(min_length=1)


def _first(data: Any) -> _Choice:
    return _Reply.model_validate(data).choices[0]


def read_words(data: Any) -> dict[str, Any]:
    """``said``: the text."""
    return {"said": _first(data).words()}


def read_letters(data: Any) -> dict[str, Any]:
    """``top``: the likeliest first tokens with their log-probabilities, best first; None: the server gives none."""
    choice = _first(data)
    choice.words()
    found, top = choice.logprobs, None
    if found is not None and found.content:
        first = found.content[0]
        top = [[one.token, one.logprob] for one in first.top_logprobs or [first]]
    elif found is not None and found.top_logprobs:
        top = [[token, logprob] for token, logprob in (found.top_logprobs[0] or {}).items()]
    return {"top": sorted(top, key=lambda pair: -pair[1]) if top else None}


def read_echo(data: Any) -> dict[str, Any]:
    """``tokens``: of prompt and answer each token's place in the text and its log-probability (None: the first has none);
    None: the server gives none of a prompt. ``text`` is what they are tokens of."""
    choice = _first(data)
    found, tokens = choice.logprobs, None
    if found is not None and found.text_offset and found.token_logprobs:
        tokens = [[place, logprob] for place, logprob in zip(found.text_offset, found.token_logprobs, strict=True)]
    return {"tokens": tokens, "text": choice.words()}
