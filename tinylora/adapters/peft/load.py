"""Applies PEFT's adapters to a decoder. config.py reads their configuration.

Where one layer there is several modules here, as GPT-2's c_attn is query, key and value, these share one parameter A, and
each has its part of B. Outputs, gradients and optimizer steps equal PEFT's.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from tinylora import nn
from tinylora.adapters.apply import wrap
from tinylora.adapters.config import LoRAConfig
from tinylora.adapters.peft import config as peft
from tinylora.adapters.peft.vocabulary import ROWS, Vocabulary
from tinylora.backend import to_device
from tinylora.formats import LoadError, safetensors
from tinylora.lora import LinearWithLoRA, freeze, lora_modules
from tinylora.models.decoder import Decoder
from tinylora.models.names import Layer, family_of, kinds, layers
from tinylora.tensor import Tensor

MAGNITUDE = "lora_magnitude_vector"
Arrays = dict[str, np.ndarray]


def is_peft(path: str | Path) -> bool:
    """Whether this is a folder with an adapter in PEFT's format."""
    return (Path(path) / peft.CONFIG).is_file()


class PeftAdapter(NamedTuple):
    """An adapter in PEFT's format: configuration, arrays by PEFT's names, and tinylora's metadata if there is any."""

    folder: Path
    config: peft.PeftConfig
    arrays: Arrays
    about: dict[str, Any]


def read_peft(folder: str | Path) -> PeftAdapter:
    """Read an adapter in PEFT's format. Raises LoadError that names what is not supported."""
    config, path = peft.read_config(Path(folder)), Path(folder) / peft.WEIGHTS
    if not path.is_file():
        for other in sorted(Path(folder).iterdir()):
            safetensors.refuse_pickle(other)
    file = safetensors.Mapped(path)
    if odd := [name for name in file.entries if not name.startswith(peft.PREFIX)]:
        raise LoadError(f"{path}: the name {odd[0]} does not begin with {peft.PREFIX}")
    arrays = {name.removeprefix(peft.PREFIX): file.floats(name) for name in file.entries}
    try:
        about = json.loads(file.metadata.get("tinylora", "{}"))
        train = about.get("train", [])
        if not all(isinstance(name, str) for name in train):
            raise ValueError("train must be a list of names")
    except (ValueError, AttributeError, TypeError) as error:
        raise LoadError(f"{path}: its metadata is not tinylora's ({error})") from None
    return PeftAdapter(Path(folder), config, arrays, about)


def put_peft(model: Decoder, adapter: PeftAdapter, lora_only: bool = False) -> LoRAConfig:
    """Apply an adapter to its base, and return its LoRAConfig. See `store.load_adapter`."""
    if wrapped := [path for path, _ in lora_modules(model)]:
        raise ValueError(f"LoRA is applied already, to {wrapped[0]} and {len(wrapped) - 1} more: load onto the base alone")
    folder, config, arrays, _ = adapter
    headless = _headless(model, arrays)
    vocabulary = Vocabulary(model, layers(model, headless), config, str(folder / peft.CONFIG))
    arrays = vocabulary.simplified(arrays, lora_only)
    vocabulary.resize(arrays)
    try:
        found = layers(model, headless)
        whole = [] if lora_only else [name for name in found if vocabulary.saves(name)]
        chosen = vocabulary.chosen(kinds(model, headless))
        kept = _check(folder / peft.WEIGHTS, vocabulary, arrays, found, chosen, whole)
        wrappers = {path: w for name in chosen for path, w in _wrapped(config, found[name], arrays).items()}
        wrappers |= vocabulary.trained_rows()
        replaced = _replaced(arrays, found, whole)
    except BaseException:
        vocabulary.restore()
        raise
    freeze(model)
    for path, wrapper in wrappers.items():
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, wrapper.train(model.training))
    for owner, name, parameter in replaced:
        setattr(owner, name, parameter)
    vocabulary.finish(arrays, whole)
    model.__dict__["stored_whole"] = kept
    scaling = "rslora" if config.use_rslora else "alpha/r"
    train = tuple(path for name in vocabulary.trained_whole(whole) for path in found[name].paths)
    targets = tuple(wrappers)
    variant = "dora" if config.use_dora else "lora"
    return LoRAConfig(config.r, config.lora_alpha, targets, train, scaling, "peft", config.lora_dropout, variant)


def _headless(model: Decoder, arrays: Arrays) -> bool:
    """Whether the adapter is for the base model without a head, whose layer names have no prefix."""
    base = family_of(model).base
    bare = [name.removeprefix(base) for name in layers(model) if name.startswith(base)]
    return any(array.startswith(tuple(f"{name}." for name in bare)) for array in arrays)


def _names(name: str, embedding: bool) -> tuple[str, str]:
    """The names of A and B of a layer."""
    a, b = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A.weight", "lora_B.weight")
    return f"{name}.{a}", f"{name}.{b}"


