"""Two classifiers that know no language, to compare a model with: the most frequent class, and word counts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from tinylora.tasks.messages import Message

WORD = re.compile(r"\w+")


def majority(train: Sequence[Message], test: Sequence[Message]) -> tuple[str, float]:
    """The most frequent label of `train`, and how often it is right on `test`."""
    ((label, _),) = Counter(message.label for message in train).most_common(1)
    return label, sum(message.label == label for message in test) / max(1, len(test))


def naive_bayes(train: Sequence[Message], test: Sequence[Message]) -> float:
    """The accuracy of multinomial naive Bayes over words, with add-one smoothing.

    log p(class) + Σ log p(word | class): Manning, Raghavan, Schütze 2008, "Introduction to Information Retrieval", 13.2.
    """
    labels = sorted({message.label for message in train})
    counts = {label: Counter[str]() for label in labels}
    for message in train:
        counts[message.label].update(_words(message.text))
    vocabulary = len(set().union(*counts.values()))
    frequency = Counter(message.label for message in train)

    def score(label: str, words: Sequence[str]) -> float:
        total = sum(counts[label].values()) + vocabulary
        return float(np.log(frequency[label]) + sum(np.log((counts[label][word] + 1) / total) for word in words))

    found = [max(labels, key=lambda label: score(label, _words(message.text))) for message in test]
    return sum(a == message.label for a, message in zip(found, test, strict=True)) / max(1, len(test))


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())
