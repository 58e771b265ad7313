"""A chat template in Ollama's language, found out by asking the model's own one (Jinja) what it makes of conversations.

A template that only puts text around messages is a handful of strings, read off between marks; whether those are all of it is
then seen on other conversations. What is more than that (dates, tools, trimming that shows) is not said at all.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

Messages = list[tuple[str, str]]
Render = Callable[[Messages, bool], str]
_MARKS = ("FIRST-MARK", "SECOND-MARK", "THIRD-MARK")
_TRIED: tuple[Messages, ...] = (
    [("user", "Is I10 {{ hypertension }}?")],
    [("user", "Wie heißt E11.9?"), ("assistant", "Type 2\n\ndiabetes."), ("user", "And 'E10'?"), ("assistant", "Type 1."),
     ("user", "So?")],
    [("system", "Answer \"briefly\".\nDo."), ("user", "What is J45?"), ("assistant", "Asthma"), ("user", "J46?"),
     ("assistant", "Same"), ("user", "Sure?")],
    [("system", "You code."), ("user", "<b>R05</b>")],
)


@dataclass(frozen=True)
class Frame:
    """What stands around messages."""

    opening: str
    """Before everything, if no system message comes first."""
    system: tuple[str, str] | None
    """Around a system message, and with it what stands before the question after it if that differs; None: it takes none."""
    system_opens_question: bool
    """Whether the first question stands inside what the system message opened (Llama 2, Gemma)."""
    user: tuple[str, str]
    assistant: tuple[str, str]
    prompt: str
    """After everything, where the answer begins."""
    again: str = ""
    """Before questions, but not before a conversation: the token that begins a text, where the template puts it before each."""

    def text(self, messages: Messages) -> str:
        """A conversation that ends in a question, as the model sees it."""
        has_system = messages[0][0] == "system"
        parts = [] if has_system else [self.opening]
        for number, (role, content) in enumerate(messages):
            before, after = {"system": self.system or ("", ""), "user": self.user, "assistant": self.assistant}[role]
            skipped = role == "user" and has_system and number == 1 and self.system_opens_question
            again = self.again if role == "user" and number else ""
            parts += ["" if skipped else again + before, content, after]
        return "".join([*parts, self.prompt])


def frame_of(tokenizer: PreTrainedTokenizerBase, adds_bos: bool) -> Frame | None:
    """The frame that the tokenizer's chat template is; None if it has none, or it is more than a frame.

    ``adds_bos``: the token that begins a text is put before it anyway, and is left out of the frame.
    """
    template = tokenizer.chat_template
    template = template.get("default") if isinstance(template, dict) else template
    if not template or "strftime_now" in template:
        return None

    def render(messages: Messages, prompt: bool) -> str:
        chat = [{"role": role, "content": content} for role, content in messages]
        return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt))

    try:
        frame = _asked(render)
        if frame is None:
            return None
        tried = [messages for messages in _TRIED if frame.system or messages[0][0] != "system"]
        if any(render(messages, True) != frame.text(messages) for messages in tried):
            return None
    except (TemplateError, TypeError, KeyError, ValueError):  # what templates raise at roles or contents they do not expect
        return None
    return _without(frame, tokenizer.bos_token) if adds_bos and tokenizer.bos_token else frame


def _asked(render: Render) -> Frame | None:
    """Read the strings off between marks; None where one does not stand where a frame would have it."""
    one, two, three = _MARKS
    alone = render([("user", one)], False)
    before, user_after = _around(alone, one)
    prompt = _rest(render([("user", one)], True), alone)
    answered = render([("user", one), ("assistant", two)], False)
    answer_before, assistant_after = _around(answered, two)
    assistant_before = _rest(answer_before, alone)
    again = render([("user", one), ("assistant", two), ("user", three)], False)
    user_before = _rest(_around(again, three)[0], answered)
    if prompt is None or assistant_before is None or user_before is None or not before.endswith(user_before):
        return None
    opening = before[:len(before) - len(user_before)]
    frame = Frame(opening, None, False, (user_before, user_after), (assistant_before, assistant_after), prompt)
    return _with_system(frame, render)


def _with_system(frame: Frame, render: Render) -> Frame:
    one, two, _ = _MARKS
    try:
        text = render([("system", one), ("user", two)], False)
    except TemplateError:  # Mistral's and others refuse the role
        return frame
    if one not in text:
        return frame
    before, between = _around(_around(text, two)[0], one)
    user_before = frame.user[0]
    if between.endswith(user_before):
        return replace(frame, system=(before, between[:len(between) - len(user_before)]))
    return replace(frame, system=(before, between), system_opens_question=True)


def _around(text: str, mark: str) -> tuple[str, str]:
    """What stands before and after a mark.

    Raises:
        ValueError: it is not there, or more than once.
    """
    before, after = text.split(mark)
    return before, after


def _rest(text: str, start: str) -> str | None:
    return text[len(start):] if text.startswith(start) else None


def _without(frame: Frame, bos: str) -> Frame:
    """The frame with the token that begins a text taken from its front."""
    if frame.opening:
        frame = replace(frame, opening=frame.opening.removeprefix(bos))
    elif frame.user[0].startswith(bos):
        frame = replace(frame, user=(frame.user[0].removeprefix(bos), frame.user[1]), again=bos)
    if frame.system:
        frame = replace(frame, system=(frame.system[0].removeprefix(bos), frame.system[1]))
    return frame


def ollama_template(frame: Frame) -> str:
    """The frame in the language of Go's templates, as Ollama fills them."""
    opening = f"{{{{ if not .System }}}}{_literal(frame.opening)}{{{{ end }}}}" if frame.opening else ""
    question = (f"{{{{ if $i }}}}{_literal(frame.again)}{{{{ end }}}}" if frame.again else "") + _literal(frame.user[0])
    if frame.system_opens_question:
        question = f"{{{{ if not (and $.System (eq $i 1)) }}}}{question}{{{{ end }}}}"
    roles = [("user", question, frame.user[1]), ("assistant", _literal(frame.assistant[0]), frame.assistant[1])]
    if frame.system:
        roles.insert(0, ("system", _literal(frame.system[0]), frame.system[1]))
    cases = "{{ else ".join(f"if eq $m.Role \"{role}\" }}}}{before}{{{{ $m.Content }}}}{_literal(after)}"
                            for role, before, after in roles)
    return f"{opening}{{{{ range $i, $m := .Messages }}}}{{{{ {cases}{{{{ end }}}}{{{{ end }}}}{_literal(frame.prompt)}"


def _literal(text: str) -> str:
    """Text that Go takes as it is: braces that would open an action, alone or with what follows, are said as strings."""
    said = text.replace("{{", "{{ \"{{\" }}")
    return f"{said[:-1]}{{{{ \"{{\" }}}}" if said.endswith("{") else said
