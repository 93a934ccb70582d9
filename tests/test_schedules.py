"""Schedules of the learning rate: the numbers of PyTorch's, resumed from a saved state as if nothing had happened."""

import math
import random

import pytest
from oracle import torch

import tinylora
import tinylora.optim.lr_scheduler
from tinylora.optim import lr_scheduler

CASES = [
    ("LambdaLR", {"lr_lambda": lambda t: 0.95**t}),
    ("LambdaLR", {"lr_lambda": [lambda t: 0.95**t, lambda t: 1 / (t + 1)]}),
    ("MultiplicativeLR", {"lr_lambda": lambda t: 0.95 if t < 60 else 1.0}),
    ("StepLR", {"step_size": 7}), ("StepLR", {"step_size": 30, "gamma": 0.5}),
    ("MultiStepLR", {"milestones": [80, 30, 30]}), ("ExponentialLR", {"gamma": 0.97}),
    ("ConstantLR", {}), ("ConstantLR", {"factor": 0.5, "total_iters": 60}),
    ("LinearLR", {}), ("LinearLR", {"start_factor": 0.1, "end_factor": 0.7, "total_iters": 73}),
    ("PolynomialLR", {}), ("PolynomialLR", {"total_iters": 70, "power": 2.0}),
    ("CosineAnnealingLR", {"T_max": 100}), ("CosineAnnealingLR", {"T_max": 13, "eta_min": 1e-3}),
    ("CosineAnnealingWarmRestarts", {"T_0": 10}),
    ("CosineAnnealingWarmRestarts", {"T_0": 7, "T_mult": 2, "eta_min": 0.01}),
    ("OneCycleLR", {"max_lr": 0.3, "total_steps": 100}), ("OneCycleLR", {"max_lr": 0.3, "epochs": 20, "steps_per_epoch": 6}),
    ("OneCycleLR", {"max_lr": [0.3, 0.1], "total_steps": 111, "anneal_strategy": "linear", "three_phase": True}),
    ("OneCycleLR", {"max_lr": 0.3, "total_steps": 100, "cycle_momentum": False, "pct_start": 0.05}),
]  # fmt: skip


def optimizer_of(library, kind):
    first, second = (library.zeros(2, requires_grad=True) for _ in range(2))
    options = {"momentum": 0.9} if kind == "SGD" else {}
    return getattr(library.optim, kind)([{"params": [first]}, {"params": [second], "lr": 0.02}], lr=0.1, **options)


def numbers(optimizer):
    """What schedules change: learning rates, and momentum or β₁."""
    return [(g["lr"], g["momentum"] if "momentum" in g else g["betas"][0]) for g in optimizer.param_groups]


def close(ours, theirs):
    flat = [abs(x - y) for a, b in zip(ours, theirs, strict=True) for x, y in zip(a, b, strict=True)]
    return max(flat) < 1e-12


@pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler.step")
@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
@pytest.mark.parametrize("name, options", CASES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(CASES)])
def test_a_hundred_steps_are_those_of_pytorch_also_when_resumed_in_the_middle(name, options, kind):
    a, b = optimizer_of(tinylora, kind), optimizer_of(torch, kind)
    ours, theirs = getattr(lr_scheduler, name)(a, **options), getattr(torch.optim.lr_scheduler, name)(b, **options)
    for step in range(100):
        assert close(numbers(a), numbers(b)), step
        assert ours.get_last_lr() == [lr for lr, _ in numbers(a)]
        if step == 50:
            saved = a.state_dict(), ours.state_dict()
            a = optimizer_of(tinylora, kind)
            ours = getattr(lr_scheduler, name)(a, **options)
            a.load_state_dict(saved[0])
            ours.load_state_dict(saved[1])
        ours.step()
        theirs.step()


def joined(library, schedules, options):
    return schedules.SequentialLR(
        options,
        [schedules.LinearLR(options, total_iters=10), schedules.CosineAnnealingLR(options, T_max=50),
         schedules.CosineAnnealingWarmRestarts(options, T_0=7)],
        milestones=[10, 60],
    )  # fmt: skip


def chained(library, schedules, optimizer):
    return schedules.ChainedScheduler(
        [schedules.LinearLR(optimizer, total_iters=10), schedules.ExponentialLR(optimizer, 0.9)]
    )


@pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler.step", "ignore:The epoch parameter")
@pytest.mark.parametrize("make", [joined, chained])
def test_schedules_of_schedules(make):
    a, b = optimizer_of(tinylora, "SGD"), optimizer_of(torch, "SGD")
    ours, theirs = make(tinylora, lr_scheduler, a), make(torch, torch.optim.lr_scheduler, b)
    for step in range(100):
        assert close(numbers(a), numbers(b)), step
        ours.step()
        theirs.step()


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
def test_a_plateau_lowers_the_learning_rate(mode, threshold_mode):
    a, b = optimizer_of(tinylora, "SGD"), optimizer_of(torch, "SGD")
    options = {"mode": mode, "threshold_mode": threshold_mode, "patience": 3, "cooldown": 2, "threshold": 0.01}
    ours = lr_scheduler.ReduceLROnPlateau(a, **options, min_lr=[1e-4, 1e-5])
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(b, **options, min_lr=[1e-4, 1e-5])
    metrics = random.Random(0)
    for _ in range(100):
        metric = metrics.random()
        ours.step(tinylora.tensor(metric, dtype=tinylora.float64))
        theirs.step(metric)
        assert close(numbers(a), numbers(b))
    assert numbers(a)[0][0] < 0.1


def test_fractions_of_an_epoch():
    a, b = optimizer_of(tinylora, "SGD"), optimizer_of(torch, "SGD")
    ours = lr_scheduler.CosineAnnealingWarmRestarts(a, 5, 2)
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(b, 5, 2)
    for step in range(100):
        ours.step(step * 0.37)
        theirs.step(step * 0.37)
        assert close(numbers(a), numbers(b))


def test_a_schedule_of_ones_own():
    class Halved(lr_scheduler.LRScheduler):
        def get_lr(self):
            return [base / 2**self.last_epoch for base in self.base_lrs]

    optimizer = optimizer_of(tinylora, "SGD")
    schedule = Halved(optimizer)
    schedule.step()
    schedule.step()
    assert schedule.get_last_lr() == [0.025, 0.005] and math.isclose(optimizer.param_groups[0]["lr"], 0.025)


def test_what_is_wrong_is_said():
    optimizer = optimizer_of(tinylora, "SGD")
    with pytest.raises(TypeError, match="takes an optimizer, not list"):
        lr_scheduler.StepLR([], 3)
    with pytest.raises(ValueError, match="expected 2 entries of lr_lambda"):
        lr_scheduler.LambdaLR(optimizer, [math.sqrt])
    with pytest.raises(KeyError, match="initial_lr"):
        lr_scheduler.StepLR(optimizer, 3, last_epoch=5)
    schedule = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=3)
    for _ in range(3):
        schedule.step()
    with pytest.raises(ValueError, match="step 4 of a schedule of 3 steps"):
        schedule.step()
    with pytest.raises(NotImplementedError, match="amsgrad"):
        tinylora.optim.Adam([tinylora.zeros(2)], amsgrad=True)
    with pytest.raises(NotImplementedError, match="differentiable"):
        tinylora.optim.SGD([tinylora.zeros(2)], differentiable=True)
    with pytest.raises(TypeError, match="no option beta"):
        tinylora.optim.SGD([tinylora.zeros(2)], beta=1)
