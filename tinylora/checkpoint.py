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
from tinylora.lora import lora_modules
from tinylora.models.gpt import GPT2_SMALL, GPTModel

NANO = Path(__file__).parent / "assets" / "nano"
SIZES = ("vocab_size", "context_length", "emb_dim", "n_heads", "n_layers")


def save_model(model: GPTModel, folder: str | Path, dtype: Any = None, **extra: Any) -> None:
    """Write the model's configuration, with `extra` entries, and its weights, in `dtype` if given.

    A weight that stands in two places (a tied head) is stored once. Raises ValueError if there is LoRA in the model.
    """
    if any(lora_modules(model)):
        raise ValueError("the model has LoRA in it: call merge_and_unload first, or save_adapter to store the change alone")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {path: to_device(p.data, "cpu") for path, p in model.named_parameters()}
    safetensors.save(folder / "model.safetensors", {k: a.astype(dtype or a.dtype) for k, a in arrays.items()})
    cfg = {**model.cfg, "tie_head": model.out_head.weight is model.tok_emb.weight}
    safetensors.write(folder / "config.json", json.dumps({**cfg, **extra}, indent=1) + "\n")


def read_config(folder: str | Path) -> dict[str, Any]:
    """The configuration of a model folder, or of "nano". Raises ValueError naming what is wrong with it."""
    path = folder_of(folder) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path}: no such file; a model is 'nano' or a folder that holds one") from None
    except ValueError as error:
        raise ValueError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(config, dict) or GPT2_SMALL.keys() - config.keys():
        raise ValueError(f"{path}: not a tinylora model configuration: it needs {', '.join(GPT2_SMALL)}")
    for name in SIZES:
        if type(config[name]) is not int or config[name] < 1:
            raise ValueError(f"{path}: {name} must be an integer of at least 1, not {config[name]!r}")
    if not isinstance(config["drop_rate"], int | float) or not 0 <= config["drop_rate"] <= 1:
        raise ValueError(f"{path}: drop_rate must be a number from 0 to 1, not {config['drop_rate']!r}")
    if "labels" in config:
        check_labels(path, config["labels"])
    return config


def check_labels(path: Path, labels: Any) -> None:
    """Raise ValueError unless `labels`, read from `path`, are two different names or more."""
    names = labels if isinstance(labels, list) and all(isinstance(name, str) for name in labels) else []
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"{path}: labels must be a list of two different names or more, not {str(labels)[:60]}")


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
