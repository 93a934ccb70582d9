"""LoRA at work: apply it by name, merge it, and store the change alone.

An adapter file is a safetensors file. It holds A and B of every layer and the modules that are trained whole (the head),
never the base; its metadata holds the LoRAConfig and a fingerprint of the base it belongs to.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinylora import nn
from tinylora.backend import to_device
from tinylora.formats import safetensors
from tinylora.lora import LinearWithLoRA, freeze, lora_modules

SCALES = {
    "alpha": lambda alpha, r: alpha,  # the lecture
    "alpha/r": lambda alpha, r: alpha / r,  # Hu et al. 2021, section 4.1; PEFT's default
    "rslora": lambda alpha, r: alpha / math.sqrt(r),  # Kalajdzievski 2023, "Rank-Stabilized LoRA", theorem 3.2
}
INITS = ("lecture", "peft")


@dataclass(frozen=True)
class LoRAConfig:
    """What to wrap, and how.

    targets: names of Linears, whole paths or their last parts ("W_query", "att.out_proj"), or "all-linear"; `train` names
    modules that are trained whole beside the LoRA and never wrapped. scaling: what multiplies A B, "alpha" (the lecture),
    "alpha/r" (the paper) or "rslora" (alpha/√r). init of A: "lecture" N(0, 1)/√r, or "peft" uniform in ±1/√in.
    """

    rank: int = 16
    alpha: float = 16.0
    targets: tuple[str, ...] = ("all-linear",)
    train: tuple[str, ...] = ()
    scaling: str = "alpha"
    init: str = "lecture"

    def __post_init__(self) -> None:
        if isinstance(self.targets, str) or isinstance(self.train, str):
            raise ValueError("targets and train are tuples of names, not one string")
        if self.scaling not in SCALES or self.init not in INITS:
            raise ValueError(f"scaling is one of {', '.join(SCALES)} and init one of {', '.join(INITS)}")
        if type(self.rank) is not int or self.rank <= 0 or not math.isfinite(self.alpha):
            raise ValueError(f"rank is an integer above 0 and alpha a finite number, got {self.rank!r}, {self.alpha!r}")


@dataclass(frozen=True)
class PlanEntry:
    """One layer that was wrapped: its path, its shape, and how many parameters were added."""

    path: str
    in_features: int
    out_features: int
    added: int


class Plan(list[PlanEntry]):
    """What `apply_lora` did, layer by layer; prints as a table."""

    @property
    def added(self) -> int:
        return sum(entry.added for entry in self)

    def __str__(self) -> str:
        lines = [f"{e.path:40}{e.in_features:7} -> {e.out_features:<7}{e.added:12,}" for e in self]
        return "\n".join([*lines, f"{len(self)} layers, {self.added:,} parameters added"])


def _matches(path: str, target: str) -> bool:
    return target == "all-linear" or path == target or path.endswith(f".{target}")


def _below(path: str, modules: tuple[str, ...]) -> bool:
    return any(path == m or path.startswith(f"{m}.") for m in modules)


def resolve(model: nn.Module, config: LoRAConfig) -> list[str]:
    """Paths of the Linears that `config` names.

    Raises ValueError for an entry that matches nothing, LoRA twice, or a Linear that stands in two places.
    """
    if isinstance(model, nn.Linear):
        raise ValueError("the model is itself a Linear, with no place below it to wrap: use LinearWithLoRA(linear, ..)")
    modules = dict(model.named_modules())
    linears = [path for path, m in modules.items() if isinstance(m, nn.Linear) and not _below(path, config.train)]
    if wrapped := [path for path, _ in lora_modules(model)]:
        raise ValueError(f"LoRA is applied already, to {wrapped[0]} and {len(wrapped) - 1} more: a layer is wrapped once")
    for name in config.train:
        if name not in modules:
            raise ValueError(f"train names {name!r}, and the model has no such module")
    for target in config.targets:
        if not any(_matches(path, target) for path in linears):
            raise ValueError(f"target {target!r} matches no Linear; there are {', '.join(linears[:8])}, ..")
    paths = [path for path in linears if any(_matches(path, target) for target in config.targets)]
    _refuse_shared(model, paths)
    return paths


def _refuse_shared(model: nn.Module, paths: list[str]) -> None:
    """A Linear that stands in two places would be wrapped in one of them alone."""
    first = {id(model.get_submodule(path)): path for path in paths}
    for path, module in model.named_modules():
        for name, child in module.named_children():
            place = f"{path}.{name}" if path else name
            if first.get(id(child), place) != place:
                raise ValueError(f"{first[id(child)]} and {place} are one Linear: LoRA goes around one that stands once")


def _refuse_tied(model: nn.Module, train: tuple[str, ...]) -> None:
    """A weight that stands both inside and outside the modules trained whole would move the base."""
    inside = {id(p): name for name in train for p in model.get_submodule(name).parameters()}
    for path, module in model.named_modules():
        for p in () if _below(path, train) else module._parameters.values():
            if id(p) in inside:
                raise ValueError(f"{inside[id(p)]} shares a weight with {path}: it cannot be trained apart from the base")


def apply_lora(model: nn.Module, config: LoRAConfig) -> Plan:
    """Freeze `model`, wrap the Linears that `config` names, and unfreeze the modules it trains whole.

    Everything is resolved before anything is changed, and if a layer cannot be wrapped the model is put back as it was.

    >>> from tinylora.checkpoint import load_model
    >>> apply_lora(load_model("nano"), LoRAConfig(rank=8, targets=("W_query", "W_value"))).added
    32768
    """
    paths = resolve(model, config)
    _refuse_tied(model, config.train)
    frozen_before = [(p, p.requires_grad) for p in model.parameters()]
    done: list[tuple[nn.Module, str, nn.Module]] = []
    plan = Plan()
    try:
        freeze(model)
        for path in paths:
            parent_path, _, name = path.rpartition(".")
            parent = model.get_submodule(parent_path)
            linear = getattr(parent, name)
            setattr(parent, name, _wrap(linear, config))
            done.append((parent, name, linear))
            added = config.rank * (linear.in_features + linear.out_features)
            plan.append(PlanEntry(path, linear.in_features, linear.out_features, added))
        for name in config.train:
            model.get_submodule(name).requires_grad_(True)
    except BaseException:
        for parent, name, linear in done:
            setattr(parent, name, linear)
        for p, required in frozen_before:
            p.requires_grad = required
        raise
    return plan


def _wrap(linear: nn.Linear, config: LoRAConfig) -> LinearWithLoRA:
    wrapped = LinearWithLoRA(linear, config.rank, config.alpha)
    _set_scale(wrapped, config)
    if config.init == "peft":
        bound = 1 / math.sqrt(linear.in_features)
        wrapped.lora.A = nn.Parameter(wrapped.lora.A.detach().clone().uniform_(-bound, bound))
    return wrapped


def _scale(config: LoRAConfig) -> float:
    """What multiplies A B."""
    return float(SCALES[config.scaling](config.alpha, config.rank))


def _set_scale(wrapped: LinearWithLoRA, config: LoRAConfig) -> None:
    wrapped.lora.alpha = _scale(config)


# -------------------------------------------------------------------------------------------- merging
def merge(model: nn.Module) -> None:
    """Fold every LoRA below `model` into its weight. If one cannot be merged, none is."""
    done: list[LinearWithLoRA] = []
    for path, module in lora_modules(model):
        try:
            module.merge()
            done.append(module)
        except RuntimeError as error:
            for merged in done:
                merged.unmerge()
            raise RuntimeError(f"{path}: {error}") from None


def unmerge(model: nn.Module) -> None:
    """Put every original weight back, the same bytes."""
    for _, module in lora_modules(model):
        module.unmerge()


def merge_and_unload(model: nn.Module) -> None:
    """Merge, and leave plain Linears behind: the model has no LoRA any more, and its change for good."""
    merge(model)
    _unwrap(model)


# ----------------------------------------------------------------------------------- saving and loading
def _stored(model: nn.Module, train: tuple[str, ...]) -> dict[str, nn.Parameter]:
    """The parameters that an adapter holds: A and B of every layer, and those of the modules trained whole."""
    lora = [f"{path}.lora" for path, _ in lora_modules(model)]
    return {path: p for path, p in model.named_parameters() if _below(path, (*lora, *train))}


def fingerprint(model: nn.Module, train: tuple[str, ...] = ()) -> str:
    """SHA-256 of the base: names, shapes and bytes of all parameters that an adapter does not hold."""
    digest = hashlib.sha256()
    stored = _stored(model, train).keys()
    if any(m.unmerged for _, m in lora_modules(model)):
        raise RuntimeError("the model is merged: call unmerge() before an adapter is saved or loaded")
    wrapped = {f"{path}.linear": path for path, _ in lora_modules(model)}
    for path, p in model.named_parameters():
        owner, _, name = path.rpartition(".")
        if path not in stored:
            digest.update(f"{wrapped.get(owner, owner)}.{name} {p.shape} {p.dtype}".encode())
            digest.update(to_device(p.data, "cpu").tobytes())
    return digest.hexdigest()


def save_adapter(model: nn.Module, path: str | Path, config: LoRAConfig, /, **extra: Any) -> None:
    """Write the adapter of `model`, made by `apply_lora(model, config)`, with `extra` JSON values in its metadata.

    Raises ValueError, and writes nothing, if a layer's rank or scale is not that of `config`, or a value is NaN.
    """
    arrays = {name: to_device(p.data, "cpu") for name, p in _stored(model, config.train).items()}
    if not any(lora_modules(model)):
        raise ValueError("the model has no LoRA to save")
    for where, module in lora_modules(model):
        found, expected = (module.lora.A.shape[1], module.lora.alpha), (config.rank, _scale(config))
        if found != expected:
            raise ValueError(f"{where} has rank and scale {found}, and the configuration to be saved says {expected}")
    _refuse_nan(str(path), arrays)
    about = {"format": "tinylora-adapter", "lora": dataclasses.asdict(config), "base": fingerprint(model, config.train)}
    safetensors.save(path, arrays, {"tinylora": json.dumps({**about, **extra})})


def read_adapter(path: str | Path) -> tuple[dict[str, np.ndarray], LoRAConfig, dict[str, Any]]:
    """The arrays of an adapter file, its LoRAConfig, and its metadata. Raises ValueError that names the file."""
    arrays, metadata = safetensors.load(path)
    try:
        about = json.loads(metadata["tinylora"])
        lora = about["lora"]
        config = LoRAConfig(**{**lora, "targets": tuple(lora["targets"]), "train": tuple(lora["train"])})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a tinylora adapter ({type(error).__name__}: {error})") from None
    _refuse_nan(str(path), arrays)
    return arrays, config, about


def load_adapter(model: nn.Module, path: str | Path, lora_only: bool = False) -> LoRAConfig:
    """Put the adapter in a file onto its base, wrapping the layers if they are not. Returns its LoRAConfig.

    With `lora_only` the modules trained whole are left out: the adapter's change under the model's own head. Raises
    ValueError, and leaves the model as it was, if names or shapes do not fit, a value is NaN, or the base is another one.
    """
    arrays, config, about = read_adapter(path)
    fresh = not any(lora_modules(model))
    required_before = [(p, p.requires_grad) for p in model.parameters()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the rank was remarked upon when it was trained
            if fresh:
                alone = dataclasses.replace(config, targets=tuple(resolve(model, config)), train=()) if lora_only else config
                apply_lora(model, alone)
        if lora_only:
            arrays = {k: a for k, a in arrays.items() if not _below(k, config.train)}
        stored = _stored(model, () if lora_only else config.train)
        faults = [f"missing: {k}" for k in stored.keys() - arrays.keys()]
        faults += [f"unexpected: {k}" for k in arrays.keys() - stored.keys()]
        shared = sorted(stored.keys() & arrays.keys())
        faults += [
            f"{k}: expected {stored[k].shape}, got {arrays[k].shape}" for k in shared if stored[k].shape != arrays[k].shape
        ]
        if faults:
            raise ValueError(f"{path}: does not fit the model:\n  " + "\n  ".join(sorted(faults)))
        if fingerprint(model, config.train) != about.get("base"):
            raise ValueError(f"{path}: this adapter was trained on another base model")
    except BaseException:
        if fresh:
            _unwrap(model)
            for p, required in required_before:
                p.requires_grad = required
        raise
    for name, parameter in stored.items():
        parameter.data = to_device(arrays[name].astype(parameter.dtype), parameter.device)
    for _, module in lora_modules(model):
        _set_scale(module, config)
    return config


def _unwrap(model: nn.Module) -> None:
    for path, module in list(lora_modules(model)):
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, module.linear)


def _refuse_nan(path: str, arrays: dict[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{path}: NaN or infinity in {name}")
