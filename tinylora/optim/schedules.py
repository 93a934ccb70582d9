"""The base class of schedules, and those that are a formula of the step. Use them from optim.lr_scheduler.

A schedule is made after the optimizer, and `step()` is called once per epoch or per batch, after the optimizer's. In the
formulas t is the number of calls so far (`last_epoch`), lr₀ a group's learning rate when the schedule was made. Most
schedules change the present learning rate rather than recompute it, so that two of them can act on one optimizer.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Any

from tinylora.optim.optimizers import Optimizer


class LRScheduler:
    """Base class. A schedule defines `get_lr()`, the learning rate of each group at t = `self.last_epoch`.

    Those of this file define it by two functions of one group i: `at(i)`, from lr₀ and t alone, and `after(i, lr)`, from
    the learning rate at t - 1, which is by default `at(i)`.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(self).__name__} takes an optimizer, not {type(optimizer).__name__}")
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(f"group {i} has no initial_lr: load the optimizer's state before resuming its schedule")
        self.optimizer, self.last_epoch, self._step_count = optimizer, last_epoch, 0
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self._initial_step()

    def _initial_step(self) -> None:
        self.last_epoch, self._step_count = self.last_epoch + 1, 1
        self._set(self.get_lr() if self.last_epoch == 0 else [group["lr"] for group in self.optimizer.param_groups])

    def _set(self, rates: Iterable[float]) -> None:
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = lr
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def at(self, i: int) -> float:
        raise NotImplementedError(f"{type(self).__name__} defines no get_lr")

    def after(self, i: int, lr: float) -> float:
        return self.at(i)

    def get_lr(self) -> list[float]:
        return [self.after(i, group["lr"]) for i, group in enumerate(self.optimizer.param_groups)]

    def get_last_lr(self) -> list[float]:
        """The learning rate of each group, as last set."""
        return self._last_lr

    def step(self, epoch: int | None = None) -> None:
        """Go to t + 1, or to t = `epoch`."""
        self._step_count += 1
        if epoch is None:
            self.last_epoch += 1
            self._set(self.get_lr())
        else:
            self.go_to(epoch)

    def go_to(self, t: int) -> None:
        """Set the learning rates to those at t, whatever they are now."""
        self.last_epoch = t
        own = type(self).get_lr is not LRScheduler.get_lr
        self._set(self.get_lr() if own else [self.at(i) for i in range(len(self.base_lrs))])

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer. Functions are left out; pass the same ones when the schedule is made again."""
        return {k: _without_functions(v) for k, v in self.__dict__.items() if k != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, value in state_dict.items():
            if name == "lr_lambdas":
                for function, state in zip(self.lr_lambdas, value, strict=True):
                    if state is not None:
                        function.__dict__.update(state)
            else:
                setattr(self, name, value)

    lr_lambdas: list[Callable[[int], float]]


_LRScheduler = LRScheduler  # the base class's former name, which many programs subclass


def _without_functions(value: Any) -> Any:
    """Lists are copied; a function becomes None, an object that can be called its attributes."""
    if isinstance(value, list):
        return [_without_functions(v) for v in value]
    if callable(value):
        return None if not hasattr(value, "__dict__") or hasattr(value, "__code__") else dict(value.__dict__)
    return value


def each(name: str, value: Any, optimizer: Optimizer) -> list[Any]:
    """`value` for each group: a list is taken as it is, if it has one entry per group."""
    groups = len(optimizer.param_groups)
    if not isinstance(value, list | tuple):
        return [value] * groups
    if len(value) != groups:
        raise ValueError(f"expected {groups} entries of {name}, one for each group, and got {len(value)}")
    return list(value)


# ------------------------------------------------------------------------------ factors of the learning rate
class LambdaLR(LRScheduler):
    """lr₀ · f(t), with one function for all groups or a list of one for each.

    >>> from tinylora import nn, optim
    >>> optimizer = optim.SGD(nn.Linear(2, 1).parameters(), lr=1.0)
    >>> warmup = LambdaLR(optimizer, lambda t: min(1.0, (t + 1) / 4))
    >>> rates = []
    >>> for _ in range(5):
    ...     rates.append(optimizer.param_groups[0]["lr"])
    ...     optimizer.step()
    ...     warmup.step()
    >>> rates
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: Any, last_epoch: int = -1) -> None:
        self.lr_lambdas = each("lr_lambda", lr_lambda, optimizer)
        super().__init__(optimizer, last_epoch)

    def at(self, i: int) -> float:
        return self.base_lrs[i] * self.lr_lambdas[i](self.last_epoch)


class MultiplicativeLR(LambdaLR):
    """lr · f(t) at every t > 0."""

    def get_lr(self) -> list[float]:
        rates = [group["lr"] for group in self.optimizer.param_groups]
        return [lr * f(self.last_epoch) for lr, f in zip(rates, self.lr_lambdas, strict=True)] if self.last_epoch else rates


class StepLR(LRScheduler):
    """lr₀ · gamma^⌊t / step_size⌋."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def at(self, i: int) -> float:
        return self.base_lrs[i] * self.gamma ** (self.last_epoch // self.step_size)

    def after(self, i: int, lr: float) -> float:
        return lr * self.gamma if self.last_epoch and self.last_epoch % self.step_size == 0 else lr


class MultiStepLR(LRScheduler):
    """lr₀ · gammaⁿ, n the number of milestones up to t."""

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def at(self, i: int) -> float:
        return self.base_lrs[i] * self.gamma ** bisect_right(self.milestones, self.last_epoch)

    def after(self, i: int, lr: float) -> float:
        return lr * self.gamma ** self.milestones.count(self.last_epoch)


class ExponentialLR(LRScheduler):
    """lr₀ · gammaᵗ."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def at(self, i: int) -> float:
        return self.base_lrs[i] * self.gamma**self.last_epoch

    def after(self, i: int, lr: float) -> float:
        return lr * self.gamma if self.last_epoch else lr


