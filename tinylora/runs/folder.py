"""A fine-tuned model in a folder: written once by `finetune` or by PEFT, read by `predict`, `generate` and `merge`."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from tinylora.adapters import LoRAConfig, load_adapter, merge_and_unload, read_adapter, save_adapter
from tinylora.adapters.peft.load import is_peft, read_peft
from tinylora.models.folders import check_labels, folder_of, is_hugging_face, load_model, read_config, save_model, set_classes
from tinylora.formats import LoadError, safetensors, shards
from tinylora.lora import lora_modules
from tinylora.models.gpt import GPTModel

ADAPTER = "adapter.safetensors"
TOKENIZER_FILES = (
    "tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json", "special_tokens_map.json",
)  # fmt: skip


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

    `about` goes into both the configuration and the adapter; it needs "model" and "labels". If the base is a folder of
    Hugging Face's, the adapter is one that PEFT loads.
    """
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.write(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in history))
    safetensors.write(folder / "config.json", json.dumps(about, indent=1) + "\n")
    noted = {"model": about["model"], "labels": about["labels"]}
    if is_hugging_face(about["model"]):
        save_adapter(model, folder, config, format="peft", **noted)
    else:
        save_adapter(model, folder / ADAPTER, config, **noted)


def adapter_file(path: str | Path) -> Path:
    """The adapter that a folder or a file name means: the folder itself, if it is one as PEFT writes it."""
    return Path(path) / ADAPTER if Path(path).is_dir() and not is_peft(path) else Path(path)


def read_about(adapter: Path) -> dict[str, Any]:
    """What an adapter says of itself: "model" and "labels" if tinylora wrote it, "classes" if PEFT stored a head in it."""
    if not is_peft(adapter):
        return read_adapter(adapter)[2]
    found = read_peft(adapter)
    scores = found.arrays.get("score.weight")
    return found.about if scores is None else {"classes": len(scores), **found.about}


class Finetuned(NamedTuple):
    """A model with what was learned, the labels if it is a classifier, and the name of the model whose tokens it reads."""

    model: GPTModel
    labels: list[str] | None
    base: str


def load_finetuned(path: str | Path, base: str | None = None) -> Finetuned:
    """The model of a run's folder, an adapter file or folder, or a merged model's folder.

    `base` overrides where the base model is looked for. A base that is no classifier gets the head that the adapter has.
    """
    if any((Path(path) / name).is_file() for name in (shards.SINGLE, shards.INDEX)):
        return Finetuned(load_model(path), read_config(path).get("labels"), str(path))
    file = adapter_file(path)
    about = read_about(file)
    if "labels" in about:
        check_labels(file, about["labels"])
    name = base or about.get("model")
    if not isinstance(name, str):
        raise LoadError(f"{file}: this adapter does not say what its base model is: give it with --model")
    model, labels = load_model(name), about.get("labels") or read_config(name).get("labels")
    if (classes := about.get("classes")) and not labels:
        labels = [f"LABEL_{i}" for i in range(classes)]
    if labels and labels != read_config(name).get("labels"):
        set_classes(model, len(labels), bias=not is_hugging_face(name))
    load_adapter(model, file)
    model.eval()
    return Finetuned(model, labels, name)


def load_classifier(path: str | Path, base: str | None = None) -> tuple[GPTModel, list[str], str]:
    """`load_finetuned`, for what has labels. Raises LoadError if it has none."""
    model, labels, name = load_finetuned(path, base)
    if not labels:
        raise LoadError(f"{path}: this model has no labels: it is no classifier")
    return model, labels, name


def save_merged(path: str | Path, out: Path, base: str | None = None) -> None:
    """Write what `load_finetuned` finds as a plain model, in the format of its base: the adapter merged into it."""
    model, labels, name = load_finetuned(path, base)
    if not any(lora_modules(model)):
        raise ValueError(f"{path}: there is no LoRA in this model, or it is merged already")
    merge_and_unload(model)
    if not is_hugging_face(name):
        save_model(model, out, **({"labels": labels} if labels else {}))
        return
    model.save_pretrained(out, labels)
    for file in (folder_of(name) / part for part in TOKENIZER_FILES):
        if file.is_file():
            shutil.copyfile(file, out / file.name)
