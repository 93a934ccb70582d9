"""Schedules of the learning rate, with PyTorch's names, arguments and numbers.

Formulas of the step are in schedules.py; those here move the momentum too, join others, or follow a measured number.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from tinylora.optim.optimizers import Optimizer
from tinylora.optim.schedules import ConstantLR as ConstantLR
from tinylora.optim.schedules import CosineAnnealingLR as CosineAnnealingLR
from tinylora.optim.schedules import CosineAnnealingWarmRestarts as CosineAnnealingWarmRestarts
from tinylora.optim.schedules import ExponentialLR as ExponentialLR
from tinylora.optim.schedules import LambdaLR as LambdaLR
from tinylora.optim.schedules import LinearLR as LinearLR
from tinylora.optim.schedules import LRScheduler, each
from tinylora.optim.schedules import MultiplicativeLR as MultiplicativeLR
from tinylora.optim.schedules import MultiStepLR as MultiStepLR
from tinylora.optim.schedules import PolynomialLR as PolynomialLR
from tinylora.optim.schedules import StepLR as StepLR
from tinylora.optim.schedules import _LRScheduler as _LRScheduler


class OneCycleLR(LRScheduler):
    """Up from max_lr / div_factor to max_lr, then down to max_lr / (div_factor · final_div_factor), in `total_steps`.

    The part `pct_start` of the steps goes up, along a cosine or a line; the momentum (Adam's β₁) goes the other way,
    between max_momentum and base_momentum. With three_phase it comes down as slowly as it went up, and then on.
    Smith & Topin 2018, "Super-convergence".
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("give total_steps, or both epochs and steps_per_epoch")
            total_steps = epochs * steps_per_epoch
        if total_steps < 1:
            raise ValueError(f"total_steps is at least 1, not {total_steps}")
        if not 0 <= pct_start <= 1:
            raise ValueError(f"pct_start is between 0 and 1, not {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy is 'cos' or 'linear', not {anneal_strategy!r}")
        self.total_steps, self.anneal_strategy, self.cycle_momentum = total_steps, anneal_strategy, cycle_momentum
        up = pct_start * total_steps - 1
        self.phases = [(up, "initial_lr", "max_lr", "max_momentum", "base_momentum")]  # (last step, from, to, from, to)
        if three_phase:
            self.phases += [(2 * up, "max_lr", "initial_lr", "base_momentum", "max_momentum")]
            self.phases += [(total_steps - 1, "initial_lr", "min_lr", "max_momentum", "max_momentum")]
        else:
            self.phases += [(total_steps - 1, "max_lr", "min_lr", "base_momentum", "max_momentum")]
        self.use_beta1 = "betas" in optimizer.param_groups[0]
        if cycle_momentum and not self.use_beta1 and "momentum" not in optimizer.param_groups[0]:
            raise ValueError(f"{type(optimizer).__name__} has neither momentum nor betas: pass cycle_momentum=False")
        if last_epoch == -1:
            limits = [each("max_lr", max_lr, optimizer), each("max_momentum", max_momentum, optimizer)]
            limits.append(each("base_momentum", base_momentum, optimizer))
            for group, top, high, low in zip(optimizer.param_groups, *limits, strict=True):
                group.update(initial_lr=top / div_factor, max_lr=top, min_lr=top / div_factor / final_div_factor)
                if cycle_momentum:
                    group.update(max_momentum=high, base_momentum=low)
        super().__init__(optimizer, last_epoch)

    def _between(self, start: float, end: float, part: float) -> float:
        if self.anneal_strategy == "linear":
            return (end - start) * part + start
        return end + (start - end) / 2 * (1 + math.cos(math.pi * part))

    def at(self, i: int) -> float:
        t, group = self.last_epoch, self.optimizer.param_groups[i]
        if t > self.total_steps:
            raise ValueError(f"step {t} of a schedule of {self.total_steps} steps")
        begin = 0.0
        for end, *names in self.phases:  # noqa: B007
            if t <= end:
                break
            begin = end if end is not self.phases[-1][0] else begin
        lr_from, lr_to, momentum_from, momentum_to = names
        part = (t - begin) / (end - begin)
        if self.cycle_momentum:
            momentum = self._between(group[momentum_from], group[momentum_to], part)
            if self.use_beta1:
                group["betas"] = (momentum, *group["betas"][1:])
            else:
                group["momentum"] = momentum
        return self._between(group[lr_from], group[lr_to], part)


class SequentialLR(LRScheduler):
    """schedulers[0] until milestones[0], then schedulers[1], which starts at its t = 0, and so on."""

    def __init__(
        self, optimizer: Optimizer, schedulers: Sequence[Any], milestones: Sequence[int], last_epoch: int = -1
    ) -> None:
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(f"{len(schedulers)} schedulers need {len(schedulers) - 1} milestones, not {len(milestones)}")
        if any(s.optimizer is not optimizer for s in schedulers):
            raise ValueError("the schedulers act on different optimizers")
        self.optimizer, self.last_epoch = optimizer, last_epoch + 1
        self._schedulers, self._milestones = list(schedulers), list(milestones)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        for scheduler in self._schedulers:  # each took its first step when it was made
            scheduler.last_epoch -= 1
        self._schedulers[0]._initial_step()
        self._last_lr = self._schedulers[0].get_last_lr()

    def step(self, epoch: int | None = None) -> None:
        if epoch is not None:
            raise TypeError("SequentialLR.step() takes no epoch")
        self.last_epoch += 1
        i = bisect_right(self._milestones, self.last_epoch)
        if i > 0 and self._milestones[i - 1] == self.last_epoch:
            self._schedulers[i].go_to(0)
        else:
            self._schedulers[i].step()
        self._last_lr = self._schedulers[i].get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        own = {k: v for k, v in self.__dict__.items() if k not in ("optimizer", "_schedulers")}
        return own | {"_schedulers": [s.state_dict() for s in self._schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for scheduler, state in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            scheduler.load_state_dict(state)
        self.__dict__.update({k: v for k, v in state_dict.items() if k != "_schedulers"})


class ChainedScheduler(SequentialLR):
    """All schedulers at every step, one after the other: their factors multiply."""

    def __init__(self, schedulers: Sequence[Any], optimizer: Optimizer | None = None) -> None:
        self.optimizer, self._schedulers = optimizer or schedulers[0].optimizer, list(schedulers)
        if any(s.optimizer is not self.optimizer for s in schedulers):
            raise ValueError("the schedulers act on different optimizers")
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def step(self, epoch: int | None = None) -> None:
        for scheduler in self._schedulers:
            scheduler.step()
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


class ReduceLROnPlateau(LRScheduler):
    """lr · factor once `step(metric)` has seen no better metric for more than `patience` calls.

    Better is smaller (mode="min") or larger ("max") than the best so far by `threshold`, relative ("rel") or absolute
    ("abs"). For `cooldown` calls after a reduction nothing is counted. A change below `eps` is not made.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | list[float] = 0.0,
        eps: float = 1e-8,
    ) -> None:
        if factor >= 1.0:
            raise ValueError(f"factor is below 1, not {factor}")
        if mode not in ("min", "max") or threshold_mode not in ("rel", "abs"):
            raise ValueError(f"mode is 'min' or 'max', threshold_mode 'rel' or 'abs', not {mode!r} and {threshold_mode!r}")
        self.optimizer, self.mode, self.factor, self.patience = optimizer, mode, factor, patience
        self.threshold, self.threshold_mode, self.cooldown, self.eps = threshold, threshold_mode, cooldown, eps
        self.min_lrs, self.last_epoch = each("min_lr", min_lr, optimizer), 0
        self.best: float = math.inf if mode == "min" else -math.inf
        self.cooldown_counter, self.num_bad_epochs = 0, 0
        self._last_lr = [group["lr"] for group in optimizer.param_groups]

    def is_better(self, a: float, best: float) -> bool:
        margin = self.threshold if self.mode == "max" else -self.threshold
        limit = best * (1 + margin) if self.threshold_mode == "rel" else best + margin
        return a < limit if self.mode == "min" else a > limit

    def step(self, metrics: Any, epoch: int | None = None) -> None:  # type: ignore[override]
        """Take note of a metric (a number, or a tensor of one element)."""
        current = float(metrics)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        if self.is_better(current, self.best):
            self.best, self.num_bad_epochs = current, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter, self.num_bad_epochs = self.cooldown_counter - 1, 0
        if self.num_bad_epochs > self.patience:
            for group, least in zip(self.optimizer.param_groups, self.min_lrs, strict=True):
                new = max(group["lr"] * self.factor, least)
                group["lr"] = new if group["lr"] - new > self.eps else group["lr"]
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]
