"""Linear, Embedding, LayerNorm, Dropout and the other basic layers, with PyTorch's arguments, initial values and repr."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tinylora.backend import float32, random
from tinylora.nn import functional as F
from tinylora.nn.module import Module, Parameter
from tinylora.tensor import Tensor
from tinylora.torch_api.creation import ones, randn, zeros


def _uniform(*shape: int, bound: float, device: Any, dtype: Any) -> Parameter:
    return Parameter(Tensor(random("uniform", shape, np.dtype(dtype or float32), device, -bound, bound)))


class Linear(Module):
    """y = x Wᵀ + b: (.., in) -> (.., out), with weight (out, in) and bias (out,), both uniform in ±1/√in.

    >>> from tinylora import nn, randn
    >>> nn.Linear(768, 16)(randn(8, 128, 768)).shape
    (8, 128, 16)
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        bound = 1 / math.sqrt(in_features) if in_features else 0.0
        self.weight = _uniform(out_features, in_features, bound=bound, device=device, dtype=dtype)
        self.register_parameter("bias", _uniform(out_features, bound=bound, device=device, dtype=dtype) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Embedding(Module):
    """ids -> rows of weight (num_embeddings, embedding_dim), which starts as N(0, 1)."""

    def __init__(self, num_embeddings: int, embedding_dim: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.weight = Parameter(randn(num_embeddings, embedding_dim, device=device, dtype=dtype))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"


class LayerNorm(Module):
    """Normalise the last axes to mean 0 and variance 1, then scale by weight and shift by bias."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine
        affine = elementwise_affine
        self.register_parameter("weight", Parameter(ones(shape, device=device, dtype=dtype)) if affine else None)
        self.register_parameter("bias", Parameter(zeros(shape, device=device, dtype=dtype)) if affine and bias else None)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        affine = f"elementwise_affine={self.elementwise_affine}, bias={self.bias is not None}"
        return f"{self.normalized_shape}, eps={self.eps}, {affine}"


class RMSNorm(Module):
    """x / √(mean x² + eps) · weight over the last axes. eps is by default that of x's dtype, 1.2e-7 for float32.

    >>> from tinylora import nn, randn
    >>> nn.RMSNorm(576, eps=1e-5)(randn(8, 128, 576)).shape
    (8, 128, 576)
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine
        weight = Parameter(ones(shape, device=device, dtype=dtype)) if elementwise_affine else None
        self.register_parameter("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class Dropout(Module):
    """Zero each element with probability p and scale the rest by 1 / (1 - p). In evaluation mode, return the input."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability must be between 0 and 1, not {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace=False"


class GELU(Module):
    """x Φ(x), or GPT-2's form of it with approximate="tanh"."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class SiLU(Module):
    """x · sigmoid(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x)


class Softmax(Module):
    """eˣ / Σ eˣ along `dim`."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Identity(Module):
    """Returns its input."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x


class _List(Module):
    """The common base of Sequential and ModuleList: children named "0", "1", .."""

    def __init__(self, modules: Iterable[Module]) -> None:
        super().__init__()
        for i, module in enumerate(modules):
            setattr(self, str(i), module)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def _name(self, i: int) -> str:
        if not -len(self) <= i < len(self):
            raise IndexError(f"index {i} is out of range: {type(self).__name__} holds {len(self)} modules")
        return list(self._modules)[i]

    def __getitem__(self, i: int | slice) -> Any:
        return type(self)(*_packed(self, list(self)[i])) if isinstance(i, slice) else self._modules[self._name(i)]

    def __setitem__(self, i: int, module: Module) -> None:
        setattr(self, self._name(i), module)

    def append(self, module: Module) -> _List:
        setattr(self, str(len(self)), module)
        return self


def _packed(kind: _List, modules: list[Module]) -> Sequence[Any]:
    return modules if isinstance(kind, Sequential) else [modules]


class Sequential(_List):
    """Modules applied one after the other: `Sequential(Linear(4, 3), ReLU())`, or from a dict of names."""

    def __init__(self, *modules: Any) -> None:
        named = modules[0] if len(modules) == 1 and isinstance(modules[0], dict) else {}
        super().__init__(() if named else modules)
        for name, module in named.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        for module in self:
            x = module(x)
        return x


class ModuleList(_List):
    """A list of registered modules. It has no forward: index it or iterate over it."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__(modules)


class CrossEntropyLoss(Module):
    """-log softmax(logits)[target], see `functional.cross_entropy`."""

    def __init__(self, weight: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.ignore_index, self.reduction = ignore_index, reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(input, target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction)
