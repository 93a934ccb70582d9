"""The examples run as a reader runs them, and the lecture's listing runs on PyTorch too."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("0*.py"))
LECTURE = ROOT / "examples" / "02_lecture.py"
SWAPPED = {"import tinylora as torch": "import torch", "from tinylora import nn": "from torch import nn"}


@functools.cache
def run(path):
    """The standard output of a script that must succeed and say nothing on standard error."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    options = {"env": environment, "capture_output": True, "encoding": "utf-8", "timeout": 240}
    done = subprocess.run([sys.executable, path], check=False, **options)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # whatever an example writes goes here
    assert run(path)


def test_lecture_prints_its_numbers():
    printed = run(LECTURE)
    for line in (
        "Total trainable parameters before: 124,441,346",
        "Total trainable parameters after freezing: 0",
        "Total trainable parameters with LoRA: 2,666,528",
        "    (W_query): LinearWithLoRA(",
        "      (linear): Linear(in_features=768, out_features=768, bias=True)",
        "      (lora): LoRALayer()",
    ):
        assert line in printed.splitlines()


def test_lecture_on_pytorch(tmp_path):
    """Two import lines swapped, and PyTorch prints the same counts and the same tree; its random numbers differ."""
    pytest.importorskip("torch", reason="compares the listing with PyTorch, which is not installed")
    lines = LECTURE.read_text(encoding="utf-8").splitlines()
    assert set(SWAPPED) <= set(lines)
    assert not [line for line in lines if "tinylora" in line and line not in SWAPPED]
    on_pytorch = tmp_path / "lecture.py"
    on_pytorch.write_text("\n".join(SWAPPED.get(line, line) for line in lines), encoding="utf-8")

    def exact(path):
        return [line for line in run(path).splitlines() if not line.startswith("loss")]

    assert exact(LECTURE) == exact(on_pytorch)
