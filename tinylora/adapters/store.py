"""Saves and loads adapters without the base model.

An adapter file is a safetensors file with A and B of every layer and the modules that are trained whole, such as the head.
Its metadata has the LoRAConfig and a fingerprint of the base.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np

from tinylora import nn
from tinylora.adapters.apply import apply_lora, below, resolve, unwrap
from tinylora.adapters.config import LoRAConfig, variant_of
from tinylora.adapters.peft.load import is_peft, put_peft, read_peft
from tinylora.adapters.peft.save import save_peft
from tinylora.adapters.variants import TiedHeadLoRA, TokenRows
from tinylora.backend import to_device
from tinylora.formats import LoadError, safetensors
from tinylora.lora import lora_modules
from tinylora.models.decoder import Decoder

OTHER_BASE = (
    "this adapter was trained on another base model (a new head belongs to the base, and is not stored, unless it is"
    ' trained: LoRAConfig(train=("out_head",)))'
)


def _stored(model: nn.Module, train: tuple[str, ...]) -> dict[str, nn.Parameter]:
    """The parameters in an adapter: A and B of every layer, and those of the modules trained whole."""
    lora = [f"{path}.lora" for path, _ in lora_modules(model)]
    return {path: p for path, p, _ in model.named_tensors("_parameters") if below(path, (*lora, *train))}


def fingerprint(model: nn.Module, train: tuple[str, ...] = ()) -> str:
    """SHA-256 of the base: names, shapes and bytes of all parameters and buffers that are not in an adapter."""
    digest = hashlib.sha256()
    stored = _stored(model, train).keys()
    if any(m.merged for _, m in lora_modules(model)):
        raise RuntimeError("the model is merged: call unmerge() before an adapter is saved or loaded")
    wrapped = {f"{path}.linear": path for path, _ in lora_modules(model)}
    seen: set[int] = set()
    parameters = ((path, p) for path, p, _ in model.named_tensors("_parameters"))
    for path, p in (*parameters, *model.named_buffers()):  # codes and scales of quantised weights
        owner, _, name = path.rpartition(".")
        if path not in stored and id(p) not in seen:
            seen.add(id(p))
            digest.update(f"{wrapped.get(owner, owner)}.{name} {p.shape} {p.dtype}".encode())
            digest.update(to_device(p.array, "cpu").tobytes())
    return digest.hexdigest()


def save_adapter(model: nn.Module, path: str | Path, config: LoRAConfig, /, format: str = "tinylora", **extra: Any) -> None:
    """Write the adapter of `model`, made by `apply_lora(model, config)`, with `extra` JSON values in its metadata.

    `format` "tinylora" is one file. "peft" is a folder that PEFT loads, for a Decoder; of `config` it takes `train`,
    `scaling` and `dropout`, and ranks, scales and trained biases from the model. PiSSA has to be converted by
    `pissa_to_lora` first. Raises ValueError, and writes nothing, if a layer's variant, rank or scale is not that of `config`
    ("tinylora"), something is trained that the adapter would not hold ("peft"), or a value is NaN.
    """
    if format not in ("tinylora", "peft"):
        raise ValueError(f"format is 'tinylora' or 'peft', not {format!r}")
    if any(variant_of(module) == "pissa" for _, module in lora_modules(model)):
        raise ValueError("an adapter file holds no A0 and B0: config = pissa_to_lora(model, config) first")
    arrays = {name: to_device(p.array, "cpu") for name, p in _stored(model, config.train).items()}
    if not any(lora_modules(model)):
        raise ValueError("the model has no LoRA to save")
    if format == "peft":
        base = None if model.__dict__.get("stored_whole") else fingerprint(model, config.train)  # parts of it are stored
        noted = {"base": base, "train": list(config.train), **extra}
        save_peft(cast(Decoder, model), Path(path), config, noted)
        return
    if model.__dict__.get("stored_whole") or any(isinstance(m, TiedHeadLoRA | TokenRows) for _, m in lora_modules(model)):
        raise ValueError("this adapter changes the vocabulary or ties the head to it, which only the format 'peft' holds")
    for where, module in lora_modules(model):
        found = (variant_of(module), module.lora.A.shape[1], module.lora.alpha)
        if found != (expected := (config.variant, config.rank, config.scale)):
            raise ValueError(f"{where} has variant, rank and scale {found}, and the configuration to be saved {expected}")
    _refuse_nan(str(path), arrays)
    about = {"format": "tinylora-adapter", "lora": dataclasses.asdict(config), "base": fingerprint(model, config.train)}
    safetensors.save(path, arrays, {"tinylora": json.dumps({**about, **extra})})


def read_adapter(path: str | Path) -> tuple[dict[str, np.ndarray], LoRAConfig, dict[str, Any]]:
    """The arrays of an adapter file, its LoRAConfig, and its metadata. Raises ValueError that names the file."""
    arrays, metadata = safetensors.load(path)
    try:
        about = json.loads(metadata["tinylora"])
        lora = about["lora"]
        targets = lora["targets"] if isinstance(lora["targets"], str) else tuple(lora["targets"])
        config = LoRAConfig(**{**lora, "targets": targets, "train": tuple(lora["train"])})
    except (KeyError, TypeError, ValueError) as error:
        raise LoadError(f"{path}: not a tinylora adapter ({type(error).__name__}: {error})") from None
    _refuse_nan(str(path), arrays)
    return arrays, config, about


def load_adapter(model: nn.Module, path: str | Path, lora_only: bool = False) -> LoRAConfig:
    """Apply the adapter in a file, or in a folder in PEFT's format, to its base. Returns its LoRAConfig.

    Layers are wrapped if they are not; for PEFT's they must not be. A bias that PEFT trained replaces that of the base.
    With `lora_only` the modules trained whole are left out, so the model keeps its own head. Raises
    ValueError, and leaves the model as it was, if names or shapes do not fit, a value is NaN, or the base is another one.
    """
    if is_peft(path):
        adapter = read_peft(path)
        if adapter.about.get("base") not in (None, fingerprint(model, tuple(adapter.about.get("train", ())))):
            raise LoadError(f"{path}: {OTHER_BASE}")
        return put_peft(cast(Decoder, model), adapter, lora_only)
    arrays, config, about = read_adapter(path)
    fresh = not any(lora_modules(model))
    required_before = [(p, p.requires_grad) for p in model.parameters()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the warning about the rank was given in training
            if fresh:
                alone = dataclasses.replace(config, targets=tuple(resolve(model, config)), train=()) if lora_only else config
                apply_lora(model, alone)
        if lora_only:
            arrays = {k: a for k, a in arrays.items() if not below(k, config.train)}
        stored = _stored(model, () if lora_only else config.train)
        faults = [f"missing: {k}" for k in stored.keys() - arrays.keys()]
        faults += [f"unexpected: {k}" for k in arrays.keys() - stored.keys()]
        shared = sorted(stored.keys() & arrays.keys())
        faults += [
            f"{k}: expected {stored[k].shape}, got {arrays[k].shape}" for k in shared if stored[k].shape != arrays[k].shape
        ]
        if faults:
            raise LoadError(f"{path}: does not fit the model:\n  " + "\n  ".join(sorted(faults)))
        if fingerprint(model, config.train) != about.get("base"):
            raise LoadError(f"{path}: {OTHER_BASE}")
    except BaseException:
        if fresh:
            unwrap(model)
            for p, required in required_before:
                p.requires_grad = required
        raise
    for name, parameter in stored.items():
        parameter.array = to_device(arrays[name].astype(parameter.dtype), parameter.device)
    for _, module in lora_modules(model):
        module.lora.alpha = config.scale
    return config


def _refuse_nan(path: str, arrays: dict[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise LoadError(f"{path}: NaN or infinity in {name}")
