"""What a task is: how examples become tokens and targets, what the loss is, and how a model's answers are scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from tinylora.models.decoder import Decoder
from tinylora.tensor import Tensor
from tinylora.text.tokenizer import Tokenizer

IGNORE = -100  # the target of a position where nothing is predicted; PyTorch's ignore_index


class Examples(list[Any]):
    """The examples of a file, in order. `notes` are sentences on what was dropped or decided while reading it."""

    def __init__(self, items: Iterable[Any], notes: Iterable[str] = ()) -> None:
        super().__init__(items)
        self.notes = list(notes)


class Splits(NamedTuple):
    """Examples to train on, to choose the best state by, and to measure at the end."""

    train: Examples
    valid: Examples
    test: Examples


def part_of(count: int, share: float) -> int:
    """The size of a part: at least 1 example, unless `share` is 0."""
    return max(1, round(share * count)) if share else 0


class Encoded(NamedTuple):
    """One example: its tokens (T,), and the target at each position (T,), IGNORE where nothing is predicted."""

    ids: np.ndarray
    targets: np.ndarray


class Table(NamedTuple):
    """A part of a score, to be printed or drawn."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Score(ABC):
    """How well a model does on some examples. `loss` is the mean over everything that was predicted."""

    loss: float

    @property
    @abstractmethod
    def headline(self) -> str:
        """The score in a few words, such as "accuracy 97.97%"."""

    @property
    @abstractmethod
    def rank(self) -> tuple[float, ...]:
        """Compares two states of a model: the larger is the better."""

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """All numbers as JSON values."""

    def tables(self) -> list[Table]:
        """The numbers behind the headline."""
        return []


class Task(ABC):
    """Turns examples into tokens with targets, and a model's output into a loss and a score.

    `tokenizer` and `max_length` (tokens of an example, the model's context at most) are the model's; `options` of a
    subclass are the task's own.
    """

    name: ClassVar[str]
    whole: ClassVar[tuple[str, ...]] = ()  # modules that the task adds, which are trained whole

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length

    @classmethod
    @abstractmethod
    def read(cls, path: str | Path) -> Examples:
        """The examples in a file. Raises ValueError that names the file and the line."""

    @classmethod
    def split(cls, examples: Examples, seed: int, valid: float = 0.1, test: float = 0.2) -> Splits:
        """Shuffle by `seed`, and cut. Raises ValueError if there are too few examples for the parts that are asked for."""
        n_valid, n_test = (part_of(len(examples), share) for share in (valid, test))
        if n_valid + n_test >= len(examples):
            raise ValueError(f"{len(examples)} examples are too few to train, to validate and to test on")
        order = np.random.default_rng(seed).permutation(len(examples))
        parts = np.split(order, [n_test, n_test + n_valid])
        test_part, valid_part, train_part = (Examples(examples[i] for i in part) for part in parts)
        train_part.notes = examples.notes
        return Splits(train_part, valid_part, test_part)

    @classmethod
    def for_examples(cls, parts: Splits, tokenizer: Tokenizer, max_length: int, **options: Any) -> Self:
        """The task for these examples; one with labels finds them here."""
        return cls(tokenizer, max_length, **options)

    def head(self, model: Decoder, bias: bool = False) -> None:  # noqa: B027 - most tasks keep the model's own head
        """Put the task's own head in place of the model's."""

    @abstractmethod
    def encode(self, example: Any) -> list[Encoded]:
        """One example as tokens and targets; in several pieces if the task cuts what is too long."""

    def inputs(self, ids: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, ...]:
        """What `loss` takes, for padded tokens and targets, (B, T) each."""
        return ids, targets

    def weight(self, targets: np.ndarray) -> float:
        """By how much a batch counts in a mean over several: the number of its targets."""
        return float((targets != IGNORE).sum())

    @abstractmethod
    def loss(self, model: Decoder, *inputs: Tensor) -> Tensor:
        """The mean loss over the targets of a batch, a scalar."""

    @abstractmethod
    def evaluate(self, model: Decoder, examples: Sequence[Any]) -> Score:
        """The score of the model on `examples`."""

    def validate(self, model: Decoder, examples: Sequence[Any]) -> Score:
        """A score to choose the best state by; tasks whose `evaluate` is slow define a faster one."""
        return self.evaluate(model, examples)

    @abstractmethod
    def predict(self, model: Decoder, texts: Sequence[str]) -> list[Any]:
        """The model's answer to each text."""

    def describe(self) -> dict[str, Any]:
        """What a run's config.json must hold to make this task again, as JSON values: the constructor's arguments."""
        return {"max_length": self.max_length}
