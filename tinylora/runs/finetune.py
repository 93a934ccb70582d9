"""finetune(): reads the data, prepares the model, trains it, measures it, and writes a run's folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from tinylora import backend
from tinylora.adapters import apply_lora
from tinylora.models.source import ModelSource
from tinylora.runs.metrics_log import MetricsLog
from tinylora.runs.recipe import Recipe
from tinylora.runs.run import Run
from tinylora.runs.run_folder import check_output, save_run
from tinylora.tasks import TASKS
from tinylora.tasks.examples import Splits
from tinylora.tasks.guess import guess_task
from tinylora.tasks.task import Task
from tinylora.training.loop import Trainer
from tinylora.training.recompute import checkpoint_modules
from tinylora.training.report import Reporter, Reporters


def finetune(
    model: str | Path,
    data: str | Path,
    task: str | None = None,
    *,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    **options: Any,
) -> Run:
    """Fine-tune `model` ("nano", "smollm2", a folder, a file, a name on the hub) with LoRA on the examples in a file.

    `task` is "classify", "tag" or "text"; without it, it is guessed from the file.
    `options` are the fields of `Recipe`, which has their defaults. The run is written to the new folder `out`, by default
    runs/NAME-OF-DATA. Raises ValueError that names the file and the line for data that cannot be read.
    """
    recipe = Recipe(str(model), str(data), task or guess_task(data), **options)
    folder = Path(out) if out is not None else Path("runs") / Path(data).stem
    check_output(folder)
    parts = _read(TASKS[recipe.task], recipe)
    backend.manual_seed(recipe.seed)
    source = ModelSource.open(recipe.model)
    net = source.model()
    length = min(recipe.max_length or net.cfg.context_length, net.cfg.context_length)
    kind = TASKS[recipe.task]
    work = kind.of(source, length, **kind.found_in(parts))
    work.head(net, bias=source.head_bias)
    apply_lora(net, recipe.lora)
    if recipe.checkpoint:
        checkpoint_modules(net.trf_blocks)
    log = MetricsLog()
    reporter = Reporters(log, reporter or Reporter())
    reporter.began(work, parts, net)
    state = Trainer(net, work, parts.train, parts.valid, recipe.training, reporter).run()
    score = work.evaluate(net, parts.test)
    reporter.tested(score)
    about = {
        "recipe": dataclasses.asdict(recipe), "task": {"name": work.name, **work.describe()},
        "examples": {name: len(part) for name, part in parts._asdict().items()},
        "best": {"epoch": state.best.epoch, "step": state.best.step}, "test": score.as_dict(),
    }  # fmt: skip
    save_run(folder, source, net, recipe.lora, about, log.rows)
    return Run(folder, net, source, work, score)


def _read(task: type[Task], recipe: Recipe) -> Splits:
    """The examples of all files. What has a file of its own is not split off from `data`."""
    examples = task.read(recipe.data, **recipe.columns)
    given = {name: getattr(recipe, name) for name in ("valid", "test")}
    own = {name: task.read(path, **recipe.columns) for name, path in given.items() if path is not None}
    if len(own) == 2:
        return Splits(examples, own["valid"], own["test"])
    parts = task.split(
        examples, recipe.seed, *(0.0 if name in own else share for name, share in (("valid", 0.1), ("test", 0.2)))
    )
    return parts._replace(**own)
