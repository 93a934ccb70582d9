"""Chat: the model's own head learns the assistant's turns, each with the token that ends it, and nothing else."""

from __future__ import annotations

import collections
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from tinylora.formats import LoadError
from tinylora.models.decoder import Decoder
from tinylora.models.source import ModelSource
from tinylora.tasks.conversations import Conversation, Turn, read_conversations
from tinylora.tasks.examples import IGNORE, Encoded, Examples
from tinylora.tasks.task import Score, Table, Task
from tinylora.text.chat_template import ChatTemplate
from tinylora.text.generate import generate_batch
from tinylora.text.sampling import GREEDY
from tinylora.text.tokenizer import LibraryTokenizer


class Sample(NamedTuple):
    """A question, the answer in the data, and the model's."""

    question: str
    expected: str
    answer: str


@dataclass(frozen=True)
class ChatScore(Score):
    """The mean loss of `tokens` answer tokens; and of answers that the model gave, how many are right word for word.

    `exact` compares last answers without blanks at their ends; `f1` is the mean overlap of their words, as SQuAD counts it
    (Rajpurkar et al. 2016). Both are None where no answer was generated.
    """

    loss: float
    tokens: int
    exact: float | None = None
    f1: float | None = None
    samples: tuple[Sample, ...] = field(default=())

    @property
    def headline(self) -> str:
        text = f"loss per answer token {self.loss:.4f}"
        return text if self.exact is None else f"{text}, exact match {self.exact:.1%}, word F1 {self.f1:.4f}"

    @property
    def rank(self) -> tuple[float, ...]:
        return (-self.loss,)

    def tables(self) -> list[Table]:
        rows = [[_line(text) for text in sample] for sample in self.samples]
        return [Table(["question", "expected", "answer"], rows)] if rows else []

    def as_dict(self) -> dict[str, Any]:
        samples = [sample._asdict() for sample in self.samples]
        return {"loss": self.loss, "tokens": self.tokens, "exact": self.exact, "f1": self.f1, "samples": samples}


