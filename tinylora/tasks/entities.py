"""Entities in tagged sentences: tag schemes, the spans that tags describe, and precision, recall and F1 over spans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tinylora.tasks.task import Score, Table


class Span(NamedTuple):
    """An entity: words start .. stop - 1, and its type."""

    start: int
    stop: int
    type: str


def spans(tags: Sequence[str]) -> list[Span]:
    """The entities that tags in any of the schemes IOB1, BIO and BIOES describe, as the program conlleval finds them.

    An entity begins at B-, S-, and at I- or E- where none of its type is under way; it ends after E-, S-, and before
    anything that does not continue it.

    >>> spans(["B-person", "I-person", "O", "I-place", "B-place"])
    [Span(start=0, stop=2, type='person'), Span(start=3, stop=4, type='place'), Span(start=4, stop=5, type='place')]
    """
    found: list[Span] = []
    start, under_way = 0, ""  # the type of the entity that is under way
    for i, tag in enumerate([*tags, "O"]):
        mark, _, kind = tag.partition("-")
        if under_way and (mark in "OBS" or kind != under_way):
            found.append(Span(start, i, under_way))
            under_way = ""
        if mark != "O" and not under_way:
            start, under_way = i, kind
        if mark in "ES" and under_way:
            found.append(Span(start, i + 1, under_way))
            under_way = ""
    return found


def bio(found: Sequence[Span], length: int) -> list[str]:
    """Spans as BIO tags of `length` words.

    >>> bio([Span(0, 2, "person")], 3)
    ['B-person', 'I-person', 'O']
    """
    tags = ["O"] * length
    for start, stop, kind in found:
        tags[start:stop] = [f"B-{kind}", *[f"I-{kind}"] * (stop - start - 1)]
    return tags


def misfit(scheme: str, before: str, tag: str) -> bool:
    """Whether `tag` cannot follow `before` (both "O" at the ends of a sentence) in the scheme "BIO", "IOB1" or "BIOES"."""
    (mark, _, kind), (mark_before, _, kind_before) = tag.partition("-"), before.partition("-")
    if scheme == "BIO":
        return mark == "I" and (mark_before == "O" or kind_before != kind)
    if scheme == "IOB1":  # B- only where an entity follows another of its type
        return mark == "B" and (mark_before == "O" or kind_before != kind)
    inside = mark_before in "BI"
    return (mark in "IE") != inside or (inside and kind != kind_before)


@dataclass(frozen=True)
class EntityScore(Score):
    """Entities that were marked, those that should have been, and those that agree in both ends and type, by type."""

    correct: dict[str, int]
    marked: dict[str, int]
    true: dict[str, int]
    loss: float
    words: int = 0
    words_right: int = 0
    types: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], loss: float) -> EntityScore:
        """The score of predicted tags, sentence by sentence."""
        counts: dict[str, Counter[str]] = {name: Counter() for name in ("correct", "marked", "true")}
        right = 0
        for expected, tags in zip(true, predicted, strict=True):
            here, there = set(spans(tags)), set(spans(expected))
            for name, chosen in (("correct", here & there), ("marked", here), ("true", there)):
                counts[name].update(span.type for span in chosen)
            right += sum(a == b for a, b in zip(tags, expected, strict=True))
        types = tuple(sorted(counts["true"].keys() | counts["marked"].keys()))
        return cls(
            **{k: dict(v) for k, v in counts.items()}, loss=loss, words=sum(map(len, true)), words_right=right, types=types
        )

    def _ratio(self, below: dict[str, int], kind: str | None) -> float:
        chosen = self.types if kind is None else (kind,)
        total = sum(below.get(name, 0) for name in chosen)
        return sum(self.correct.get(name, 0) for name in chosen) / total if total else 0.0

    def precision(self, kind: str | None = None) -> float:
        """Fraction of the marked entities that are right; of one type, or of all."""
        return self._ratio(self.marked, kind)

    def recall(self, kind: str | None = None) -> float:
        """Fraction of the true entities that were marked; of one type, or of all."""
        return self._ratio(self.true, kind)

    def f1(self, kind: str | None = None) -> float:
        """Harmonic mean of precision and recall; of one type, or of all."""
        p, r = self.precision(kind), self.recall(kind)
        return 2 * p * r / (p + r) if p + r else 0.0

    @property
    def headline(self) -> str:
        return f"entity F1 {self.f1():.4f}"

    @property
    def rank(self) -> tuple[float, ...]:
        """By F1, and among equals by loss."""
        return self.f1(), -self.loss

    def tables(self) -> list[Table]:
        rows = [
            [kind or "all", *(f"{f(kind):.4f}" for f in (self.precision, self.recall, self.f1)),
             sum(self.true.values()) if kind is None else self.true.get(kind, 0)]
            for kind in (*self.types, None)
        ]  # fmt: skip
        return [Table(["entity", "precision", "recall", "F1", "count"], rows)]

    def as_dict(self) -> dict[str, Any]:
        def numbers(kind: str | None) -> dict[str, float]:
            return {"precision": self.precision(kind), "recall": self.recall(kind), "f1": self.f1(kind)}

        return {
            **numbers(None), "loss": self.loss, "accuracy": self.words_right / max(1, self.words),
            "types": {kind: {**numbers(kind), "count": self.true.get(kind, 0)} for kind in self.types},
        }  # fmt: skip