class ConstantLR(LRScheduler):
    """lr₀ · factor while t < total_iters, then lr₀."""

    def __init__(self, optimizer: Optimizer, factor: float = 1 / 3, total_iters: int = 5, last_epoch: int = -1) -> None:
        if not 0 <= factor <= 1:
            raise ValueError(f"factor is between 0 and 1, not {factor}")
        self.factor, self.total_iters = factor, total_iters
        super().__init__(optimizer, last_epoch)

    def at(self, i: int) -> float:
        return self.base_lrs[i] * (self.factor if self.last_epoch < self.total_iters else 1.0)

    def after(self, i: int, lr: float) -> float:
        t = self.last_epoch
        return lr * self.factor if t == 0 else lr / self.factor if t == self.total_iters else lr


class LinearLR(LRScheduler):
    """lr₀ · factor, which goes from start_factor to end_factor in a line over total_iters."""

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if not 0 < start_factor <= 1:
            raise ValueError(f"start_factor is above 0 and at most 1, not {start_factor}")
        if not 0 <= end_factor <= 1:
            raise ValueError(f"end_factor is between 0 and 1, not {end_factor}")
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer, last_epoch)

    def _factor(self, t: int) -> float:
        return self.start_factor + (self.end_factor - self.start_factor) * min(t, self.total_iters) / self.total_iters

    def at(self, i: int) -> float:
        return self.base_lrs[i] * self._factor(self.last_epoch)

    def after(self, i: int, lr: float) -> float:
        t = self.last_epoch
        return lr if t > self.total_iters else lr * self._factor(t) / (self._factor(t - 1) if t else 1.0)


class PolynomialLR(LRScheduler):
    """lr₀ · (1 - t / total_iters)^power, 0 from total_iters on."""

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1) -> None:
        self.total_iters, self.power = total_iters, power
        super().__init__(optimizer, last_epoch)

    def at(self, i: int) -> float:
        return self.base_lrs[i] * (1 - min(self.last_epoch, self.total_iters) / self.total_iters) ** self.power

    def after(self, i: int, lr: float) -> float:
        t, n = self.last_epoch, self.total_iters
        return lr if t == 0 or t > n else lr * ((1 - t / n) / (1 - (t - 1) / n)) ** self.power


# ------------------------------------------------------------------------------------------------- cosines
class CosineAnnealingLR(LRScheduler):
    """eta_min + (lr₀ - eta_min) · (1 + cos(π t / T_max)) / 2.

    Loshchilov & Hutter 2017, "SGDR: Stochastic gradient descent with warm restarts", equation 5, without the restarts.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def at(self, i: int) -> float:
        return self.eta_min + (self.base_lrs[i] - self.eta_min) * (1 + math.cos(math.pi * self.last_epoch / self.T_max)) / 2

    def after(self, i: int, lr: float) -> float:
        t, T = self.last_epoch, self.T_max
        if t == 0:
            return lr
        if (t - 1 - T) % (2 * T) == 0:  # at t - 1 the cosine was -1
            return lr + (self.base_lrs[i] - self.eta_min) * (1 - math.cos(math.pi / T)) / 2
        ratio = (1 + math.cos(math.pi * t / T)) / (1 + math.cos(math.pi * (t - 1) / T))
        return ratio * (lr - self.eta_min) + self.eta_min


class CosineAnnealingWarmRestarts(LRScheduler):
    """eta_min + (lr₀ - eta_min) · (1 + cos(π T_cur / T_i)) / 2: cosines of T_0, T_0 · T_mult, T_0 · T_mult², .. steps.

    `step(epoch)` takes fractions of an epoch. Loshchilov & Hutter 2017, "SGDR", equation 5.
    """

    def __init__(self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        if T_0 < 1 or T_mult < 1 or not (isinstance(T_0, int) and isinstance(T_mult, int)):
            raise ValueError(f"T_0 and T_mult are integers of at least 1, not {T_0} and {T_mult}")
        self.T_0, self.T_i, self.T_mult, self.eta_min, self.T_cur = T_0, T_0, T_mult, eta_min, float(last_epoch)
        super().__init__(optimizer, last_epoch)

    def _initial_step(self) -> None:
        self._step_count = 1
        CosineAnnealingWarmRestarts.step(self)

    def at(self, i: int) -> float:
        return self.eta_min + (self.base_lrs[i] - self.eta_min) * (1 + math.cos(math.pi * self.T_cur / self.T_i)) / 2

    def step(self, epoch: float | None = None) -> None:
        t = self.last_epoch + 1 if epoch is None else epoch
        if t < 0:
            raise ValueError(f"epoch is at least 0, not {t}")
        if epoch is None:
            self.T_cur += 1
            if self.T_cur >= self.T_i:
                self.T_cur, self.T_i = self.T_cur - self.T_i, self.T_i * self.T_mult
        else:
            self.T_cur, self.T_i = t, self.T_0
            while self.T_cur >= self.T_i:
                if self.T_mult == 1:
                    self.T_cur %= self.T_i
                else:
                    self.T_cur, self.T_i = self.T_cur - self.T_i, self.T_i * self.T_mult
        self.go_to(math.floor(t))
