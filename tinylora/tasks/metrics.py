"""Metrics of a classifier: accuracy, precision, recall, F1 and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinylora.tasks.task import Score, Table


@dataclass(frozen=True)
class Metrics(Score):
    """A confusion matrix, true class (rows) by predicted class (columns), and the metrics computed from it."""

    labels: tuple[str, ...]
    confusion: np.ndarray  # (classes, classes)
    loss: float

    @classmethod
    def of(cls, labels: Sequence[str], true: Sequence[int], predicted: Sequence[int], loss: float) -> Metrics:
        confusion = np.zeros((len(labels), len(labels)), int)
        np.add.at(confusion, (np.asarray(true, int), np.asarray(predicted, int)), 1)
        return cls(tuple(labels), confusion, loss)

    @property
    def accuracy(self) -> float:
        """Fraction of messages classified correctly."""
        return float(self.confusion.trace() / max(1, self.confusion.sum()))

    def precision(self, label: str) -> float:
        """Fraction of messages predicted as `label` that are `label`."""
        i = self.labels.index(label)
        return float(self.confusion[i, i] / max(1, self.confusion[:, i].sum()))

    def recall(self, label: str) -> float:
        """Fraction of messages of class `label` that are predicted so."""
        i = self.labels.index(label)
        return float(self.confusion[i, i] / max(1, self.confusion[i].sum()))

    def f1(self, label: str) -> float:
        """Harmonic mean of precision and recall."""
        p, r = self.precision(label), self.recall(label)
        return 2 * p * r / (p + r) if p + r else 0.0

    @property
    def headline(self) -> str:
        return f"accuracy {self.accuracy:.2%}"

    @property
    def rank(self) -> tuple[float, ...]:
        """By accuracy, and among equals by loss."""
        return self.accuracy, -self.loss

    def tables(self) -> list[Table]:
        """The scores of each class, and the confusion matrix."""
        scores = [[c, *(f"{f(c):.4f}" for f in (self.precision, self.recall, self.f1))] for c in self.labels]
        confusion = [[label, *row] for label, row in zip(self.labels, self.confusion.tolist(), strict=True)]
        return [Table(["class", "precision", "recall", "F1"], scores), Table(["true \\ predicted", *self.labels], confusion)]

    def as_dict(self) -> dict[str, Any]:
        """All metrics as JSON values."""
        per_class = {
            label: {"precision": self.precision(label), "recall": self.recall(label), "f1": self.f1(label)}
            for label in self.labels
        }
        return {
            "accuracy": self.accuracy, "loss": self.loss, "classes": per_class, "confusion": self.confusion.tolist(),
        }  # fmt: skip
