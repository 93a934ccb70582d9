"""Measures how well a language model predicts a text: perplexity and bits per byte."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tinylora.tensor import no_grad
from tinylora.torch_api.creation import tensor
from tinylora.torch_api.losses import cross_entropy

if TYPE_CHECKING:
    from tinylora.models.decoder import Decoder


class Perplexity(NamedTuple):
    """The sum of -log p(token), natural logarithm, over so many predicted tokens."""

    nats: float
    tokens: int

    @property
    def value(self) -> float:
        """exp of the mean of -log p: the number of equally likely tokens that would be as hard to predict."""
        return math.exp(self.nats / self.tokens)

    def bits_per_byte(self, size: int) -> float:
        """Bits per byte, if the predicted tokens are `size` bytes of text."""
        return self.nats / math.log(2) / size


def perplexity(model: Decoder, ids: Sequence[int], window: int = 1024) -> Iterator[Perplexity]:
    """Perplexity of the first window, the first two, and so on to the end of the text.

    Window k reads tokens window · k onwards and predicts those from window · k + 1 on: windows do not overlap, so a token is
    predicted only from those before it in its window. An incomplete last window is left out, unless it is the only one.
    Raises ValueError for a text of fewer than two tokens, and for a window that does not fit the model's context.
    """
    if window > model.cfg.context_length:
        raise ValueError(f"a window of {window} tokens does not fit the context of {model.cfg.context_length}")
    if len(ids) < 2:
        raise ValueError(f"a text of {len(ids)} tokens: there is nothing to predict")
    window = min(window, len(ids) - 1)
    model.eval()
    where, found, nats = model.tok_emb.weight.device, np.asarray(ids), 0.0
    for count, start in enumerate(range(0, len(ids) - window, window), 1):
        read, predicted = (tensor(found[i : i + window], device=where) for i in (start, start + 1))
        with no_grad():
            nats += float(cross_entropy(model(read[None])[0].float(), predicted).item()) * window
        yield Perplexity(nats, count * window)
