"""Optimizers and schedules of the learning rate, with PyTorch's names and arithmetic."""

from __future__ import annotations

import importlib
import typing

from tinylora.optim.adaptive import Adagrad, RMSprop
from tinylora.optim.optimizers import SGD, Adam, AdamW, Optimizer

if typing.TYPE_CHECKING:
    from tinylora.optim import lr_scheduler


def __getattr__(name: str) -> typing.Any:
    """`optim.lr_scheduler` is imported at its first use."""
    if name == "lr_scheduler":
        return importlib.import_module("tinylora.optim.lr_scheduler")
    raise AttributeError(f"module 'tinylora.optim' has no attribute {name!r}")
