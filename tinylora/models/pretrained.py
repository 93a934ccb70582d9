"""Loads and saves decoders in Hugging Face's folder format, by the tables of names.py."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tinylora.backend import default_device, device, to_device
from tinylora.formats import LoadError, safetensors, shards, strict_json
from tinylora.models.config import ModelConfig
from tinylora.models.names import FAMILIES, Family, check_rows, embedding_name, family_of, full_names, layers

if TYPE_CHECKING:
    from tinylora.models.decoder import Decoder


class Weights(Protocol):
    """Named arrays: shapes are known at once, numbers are read on demand."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]: ...

    def floats(self, name: str) -> np.ndarray: ...

    def same(self, one: str, other: str) -> bool: ...


def family_for(config: dict[str, Any], where: str) -> Family:
    """The family of a config.json. Raises LoadError that lists the supported model types."""
    for family in FAMILIES:
        if config.get("model_type") in family.config.model_types:
            return family
    known = ", ".join(repr(name) for family in FAMILIES for name in family.config.model_types)
    raise LoadError(f"{where}: model_type is {config.get('model_type')!r}, and tinylora reads {known}")


def load(folder: str | Path, kind: type[Any]) -> Any:
    """The model in `folder`, an instance of `kind`. See Decoder.from_pretrained."""
    folder = Path(folder)
    config = strict_json.read(folder / "config.json")
    where = str(folder / "config.json")
    family = family_for(config, where)
    if not issubclass(family.model, kind):
        raise LoadError(f"{where}: model_type is {config['model_type']!r}: use {family.model.__name__}, or load_model")
    return build(family, family.config.read(config, where), shards.Weights(folder), str(folder))


def build(family: Family, cfg: ModelConfig, weights: Weights, where: str) -> Decoder:
    """A model of `cfg` with these weights. Names and shapes are checked before anything is allocated."""
    _check_layers(family, cfg, weights, where)
    with device("meta"):
        model = family.model(cfg)
    check_rows(model)
    names = full_names(set(weights.shapes), model)
    check(model, {name: weights.shapes[stored] for name, stored in names.items()}, where)
    if model.head_is_tied:
        _check_tied(model, weights, names, where)
    if default_device() != "meta":
        _fill(model, weights, names)
    return model.eval()


def expected(model: Decoder) -> dict[str, tuple[int, ...]]:
    """The shapes of all arrays in a file of `model`, by their names there, without a tied head."""
    found = layers(model)
    if model.head_is_tied:
        found.pop(family_of(model).heads()[0])
    return {f"{name}.{leaf}": layer.shape(leaf) for name, layer in found.items() for leaf in layer.parameters()}


def check(model: Decoder, found: dict[str, tuple[int, ...]], where: str) -> None:
    """Raise LoadError that lists arrays that are missing, unexpected or of another shape."""
    wanted = expected(model)
    faults = [f"missing: {name}" for name in wanted.keys() - found.keys()]
    faults += [f"unexpected: {name}" for name in found.keys() - wanted.keys()]
    faults += [
        f"{name}: expected {shape}, got {found[name]}" for name, shape in wanted.items() if found.get(name, shape) != shape
    ]
    if faults:
        raise LoadError(f"{where}: does not fit its configuration:\n  " + "\n  ".join(sorted(faults)))


def _check_layers(family: Family, cfg: ModelConfig, weights: Weights, where: str) -> None:
    """Raise LoadError unless the file has n_layers blocks: checked before modules are made, since n_layers may be huge."""
    inside = next(row.theirs for row in family.rows if "{}" in row.theirs).partition("{}")[0].removeprefix(family.base)
    pattern = rf"^(?:{re.escape(family.base)})?{re.escape(inside)}(\d{{1,6}})\."
    count = len(set(re.findall(pattern, "\n".join(weights.shapes), re.MULTILINE)))
    if cfg.n_layers != count:
        raise LoadError(f"{where}: the configuration says {cfg.n_layers} layers, and the weights have {count}")


def _check_tied(model: Decoder, weights: Weights, names: dict[str, str], where: str) -> None:
    head, embedding = f"{family_of(model).heads()[0]}.weight", embedding_name(model)
    tied_to = names[f"{embedding}.weight"]
    if head in weights.shapes and head != tied_to and not weights.same(head, tied_to):
        short = embedding.rpartition(".")[2]
        raise LoadError(f"{where}: {head} is not {short}.weight, and the configuration says tie_word_embeddings")


def _fill(model: Decoder, weights: Weights, names: dict[str, str]) -> None:
    """Read every parameter; an array that several parameters share is read once."""
    for layer in layers(model).values():
        if model.head_is_tied and layer.paths == ["out_head"]:
            continue
        for leaf, parameters in layer.parameters().items():
            parts = layer.split(weights.floats(names[f"{layer.name}.{leaf}"]))
            for parameter, array in zip(parameters, parts, strict=True):
                parameter.array = to_device(array, default_device())


def save(model: Decoder, folder: Path, labels: Sequence[str] | None, max_shard_bytes: int) -> None:
    """Write `model` as transformers reads it. See Decoder.save_pretrained."""
    family = family_of(model)
    if model.summary().lora.total:
        raise ValueError("the model has LoRA in it: call merge_and_unload first, or save_adapter to store the change")
    if bare := [name for name, layer in layers(model).items() if "weight" not in layer.parameters()]:
        raise ValueError(f"{bare[0]} and {len(bare) - 1} more are quantised: call dequantize first")
    check_rows(model)
    count = model.out_head.out_features
    if model.classifies or labels:
        labels = tuple(labels or model.cfg.labels or (f"LABEL_{i}" for i in range(count)))
        if len(labels) != count:
            raise ValueError(f"{len(labels)} labels for a head of {count} classes")
    if model.out_head.bias is not None and model.out_head.bias.array.any():
        raise ValueError(f"out_head has a bias, and {family.name} has none there: train a head with bias=False")
    config, arrays = family.config.write(model.cfg, model.head_is_tied, tuple(labels or ())), stored(model)
    with device("meta"):
        again = expected(family.model(family.config.read(config, str(folder / "config.json"))))
    if odd := again.keys() ^ arrays.keys():
        verb = "lacks" if min(odd) in arrays else "has"
        raise ValueError(f"a {config['model_type']} in transformers {verb} {min(odd)}, so this model cannot be one there")
    folder.mkdir(parents=True, exist_ok=True)
    shards.save(folder, arrays, max_shard_bytes)
    safetensors.write(folder / "config.json", strict_json.text_of(config))


def stored(model: Decoder) -> dict[str, np.ndarray]:
    """The model's arrays by their names in a Hugging Face file."""
    found: dict[str, np.ndarray] = {}
    for name, layer in layers(model).items():
        if not (model.head_is_tied and layer.paths == ["out_head"]):
            found |= {f"{name}.{leaf}": layer.stored(leaf) for leaf in layer.parameters()}
            if layer.row.bias and f"{name}.bias" not in found:
                found[f"{name}.bias"] = np.zeros(layer.shape("weight")[-1], np.float32)
    for head in family_of(model).heads():
        found.pop(f"{head}.bias", None)  # `save` has checked that it is zero
    return found
