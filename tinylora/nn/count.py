"""Counts a model's parameters, by part (base, LoRA, head) and by whether they are trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinylora.nn.module import Module

HEADS = ("out_head", "head", "score", "classifier", "lm_head")


@dataclass
class Group:
    """The number of parameters in one part of a model, and their size in bytes."""

    trainable: int = 0
    frozen: int = 0
    trainable_bytes: int = 0
    frozen_bytes: int = 0

    @property
    def total(self) -> int:
        return self.trainable + self.frozen

    @property
    def bytes(self) -> int:
        return self.trainable_bytes + self.frozen_bytes


@dataclass
class ParameterCount:
    """The counts of a model's base, LoRA and head. `str()` prints them as a table."""

    base: Group = field(default_factory=Group)
    lora: Group = field(default_factory=Group)
    head: Group = field(default_factory=Group)

    @property
    def groups(self) -> dict[str, Group]:
        return {"base": self.base, "lora": self.lora, "head": self.head}

    @property
    def trainable(self) -> int:
        return sum(g.trainable for g in self.groups.values())

    @property
    def frozen(self) -> int:
        return sum(g.frozen for g in self.groups.values())

    @property
    def total(self) -> int:
        return self.trainable + self.frozen

    @property
    def bytes(self) -> int:
        return sum(g.bytes for g in self.groups.values())

    def __str__(self) -> str:
        lines = [f"{'':8}{'trainable':>15}{'frozen':>15}{'total':>15}{'bytes':>17}"]
        for name, g in self.groups.items():
            lines.append(f"{name:8}{g.trainable:15,}{g.frozen:15,}{g.total:15,}{g.bytes:17,}")
        lines.append(f"{'all':8}{self.trainable:15,}{self.frozen:15,}{self.total:15,}{self.bytes:17,}")
        share = 100 * self.trainable / self.total if self.total else 0.0
        return "\n".join([*lines, f"{share:.2f} % of the parameters are trainable"])


def count_parameters(model: Module) -> ParameterCount:
    """Count every parameter of `model` once (tied weights too), split by base / LoRA / head and trainable / frozen.

    >>> from tinylora import nn
    >>> count_parameters(nn.Linear(768, 2)).trainable
    1538
    """
    count = ParameterCount()
    for path, p in model.named_parameters():
        group = count.lora if "lora" in path.split(".") else count.head if path.split(".")[0] in HEADS else count.base
        if p.requires_grad:
            group.trainable += p.numel()
            group.trainable_bytes += p.array.nbytes
        else:
            group.frozen += p.numel()
            group.frozen_bytes += p.array.nbytes
    return count
