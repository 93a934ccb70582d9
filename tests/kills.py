"""A small run in a process of its own, which is killed at random moments and goes on until it is finished."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from commands import some_messages

import tinylora
from tinylora.models import save_model
from tinylora.models.gpt import GPTModel

TINY = {
    "vocab_size": 257, "context_length": 48, "emb_dim": 16, "n_heads": 2, "n_layers": 1, "drop_rate": 0.1,
    "qkv_bias": True,
}  # fmt: skip
ARGUMENTS = ("--rank", 4, "--epochs", 3, "--batch-size", 3, "--lr", 1e-2, "--save-every", 4)


def prepare(folder):
    """m.tsv and tiny/, a random model with dropout."""
    (folder / "m.tsv").write_text(some_messages(120), encoding="utf-8")
    tinylora.manual_seed(0)
    save_model(GPTModel(TINY), folder / "tiny")


def command(folder, out, *more):
    words = ("finetune", folder / "m.tsv", "--model", folder / "tiny", "--out", out, *ARGUMENTS, *more)
    return [str(word) for word in words]


def start(arguments, **options):
    """`python -m tinylora` with these arguments."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONIOENCODING": "utf-8"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([sys.executable, "-m", "tinylora", *arguments], text=True, env=environment, **pipes)


def rows(out):
    """How far a run is, in rows of its metrics."""
    try:
        return (out / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def wait_for(process, out, count):
    """Wait until the run has written `count` rows. Whether it has; it may have ended before."""
    while process.poll() is None and rows(out) < count:
        time.sleep(0.001)
    return process.poll() is None


def killed(folder, out, kills, rng: random.Random, steps):
    """Run with SIGKILL `kills` times, at random moments, each time going on with the run. The number of kills that struck."""
    struck = 0
    for _ in range(kills):
        process = start(command(folder, out, "--resume"))
        if wait_for(process, out, rng.randrange(rows(out) + 1, max(rows(out) + 2, steps))):
            time.sleep(rng.random() * 0.02)
            process.send_signal(signal.SIGKILL)
            struck += process.wait() == -signal.SIGKILL
        process.communicate()
    process = start(command(folder, out, "--resume"))
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return struck
