"""Applies LoRA to the layers that a LoRAConfig names. All targets are checked before anything is changed."""

from __future__ import annotations

import fnmatch
import math
import re
from dataclasses import dataclass

from tinylora import nn
from tinylora.adapters.config import VARIANTS, LoRAConfig
from tinylora.adapters.variants import DropoutDoRA, DropoutLoRA, EmbeddingWithLoRA, QLoRA, QuantizedLinear
from tinylora.lora import LinearWithLoRA, freeze, lora_modules


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
        return "\n".join([*lines, f"{len(self)} layer{'s' * (len(self) != 1)}, {self.added:,} parameters added"])


def _matches(path: str, target: str) -> bool:
    """Whether a target names this path, as a whole or by its last parts; `*` stands for anything inside them."""
    return target == "all-linear" or fnmatch.fnmatchcase(path, target) or fnmatch.fnmatchcase(path, f"*.{target}")


def _chosen(path: str, targets: tuple[str, ...] | str) -> bool:
    """Whether one of several names, or one regular expression for whole paths, chooses this path."""
    if isinstance(targets, str):
        return targets == "all-linear" or re.fullmatch(targets, path) is not None
    return any(_matches(path, target) for target in targets)


def below(path: str, modules: tuple[str, ...]) -> bool:
    """Whether `path` is one of `modules` or inside one."""
    return any(path == m or path.startswith(f"{m}.") for m in modules)


def resolve(model: nn.Module, config: LoRAConfig) -> list[str]:
    """Paths of the Linears and Embeddings that `config` names; "all-linear" means all Linears and no Embedding.

    Raises ValueError for a name that matches nothing, for LoRA on LoRA, and for a Linear that is used in two places.
    """
    if isinstance(model, nn.Linear):
        raise ValueError("the model is itself a Linear, with no place below it to wrap: use LinearWithLoRA(linear, ..)")
    modules = dict(model.named_modules())
    linears = [path for path, m in modules.items() if isinstance(m, nn.Linear) and not below(path, config.train)]
    tables = [path for path, m in modules.items() if isinstance(m, nn.Embedding) and not below(path, config.train)]
    if wrapped := [path for path, _ in lora_modules(model)]:
        raise ValueError(f"LoRA is applied already, to {wrapped[0]} and {len(wrapped) - 1} more: a layer is wrapped once")
    for name in config.train:
        if name not in modules:
            raise ValueError(f"train names {name!r}, and the model has no such module")
    targets = config.targets
    one_by_one = [targets] if isinstance(targets, str) else [(target,) for target in targets]
    for one in one_by_one:
        if not any(_chosen(path, one) for path in (*linears, *tables)):
            target = f"target {one[0]!r}" if isinstance(one, tuple) else f"the regular expression {one!r}, of whole paths,"
            raise ValueError(f"{target} matches no Linear; there are {', '.join(linears[:8])}, ..")
    named = [one for one in one_by_one if one not in ("all-linear", ("all-linear",))]
    paths = [path for path in tables if any(_chosen(path, one) for one in named)]
    paths += [path for path in linears if _chosen(path, targets)]
    _refuse_shared(model, paths)
    return paths


def _refuse_shared(model: nn.Module, paths: list[str]) -> None:
    """Raise ValueError for a Linear that is used in two places: only one of them would be wrapped."""
    first = {id(model.get_submodule(path)): path for path in paths}
    for path, module in model.named_modules():
        for name, child in module.named_children():
            place = f"{path}.{name}" if path else name
            if first.get(id(child), place) != place:
                raise ValueError(f"{first[id(child)]} and {place} are one Linear: LoRA goes around one that stands once")


def _refuse_tied(model: nn.Module, train: tuple[str, ...]) -> None:
    """Raise ValueError for a weight that a module trained whole shares with others: training it would change the base."""
    inside = {id(p): name for name in train for p in model.get_submodule(name).parameters()}
    for path, module in model.named_modules():
        for p in () if below(path, train) else module._parameters.values():
            if id(p) in inside:
                raise ValueError(f"{inside[id(p)]} shares a weight with {path}: it cannot be trained apart from the base")


def apply_lora(model: nn.Module, config: LoRAConfig) -> Plan:
    """Freeze `model`, wrap the Linears that `config` names, and unfreeze the modules it trains whole.

    If a layer cannot be wrapped, the model is restored.

    >>> from tinylora.models import load_model
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
            setattr(parent, name, wrapped := wrap(linear, config))
            done.append((parent, name, linear))
            A, B = wrapped.lora.A, wrapped.lora.B
            plan.append(PlanEntry(path, A.shape[0], B.shape[1], A.numel() + B.numel()))
        for name in config.train:
            model.get_submodule(name).requires_grad_(True)
    except BaseException:
        for parent, name, linear in done:
            setattr(parent, name, linear)
        for p, required in frozen_before:
            p.requires_grad = required
        raise
    return plan


def wrap(layer: nn.Linear | nn.Embedding, config: LoRAConfig) -> LinearWithLoRA:
    """The LoRA layer around `layer` that `config` describes. Raises ValueError for a variant that does not support it."""
    rank, scale = config.rank, config.scale
    wrapped: LinearWithLoRA
    if isinstance(layer, nn.Embedding | QuantizedLinear) and config.variant != "lora":
        raise ValueError(f"variant {config.variant!r} is for a plain Linear, not for {type(layer).__name__}")
    if isinstance(layer, nn.Embedding):
        wrapped = EmbeddingWithLoRA(layer, rank, scale)
    elif isinstance(layer, QuantizedLinear):
        wrapped = QLoRA(layer, rank, scale, config.dropout)
    elif config.dropout and config.variant == "dora":
        wrapped = DropoutDoRA(layer, rank, scale, config.dropout)
    elif config.dropout:
        wrapped = DropoutLoRA(layer, rank, scale, config.dropout)
    else:
        wrapped = VARIANTS[config.variant](layer, rank, scale)
    if config.init == "peft":
        bound = 1 / math.sqrt(wrapped.lora.A.shape[0])
        wrapped.lora.A.array = wrapped.lora.A.detach().clone().uniform_(-bound, bound).array
    wrapped.train(layer.training)
    return wrapped


def unwrap(model: nn.Module) -> None:
    """Replace every LoRA layer by the Linear inside, as it is now."""
    for path, module in list(lora_modules(model)):
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, module.linear)
