"""A run cannot be lost: killed, interrupted or out of disk, it goes on where it was, to the same bytes."""

import json
import os
import random
import signal
from pathlib import Path

import kills
import pytest

from tinylora.runs.finetune import finetune, resume
from tinylora.runs.signals import InterruptedRunError
from tinylora.tasks import Classify
from tinylora.training.report import Reporter

RUN = {"adapter.safetensors", "config.json", "metrics.jsonl"}
OPTIONS = {
    "rank": 4, "epochs": 3, "batch_size": 3, "accumulate": 2, "lr": 1e-2, "save_every": 4, "dropout": 0.1,
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """m.tsv and tiny/; whole/ is a run that nobody disturbed."""
    at = tmp_path_factory.mktemp("resume")
    kills.prepare(at)
    finetune(at / "tiny", at / "m.tsv", out=at / "whole", **OPTIONS)
    return at


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


# ------------------------------------------------------------------------------------------ going on
@pytest.mark.parametrize("step", [1, 13, 14, 15, 27, 28, 41, 42])  # an epoch has 14 steps
def test_an_interrupted_run_goes_on_to_the_same_bytes(folder, step):
    interrupted_at(folder, step)
    assert status() == "interrupted" and "adapter.safetensors" not in files("out")
    there = At()
    found = resume("out", there)
    assert there.steps == list(range(step + 1, 43)) and f"going on after step {step} of 42" in there.notes
    assert found.score is not None and not (found.model.training or (Path("out") / "lock").exists())
    same("out", folder / "whole")


def test_it_can_be_interrupted_again_and_again(folder):
    for step in (2, 9, 17, 30):
        with pytest.raises(InterruptedRunError):
            start(folder, reporter=At(step, send(signal.SIGTERM)), resume=True)
    start(folder, resume=True)
    same("out", folder / "whole")


@pytest.mark.parametrize("save_every", [None, 1, 5, "30s", "0.001s"])
def test_how_often_it_is_saved_changes_no_result(folder, save_every):
    interrupted_at(folder, 20, save_every=save_every)
    start(folder, save_every=7, resume=True)
    assert (Path("out") / "adapter.safetensors").read_bytes() == (folder / "whole" / "adapter.safetensors").read_bytes()


def test_a_run_with_patience_and_steps_between_validations_goes_on_as_well(folder):
    more = {"eval_every": 5, "patience": 2, "epochs": 4}
    start(folder, "whole", **more)
    for step in (5, 12, 14):
        interrupted_at(folder, step, f"at{step}", **more)
        resume(f"at{step}")
        same(f"at{step}", "whole")


def test_a_signal_during_a_validation_does_not_wait_for_its_end(folder, monkeypatch):
    calls = []

    def validate(self, model, examples):
        calls.append(len(calls))
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("the signal has not come")
        return self.evaluate(model, examples)

    with monkeypatch.context() as patch, pytest.raises(InterruptedRunError):
        patch.setattr(Classify, "validate", validate)
        start(folder)
    there = At()
    resume("out", there)
    assert there.steps[0] == 29  # nothing of the second epoch is trained again
    same("out", folder / "whole")


def test_a_signal_during_the_last_measurement_loses_nothing(folder, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(InterruptedRunError):
        patch.setattr(At, "tested", lambda self, score: os.kill(os.getpid(), signal.SIGHUP), raising=False)
        start(folder, reporter=At())
    assert status() == "interrupted"
    there = At()
    resume("out", there)
    assert there.steps == []
    same("out", folder / "whole")


def test_a_few_kills(folder, tmp_path):
    kills.prepare(tmp_path)
    whole = kills.start(kills.command(tmp_path, tmp_path / "whole"))
    struck = kills.killed(tmp_path, tmp_path / "run", 3, random.Random(0), steps=30)
    assert whole.communicate() and whole.returncode == 0 and struck
    same(tmp_path / "run", tmp_path / "whole")
