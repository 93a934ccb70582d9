"""Packed rows: several texts one after another in a row, each with positions of its own, and none sees another."""

from __future__ import annotations

from tinylora import ops
from tinylora.backend import array_module, next_key
from tinylora.tensor import Tensor, record


class Packed:
    """Takes the place of a cache in `model.features(ids, Packed(starts))`. Records for backward.

    starts (B, T): the position in its row at which each token's text begins.

    >>> import tinylora
    >>> model, ids = tinylora.load_model("nano"), tinylora.tensor([[72, 105, 72, 105]])
    >>> with tinylora.no_grad():
    ...     together = model.features(ids, Packed(tinylora.tensor([[0, 0, 2, 2]])))
    ...     alone = model.features(ids[:, :2])
    >>> tinylora.allclose(together[:, :2], alone, atol=1e-5), tinylora.allclose(together[:, 2:], alone, atol=1e-5)
    (True, True)
    """

    def __init__(self, starts: Tensor) -> None:
        self.starts = starts.array
        self.mask = (self.starts[:, :, None] == self.starts[:, None, :])[:, None]  # (B, 1, T, T), True within a text

    def __getitem__(self, i: int) -> Packed:
        return self

    def positions(self, T: int) -> Tensor:
        """The position of each token in its text, (B, T)."""
        return Tensor(array_module(self.starts).arange(T) - self.starts)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, p: float = 0.0) -> Tensor:
        """Causal attention within each text: (B, H, T, D) -> (B, H, T, D)."""
        key = next_key() if p else 0
        return record(ops.attention, q, k, v, causal=True, mask=self.mask, p=float(p), key=key)
