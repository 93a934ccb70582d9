"""Standard output in any encoding: every command prints, with a similar character or `?` for what the encoding lacks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tinylora
from tinylora.app.terminal import accept_any_encoding
from tinylora.models import save_model
from tinylora.models.gpt import GPTModel

TINY = {
    "vocab_size": 257,
    "context_length": 48,
    "emb_dim": 16,
    "n_heads": 2,
    "n_layers": 1,
    "drop_rate": 0.0,
    "qkv_bias": True,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A classifier fine-tuned from a tiny model, whose labels are not ASCII."""
    at = tmp_path_factory.mktemp("encodings")
    tinylora.manual_seed(0)
    model = GPTModel(TINY)
    model.set_classes(("été", "🌍 σ"), bias=True)
    save_model(model, at / "classifier")
    config = tinylora.adapters.LoRAConfig(2)
    tinylora.adapters.apply_lora(model, config)
    tinylora.adapters.save_adapter(model, at / "adapter.safetensors", config)
    return at


def printed(encoding, *arguments, source=""):
    """What a command writes to standard output, as bytes."""
    env = {
        **os.environ,
        "PYTHONIOENCODING": encoding,
        "PYTHONPATH": str(Path(tinylora.__file__).parents[1]),
        "PYTHONUTF8": "0",
    }
    command = [sys.executable, "-m", "tinylora", *map(str, arguments)]
    done = subprocess.run(command, env=env, input=source.encode(encoding, "ignore"), capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_inspect_and_predict_print_in_every_encoding(run, encoding):
    table = printed(encoding, "inspect", run / "adapter.safetensors").decode(encoding)
    assert {"ascii": "|dW|", "cp1252": "|dW|", "utf-8": "‖ΔW‖"}[encoding] in table
    line = printed(encoding, "predict", run / "classifier", "naïve 漢字 🌍").decode(encoding)
    end = {"ascii": "na?ve ?? ?", "cp1252": "naïve ?? ?", "utf-8": "naïve 漢字 🌍"}[encoding]
    assert line.rstrip().endswith(end)


def test_a_text_is_predicted_alike_from_the_command_line_and_from_standard_input(run):
    arguments = printed("utf-8", "predict", run / "classifier", "  see you\n", "bye\t")
    assert arguments == printed("utf-8", "predict", run / "classifier", source="see you\n\n bye \n")
    assert [line.split("\t")[2] for line in arguments.decode().splitlines()] == ["see you", "bye"]


def test_streams_that_are_no_files_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    accept_any_encoding()
