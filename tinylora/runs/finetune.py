"""finetune() and resume(): read the data, prepare the model, train it, measure it, and write a run's folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from tinylora import backend, nn
from tinylora.adapters import LoRAConfig, apply_lora, fingerprint, pissa_to_lora
from tinylora.adapters.variants import quantize
from tinylora.formats import strict_json
from tinylora.models.decoder import Decoder
from tinylora.models.source import ModelSource
from tinylora.runs.lock import FolderError
from tinylora.runs.open_run import OpenRun, Saver
from tinylora.runs.provenance import differences, files_of, recipe_in, surroundings
from tinylora.runs.recipe import Recipe
from tinylora.runs.run import Run
from tinylora.runs.run_folder import BITS, CONFIG, load_finetuned, save_result, to_resume
from tinylora.runs.signals import InterruptedRunError, Signals
from tinylora.tasks import TASKS
from tinylora.tasks.examples import Splits
from tinylora.tasks.guess import guess_task
from tinylora.tasks.task import Task
from tinylora.training.loop import Trainer
from tinylora.training.memory import check, weights_need
from tinylora.training.recompute import checkpoint_modules
from tinylora.training.report import Reporter, Reporters

SMALLER = (
    "try a smaller batch_size and a larger accumulate (their product decides the result), a smaller max_length, or "
    "checkpoint, which computes activations again"
)
OTHER = "try a smaller model"


def finetune(
    model: str | Path,
    data: str | Path,
    task: str | None = None,
    *,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    resume: bool = False,
    **options: Any,
) -> Run:
    """Fine-tune `model` ("nano", "smollm2", a folder, a file, a name on the hub) with LoRA on the examples in a file.

    `task` is "classify", "chat", "tag" or "text"; without it, it is guessed from the file.
    `options` are the fields of `Recipe`, which has their defaults. The run is written to the new folder `out`, by default
    runs/NAME-OF-DATA. With `resume` a run that was begun there with the same options and data goes on from its newest
    checkpoint, and ends with the same bytes as if nothing had happened.

    Raises ValueError that names the file and the line for data that cannot be read; FolderError for a folder that is in use,
    or holds something else; FloatingPointError if the loss becomes NaN, after the best state so far is written, if there
    is one; and InterruptedRunError, a KeyboardInterrupt, after a checkpoint is written.
    """
    recipe = Recipe(str(model), str(data), task or guess_task(data), **options)
    folder = Path(out) if out is not None else Path("runs") / Path(data).stem
    return _run(recipe, folder, reporter or Reporter(), resume)


def resume(folder: str | Path, reporter: Reporter | None = None) -> Run:
    """Go on with the run in `folder` from its newest checkpoint. One that is finished is loaded. Raises as `finetune`."""
    folder = Path(folder)
    about = strict_json.read(folder / CONFIG)
    with backend.device(about.get("device") or backend.default_device()):
        return _run(recipe_in(about, folder), folder, reporter or Reporter(), resume=True)


def _run(recipe: Recipe, folder: Path, reporter: Reporter, resume: bool) -> Run:
    with Signals() as signals:
        try:
            with OpenRun(folder, resume) as run:
                return _go_on(run, recipe, reporter, signals)
        except InterruptedRunError as error:
            again = f"{to_resume(folder)} goes on" if folder.is_dir() else "nothing was written"
            raise InterruptedRunError(f"interrupted: {again}", error.signal) from None


def _go_on(run: OpenRun, recipe: Recipe, reporter: Reporter, signals: Signals) -> Run:
    files = files_of(recipe)
    if run.resumed:
        if different := differences(run.about, recipe, files):
            raise FolderError(f"{run.folder} was begun with other arguments: {'; '.join(different)}")
        if run.over and run.about["status"] == "failed":
            raise FolderError(f"{run.folder} has failed: {run.about['reason']}; begin anew in another folder")
        if run.over:
            reporter.note(f"{run.folder} is finished: there is nothing to go on with")
            run.checkpoints.remove()  # left if it was killed in its last moment
            return Run.load(run.folder)
        for name, now in surroundings().items():
            if (then := run.about.get(name)) != now:
                reporter.note(f"{name}: {then} when the run was begun, {now} now: the result may differ in its last bits")
    run.start(
        model=recipe.base, recipe=dataclasses.asdict(recipe), files=files, device=str(backend.default_device()),
        **surroundings(),
    )  # fmt: skip
    prepared = _prepare(recipe)
    source, net, work, parts, lora = prepared
    base = fingerprint(net, lora.train)
    if run.resumed and run.about.get("base", base) != base:
        raise FolderError(f"{run.folder} was begun with another base model: {source.name} has changed since")
    run.note(
        model=source.name, base=base, labels=list(net.cfg.labels), task={"name": work.name, **work.describe()},
        examples={name: len(part) for name, part in parts._asdict().items()},
    )  # fmt: skip
    found, damaged = run.newest()
    for text in damaged:
        reporter.note(text)
    both = Reporters(run.begin(found), reporter)
    both.began(work, parts, net)
    trainer = Trainer(net, work, parts.train, parts.valid, recipe.training_on(len(parts.train)), both)
    if cut := sum(piece.cut for piece in trainer.encoded):
        long = f"{cut:,} of {len(trainer.encoded):,} examples are longer than {work.max_length:,} tokens"
        both.note(f"{long}: the {work.keeps} is kept")
    if found:
        trainer.state.load_state_dict(found.arrays, found.numbers)
        reporter.note(f"going on after step {trainer.state.step:,} of {trainer.steps:,}")
    plan = trainer.plan(recipe.checkpoint)
    reporter.planned(plan)
    check(plan.memory, backend.default_device(), "this training", SMALLER)
    saver = Saver(run, recipe.save_every, signals)
    failure = None
    try:
        with signals.deferred():
            trainer.run(saver.after_step, saver.validating)
    except FloatingPointError as error:
        if not trainer.state.best.step:
            raise
        failure = f"{error}; the best state before, of epoch {trainer.state.best.epoch}, is kept"
        reporter.note(failure)
    return _finish(run, recipe, prepared, trainer, both, failure)


class Prepared(NamedTuple):
    """A model that is ready to be trained on a task's examples."""

    source: ModelSource
    model: Decoder
    task: Task
    parts: Splits
    lora: LoRAConfig


