"""A small run in a process of its own, which is killed at a random moment and goes on until it is finished.

As a program: `python kills.py FOLDER OUT OPTIONS` begins the run in FOLDER/OUT, or goes on with it; OPTIONS are JSON.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

TINY = {
    "vocab_size": 257, "context_length": 48, "emb_dim": 16, "n_heads": 2, "n_layers": 1, "drop_rate": 0.1,
    "qkv_bias": True,
}  # fmt: skip
OPTIONS = {
    "rank": 4, "epochs": 2, "batch_size": 2, "accumulate": 2, "lr": 1e-2, "save_every": 2, "dropout": 0.1,
}  # fmt: skip
STEPS = 14  # of a run with these options


def prepare(folder):
    """m.tsv and tiny/, a random model with dropout."""
    from commands import some_messages

    import tinylora
    from tinylora.models import save_model
    from tinylora.models.gpt import GPTModel

    (folder / "m.tsv").write_text(some_messages(40), encoding="utf-8")
    tinylora.manual_seed(0)
    save_model(GPTModel(TINY), folder / "tiny")


def process(arguments, **options):
    """Python with these arguments, in which this copy of tinylora is imported."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONIOENCODING": "utf-8"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([sys.executable, *map(str, arguments)], text=True, env=environment, **pipes)


def begin(folder, out, options):
    """Begin the run in folder/out, or go on with it."""
    return process([__file__, folder, out, json.dumps(options)])


def finish(running):
    """Wait for its end, which must be a success."""
    _, error = running.communicate(timeout=300)
    assert running.returncode == 0, error


def kill(running, out, rows, seconds):
    """SIGKILL, so many seconds after metrics.jsonl has so many rows. Whether that ended it; it may have been finished."""
    metrics = out / "metrics.jsonl"
    while running.poll() is None and not (metrics.exists() and metrics.read_bytes().count(b"\n") >= rows):
        time.sleep(0.001)
    time.sleep(seconds)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    return running.returncode == -signal.SIGKILL


if __name__ == "__main__":
    from tinylora.runs.finetune import finetune

    at, out, options = sys.argv[1:]
    finetune(Path(at) / "tiny", Path(at) / "m.tsv", out=Path(at) / out, resume=True, **json.loads(options))
