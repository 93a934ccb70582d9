"""Draws the next token from a model's scores: temperature, top-k, top-p and repetition penalty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn from scores z: from softmax(z / temperature), restricted by top_k and top_p.

    temperature: below 1 favours likely tokens; 0 always takes the likeliest. top_k: only the k likeliest (Fan, Lewis,
    Dauphin 2018, "Hierarchical Neural Story Generation"). top_p: the smallest set of likeliest tokens with total probability
    p (Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1). repetition_penalty θ: the score of
    a token that occurs in the text becomes z/θ, or zθ if it is negative (Keskar et al. 2019, "CTRL", section 4.1). Applied
    in the order penalty, temperature, top_k, top_p. Raises ValueError for numbers out of range.

    >>> Sampling(top_p=0.6).probabilities(np.log([0.5, 0.3, 0.2]))
    array([0.625, 0.375, 0.   ])
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature is a number of at least 0, not {self.temperature!r}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is a whole number of at least 1, not {self.top_k!r}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is a number above 0 and at most 1, not {self.top_p!r}")
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(f"repetition_penalty is a number above 0, not {self.repetition_penalty!r}")

    def probabilities(self, scores: np.ndarray, text: Sequence[int] = ()) -> np.ndarray:
        """Probabilities of all tokens, (vocabulary,), given their scores and the tokens of the text so far."""
        z = np.asarray(scores, np.float64).copy()
        seen = np.unique(np.asarray(text, np.int64))
        z[seen] = np.where(z[seen] < 0, z[seen] * self.repetition_penalty, z[seen] / self.repetition_penalty)
        if self.temperature == 0:
            return (np.arange(len(z)) == z.argmax()).astype(np.float64)
        with np.errstate(over="ignore"):  # z / temperature may overflow
            p = np.exp((z - z.max()) / self.temperature)
        if self.top_k is not None and self.top_k < len(p):
            p[z < np.partition(z, -self.top_k)[-self.top_k]] = 0.0
        p /= p.sum()
        if self.top_p is not None:
            likeliest = np.argsort(-p, kind="stable")
            before = np.cumsum(p[likeliest]) - p[likeliest]  # total probability of likelier tokens
            p[likeliest[before >= self.top_p]] = 0.0
            p /= p.sum()
        return p

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken whatever the text."""
        return self.temperature == 0 and self.repetition_penalty == 1

    def draw(self, scores: np.ndarray, text: Sequence[int], rng: np.random.Generator) -> int:
        """Draw one token."""
        p = self.probabilities(scores, text)
        return int(p.argmax()) if self.temperature == 0 else int(rng.choice(len(p), p=p))


GREEDY = Sampling(temperature=0)  # the likeliest token, always
