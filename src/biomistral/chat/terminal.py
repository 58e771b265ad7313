"""A conversation in the terminal: what is typed, what the model says as it comes, and a few commands."""

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from biomistral.chat.conversation import Conversation, Turn
from biomistral.chat.model import Talker
from biomistral.chat.speech import Ask
from biomistral.chat.text import Text
from biomistral.errors import UserError

HELP = """/system TEXT  what the model is told before everything (alone: show it)
/undo         forget the last question and its answer
/again        answer the last question again
/reset        forget everything but /system
/save FILE    write the conversation; later turns go there too
/quit         end (Ctrl-D does too); Ctrl-C stops an answer"""
NOTICE = "For research only: answers may be wrong and are not medical advice. /help lists the commands."


@dataclass(frozen=True)
class Manner:
    """How answers are drawn."""

    longest: int = 512
    temperature: float = 0.7
    top_p: float = 0.95
    seed: int = 0


class Terminal:
    """One conversation: reads lines, writes answers, and keeps what was said in a file if there is one."""

    def __init__(self, talker: Talker, conversation: Conversation, manner: Manner, file: Path | None, out: TextIO) -> None:
        self.talker, self.conversation, self.manner, self.file, self.out = talker, conversation, manner, file, out
        self._answers = len(conversation.turns)

    def run(self, lines: Iterator[str]) -> None:
        """Until the lines end, or /quit."""
        for line in lines:
            text = line.strip()
            try:
                if text.startswith("/"):
                    if self._command(*text[1:].partition(" ")[::2]):
                        return
                elif text:
                    self._ask(text)
            except UserError as error:
                self._say(f"{error}\n")

    def _say(self, text: str) -> None:
        self.out.write(text)
        self.out.flush()

    def _command(self, name: str, rest: str) -> bool:
        """Carry out a command; True: the conversation is over."""
        conversation, rest = self.conversation, rest.strip()
        if name in ("quit", "exit"):
            return True
        if name == "system":
            conversation.system = rest or conversation.system
            self._say(f"system: {conversation.system or '(nothing)'}\n")
        elif name == "undo":
            del conversation.turns[-2:]
        elif name == "reset":
            conversation.turns.clear()
        elif name == "again" and conversation.turns:
            question = conversation.turns[-2].content
            del conversation.turns[-2:]
            self._ask(question)
            return False
        elif name == "save" and (rest or self.file):
            self.file = Path(rest) if rest else self.file
        else:
            self._say(HELP + "\n")
        self._keep()
        return False

    def _ask(self, question: str) -> None:
        self.conversation.turns.append(Turn(role="user", content=question))
        try:
            answer = self._answer()
        except UserError:
            self.conversation.turns.pop()
            raise
        self.conversation.turns.append(Turn(role="assistant", content=answer))
        self._keep()

    def _answer(self) -> str:
        """Let the model speak, and show it as it comes; Ctrl-C ends the answer, not the conversation."""
        tokenizer, context = self.talker.tokenizer, self.talker.context
        longest = min(self.manner.longest, max(1, context // 2))
        ids, left_out = self.conversation.prompt(tokenizer, context - longest)
        if left_out:
            self._say(f"(the first {left_out} turns no longer fit into the model's {context} tokens)\n")
        self._answers += 1
        speech = self.talker.speaker.say(Ask(ids, longest, self.manner.temperature, self.manner.top_p,
                                             self.manner.seed + self._answers))
        text, started, count = Text(tokenizer), time.perf_counter(), 0
        try:
            for said in speech:
                count += 1
                self._say(text.add(said.token))
        except KeyboardInterrupt:
            speech.cancel()
        self._say(text.rest() + "\n")
        if self.out.isatty():
            self._say(f"\033[2m{count} tokens, {count / max(1e-9, time.perf_counter() - started):.1f} a second\033[0m\n")
        return text.given.strip()

    def _keep(self) -> None:
        if self.file is not None:
            self.conversation.save(self.file)


def typed(prompt: str = "> ") -> Iterator[str]:
    """Lines as they are typed, with history and editing; lines of a pipe as they are."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - input() edits lines once it is there
    while True:
        try:
            yield input(prompt)
        except EOFError:
            return
        except KeyboardInterrupt:
            sys.stdout.write("\n")
