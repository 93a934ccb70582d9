"""Activation functions of the feed-forward layers, by their names in config.json."""

from __future__ import annotations

from collections.abc import Callable

from tinylora import nn
from tinylora.tensor import Tensor
from tinylora.torch_api import functional as F


class GELU(nn.Module):
    """GELU with the tanh approximation, as in GPT-2: x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {  # the first three names mean the same function
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_fast"), GELU),
    "gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "swish": nn.SiLU,
}  # fmt: skip
