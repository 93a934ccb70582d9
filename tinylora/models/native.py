"""Reads and writes tinylora's own model folders: `config.json` and `model.safetensors`, with our names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tinylora.backend import default_device, device, to_device
from tinylora.formats import LoadError, safetensors
from tinylora.lora import lora_modules
from tinylora.models.config import ModelConfig
from tinylora.models.decoder import Decoder
from tinylora.models.names import FAMILIES, Family


def save_model(model: Decoder, folder: str | Path, dtype: Any = None) -> None:
    """Write the model's configuration and its weights, in `dtype` if given.

    A tied weight is stored once. Raises ValueError if there is LoRA in the model.
    """
    if any(lora_modules(model)):
        raise ValueError("the model has LoRA in it: call merge_and_unload first, or save_adapter to store the change alone")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {path: to_device(p.array, "cpu") for path, p in model.named_parameters()}
    safetensors.save(folder / "model.safetensors", {k: a.astype(dtype or a.dtype) for k, a in arrays.items()})
    entries = {"architecture": type(model).__name__, **model.cfg.as_dict(), "tie_head": model.head_is_tied}
    safetensors.write(folder / "config.json", json.dumps(entries, indent=1) + "\n")


def read_config(entries: dict[str, Any], where: str) -> tuple[Family, ModelConfig]:
    """The family and configuration in a config.json. `architecture` defaults to GPTModel."""
    name = entries.get("architecture", "GPTModel")
    found = [family for family in FAMILIES if family.model.__name__ == name]
    if not found:
        known = ", ".join(family.model.__name__ for family in FAMILIES)
        raise LoadError(f"{where}: architecture {str(name)[:60]!r}; known are {known}")
    try:
        return found[0], found[0].model.config.of({k: v for k, v in entries.items() if k != "architecture"})
    except (ValueError, TypeError) as error:
        raise LoadError(f"{where}: not a tinylora model configuration: {error}") from None


def build(family: Family, cfg: ModelConfig, path: Path) -> Decoder:
    """Load a model in float32. Names and shapes are checked before anything is allocated."""
    file = safetensors.Mapped(path)
    shapes = {name: entry.shape for name, entry in file.entries.items()}
    if cfg.n_layers > len(shapes):
        raise LoadError(f"{path}: the configuration says {cfg.n_layers} layers, and here are {len(shapes)} arrays")
    with device("meta"):
        model = family.model(cfg)
        if cfg.labels and "out_head.bias" in shapes:
            model.set_classes(cfg.labels, bias=True)
    wanted = {name: p for name, p in model.named_parameters() if not (model.head_is_tied and name == "out_head.weight")}
    shapes.pop("out_head.weight" if model.head_is_tied else "", None)
    faults = [f"missing: {name}" for name in wanted.keys() - shapes.keys()]
    faults += [f"unexpected: {name}" for name in shapes.keys() - wanted.keys()]
    shared = sorted(wanted.keys() & shapes.keys())
    faults += [f"{k}: expected {wanted[k].shape}, got {shapes[k]}" for k in shared if wanted[k].shape != shapes[k]]
    if faults:
        raise LoadError(f"{path}: does not fit its configuration:\n  " + "\n  ".join(sorted(faults)))
    if default_device() != "meta":
        for name, parameter in wanted.items():
            parameter.array = to_device(file.floats(name), default_device())
    return model.eval()
