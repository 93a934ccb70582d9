"""A conversation with a model in the terminal: its own chat template, answers as they are written."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from tinylora.app import terminal
from tinylora.models.decoder import Decoder
from tinylora.models.source import ModelSource
from tinylora.text.generate import generate, pieces
from tinylora.text.sampling import Sampling

Turn = dict[str, str]


class Conversation:
    """Turns that were taken, and a model that takes the next. Raises LoadError if the model was not made for
    conversations."""

    def __init__(
        self, model: Decoder, source: ModelSource, sampling: Sampling, system: str | None, tokens: int, seed: int | None
    ) -> None:
        self.model, self.sampling, self.tokens, self.seed = model, sampling, tokens, seed
        self.template, self.tokenizer = source.chat_template, source.library_tokenizer()
        self.turns: list[Turn] = [{"role": "system", "content": system}] if system else []
        self.prompt([{"role": "user", "content": "?"}])  # a template that fails does so now

    def answer(self, text: str) -> Iterator[str]:
        """What the model says to `text`, piece by piece. However far it came, it becomes part of the conversation."""
        self.turns.append({"role": "user", "content": text})
        said = ""
        try:
            tokens = generate(
                self.model, self.prompt(self.turns), self.tokens, self.sampling, self.tokenizer.stop, self.seed
            )
            for piece in pieces(tokens, self.tokenizer.decode):
                said += piece
                yield piece
        finally:
            self.turns.append({"role": "assistant", "content": said})

    def prompt(self, turns: list[Turn]) -> list[int]:
        """The conversation as tokens. The oldest turns are forgotten where the context is too short for all and an
        answer."""
        system = [turn for turn in turns[:1] if turn["role"] == "system"]
        others = turns[len(system) :]
        room = max(self.model.cfg.context_length - self.tokens, self.model.cfg.context_length // 2)
        while True:
            ids = self.tokenizer.tokens(self.template.render([*system, *others]))
            if len(ids) <= room or len(others) == 1:
                return ids[-room:]
            others = others[2:]


def run(conversation: Conversation) -> None:
    """Turns from standard input, a line each, until it ends."""
    asking = sys.stdin.isatty()
    while True:
        try:
            text = (input("> ") if asking else next(sys.stdin)).strip()
        except (EOFError, StopIteration):
            return
        except KeyboardInterrupt:
            terminal.say()
            continue
        if text:
            try:
                terminal.stream(conversation.answer(text))
            except KeyboardInterrupt:
                terminal.say(" ..")
