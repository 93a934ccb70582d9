"""Classification: a text gets one of several labels, by a new head that reads the last token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinylora.models.decoder import Decoder
from tinylora.tasks.messages import class_names, read_messages, split
from tinylora.tasks.metrics import Metrics
from tinylora.tasks.task import IGNORE, Encoded, Examples, Rows, Splits, Task
from tinylora.tensor import Tensor
from tinylora.text.tokenizer import Tokenizer
from tinylora.torch_api.functional import softmax
from tinylora.torch_api.losses import cross_entropy


class Classify(Task):
    """Examples are `Message(label, text)`; the score is accuracy, with F1 per class and the confusion matrix."""

    name = "classify"
    whole = ("out_head",)

    def __init__(self, tokenizer: Tokenizer, max_length: int, labels: Sequence[str] = ()) -> None:
        super().__init__(tokenizer, max_length)
        self.labels = tuple(labels)

    @classmethod
    def read(cls, path: str | Path, text_column: str | None = None, label_column: str | None = None) -> Examples:
        return read_messages(path, text_column, label_column)

    @classmethod
    def split(cls, examples: Examples, seed: int, valid: float = 0.1, test: float = 0.2) -> Splits:
        return split(examples, seed, valid, test)

    @classmethod
    def found_in(cls, parts: Splits) -> dict[str, Any]:
        return {"labels": class_names(message for part in parts for message in part)}

    def head(self, model: Decoder, bias: bool = False) -> None:
        model.set_classes(self.labels, bias=bias)

    def encode(self, example: Any) -> list[Encoded]:
        """The label's number is the target at the last token."""
        return [self._encoded(example.text, self.labels.index(example.label))]

    def _encoded(self, text: str, target: int) -> Encoded:
        ids = self.tokenizer.encode(text, self.max_length)
        cut = len(ids) == self.max_length < len(self.tokenizer.encode(text, self.max_length + 1))
        return Encoded(ids, np.where(np.arange(len(ids)) == len(ids) - 1, target, IGNORE), cut)

    def inputs(self, rows: Rows) -> tuple[np.ndarray, ...]:
        """Tokens (B, T), the position of each text's last token (B,), and class numbers (B,), unless rows are packed."""
        if rows.starts is not None:
            return super().inputs(rows)
        row, last = np.nonzero(rows.targets != IGNORE)
        return rows.ids, last, rows.targets[row, last]

    def loss(self, model: Decoder, *inputs: Tensor) -> Tensor:
        if len(inputs) > 3:  # packed
            return super().loss(model, *inputs)
        ids, last, classes = inputs
        return cross_entropy(class_scores(model, ids, last), classes)

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

    def predict(self, model: Decoder, texts: Sequence[str]) -> list[str]:
        """The most probable label of each text."""
        return [self.labels[i] for i in self.probabilities(model, texts).argmax(1)] if len(texts) else []

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "labels": list(self.labels)}


def class_scores(model: Decoder, ids: Tensor, last: Tensor) -> Tensor:
    """Class scores (B, classes) at the position `last` (B,) of each row of ids (B, T)."""
    return model.out_head(model.features_at(ids, last))
