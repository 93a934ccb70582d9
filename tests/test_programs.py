"""Whole programs written for PyTorch run unchanged, and their losses are PyTorch's, step by step."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
PROGRAMS = sorted(path.stem for path in (HERE / "programs").glob("*.py") if path.stem != "run")


def losses_of(command, folder, out):
    """Losses of all programs, from the initial weights in `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "TINYLORA_DEVICE": "cpu"}
    environment.pop("PYTHONWARNINGS", None)
    arguments = [str(HERE / "programs" / "run.py"), str(folder), str(out), *PROGRAMS]
    done = subprocess.run([sys.executable, *command, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


def torch_is_here():
    return subprocess.run([sys.executable, "-c", "import torch"], capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """(losses here, losses of PyTorch or None) of each program; PyTorch, run first, draws the weights."""
    folder = tmp_path_factory.mktemp("weights")
    theirs = losses_of([], folder, folder / "torch.json") if torch_is_here() else None
    return losses_of(["-m", "tinylora.as_torch"], folder, folder / "tinylora.json"), theirs


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_trains(losses, name):
    ours, _ = losses
    assert np.isfinite(ours[name]).all() and len(ours[name]) >= 20
    assert min(ours[name][-5:]) < 0.98 * max(ours[name][:5])


@pytest.mark.parametrize("name", PROGRAMS)
def test_its_losses_are_those_of_pytorch(losses, name):
    ours, theirs = losses
    if theirs is None:
        pytest.skip("PyTorch is not installed")
    np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-6)