def _check(
    path: Path, vocabulary: Vocabulary, arrays: Arrays, found: dict[str, Layer], chosen: list[str], whole: list[str]
) -> list[str]:
    """Raise LoadError that lists missing, unexpected and mis-shaped arrays. Drops unchanged copies of the base's arrays.

    Returns the layers, the embedding or the head, whose frozen weight the adapter replaces.
    """
    config, replaced = vocabulary.config, []
    expected: dict[str, tuple[int, ...]] = vocabulary.expected()
    for name in chosen:
        layer, rank = found[name], config.rank(name)
        embedding = isinstance(layer.owners[0], nn.Embedding)
        wide = layer.owners[0].weight.shape[0 if embedding else 1]
        tall = layer.owners[0].weight.shape[1] if embedding else sum(owner.weight.shape[0] for owner in layer.owners)
        expected |= dict(zip(_names(name, embedding), ((rank, wide), (tall, rank)), strict=True))
        if config.use_dora:
            if embedding:
                raise LoadError(f"{path.with_name(peft.CONFIG)}: use_dora on an embedding, {name}, is not known here")
            expected[f"{name}.{MAGNITUDE}"] = (tall,)
    expected |= {f"{name}.{leaf}": found[name].shape(leaf) for name in whole for leaf in found[name].parameters()}
    for key in [key for key in arrays if key not in expected]:
        name, _, leaf = key.replace(".base_layer.", ".").rpartition(".")
        if name in found and leaf in found[name].parameters():
            if leaf == "bias" and (config.bias == "all" or (config.bias == "lora_only" and name in chosen)):
                expected[key] = found[name].shape(leaf)
            elif np.array_equal(arrays[key], found[name].stored(leaf)):
                del arrays[key]  # PEFT also stores the unchanged weight of embeddings with LoRA
            elif vocabulary.replaces(name, leaf):
                expected[key] = found[name].shape(leaf)
                replaced.append(name)
    faults = [f"missing: {key}" for key in expected.keys() - arrays.keys()]
    faults += [f"unexpected: {key}" for key in arrays.keys() - expected.keys()]
    for key in sorted(expected.keys() & arrays.keys()):
        if arrays[key].shape != expected[key]:
            faults.append(f"{key}: expected {expected[key]}, got {arrays[key].shape}")
    if faults:
        raise LoadError(f"{path}: does not fit the model:\n  " + "\n  ".join([*sorted(faults), *_way_out(arrays, found)]))
    return replaced


def _way_out(arrays: Arrays, found: dict[str, Layer]) -> list[str]:
    """What to do where a classifier's head meets a model without one."""
    head = arrays.get("score.weight")
    if head is None or "score" in found:
        return []
    return [f"it is the adapter of a classifier: call model.set_classes({len(head)}) before loading it"]


def _wrapped(config: peft.PeftConfig, layer: Layer, arrays: Arrays) -> dict[str, LinearWithLoRA]:
    """A layer's modules wrapped in LoRA, which share A and have a part of B each."""
    embedding = isinstance(layer.owners[0], nn.Embedding)
    a, b = (arrays[name] for name in _names(layer.name, embedding))
    variant = "dora" if config.use_dora else "lora"
    made = LoRAConfig(
        config.rank(layer.name), config.scale(layer.name), scaling="alpha", dropout=config.lora_dropout, variant=variant
    )
    count, shared = len(layer.owners), _factor(a.T, layer.owners[0])
    magnitudes = np.split(arrays[f"{layer.name}.{MAGNITUDE}"], count) if config.use_dora else [None] * count
    found: dict[str, LinearWithLoRA] = {}
    for path, owner, part, magnitude in zip(layer.paths, layer.owners, np.split(b, count), magnitudes, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the warning about the rank was for its author
            found[path] = wrapped = wrap(cast(nn.Linear, owner), made)
        wrapped.lora.A, wrapped.lora.B = shared, _factor(part.T, owner)
        if magnitude is not None:
            wrapped.lora.magnitude = _factor(magnitude, owner)
    return found


def _replaced(arrays: Arrays, found: dict[str, Layer], whole: list[str]) -> list[tuple[nn.Module, str, nn.Parameter]]:
    """Owner, name and new value of every parameter of the base that the adapter replaces: those of modules trained whole,
    biases, and, frozen, an embedding that is not the base's."""
    replaced = []
    for key in arrays:
        name, _, leaf = key.replace(".base_layer.", ".").rpartition(".")
        if not peft.LORA.fullmatch(key) and not key.endswith(f".{ROWS}"):
            parameters = found[name].parameters()[leaf]
            parts = found[name].split(arrays[key])
            for owner, old, part in zip(found[name].owners, parameters, parts, strict=True):
                attribute = next(n for n, p in owner._parameters.items() if p is old)
                replaced.append((owner, attribute, made := _parameter(part, owner)))
                made.requires_grad = leaf == "bias" or name in whole
    return replaced


def _factor(array: np.ndarray, beside: nn.Module) -> nn.Parameter:
    """A, B or a magnitude: as `_parameter`, but at least in float32."""
    found = _parameter(array, beside)
    if found.dtype.itemsize < 4:
        found.array = to_device(np.array(array), found.device)
    return found


def _parameter(array: np.ndarray, beside: nn.Module) -> nn.Parameter:
    """A trainable parameter with the device and dtype of those of `beside`."""
    like = next((p for p in beside._parameters.values() if p is not None), None)
    like = beside.weight if like is None else like  # a quantised layer may have no parameter
    return nn.Parameter(Tensor(to_device(np.array(array, like.dtype), like.device)))