def _prepare(recipe: Recipe) -> Prepared:
    parts = _read(TASKS[recipe.task], recipe)
    backend.manual_seed(recipe.seed)
    kind = TASKS[recipe.task]
    options = kind.found_in(parts, **recipe.task_options)
    if recipe.adapter is not None:
        source, net, lora = _adapted(recipe, options)
    else:
        source, lora = ModelSource.open(recipe.model), recipe.lora
        weights = weights_need(source.family.model, source.config)
        check(weights, backend.default_device(), f"{recipe.model} in float32", OTHER)
        net = source.model()
    length = min(recipe.max_length or net.cfg.context_length, net.cfg.context_length)
    work = kind.of(source, length, **options)
    if recipe.adapter is None:
        work.head(net, bias=source.head_bias)
        if recipe.bits:
            quantize(net, BITS[recipe.bits])
        lora = _without_head(net, lora)
        apply_lora(net, lora)
    if recipe.checkpoint:
        checkpoint_modules(net.trf_blocks)
    return Prepared(source, net, work, parts, lora)


def _without_head(net: Decoder, lora: LoRAConfig) -> LoRAConfig:
    """With "all-linear" as all Linears but a head that scores tokens, as in PEFT; the blocks' layers by name."""
    if net.classifies or "all-linear" not in lora.targets:
        return lora
    paths = [path for path, module in net.named_modules() if isinstance(module, nn.Linear) and module is not net.out_head]
    names = dict.fromkeys(".".join(path.split(".")[-2:]) for path in paths)  # such as "att.W_query"
    return dataclasses.replace(lora, targets=(*names, *(target for target in lora.targets if target != "all-linear")))


def _adapted(recipe: Recipe, options: dict[str, Any]) -> tuple[ModelSource, Decoder, LoRAConfig]:
    """The model of the run to go on from, and its LoRAConfig."""
    net, source, lora = load_finetuned(str(recipe.adapter), recipe.model)
    if lora is None:
        raise ValueError(f"{recipe.adapter}: this model is merged: give it as the model")
    wanted, there = tuple(options.get("labels", ())), net.cfg.labels
    if wanted != there:
        names = [", ".join(labels) or "none" for labels in (there, wanted)]
        raise ValueError(f"{recipe.adapter} was trained on the labels {names[0]}, not {names[1]}")
    return source, net, lora


def _finish(
    run: OpenRun, recipe: Recipe, prepared: Prepared, trainer: Trainer, reporter: Reporter, failure: str | None
) -> Run:
    """Measure the best state, which is in the model, and write it."""
    (source, net, work, parts, lora), state = prepared, trainer.state
    if not failure:
        which = "the last and the best" if state.best.step == state.step else "better than those after it"
        reporter.note(f"kept: the state after epoch {state.best.epoch}, step {state.best.step:,}, {which}")
    score = work.evaluate(net, parts.test)
    reporter.tested(score)
    for sentence in work.compared(parts, score):
        reporter.note(sentence)
    config = pissa_to_lora(net, lora) if lora.variant == "pissa" else lora
    save_result(run.folder, source, net, config, recipe.bits)
    best = {"epoch": state.best.epoch, "step": state.best.step}
    trained = {"epochs": state.epoch, "steps": state.step, "planned_steps": trainer.steps}
    ended = {"status": "failed", "reason": failure} if failure else {"status": "finished"}
    run.finish(**ended, best=best, trained=trained, test=score.as_dict())
    if failure:
        raise FloatingPointError(f"{failure}, in {run.folder}")
    return Run(run.folder, net, source, work, score)


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
