"""`import torch` means tinylora under the import hook, in one process, and what is missing is named with its place."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tinylora
from tinylora.torch_api import as_torch

ROOT = Path(__file__).parent.parent


def run(folder, *arguments, check=None):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TINYLORA_DEVICE": "cpu"}
    command = [sys.executable, "-m", "tinylora.as_torch", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert check is None or done.returncode == check, done.stderr
    return done


def program(folder, text, name="program.py"):
    (folder / name).write_text(text)
    return name


EVERY_SPELLING = """
import sys
import torch, torch.nn, torch.optim.lr_scheduler, torch.utils.data
import torch.nn as nn
import torch.nn.functional as F
import torch.backends.cudnn as cudnn
import torch.utils.checkpoint
from torch import nn as again, optim, Tensor
from torch.amp import GradScaler, autocast
from torch.cuda.amp import autocast as old
from torch.nn import Linear, functional
from torch.nn.modules.loss import CrossEntropyLoss
from torch.nn.parameter import Parameter
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence
from torch.optim import AdamW, lr_scheduler
from torch.optim.optimizer import Optimizer
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataset import TensorDataset

assert torch.nn is nn is again and F is functional is nn.functional and optim.lr_scheduler is lr_scheduler
assert issubclass(AdamW, Optimizer) and nn.Parameter is Parameter and nn.CrossEntropyLoss is CrossEntropyLoss
cudnn.benchmark = True
assert torch.backends.cudnn.benchmark is True
torch.backends.cuda.matmul.allow_tf32 = True
assert torch.get_float32_matmul_precision() == "high"
x = torch.ones(2, 3, requires_grad=True)
assert isinstance(x, torch.Tensor) and isinstance(x, Tensor) and type(x) == torch.Tensor
assert isinstance(x, torch.FloatTensor) and not isinstance(x, torch.LongTensor)
assert torch.Tensor([1, 2]).dtype == torch.float32 and torch.LongTensor([1, 2]).dtype == torch.int64
assert torch.Tensor(2, 3).shape == (2, 3) and torch.Tensor.add is not None
def typed(x: torch.Tensor | None) -> torch.Tensor: return x
@torch.compile
def double(x): return x * 2
with autocast("cpu", dtype=torch.bfloat16), torch.set_grad_enabled(True):
    double(x).sum().backward()
assert x.grad.tolist() == [[2.0] * 3] * 2
assert not hasattr(torch, "fft") and getattr(torch, "fft", None) is None
assert int(torch.__version__.split(".")[0]) == 2
assert not torch.distributed.is_initialized() and torch.cuda.device_count() in (0, 1)
assert "tinylora" in sys.modules and sys.modules["torch"].__name__ == "torch"
print(sys.argv, __name__, __file__)
"""


def test_a_program_finds_torch_under_every_spelling(tmp_path):
    done = run(tmp_path, program(tmp_path, EVERY_SPELLING), "--rate", "3", check=0)
    assert done.stdout.split("\n")[0] == f"['program.py', '--rate', '3'] __main__ {'program.py'}"


def test_a_program_of_several_files_and_a_module(tmp_path):
    program(tmp_path, "import torch\ndef model(): return torch.nn.Linear(2, 1)\n", "parts.py")
    name = program(tmp_path, "import parts, sys\nprint(type(parts.model()).__name__)\nsys.exit(3)\n")
    assert run(tmp_path, name, check=3).stdout == "Linear\n"
    assert run(tmp_path, "-m", "program", check=3).stdout == "Linear\n"
    (tmp_path / "inner").mkdir()
    program(tmp_path / "inner", "from other import x\nprint(x)\n")
    program(tmp_path / "inner", "x = 5\n", "other.py")
    assert run(tmp_path, "inner/program.py", check=0).stdout == "5\n"


@pytest.mark.parametrize("line, message", [
    ("torch.nn.Conv2d(3, 4, 5)", "program.py:2: tinylora has no torch.nn.Conv2d"),
    ("torch.nn.functional.gelo(1)", "no torch.nn.functional.gelo; the nearest name is torch.nn.functional.gelu"),
    ("torch.cross_entropy", "no torch.cross_entropy; the nearest name is torch.nn.functional.cross_entropy"),
    ("from torch import fft", "program.py:2: tinylora has no torch.fft"),
    ("from torch.nn import Linaer", "program.py:2: tinylora has no torch.nn.Linaer; the nearest name is torch.nn.Linear"),
    ("import torch.nn.quantized", "program.py:2: tinylora has no torch.nn.quantized"),
])  # fmt: skip
def test_a_missing_name_is_named_with_its_place_and_the_nearest(tmp_path, line, message):
    done = run(tmp_path, program(tmp_path, f"import torch\n{line}\n"), check=1)
    assert message in done.stderr
    assert "runpy" not in done.stderr and "Names of torch that it asked for" in done.stderr


def test_the_report_lists_what_the_files_mention_without_running_them(tmp_path):
    program(tmp_path, "from torch import nn as n\nclass C(n.Module): a = n.Conv2d; b = n.Linear\n", "parts.py")
    text = "import torch, parts\nimport torch.nn.functional as F\nF.gelu(torch.zeros(1)).cpu()\ntorch.fft.rfft\n1 / 0\n"
    done = run(tmp_path, "--report", program(tmp_path, text), check=1)
    lines = done.stdout.splitlines()
    assert "  torch.nn.functional.gelu" in lines and "  torch.nn.Linear" in lines
    assert [line for line in lines if line.startswith("-")] == [
        "- program.py:4: tinylora has no torch.fft", "- parts.py:2: tinylora has no torch.nn.Conv2d",
    ]  # fmt: skip
    assert lines[-1] == f"{len(lines) - 1} names of torch in 2 files, 2 of them not in tinylora"
    complete = run(tmp_path, "--report", program(tmp_path, "import torch\ntorch.zeros(1)\n"), check=0)
    assert complete.stdout.endswith("0 of them not in tinylora\n")


def test_what_it_cannot_run(tmp_path):
    assert "usage:" in run(tmp_path, check=2).stderr
    assert "nothing.py: no such file" in run(tmp_path, "nothing.py", check=2).stderr


def test_install_and_uninstall(tmp_path):
    text = (
        "import sys, tinylora\n"
        "tinylora.as_torch.install(); tinylora.as_torch.install()\n"
        "import torch, torch.nn.functional\n"
        "assert torch.zeros is tinylora.zeros\n"
        "tinylora.as_torch.uninstall()\n"
        "assert not [m for m in sys.modules if m.partition('.')[0] == 'torch']\n"
        "sys.modules['torch'] = sys\n"
        "try: tinylora.as_torch.install()\n"
        "except RuntimeError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert "PyTorch is imported already" in done.stdout, done.stderr


def test_the_spelling_of_what_is_here_needs_no_hook():
    assert as_torch.find("torch.nn.functional.gelu") is tinylora.nn.functional.gelu
    assert as_torch.has("torch.optim.lr_scheduler.StepLR") and not as_torch.has("torch.nn.Conv2d")
    assert as_torch.find("torch.nn.modules.linear.Linear") is tinylora.nn.Linear
