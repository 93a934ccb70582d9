"""Whole models in a folder: `config.json` and `model.safetensors`. "nano" is the folder that comes with tinylora.

The configuration is the lecture's dictionary, with `"labels": [..]` added for a classifier.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tinylora import nn
from tinylora.backend import to_device
from tinylora.formats import safetensors
from tinylora.models.gpt import GPT2_SMALL, GPTModel

NANO = Path(__file__).parent / "assets" / "nano"


def save_model(model: GPTModel, folder: str | Path, dtype: Any = None, **extra: Any) -> None:
    """Write the model's configuration, with `extra` entries, and its weights, in `dtype` if given.

    A weight that stands in two places (a tied head) is stored once.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {path: to_device(p.data, "cpu") for path, p in model.named_parameters()}
    safetensors.save(folder / "model.safetensors", {k: a.astype(dtype or a.dtype) for k, a in arrays.items()})
    safetensors.write(folder / "config.json", json.dumps({**model.cfg, **extra}, indent=1) + "\n")


def read_config(folder: str | Path) -> dict[str, Any]:
    """The configuration of a model folder, or of "nano". Raises ValueError naming what is wrong with it."""
    path = folder_of(folder) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; a model is 'nano' or a folder that holds one") from None
    except ValueError as error:
        raise ValueError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(config, dict) or GPT2_SMALL.keys() - config.keys():
        raise ValueError(f"{path}: not a tinylora model configuration: it needs {', '.join(GPT2_SMALL)}")
    return config


def folder_of(name: str | Path) -> Path:
    """The folder that a model name means."""
    return NANO if str(name) == "nano" else Path(name)


def load_model(folder: str | Path) -> GPTModel:
    """The model in a folder, in float32 and evaluation mode, on the default device.

    >>> load_model("nano").cfg["vocab_size"]
    257
    """
    config = read_config(folder)
    labels = config.pop("labels", None)
    model = GPTModel(config)
    if labels:
        set_classes(model, len(labels))
    path = folder_of(folder) / "model.safetensors"
    arrays, _ = safetensors.load(path)
    if config.get("tie_head") and not labels and "tok_emb.weight" in arrays:
        arrays["out_head.weight"] = arrays["tok_emb.weight"]
    if broken := [k for k, a in arrays.items() if not np.isfinite(a).all()]:
        raise ValueError(f"{path}: NaN or infinity in {', '.join(broken)}")
    try:
        model.load_state_dict(arrays)
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}") from None
    model.eval()
    return model


def set_classes(model: GPTModel, classes: int) -> None:
    """Give the model a new head with one score per class."""
    if classes < 2:
        raise ValueError(f"a classifier needs two classes or more, not {classes}")
    model.out_head = nn.Linear(model.cfg["emb_dim"], classes)
