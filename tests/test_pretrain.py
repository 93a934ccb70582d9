"""`examples/pretrain.py` makes a model that tinylora loads, and measures it; shown on a text of a few lines."""

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path

from tinylora.models import load_model

SCRIPT = Path(__file__).parent.parent / "examples" / "pretrain.py"
TEXT = b" = A Title = \n\n The river rose in the night , and the bridge was closed until the morning . \n" * 12


def test_two_steps_of_pretraining(tmp_path):
    (tmp_path / "wikitext-2").mkdir()
    for split in ("train", "valid"):
        (tmp_path / "wikitext-2" / f"{split}.raw.gz").write_bytes(gzip.compress(TEXT))
    for name in ("tinyshakespeare.txt", "the-verdict.txt"):
        (tmp_path / name).write_bytes(TEXT)
    command = [sys.executable, SCRIPT, tmp_path, "--steps", "2", "--batch-size", "1", "--out", tmp_path / "model"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TINYLORA_DEVICE": "cpu"})
    assert done.returncode == 0, done.stderr
    bits = [float(found) for found in re.findall(r"([0-9.]+) bits per byte", done.stdout)]
    assert len(bits) == 2 and 3 < bits[1] < 8  # a guess among 257 tokens costs 8.006 bits
    assert load_model(tmp_path / "model").summary().total == 3_356_416
