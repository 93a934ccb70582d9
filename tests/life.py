"""Small runs that are interrupted, and what is compared of their folders."""

import json
import os
import signal
from pathlib import Path

import pytest
from kills import OPTIONS

from tinylora.runs.finetune import finetune
from tinylora.runs.signals import InterruptedRunError
from tinylora.training.report import Reporter

RUN = {"adapter.safetensors", "config.json", "metrics.jsonl"}


class At(Reporter):
    """Calls `act` after step number `step`, once; keeps notes."""

    def __init__(self, step=0, act=lambda: None):
        self.step, self.act, self.notes, self.steps = step, act, [], []

    def stepped(self, step):
        self.steps.append(step.step)
        if step.step == self.step:
            self.step = 0
            self.act()

    def note(self, text):
        self.notes.append(text)


def send(number):
    return lambda: os.kill(os.getpid(), number)


def files(path):
    return {p.name for p in Path(path).iterdir()}


def same(a, b):
    """The results are the same bytes, and so is the history."""
    one, other = (json.loads((Path(x) / "config.json").read_text()) for x in (a, b))
    assert one == other and one["status"] == "finished" and files(a) == files(b) == RUN
    for name in ("adapter.safetensors", "metrics.jsonl"):
        assert (Path(a) / name).read_bytes() == (Path(b) / name).read_bytes(), name


def start(folder, out="out", reporter=None, **changes):
    return finetune(folder / "tiny", folder / "m.tsv", out=out, reporter=reporter, **{**OPTIONS, **changes})


def status(out="out"):
    return json.loads((Path(out) / "config.json").read_text())["status"]


def interrupted_at(folder, step, out="out", **changes):
    with pytest.raises(InterruptedRunError):
        start(folder, out, At(step, send(signal.SIGINT)), **changes)
