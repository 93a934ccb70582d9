"""Learning-rate schedules: the fraction of the peak learning rate at each step."""

from __future__ import annotations

import math
from collections.abc import Callable


def _cosine(progress: float) -> float:
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))


DECAYS: dict[str, Callable[[float], float]] = {
    "cosine": _cosine,  # to a tenth
    "linear": lambda progress: 1.0 - 0.9 * progress,  # to a tenth
    "constant": lambda progress: 1.0,
}


def learning_rate(schedule: str, step: int, steps: int, warmup: int) -> float:
    """Fraction of the peak at `step` of `steps`: a linear warm-up over `warmup` steps, then the decay `schedule` names.

    >>> [round(learning_rate("cosine", step, steps=4, warmup=2), 2) for step in range(5)]
    [0.5, 1.0, 1.0, 0.55, 0.1]
    """
    if step < warmup:
        return (step + 1) / warmup
    return DECAYS[schedule]((step - warmup) / max(1, steps - warmup))
