"""Recipe: everything that was asked for in a fine-tuning run, in one dataclass with all defaults."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinylora.adapters import LoRAConfig
from tinylora.runs.run_folder import BITS
from tinylora.tasks import TASKS
from tinylora.training.loop import TrainConfig

ENOUGH = 120  # steps that an adapter needs to learn something
TASK_OPTIONS = sorted({name for task in TASKS.values() for name in task.options})


@dataclass(frozen=True)
class Recipe:
    """The model, the data, the task, and the options of LoRA and of training. The command line's options are these fields.

    Fields that LoRAConfig and TrainConfig have too mean the same there. valid, test: files of their own, else parts of
    `data`. epochs: by default 2, or as many more as little data needs. max_length: tokens of an example, by default the
    model's context. bits: quantise the base to 8 (int8) or 4 (NF4) first. adapter: a finished run to go on from; its rank,
    targets and scale hold. checkpoint: compute activations again in the backward pass, which takes less memory and more
    time. save_every: how often the run is saved so that it can go on, in steps (100) or seconds ("30s"), by default after
    each epoch; it changes no result.

    Options of a task, None for its own default: truncate, class_weights, label_smoothing (classify: see `Classify`), twice
    (tag: see `Tag`).
    """

    model: str
    data: str
    task: str
    valid: str | None = None
    test: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    max_length: int | None = None
    truncate: str | None = None
    class_weights: bool | None = None
    label_smoothing: float | None = None
    twice: bool | None = None

    rank: int = 16
    alpha: float = 16.0
    scaling: str = LoRAConfig.scaling
    targets: tuple[str, ...] = ("all-linear",)
    dropout: float = 0.0
    variant: str = "lora"
    bits: int | None = None
    adapter: str | None = None

    epochs: int | None = None
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
    save_every: int | str | None = None

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"task is one of {', '.join(TASKS)}, not {self.task!r}")
        self.lora, self.training  # noqa: B018 - both check their entries
        for name in TASK_OPTIONS:
            if getattr(self, name) is not None and name not in TASKS[self.task].options:
                tasks = ", ".join(task.name for task in TASKS.values() if name in task.options)
                raise ValueError(f"{name} is an option of {tasks}, not of {self.task}")
        if self.bits not in (None, *BITS):
            raise ValueError(f"bits is 8 or 4, or None for a base that is not quantised, not {self.bits!r}")
        interval(self.save_every)

    @property
    def base(self) -> str:
        """The model's name; of a path, the absolute one."""
        boxed = self.model in ("nano", "smollm2")
        return self.model if boxed or not Path(self.model).exists() else str(Path(self.model).absolute())

    @property
    def lora(self) -> LoRAConfig:
        return LoRAConfig(**self._shared_with(LoRAConfig), train=TASKS[self.task].whole)

    @property
    def training(self) -> TrainConfig:
        return TrainConfig(**{**self._shared_with(TrainConfig), "epochs": self.epochs or TrainConfig.epochs})

    def training_on(self, examples: int) -> TrainConfig:
        """`training`; without `epochs`, as many as `examples` need for ENOUGH steps: 2 at least, 30 at most."""
        config = self.training
        steps = math.ceil(examples / (config.batch_size * config.accumulate))
        enough = min(30, max(TrainConfig.epochs, math.ceil(ENOUGH / max(1, steps))))
        return config if self.epochs else dataclasses.replace(config, epochs=enough)

    @property
    def task_options(self) -> dict[str, Any]:
        """The options of the task that were given."""
        return {name: value for name in TASKS[self.task].options if (value := getattr(self, name)) is not None}

    @property
    def columns(self) -> dict[str, str]:
        """The names of columns that were given."""
        named = {"text_column": self.text_column, "label_column": self.label_column}
        return {name: column for name, column in named.items() if column is not None}

    def _shared_with(self, kind: type[Any]) -> dict[str, Any]:
        own = {field.name for field in dataclasses.fields(self)}
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(kind) if field.name in own}


def interval(every: int | str | None) -> tuple[int, float]:
    """Steps and seconds of `save_every`, of which one at least is 0.

    >>> interval("100"), interval("30s"), interval(None)
    ((100, 0.0), (0, 30.0), (0, 0.0))
    """
    if every is None:
        return 0, 0.0
    text = str(every).strip()
    seconds = text.endswith("s")
    try:
        number = float(text[:-1]) if seconds else int(text)
    except ValueError:
        number = 0
    if not 0 < number < float("inf"):
        raise ValueError(f'save_every is a number of steps, such as 100, or of seconds, such as "30s", not {every!r}')
    return (0, number) if seconds else (int(number), 0.0)
