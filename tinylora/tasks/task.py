"""What a task is: how examples become tokens and targets, what the loss is, and how a model's answers are scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self, cast

import numpy as np

from tinylora import nn
from tinylora.models.cache import Cache
from tinylora.models.decoder import Decoder
from tinylora.models.packed import Packed
from tinylora.models.source import ModelSource
from tinylora.tasks.batching import Batch, batches
from tinylora.tasks.examples import IGNORE, Encoded, Examples, Rows, Splits, part_of
from tinylora.tensor import Tensor, no_grad
from tinylora.text.tokenizer import Tokenizer
from tinylora.torch_api.losses import cross_entropy, linear_cross_entropy
from tinylora.torch_api.promote import tensor


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
    keeps: str = "beginning"  # what is kept of an example that is too long
    options: ClassVar[tuple[str, ...]] = ()  # the recipe's options that this task takes
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
    def of(cls, source: ModelSource, max_length: int, **options: Any) -> Self:
        """The task with the tokenizer, and what else it needs, of a model's source."""
        return cls(source.tokenizer, max_length, **options)

    @classmethod
    def found_in(cls, parts: Splits, **options: Any) -> dict[str, Any]:
        """The constructor's arguments that follow from the examples, such as labels, and from the recipe's `options`."""
        return options

    def head(self, model: Decoder, bias: bool = False) -> None:  # noqa: B027 - most tasks keep the model's own head
        """Put the task's own head in place of the model's."""

    @abstractmethod
    def encode(self, example: Any) -> list[Encoded]:
        """One example as tokens and targets; in several pieces if the task cuts what is too long."""

    def inputs(self, rows: Rows) -> tuple[np.ndarray, ...]:
        """What `loss` takes: tokens (B, T); `starts` (B, T) of packed rows; positions and targets, (N,) each.

        The positions are those with a target, as numbers b · T + t. N is padded to a multiple of 64, with position 0 and no
        target, so that few CUDA graphs are needed.
        """
        at = np.flatnonzero(rows.targets != IGNORE)
        size = min(-(-len(at) // 64) * 64, rows.targets.size)
        wanted = np.full(size, IGNORE)
        wanted[: len(at)] = rows.targets.flat[at]
        return *(part for part in (rows.ids, rows.starts) if part is not None), np.pad(at, (0, size - len(at))), wanted

    def weight(self, targets: np.ndarray) -> float:
        """By how much a batch counts in a mean over several: the number of its targets."""
        return float((targets != IGNORE).sum())

    def loss(self, model: Decoder, *inputs: Tensor) -> Tensor:
        """The mean cross-entropy over the targets of a batch, a scalar. The head computes nothing at other positions."""
        x, head, wanted = features_at(model, *inputs[:-1]), model.out_head, inputs[-1]
        if isinstance(head, nn.Linear) and head.bias is None:
            return linear_cross_entropy(x, head.weight, wanted, ignore_index=IGNORE)
        return cross_entropy(head(x), wanted, ignore_index=IGNORE)

    @abstractmethod
    def evaluate(self, model: Decoder, examples: Sequence[Any]) -> Score:
        """The score of the model on `examples`."""

    def validate(self, model: Decoder, examples: Sequence[Any]) -> Score:
        """A score to choose the best state by; tasks whose `evaluate` is slow define a faster one."""
        return self.evaluate(model, examples)

    @abstractmethod
    def predict(self, model: Decoder, texts: Sequence[str]) -> list[Any]:
        """The model's answer to each text."""

    def marked(self, piece: Encoded) -> Iterator[tuple[str, bool, str]]:
        """An example as it is read, in pieces of text: whether they have a target, and what it is.

        For tasks that predict the next token the marks are on the tokens that are predicted.
        """
        own = self.whole != ()
        trained = piece.targets != IGNORE
        marks = trained if own else np.concatenate([[False], trained])
        ids = piece.ids if own else np.concatenate([piece.ids, piece.targets[-1:] if trained[-1] else []]).astype(int)
        cuts = np.flatnonzero(np.diff(marks[: len(ids)])) + 1
        labels = getattr(self, "labels", ())
        for at, part in zip([0, *cuts.tolist()], np.split(ids, cuts), strict=True):
            target = labels[piece.targets[at]] if own and marks[at] else ""
            yield self.tokenizer.spelled(part.tolist()), bool(marks[at]), target

    def mean_loss(self, model: Decoder, examples: Sequence[Any]) -> tuple[float, int]:
        """The mean loss over all targets, and their number."""
        total, count = 0.0, 0.0
        encoded = [piece for example in examples for piece in self.encode(example)]
        for batch, inputs in self.evaluating(model, encoded):
            weight = self.weight(batch.rows.targets)
            total, count = total + weight * float(self.loss(model, *inputs).item()), count + weight
        return total / max(1.0, count), int(count)

    def evaluating(self, model: Decoder, encoded: Sequence[Encoded]) -> Iterator[tuple[Batch, list[Tensor]]]:
        """Batches from short to long, and the inputs of `loss`; what is computed for them is not recorded."""
        model.eval()
        where = model.tok_emb.weight.device
        for batch in batches(encoded, 16, self.tokenizer.pad):
            with no_grad():
                yield batch, [tensor(array, device=where) for array in self.inputs(batch.rows)]

    def compared(self, parts: Splits, score: Score) -> list[str]:
        """Sentences that put the score on the test beside those of something simpler."""
        return []

    def describe(self) -> dict[str, Any]:
        """What a run's config.json must hold to make this task again, as JSON values: the constructor's arguments."""
        return {"max_length": self.max_length}


def features_at(model: Decoder, ids: Tensor, *rest: Tensor) -> Tensor:
    """The features (N, C) of tokens (B, T) at positions b · T + t. `rest` is `starts`, if rows are packed, and positions."""
    *starts, at = rest
    x = model.features(ids, cast(Cache, Packed(starts[0])) if starts else None)  # (B, T, C)
    return x.flatten(0, 1)[at]
