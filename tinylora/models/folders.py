"""Whole models in a folder: `config.json` and `model.safetensors`. "nano" is the folder that comes with tinylora.

The configuration is the lecture's dictionary, with `"labels": [..]` added for a classifier; or it is Hugging Face's, which
has a `model_type`: then models/pretrained.py reads the folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tinylora import nn
from tinylora.backend import device, to_device
from tinylora.formats import LoadError, MissingFileError, safetensors, strict_json
from tinylora.lora import lora_modules
from tinylora.models import hf_config
from tinylora.models.gpt import GPT2_SMALL, GPTModel
from tinylora.models.options import configure

NANO = Path(__file__).parent.parent / "assets" / "nano"
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
    path, config = folder_of(folder) / "config.json", _read(folder)
    if "model_type" in config:
        return hf_config.to_lecture(config, str(path))
    if GPT2_SMALL.keys() - config.keys():
        raise LoadError(f"{path}: not a tinylora model configuration: it needs {', '.join(GPT2_SMALL)}")
    for name in SIZES:
        if type(config[name]) is not int or not 0 < config[name] < 2**31:
            raise LoadError(f"{path}: {name} must be an integer of at least 1, not {config[name]!r}")
    if not isinstance(config["drop_rate"], int | float) or not 0 <= config["drop_rate"] <= 1:
        raise LoadError(f"{path}: drop_rate must be a number from 0 to 1, not {config['drop_rate']!r}")
    if "labels" in config:
        check_labels(path, config["labels"])
    return config


def is_hugging_face(folder: str | Path) -> bool:
    """Is the model in `folder` stored as transformers stores it?"""
    return "model_type" in _read(folder)


def _read(folder: str | Path) -> dict[str, Any]:
    try:
        return strict_json.read(folder_of(folder) / "config.json")
    except MissingFileError as error:
        raise MissingFileError(f"{error}; a model is 'nano' or a folder that holds one") from None


def check_labels(path: Path, labels: Any) -> None:
    """Raise ValueError unless `labels`, read from `path`, are two different names or more."""
    names = labels if isinstance(labels, list) and all(isinstance(name, str) for name in labels) else []
    if len(names) < 2 or len(set(names)) < len(names):
        raise LoadError(f"{path}: labels must be a list of two different names or more, not {str(labels)[:60]}")


def folder_of(name: str | Path) -> Path:
    """The folder that a model name means."""
    return NANO if str(name) == "nano" else Path(name)


def load_model(folder: str | Path) -> GPTModel:
    """The model in a folder, in float32 and evaluation mode, on the default device.

    >>> load_model("nano").cfg["vocab_size"]
    257
    """
    if is_hugging_face(folder):
        return GPTModel.from_pretrained(folder_of(folder))
    config, path = read_config(folder), folder_of(folder) / "model.safetensors"
    labels = config.pop("labels", None)
    arrays, _ = safetensors.load(path)
    if config.get("tie_head") and not labels and "tok_emb.weight" in arrays:
        arrays["out_head.weight"] = arrays["tok_emb.weight"]
    if broken := [k for k, a in arrays.items() if not np.isfinite(a).all()]:
        raise LoadError(f"{path}: NaN or infinity in {', '.join(broken)}")
    if config["n_layers"] > len(arrays):
        raise LoadError(f"{path}: the configuration says {config['n_layers']} layers, and here are {len(arrays)} arrays")
    try:
        with device("meta"):
            _built(config, labels, arrays).load_state_dict(arrays)  # what does not fit is found before memory is taken
    except (RuntimeError, ValueError) as error:
        raise LoadError(f"{path}: {error}") from None
    model = _built(config, labels, arrays)
    model.load_state_dict(arrays)
    model.eval()
    return model


def _built(config: dict[str, Any], labels: list[str] | None, arrays: dict[str, np.ndarray]) -> GPTModel:
    model = GPTModel(config)
    configure(model)
    if labels:
        set_classes(model, len(labels), "out_head.bias" in arrays)
    return model


def set_classes(model: GPTModel, classes: int, bias: bool = True) -> None:
    """Give the model a new head with one score per class; Hugging Face's GPT-2 knows it without a bias only."""
    if classes < 2:
        raise ValueError(f"a classifier needs two classes or more, not {classes}")
    model.cfg.pop("labels", None)  # those of the head before
    model.out_head = nn.Linear(model.cfg["emb_dim"], classes, bias=bias)
