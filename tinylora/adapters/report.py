"""Describes an adapter from its files alone: configuration, sizes, and how much it changes each layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from tinylora.adapters.peft import config as peft
from tinylora.adapters.peft.load import is_peft, read_peft
from tinylora.adapters.store import read_adapter
from tinylora.formats import LoadError
from tinylora.lora import spectrum
from tinylora.tensor import Tensor


class Change(NamedTuple):
    """One layer's ΔW = s A B, without DoRA's magnitudes: sizes, scale s, and singular values, largest first."""

    layer: str
    in_features: int
    out_features: int
    scale: float
    spectrum: np.ndarray  # (rank,)

    @property
    def norm(self) -> float:
        """‖ΔW‖, the Frobenius norm."""
        return float(np.sqrt((self.spectrum**2).sum()))

    @property
    def effective_rank(self) -> int:
        """The number of singular values that make up 99 % of ‖ΔW‖²."""
        share = np.cumsum(self.spectrum**2)
        return int((share < 0.99 * share[-1]).sum()) + 1 if share[-1] else 0


class Report(NamedTuple):
    """An adapter: its configuration, the parameter counts of LoRA and of modules trained whole, and every layer's change."""

    config: dict[str, Any]
    lora: int
    whole: int
    changes: list[Change]


def inspect_adapter(path: str | Path) -> Report:
    """Read the adapter in a file, or in a folder as PEFT writes it. Raises LoadError, as loading it would.

    For PEFT the layers have Hugging Face's names, with one change for query, key and value together.
    """
    scale: Callable[[str], float]
    if is_peft(path):
        _, made, arrays, about = read_peft(path)
        config, scale, turned = {"format": "peft", **dataclasses.asdict(made), **about}, made.scale, True
        pairs = {
            m["module"]: name for name in arrays if (m := peft.LORA.fullmatch(name)) and "A" in (m["ab"], m["embedding"])
        }
        factors = {
            layer: (a, a.replace("lora_A", "lora_B").replace("embedding_A", "embedding_B")) for layer, a in pairs.items()
        }
    else:
        arrays, lora, about = read_adapter(path)
        config, scale, turned = {**about["lora"], **about}, lambda layer: lora.scale, False
        layers = [name.removesuffix(".lora.A") for name in arrays if name.endswith(".lora.A")]
        factors = {layer: (f"{layer}.lora.A", f"{layer}.lora.B") for layer in layers}
    changes = []
    for layer, names in factors.items():
        a, b = (arrays.get(name, np.zeros((0, 0))) for name in names)
        changes.append(_change(str(path), layer, a.T if turned else a, b.T if turned else b, scale(layer)))
    held = sum(array.size for name, array in arrays.items() if ".lora" in name)
    config.pop("lora", None)
    return Report(config, held, sum(array.size for array in arrays.values()) - held, changes)


def _change(path: str, layer: str, a: np.ndarray, b: np.ndarray, scale: float) -> Change:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0] or not a.size or not b.size:
        raise LoadError(f"{path}: A {a.shape} and B {b.shape} of {layer} do not multiply")
    factors = SimpleNamespace(A=Tensor(a), B=Tensor(b), alpha=scale)
    return Change(layer, a.shape[0], b.shape[1], scale, spectrum(factors))
