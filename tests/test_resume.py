"""A run that was killed or interrupted goes on where it was, and ends with the same bytes."""

import os
import random
import signal
from pathlib import Path

import kills
import pytest
from kills import OPTIONS
from life import At, files, interrupted_at, same, send, start, status

from tinylora.runs.finetune import finetune, resume
from tinylora.runs.signals import InterruptedRunError
from tinylora.tasks import Classify

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """m.tsv and tiny/; whole/ is a run that nobody disturbed."""
    at = tmp_path_factory.mktemp("resume")
    kills.prepare(at)
    finetune(at / "tiny", at / "m.tsv", out=at / "whole", **OPTIONS)
    return at


# ------------------------------------------------------------------------------------------ going on
@pytest.mark.parametrize("step", [1, 7, 8, 14])  # an epoch has 7 steps
def test_an_interrupted_run_goes_on_to_the_same_bytes(folder, step):
    interrupted_at(folder, step)
    assert status() == "interrupted" and "adapter.safetensors" not in files("out")
    there = At()
    found = resume("out", there)
    assert there.steps == list(range(step + 1, 15)) and f"going on after step {step} of 14" in there.notes
    assert found.score is not None and not (found.model.training or (Path("out") / "lock").exists())
    same("out", folder / "whole")


def test_it_can_be_interrupted_again_and_again(folder):
    for step in (2, 5, 9):
        with pytest.raises(InterruptedRunError):
            start(folder, reporter=At(step, send(signal.SIGTERM)), resume=True)
    start(folder, resume=True)
    same("out", folder / "whole")


@pytest.mark.parametrize("save_every", [None, 1, "30s", "0.001s"])
def test_how_often_it_is_saved_changes_no_result(folder, save_every):
    interrupted_at(folder, 10, save_every=save_every)
    start(folder, save_every=7, resume=True)
    assert (Path("out") / "adapter.safetensors").read_bytes() == (folder / "whole" / "adapter.safetensors").read_bytes()


def test_a_run_with_patience_and_steps_between_validations_goes_on_as_well(folder):
    more = {"eval_every": 3, "patience": 2, "epochs": 3}
    start(folder, "whole", **more)
    for step in (3, 7):
        interrupted_at(folder, step, f"at{step}", **more)
        resume(f"at{step}")
        same(f"at{step}", "whole")


def test_a_signal_during_a_validation_does_not_wait_for_its_end(folder, monkeypatch):
    calls = []

    def validate(self, model, examples):
        calls.append(len(calls))
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("the signal has not come")
        return self.evaluate(model, examples)

    with monkeypatch.context() as patch, pytest.raises(InterruptedRunError):
        patch.setattr(Classify, "validate", validate)
        start(folder)
    there = At()
    resume("out", there)
    assert there.steps[0] == 8  # nothing of the first epoch is trained again
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
    """tests/soak/kill.py does a hundred."""
    kills.prepare(tmp_path)
    kills.finish(kills.begin(tmp_path, "whole", OPTIONS))
    rng, struck = random.Random(0), 0
    for rows in (2, 6, 11):
        struck += kills.kill(kills.begin(tmp_path, "run", OPTIONS), tmp_path / "run", rows, rng.random() * 0.02)
    kills.finish(kills.begin(tmp_path, "run", OPTIONS))
    assert struck
    same(tmp_path / "run", tmp_path / "whole")
