"""RMSprop and Adagrad: steps divided by the root of a mean, or of a sum, of squared gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tinylora.backend import Array, array_module
from tinylora.optim.optimizers import Optimizer


class RMSprop(Optimizer):
    """w ← w - lr · b,  b ← μ b + g / (√s + ε),  s ← α s + (1 - α) g²;  centered: s - m² for s, m the running mean of g.

    Tieleman & Hinton 2012, lecture 6.5; centered as in Graves 2013, "Generating sequences with recurrent neural networks".
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        **options: Any,
    ) -> None:
        numbers = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, options, **numbers, centered=centered)

    def update(self, w: Array, g: Array, state: dict[str, Any], group: dict[str, Any]) -> Array:
        xp, alpha = array_module(w), group["alpha"]
        g = g + group["weight_decay"] * w if group["weight_decay"] else g
        state["s"] = s = alpha * state.get("s", 0.0) + (1 - alpha) * g * g
        if group["centered"]:
            state["mean"] = mean = alpha * state.get("mean", 0.0) + (1 - alpha) * g
            s = s - mean * mean
        change = g / (xp.sqrt(s) + group["eps"])
        if group["momentum"]:
            state["b"] = change = group["momentum"] * state.get("b", 0.0) + change
        return w - group["lr"] * change


class Adagrad(Optimizer):
    """w ← w - lr / (1 + (t - 1) · lr_decay) · g / (√s + ε),  s ← s + g².

    Duchi, Hazan, Singer 2011, "Adaptive subgradient methods for online learning and stochastic optimization".
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        **options: Any,
    ) -> None:
        numbers = {"lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay, "eps": eps}
        super().__init__(params, options, **numbers, initial_accumulator_value=initial_accumulator_value)

    def update(self, w: Array, g: Array, state: dict[str, Any], group: dict[str, Any]) -> Array:
        g = g + group["weight_decay"] * w if group["weight_decay"] else g
        state["step"] = t = state.get("step", 0) + 1
        state["s"] = s = state.get("s", group["initial_accumulator_value"]) + g * g
        return w - group["lr"] / (1 + (t - 1) * group["lr_decay"]) * g / (array_module(w).sqrt(s) + group["eps"])
