"""Classification: a text gets one of several labels, by a new head that reads the last token."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinylora.models.decoder import Decoder
from tinylora.tasks.baselines import majority, naive_bayes
from tinylora.tasks.examples import IGNORE, Encoded, Examples, Rows, Splits
from tinylora.tasks.messages import class_names, read_messages, split
from tinylora.tasks.metrics import Metrics
from tinylora.tasks.task import Score, Task, features_at
from tinylora.tensor import Tensor
from tinylora.text.tokenizer import Tokenizer
from tinylora.torch_api.functional import softmax
from tinylora.torch_api.losses import cross_entropy
from tinylora.torch_api.promote import tensor


class Classify(Task):
    """Examples are `Message(label, text)`; the score is accuracy, with F1 per class and the confusion matrix."""

    name = "classify"
    options = ("class_weights", "label_smoothing", "truncate")
    whole = ("out_head",)

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_length: int,
        labels: Sequence[str] = (),
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        truncate: str = "end",
    ) -> None:
        super().__init__(tokenizer, max_length)
        if truncate not in ("end", "beginning"):
            raise ValueError(f'truncate is "end" or "beginning", not {truncate!r}')
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing is a number of at least 0 and below 1, not {label_smoothing!r}")
        self.labels, self.label_smoothing, self.truncate = tuple(labels), label_smoothing, truncate
        self.class_weights = None if class_weights is None else np.array(class_weights, np.float32)
        self.keeps = "end" if truncate == "beginning" else "beginning"

    @classmethod
    def read(cls, path: str | Path, text_column: str | None = None, label_column: str | None = None) -> Examples:
        return read_messages(path, text_column, label_column)

    @classmethod
    def split(cls, examples: Examples, seed: int, valid: float = 0.1, test: float = 0.2) -> Splits:
        return split(examples, seed, valid, test)

    @classmethod
    def found_in(cls, parts: Splits, class_weights: bool = False, **options: Any) -> dict[str, Any]:
        """With `class_weights` each class weighs as if all were equally frequent: examples / (classes · its examples)."""
        labels = class_names(message for part in parts for message in part)
        counts = Counter(message.label for message in parts.train)
        if absent := [label for label in labels if not counts[label]]:
            raise ValueError(f"class {absent[0]!r} has no message to train on")
        weights = [len(parts.train) / (len(labels) * counts[label]) for label in labels]
        return {"labels": labels, **({"class_weights": weights} if class_weights else {}), **options}

    def head(self, model: Decoder, bias: bool = False) -> None:
        model.set_classes(self.labels, bias=bias)

    def encode(self, example: Any) -> list[Encoded]:
        """The label's number is the target at the last token."""
        return [self._encoded(example.text, self.labels.index(example.label))]

    def _encoded(self, text: str, target: int) -> Encoded:
        ids = self.tokenizer.encode(text, self.max_length)
        cut = len(ids) == self.max_length < len(self.tokenizer.encode(text, self.max_length + 1))
        if cut and self.truncate == "beginning":
            starts = range(1, len(text))
            fits = bisect.bisect_left(starts, True, key=lambda i: len(self._uncut(text[i:])) <= self.max_length)
            ids = self._uncut(text[1 + fits :])
        return Encoded(ids, np.where(np.arange(len(ids)) == len(ids) - 1, target, IGNORE), cut)

    def _uncut(self, text: str) -> np.ndarray:
        return self.tokenizer.encode(text, 10**9)

    def inputs(self, rows: Rows) -> tuple[np.ndarray, ...]:
        """Tokens (B, T), the position of each text's last token (B,), and class numbers (B,), unless rows are packed."""
        if rows.starts is not None:
            return super().inputs(rows)
        row, last = np.nonzero(rows.targets != IGNORE)
        return rows.ids, last, rows.targets[row, last]

    def weight(self, targets: np.ndarray) -> float:
        """The sum of the class weights."""
        if self.class_weights is None:
            return super().weight(targets)
        return float(self.class_weights[targets[targets != IGNORE]].sum())

    def loss(self, model: Decoder, *inputs: Tensor) -> Tensor:
        """The mean over a batch, weighted by class."""
        *given, classes = inputs
        packed = len(given) > 2
        scores = model.out_head(features_at(model, *given)) if packed else class_scores(model, *given)
        weight = None if self.class_weights is None else tensor(self.class_weights, device=scores.device).to(scores.dtype)
        return cross_entropy(scores, classes, weight, ignore_index=IGNORE, label_smoothing=self.label_smoothing)

    def probabilities(self, model: Decoder, texts: Sequence[str]) -> np.ndarray:
        """Class probabilities (texts, classes), as a NumPy array."""
        encoded = [self._encoded(text, 0) for text in texts]
        found = np.zeros((len(texts), model.out_head.out_features), np.float32)
        for batch, (ids, last, _) in self.evaluating(model, encoded):
            found[batch.examples] = softmax(class_scores(model, ids, last), -1).cpu().numpy()
        return found

    def evaluate(self, model: Decoder, examples: Sequence[Any]) -> Metrics:
        p = self.probabilities(model, [message.text for message in examples])
        true = np.array([self.labels.index(message.label) for message in examples])
        loss = -np.log(np.maximum(p[np.arange(len(true)), true], 1e-30)).mean()
        return Metrics.of(self.labels, true.tolist(), p.argmax(1).tolist(), float(loss))

    def compared(self, parts: Splits, score: Score) -> list[str]:
        """The most frequent class, and word counts; and what to try if the model is no better than chance."""
        label, chance = majority(parts.train, parts.test)
        counts = naive_bayes(parts.train, parts.test)
        said = [f"for comparison: always {label!r} {chance:.2%}, word counts (naive Bayes) {counts:.2%}"]
        if isinstance(score, Metrics) and score.accuracy <= chance + 1 / max(1, len(parts.test)):
            said.append(
                "this is no better than chance: try more epochs, a larger model, more examples, another learning rate"
            )
        return said

    def predict(self, model: Decoder, texts: Sequence[str]) -> list[str]:
        """The most probable label of each text."""
        return [self.labels[i] for i in self.probabilities(model, texts).argmax(1)] if len(texts) else []

    def describe(self) -> dict[str, Any]:
        weights = None if self.class_weights is None else self.class_weights.tolist()
        about = {"labels": list(self.labels), "truncate": self.truncate}
        return {**super().describe(), **about, "class_weights": weights, "label_smoothing": self.label_smoothing}


def class_scores(model: Decoder, ids: Tensor, last: Tensor) -> Tensor:
    """Class scores (B, classes) at the position `last` (B,) of each row of ids (B, T)."""
    return model.out_head(model.features_at(ids, last))
