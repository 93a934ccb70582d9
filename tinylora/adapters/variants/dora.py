"""DoRA: trains the lengths of weight rows apart from their directions."""

from __future__ import annotations

from tinylora import nn
from tinylora.backend import Array, array_module, total, wide
from tinylora.lora import LinearWithLoRA
from tinylora.tensor import Tensor
from tinylora.torch_api import functional as F
from tinylora.torch_api.promote import follow


class DoRA(LinearWithLoRA):
    """y = m / ‖V‖ ∘ (x Vᵀ) + b,  V = W + ΔW,  ‖V‖ the length of each of its rows, that is of each output's weights.

    The magnitude m (out,) is trained beside A and B, and starts as ‖W‖: at first nothing changes. Liu et al. 2024, "DoRA:
    Weight-Decomposed Low-Rank Adaptation", equation 5; ‖V‖ is a constant to the gradient (section 4.3):

    dL/dm = Σ g ∘ (x Vᵀ) / ‖V‖      dL/dV = (m / ‖V‖ ∘ g)ᵀ x

    >>> from tinylora import nn, randn
    >>> layer = DoRA(nn.Linear(6, 4), rank=2, alpha=4.0)
    >>> [name for name, _ in layer.lora.named_parameters()]
    ['A', 'B', 'magnitude']
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__(linear, rank, alpha)
        self.lora.magnitude = nn.Parameter(Tensor(_lengths(linear.weight.array)))

    def forward(self, x: Tensor) -> Tensor:
        if self.merged:
            return super().forward(x)
        lora, bias = self.lora, self.linear.bias
        y = F.lora_linear(x, self.linear.weight, None, lora.A, lora.B, lora.alpha)
        y = (y * (lora.magnitude / self.lengths())).to(y.dtype)  # m is float32 where the base is bfloat16
        return y if bias is None else y + bias

    def lengths(self) -> Tensor:
        """‖V‖, (out,), as a constant."""
        return Tensor(_lengths(super().changed()))

    def changed(self) -> Array:
        V = super().changed()
        return V * (self.lora.magnitude.array / _lengths(V))[:, None]


def _lengths(weight: Array) -> Array:
    """Lengths of the rows of (out, in), at least in float32; 1 for a row of zeros.

    Squares are taken of w / s, s the largest of the row: the root may be in range where they are not.
    """
    weight = wide(weight)
    s = abs(weight).max(axis=1, keepdims=True) if weight.size else weight.sum(axis=1, keepdims=True)
    s = s + (s == 0)
    length = s[:, 0] * array_module(weight).sqrt(total(array_module(weight).square(weight / s), 1))
    return length + (length == 0)


class DropoutDoRA(DoRA):
    """y = W x + b + (m / ‖V‖ - 1) ∘ (W x̃) + m / ‖V‖ ∘ s (x̃ A) B,  x̃ = x with dropout; in evaluation, DoRA.

    PEFT's `use_dora` with `lora_dropout`.

    >>> from tinylora import nn, randn
    >>> DropoutDoRA(nn.Linear(6, 4), rank=2, alpha=4.0, p=0.1)(randn(3, 6)).shape
    (3, 4)
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, p: float) -> None:
        super().__init__(linear, rank, alpha)
        self.dropout = nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        if self.merged or not self.training or not self.dropout.p:
            return super().forward(x)
        dropped, factor = self.dropout(x), self.lora.magnitude / self.lengths()
        (inside,) = follow(self.lora.A, dropped)
        change = (factor - 1) * F.linear(dropped, self.linear.weight) + factor * self.lora(inside)
        y = self.linear(x)
        return y + follow(y, change)[0]
