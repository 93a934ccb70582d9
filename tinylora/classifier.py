"""A fine-tuned classifier in a folder: written once by `finetune`, read by `predict` and `merge`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tinylora.adapters import LoRAConfig, load_adapter, merge_and_unload, read_adapter, save_adapter
from tinylora.folders import check_labels, load_model, read_config, save_model, set_classes
from tinylora.formats import safetensors
from tinylora.lora import lora_modules
from tinylora.models.gpt import GPTModel

ADAPTER = "adapter.safetensors"


def check_output(folder: Path) -> None:
    """Raise ValueError unless `folder` can be written and holds nothing yet."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: --out names a folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: it may hold another run; give another --out")
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ValueError(f"{folder} cannot be written: {existing} is not a folder with permission to write")


def save_run(
    folder: Path, model: GPTModel, config: LoRAConfig, about: dict[str, Any], history: list[dict[str, Any]]
) -> None:
    """Write the adapter, `config.json` and `metrics.jsonl` (a line per entry of `history`) into `folder`.

    `about` goes into both the configuration and the adapter; it needs "model" and "labels".
    """
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.write(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in history))
    safetensors.write(folder / "config.json", json.dumps(about, indent=1) + "\n")
    save_adapter(model, folder / ADAPTER, config, model=about["model"], labels=about["labels"])


def adapter_file(path: str | Path) -> Path:
    """The adapter file that a folder or a file name means."""
    return Path(path) / ADAPTER if Path(path).is_dir() else Path(path)


def load_classifier(path: str | Path, base: str | None = None) -> tuple[GPTModel, list[str]]:
    """The model and the labels of a run's folder, an adapter file, or a merged model's folder.

    `base` overrides where the base model is looked for. Raises ValueError if it is not a classifier.
    """
    if (Path(path) / "model.safetensors").is_file():
        labels = read_config(path).get("labels")
        if not labels:
            raise ValueError(f"{path}: this model has no labels: it is no classifier")
        return load_model(path), labels
    file = adapter_file(path)
    _, _, about = read_adapter(file)
    if "labels" not in about:
        raise ValueError(f"{file}: this adapter has no labels: it is no classifier's")
    check_labels(file, about["labels"])
    name = base or about.get("model")
    if not isinstance(name, str):
        raise ValueError(f"{file}: this adapter does not say what its base model is: give it with --model")
    model = load_model(name)
    set_classes(model, len(about["labels"]))
    load_adapter(model, file)
    model.eval()
    return model, about["labels"]


def save_merged(path: str | Path, out: Path, base: str | None = None) -> None:
    """Write the classifier at `path` as a plain model: the adapter merged into its base."""
    model, labels = load_classifier(path, base)
    if not any(lora_modules(model)):
        raise ValueError(f"{path}: this model is merged already")
    merge_and_unload(model)
    save_model(model, out, labels=labels)
