"""Recipe: everything that was asked for in a fine-tuning run, in one dataclass with all defaults."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from tinylora.adapters import LoRAConfig
from tinylora.tasks import TASKS
from tinylora.training.loop import TrainConfig


@dataclass(frozen=True)
class Recipe:
    """The model, the data, the task, and the options of LoRA and of training. The command line's options are these fields.

    Fields that LoRAConfig and TrainConfig have too mean the same there. valid, test: files of their own, else parts of
    `data`. max_length: tokens of an example, by default the model's context. checkpoint: compute activations again in the
    backward pass, which takes less memory and more time.
    """

    model: str
    data: str
    task: str
    valid: str | None = None
    test: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    max_length: int | None = None

    rank: int = 16
    alpha: float = 16.0
    scaling: str = "alpha/r"
    targets: tuple[str, ...] = ("all-linear",)
    dropout: float = 0.0
    variant: str = "lora"

    epochs: int = TrainConfig.epochs
    lr: float = TrainConfig.lr
    batch_size: int = TrainConfig.batch_size
    accumulate: int = TrainConfig.accumulate
    pack: bool = TrainConfig.pack
    seed: int = TrainConfig.seed
    warmup: float = TrainConfig.warmup
    schedule: str = TrainConfig.schedule
    clip: float = TrainConfig.clip
    weight_decay: float = TrainConfig.weight_decay
    patience: int | None = None
    eval_every: int | None = None
    checkpoint: bool = False
    graph: bool = True

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"task is one of {', '.join(TASKS)}, not {self.task!r}")
        self.lora, self.training  # noqa: B018 - both check their entries

    @property
    def lora(self) -> LoRAConfig:
        return LoRAConfig(**self._shared_with(LoRAConfig), train=TASKS[self.task].whole)

    @property
    def training(self) -> TrainConfig:
        return TrainConfig(**self._shared_with(TrainConfig))

    @property
    def columns(self) -> dict[str, str]:
        """The names of columns that were given."""
        named = {"text_column": self.text_column, "label_column": self.label_column}
        return {name: column for name, column in named.items() if column is not None}

    def _shared_with(self, kind: type[Any]) -> dict[str, Any]:
        own = {field.name for field in dataclasses.fields(self)}
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(kind) if field.name in own}