class Chat(Task):
    """Examples are `Conversation`s; the score is the loss per answer token, and how many answers are exactly right.

    A conversation is written by the model's own template, once up to each answer and once with it. The second text must go
    on where the first ends; what it adds is trained, up to the token that ends the turn. So which tokens are trained follows
    from the template itself, whatever it is.
    """

    name = "chat"
    keeps = "end"
    samples = 3

    def __init__(self, tokenizer: LibraryTokenizer, max_length: int, template: ChatTemplate) -> None:
        super().__init__(tokenizer, max_length)
        self.library, self.template = tokenizer, template

    @classmethod
    def of(cls, source: ModelSource, max_length: int, **options: Any) -> Self:
        return cls(source.library_tokenizer(), max_length, source.chat_template, **options)

    @classmethod
    def read(cls, path: str | Path) -> Examples:
        return read_conversations(path)

    # ---------------------------------------------------------------------------------- what is trained
    def encode(self, example: Conversation) -> list[Encoded]:
        """The target at a position is the next token, if it is an answer's. Of a long conversation the end is kept.

        Raises ValueError that names the turn for a template that does not write an answer after its prompt, or does not end
        it by a stop token.
        """
        ids: list[int] = []
        trained: list[bool] = []
        for tokens, answer in self.pieces(example):
            ids += tokens
            trained += [answer] * len(tokens)
        targets = np.where(trained[1:], ids[1:], IGNORE)
        cut = max(0, len(targets) - self.max_length)
        found = Encoded(np.array(ids[cut : len(ids) - 1]), targets[cut:], cut > 0)
        if (found.targets == IGNORE).all():
            raise ValueError(f"{_where(example)}no token of an answer fits {self.max_length:,} tokens")
        return [found]

    def pieces(self, example: Conversation) -> Iterator[tuple[list[int], bool]]:
        """The conversation's tokens in pieces, and whether each is trained."""
        written = ""
        for i, turn in enumerate(example.turns):
            if turn.role != "assistant":
                continue
            before, after = self._render(example, i, True), self._render(example, i + 1, False)
            for shorter, longer in ((written, before), (before, after)):
                if not longer.startswith(shorter):
                    raise ValueError(
                        f"{_where(example)}turn {i + 1}: {self.template.where} does not go on where the text before ends: "
                        f"{_line(shorter[-40:])} became {_line(longer[len(shorter) - 40 : len(shorter)])}"
                    )
            yield self.library.tokens(before[len(written) :]), False
            answer = self.library.tokens(after[len(before) :])
            ends = [k for k, token in enumerate(answer) if token in self.tokenizer.stop]
            if not ends:
                raise ValueError(
                    f"{_where(example)}turn {i + 1}: {self.template.where} ends the answer with none of the tokens that "
                    "stop the model, so it would never learn to stop"
                )
            yield answer[: ends[-1] + 1], True
            yield answer[ends[-1] + 1 :], False
            written = after

    def _render(self, example: Conversation, count: int, prompt: bool) -> str:
        turns = [turn._asdict() for turn in example.turns[:count]]
        try:
            return self.template.render(turns, add_generation_prompt=prompt)
        except LoadError as error:
            raise ValueError(f"{_where(example)}turn {count}: {error}") from None

    # ------------------------------------------------------------------------------------------ scores
    def validate(self, model: Decoder, examples: Sequence[Any]) -> ChatScore:
        """Without generating answers."""
        return ChatScore(*self.mean_loss(model, examples))

    def evaluate(self, model: Decoder, examples: Sequence[Any]) -> ChatScore:
        asked = [_until_last_answer(example) for example in examples]
        answers = self._answers(model, [turns for turns, _ in asked], [expected for _, expected in asked])
        pairs = [(answer.strip(), expected.strip()) for answer, (_, expected) in zip(answers, asked, strict=True)]
        samples = tuple(
            Sample(turns[-1].content, expected, answer)
            for (turns, _), (answer, expected) in list(zip(asked, pairs, strict=True))[: self.samples]
        )
        count = max(1, len(pairs))
        exact, f1 = sum(a == b for a, b in pairs) / count, sum(word_f1(a, b) for a, b in pairs) / count
        return ChatScore(*self.mean_loss(model, examples), exact, f1, samples)

    def predict(self, model: Decoder, texts: Sequence[str]) -> list[str]:
        """The model's answer to each text as the only turn: the likeliest token, always."""
        return self._answers(model, [(Turn("user", text),) for text in texts], None)

    def _answers(
        self, model: Decoder, conversations: Sequence[Sequence[Turn]], expected: Sequence[str] | None, batch: int = 16
    ) -> list[str]:
        """An answer to each conversation, of up to 256 tokens, or if more, twice as many as the expected one."""
        prompts = [self.library.tokens(self._render(Conversation(tuple(t)), len(t), True)) for t in conversations]
        found = [""] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            longest = max(len(self.library.tokens(expected[i])) for i in chosen) if expected else 0
            limit = min(max(64, 2 * longest) if expected else 256, model.cfg.context_length // 2)
            given = [prompts[i][-(model.cfg.context_length - limit) :] for i in chosen]
            tokens: list[list[int]] = [[] for _ in chosen]
            for step in generate_batch(model, given, limit, GREEDY, self.tokenizer.stop):
                for row, token in zip(tokens, step, strict=True):
                    row += [token] if token is not None else []
            for i, row in zip(chosen, tokens, strict=True):
                found[i] = self.tokenizer.decode(row)
        return found


def word_f1(answer: str, expected: str) -> float:
    """Overlap of two answers' words, without case, punctuation and articles: 2 · common / (words + words).

    >>> word_f1("The capital is Rome.", "Rome")
    0.5
    """
    a, b = _words(answer), _words(expected)
    common = sum((collections.Counter(a) & collections.Counter(b)).values())
    return 2 * common / (len(a) + len(b)) if a and b else float(a == b)


def _words(text: str) -> list[str]:
    plain = text.lower().translate(str.maketrans("", "", string.punctuation))
    return [word for word in plain.split() if word not in ("a", "an", "the")]


def _until_last_answer(example: Conversation) -> tuple[tuple[Turn, ...], str]:
    """The turns before the last answer, and that answer."""
    last = max(i for i, turn in enumerate(example.turns) if turn.role == "assistant")
    return example.turns[:last], example.turns[last].content


def _where(example: Conversation) -> str:
    return f"line {example.line}: " if example.line else ""


def _line(text: str) -> str:
    """A text in one short line."""
    whole = " ".join(text.split())
    return whole if len(whole) <= 60 else f"{whole[:57]}..."
