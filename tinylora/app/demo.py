"""The demo, `tinylora` with no arguments: counts GPT-2's parameters, then fine-tunes the model in the box."""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path
from typing import cast

import numpy as np

from tinylora import backend, nn
from tinylora.adapters import merge, unmerge
from tinylora.app import terminal
from tinylora.lora import freeze, lora_modules, replace_linear_with_lora
from tinylora.models.decoder import Decoder
from tinylora.models.gpt import GPTModel
from tinylora.models.source import NANO
from tinylora.runs.finetune import finetune
from tinylora.runs.run import Run
from tinylora.runs.run_folder import ADAPTER, remove_run
from tinylora.tasks import Classify
from tinylora.tasks.examples import Splits
from tinylora.tasks.task import Score, Task

MESSAGES = NANO.parent / "messages.tsv"
OUT = Path("runs/demo")


def lecture_count(model: Decoder, classes: int, rank: int, alpha: float) -> list[int]:
    """Trainable parameters with a head of `classes`, after freezing, and with LoRA on every Linear. Changes `model`."""
    model.out_head = nn.Linear(model.cfg.emb_dim, classes)
    found = [model.summary().trainable]
    freeze(model)
    found.append(model.summary().trainable)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the lecture's rank 16 on a head of 2 outputs
        replace_linear_with_lora(model, rank, alpha)
    return [*found, model.summary().trainable]


def say_counts(found: list[int], rank: int, alpha: float) -> None:
    """The three lines of the lecture."""
    rows = zip(["as built", "frozen", f"LoRA on every Linear, rank {rank}, alpha {alpha:g}"], found, strict=True)
    terminal.table(["trainable parameters", ""], [[name, f"{n:,}"] for name, n in rows])


class _Demo(terminal.Training):
    """Also measures the model before training."""

    def began(self, task: Task, parts: Splits, model: Decoder) -> None:
        super().began(task, parts, model)
        self.parts, self.before = parts, task.evaluate(model, parts.test)

    def tested(self, score: Score) -> None:
        self.bar.stop()
        say = terminal.say
        say(f"on {len(self.parts.test)} messages never seen: {self.before.headline} before, {score.headline} after")


def run(seed: int = 0, out: Path = OUT) -> None:
    """Count, fine-tune, save, load, merge; print and check every step."""
    begin = time.perf_counter()
    remove_run(out)  # of an earlier demo
    terminal.heading("1. The lecture: GPT-2 small with a 2-class head")
    with backend.device("meta"):
        gpt2 = GPTModel("gpt2-small")
        say_counts(lecture_count(gpt2, classes=2, rank=16, alpha=16), 16, 16)
    terminal.tree(gpt2.trf_blocks[0], "one block of 12")

    terminal.heading("2. A foundation model in the box, and a file of messages: spam or ham?")
    with _Demo() as reporter:
        trained = finetune("nano", MESSAGES, out=out, seed=seed, reporter=reporter)
    count = trained.model.summary()
    terminal.say(f"{count.trainable:,} of {count.total:,} parameters moved ({count.trainable / count.total:.1%})")

    terminal.heading("3. Only the change is stored")
    adapter, base = (out / ADAPTER).stat().st_size, (NANO / "model.safetensors").stat().st_size
    terminal.say(f"{out / ADAPTER}: {adapter:,} bytes; the model: {base:,} bytes in float16, {2 * base:,} in float32")
    texts = [message.text for message in reporter.parts.test]
    _check_adapter(out, texts, _probabilities(trained, texts))
    seconds = time.perf_counter() - begin
    program = sys.argv[0] if sys.argv[0].endswith("tinylora") else "python -m tinylora"
    terminal.say(f'\n{seconds:.0f} s.  Try: {program} predict {out} "Your parcel is held, pay the fee at post.example"')


def _probabilities(run: Run, texts: list[str]) -> np.ndarray:
    return cast(Classify, run.task).probabilities(run.model, texts)


def _check_adapter(out: Path, texts: list[str], expected: np.ndarray) -> None:
    """Load, merge and unmerge the adapter, and compare what the model says each time."""
    fresh = Run.load(out)
    _check("loaded into a fresh model: same predictions, bit for bit", (_probabilities(fresh, texts) == expected).all())
    weights = [m.linear.weight.array for _, m in lora_modules(fresh.model)]
    merge(fresh.model)
    merged = _probabilities(fresh, texts)
    same = (merged.argmax(1) == expected.argmax(1)).all()
    _check(f"merged: same predictions, probabilities within {abs(merged - expected).max():.0e}", same)
    unmerge(fresh.model)
    back = all(m.linear.weight.array is w for w, (_, m) in zip(weights, lora_modules(fresh.model), strict=True))
    _check("unmerged: the original weights are back, the same bytes", back)


def _check(claim: str, holds: bool) -> None:
    if not holds:
        raise RuntimeError(f"this does not hold: {claim}")
    terminal.say(f"  ok  {claim}")
