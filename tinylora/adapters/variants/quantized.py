"""QLoRA: a frozen base quantised to 8 or 4 bits, with LoRA in full precision.

Dettmers, Pagnoni, Holtzman, Zettlemoyer 2023, "QLoRA: Efficient Finetuning of Quantized LLMs".
"""

from __future__ import annotations

from typing import Any

from tinylora import nn, ops
from tinylora.adapters.variants.dropout import DropoutLoRA
from tinylora.backend import Array, array_module, device
from tinylora.lora import lora_modules
from tinylora.tensor import Tensor, record
from tinylora.torch_api import functional as F
from tinylora.torch_api.promote import follow


class QuantizedLinear(nn.Linear):
    """A Linear with a quantised weight, which cannot be trained. Subclasses define `encode` and `decode`."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)  # no initial weight is drawn
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_parameter("bias", linear.bias)
        for name, part in self.encode(linear.weight.array).items():
            self.register_buffer(name, Tensor(part))
        self.train(linear.training)

    def encode(self, weight: Array) -> dict[str, Array]:
        """Quantise a weight (out, in): the arrays that represent it, by name."""
        raise NotImplementedError

    def decode(self, xp: Any, *parts: Array) -> Array:
        """The weight (out, in) that these arrays represent."""
        raise NotImplementedError

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # formed whenever it is asked for
        """Ŵ (out, in), dequantised at each access."""
        parts = [part.array for part in self._buffers.values()]
        return Tensor(self.decode(array_module(*parts), *parts))

    def forward(self, x: Tensor) -> Tensor:
        return record(ops.quantized_linear, x, self.bias, *self._buffers.values(), weight=self.decode)

    @property
    def nbytes(self) -> int:
        """Size of the arrays that represent the weight."""
        return sum(part.array.nbytes for part in self._buffers.values())


class QLoRA(DropoutLoRA):
    """y = x Ŵᵀ + b + s (x A) B,  Ŵ a quantised weight, dequantised for each product and not kept for backward.

    Equation 5 of the paper. It cannot be merged: call `dequantize(model)` first, and accept the rounding.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(self.linear, QuantizedLinear):
            return super().forward(x)
        if x.device != "cuda" or (self.training and self.dropout.p):
            return self.linear(x) + self.side(x)
        W, b, lora = self.linear.weight, self.linear.bias, self.lora
        return F.lora_linear(x, follow(x, W)[0], b, lora.A, lora.B, lora.alpha)  # Ŵ is not kept: it is formed again

    def merge(self) -> None:
        if isinstance(self.linear, QuantizedLinear):
            raise RuntimeError("a quantised weight has no room for a change: dequantize(model) first")
        super().merge()


def quantize(model: nn.Module, kind: type[QuantizedLinear], skip: tuple[str, ...] = ("out_head",)) -> list[str]:
    """Replace the Linears below `model` by `kind`, Int8Linear or NF4Linear, before LoRA is applied. Returns their paths.

    Modules in `skip` are left out, and so are weights used elsewhere too, such as a tied head, which would be stored twice.
    Raises ValueError if there is LoRA in the model.

    >>> from tinylora.models import load_model
    >>> from tinylora.adapters.variants import NF4Linear
    >>> len(quantize(load_model("nano"), NF4Linear))
    24
    """
    if any(lora_modules(model)):
        raise ValueError("the model has LoRA in it: quantise the base first, then apply LoRA")
    uses: dict[int, int] = {}
    for _, p, _ in model.named_tensors("_parameters"):
        uses[id(p)] = uses.get(id(p), 0) + 1
    done = []
    for path, module in list(model.named_modules()):
        for name, child in list(module.named_children()):
            place = f"{path}.{name}" if path else name
            if type(child) is nn.Linear and place not in skip and uses[id(child.weight)] == 1:
                setattr(module, name, kind(child))
                done.append(place)
    return done


def dequantize(model: nn.Module) -> None:
    """Replace each quantised Linear by a plain, frozen one with the dequantised weight."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, QuantizedLinear):
                with device("meta"):
                    plain = nn.Linear(child.in_features, child.out_features, bias=False)
                plain.weight, plain.bias = nn.Parameter(child.weight, requires_grad=False), child.bias
                setattr(module, name, plain.train(child.training))


def weight_error(linear: nn.Linear, quantized: QuantizedLinear) -> float:
    """‖W - Ŵ‖ / ‖W‖, Frobenius norms."""
    xp = array_module(linear.weight.array)
    return float(xp.linalg.norm(linear.weight.array - quantized.weight.array) / xp.linalg.norm(linear.weight.array))
