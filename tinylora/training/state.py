"""TrainState: everything that the next training step depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinylora import backend
from tinylora.backend import Array, to_device
from tinylora.models.decoder import Decoder
from tinylora.optim import AdamW


@dataclass
class Best:
    """The best state so far: when it was, its rank (the larger the better), and the values of what is trained.

    The state before any validation has epoch 0, step 0 and the lowest rank, ().
    """

    epoch: int
    step: int
    rank: tuple[float, ...]
    arrays: list[Array]


class TrainState:
    """What is trained, the optimizer, how far training is, the random generators, and the best state so far.

    `epoch` counts finished epochs, `step` all steps, `step_in_epoch` those of the epoch under way, and `validated` is the
    step of the last validation. The order of the examples is not part of it: it follows from the seed and the epoch.
    """

    def __init__(self, model: Decoder, optimizer: AdamW) -> None:
        self.trained = {path: p for path, p in model.named_parameters() if p.requires_grad}
        self.optimizer = optimizer
        self.epoch = self.step = self.step_in_epoch = self.validated = 0
        self.best = Best(0, 0, (), self._values())
        self.evaluations_since_best = 0
        self.finished = False

    def _values(self) -> list[Array]:
        return [p.array.copy() for p in self.trained.values()]  # copied: a step may overwrite the arrays

    def keep_best(self, rank: tuple[float, ...]) -> bool:
        """Remember the present values if `rank` is the highest so far; whether it is."""
        if not rank > self.best.rank:
            self.evaluations_since_best += 1
            return False
        self.best, self.evaluations_since_best = Best(self.epoch, self.step, rank, self._values()), 0
        return True

    def restore_best(self) -> None:
        """Put the best values back into the model."""
        for p, array in zip(self.trained.values(), self.best.arrays, strict=True):
            p.array = array.copy()

    # ------------------------------------------------------------------------------- storing
    def state_dict(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """All of it as CPU arrays by name, and numbers as JSON values."""
        optimizer = self.optimizer.state_dict()
        arrays = {f"weight.{path}": to_device(p.array, "cpu") for path, p in self.trained.items()}
        numbers: list[dict[str, Any]] = []
        for path, state in zip(self.trained, optimizer["state"], strict=True):
            arrays |= {f"optimizer.{path}.{k}": v for k, v in state.items() if hasattr(v, "shape")}
            numbers.append({k: v for k, v in state.items() if not hasattr(v, "shape")})
        best_values = zip(self.trained, self.best.arrays, strict=True)
        arrays |= {f"best.{path}": to_device(array, "cpu") for path, array in best_values}
        best = {"epoch": self.best.epoch, "step": self.best.step, "rank": list(self.best.rank)}
        return arrays, {
            "epoch": self.epoch, "step": self.step, "step_in_epoch": self.step_in_epoch, "validated": self.validated,
            "finished": self.finished, "best": best, "evaluations_since_best": self.evaluations_since_best,
            "optimizer": numbers, "groups": optimizer["param_groups"], "random": backend.random_state(),
        }  # fmt: skip

    def load_state_dict(self, arrays: dict[str, np.ndarray], numbers: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, for the same model."""
        states = []
        for path, few in zip(self.trained, numbers["optimizer"], strict=True):
            start = f"optimizer.{path}."
            states.append({**few, **{k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}})
        self.optimizer.load_state_dict({"state": states, "param_groups": numbers["groups"]})
        for path, p in self.trained.items():
            p.array = to_device(arrays[f"weight.{path}"], p.device)
        found = [to_device(arrays[f"best.{path}"], p.device) for path, p in self.trained.items()]
        best = numbers["best"]
        self.best = Best(best["epoch"], best["step"], tuple(best["rank"]), found)
        for name in ("epoch", "step", "step_in_epoch", "validated", "finished", "evaluations_since_best"):
            setattr(self, name, numbers[name])
        backend.set_random_state(numbers["random"])
