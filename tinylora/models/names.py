"""Maps module names to layer names in other libraries' files, by one table per family of models.

A row has a layer's name in Hugging Face's files, its name here, and how it is stored there:

    Row("transformer.h.{}.mlp.c_fc", "trf_blocks.{}.ff.layers.0", turned=True)

"{}" is the number of the block. Loading, saving, shape checks, PEFT adapters and GGUF files all use these rows.
`register(Family(..))` adds a family: see docs/contributing.md. "There", in this file, means in another library's files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tinylora import nn
from tinylora.backend import to_device
from tinylora.models.hf_config import ConfigTable

if TYPE_CHECKING:
    from tinylora.models.decoder import Decoder
    from tinylora.models.gguf import GGUFTable

LEAVES = {"scale": "weight", "shift": "bias"}  # parameters of models.gpt.LayerNorm; all others have the same names there


@dataclass(frozen=True)
class Row:
    """A layer there, and the module here, or several modules whose weights are concatenated there.

    `turned`: the weight is stored transposed, (in, out); required for several modules. `bias`: the layer there always has a
    bias. `gguf`: its name in GGUF files. `rotary`: query or key, whose rows llama.cpp may reorder (see gguf.py).
    """

    theirs: str
    ours: str | tuple[str, ...]
    turned: bool = False
    bias: bool = False
    gguf: str | None = None
    rotary: bool = False

    def __post_init__(self) -> None:
        if len(self.paths) > 1 and not self.turned:
            raise ValueError(f"{self.theirs} joins {', '.join(self.paths)}, which needs turned=True: weights (in, out)")

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.ours,) if isinstance(self.ours, str) else self.ours


@dataclass(frozen=True)
class Family:
    """A model class, and how its files are read and written.

    `base`: prefix of every layer name but the head's; files of the base model alone lack it. `others`: modules there without
    parameters, which patterns in PEFT's configurations may match. `skipped`: a regular expression for arrays that are
    ignored because they are computed. `gguf`: how the family is stored in GGUF files, if it is.
    """

    model: type[Decoder]
    config: ConfigTable
    base: str
    rows: tuple[Row, ...]
    others: tuple[str, ...] = ()
    skipped: str = ""
    gguf: GGUFTable | None = None

    @property
    def name(self) -> str:
        """Hugging Face's name."""
        return self.config.model_types[0]

    def heads(self) -> tuple[str, str]:
        """Names of out_head there: in a language model, in a classifier."""
        return "lm_head", "score"


FAMILIES: list[Family] = []


def register(family: Family) -> Family:
    """Make a family known to `from_pretrained`, `load_model`, PEFT's adapters and the command line."""
    FAMILIES.append(family)
    return family


def family_of(model: nn.Module) -> Family:
    """The family of a model. Raises ValueError for a model that no table describes."""
    for family in FAMILIES:
        if type(model) is family.model:
            return family
    known = ", ".join(family.model.__name__ for family in FAMILIES)
    raise ValueError(f"{type(model).__name__} has no table of names: register a Family for it; there are those of {known}")


class Layer(NamedTuple):
    """A layer there, with its module here: query, key and value for GPT-2's c_attn, else a single one.

    `owners` hold the parameters: `paths` are their paths, or those of the LoRA layers around them.
    """

    name: str
    row: Row
    paths: list[str]
    owners: list[nn.Module]

    def parameters(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by their name there, "weight" or "bias": one for each module."""
        found = [{LEAVES.get(n, n): p for n, p in owner._parameters.items() if p is not None} for owner in self.owners]
        return {leaf: [part[leaf] for part in found] for leaf in found[0]}

    def shape(self, leaf: str) -> tuple[int, ...]:
        """The shape of a parameter there."""
        parts = [p.shape[::-1] if self.row.turned else p.shape for p in self.parameters()[leaf]]
        return (*parts[0][:-1], sum(part[-1] for part in parts)) if len(parts) > 1 else tuple(parts[0])

    def stored(self, leaf: str) -> np.ndarray:
        """A parameter as it is stored there: transposed and concatenated if need be, in float32."""
        parts = [to_device(p.array, "cpu").astype(np.float32, copy=False) for p in self.parameters()[leaf]]
        turned = [part.T if self.row.turned else part for part in parts]
        return np.ascontiguousarray(np.concatenate(turned, axis=-1) if len(turned) > 1 else turned[0])

    def split(self, stored: np.ndarray) -> list[np.ndarray]:
        """The inverse of `stored`: each module's parameter."""
        parts = np.split(stored, len(self.owners), axis=-1) if len(self.owners) > 1 else [stored]
        return [np.ascontiguousarray(part.T if self.row.turned else part) for part in parts]


def layers(model: Decoder, headless: bool = False) -> dict[str, Layer]:
    """Every layer of `model` by its name there; with `headless`, by its name in a file of the base model alone."""
    family, found = family_of(model), {}
    for row in (*rows_of(family, len(model.trf_blocks)), Row(head_name(model), "out_head")):
        modules = [_submodule(model, path) for path in row.paths]
        if all(module is not None and _holds_weights(module) for module in modules):
            name = row.theirs.removeprefix(family.base) if headless else row.theirs
            owners = [module._modules.get("linear", module) for module in modules if module is not None]
            found[name] = Layer(name, row, list(row.paths), [owner for owner in owners if owner is not None])
    return found


def _holds_weights(module: nn.Module) -> bool:
    """Is it a layer there? A quantised Linear has no parameter, and a norm that a model does without is an Identity."""
    return isinstance(module, nn.Linear) or any(True for _ in module.named_parameters())


def check_rows(model: Decoder) -> None:
    """Raise ValueError for a table that does not fit the model.

    That is: parameters without a row, rows without a module, and parts of one layer that differ in shape.
    """
    named = set()
    seen: dict[str, tuple[str, ...]] = {}
    for row in family_of(model).rows:
        if row.theirs in seen:
            raise ValueError(f"two Rows are named {row.theirs}: those of {', '.join(seen[row.theirs] + row.paths)}")
        seen[row.theirs] = row.paths
    for layer in layers(model).values():
        if layer.paths == ["out_head"] and model.head_is_tied:
            continue
        for parts in layer.parameters().values():
            named |= {id(p) for p in parts}
            if len({p.shape for p in parts}) > 1:
                raise ValueError(f"{layer.name} joins {', '.join(layer.paths)}, which differ in shape; give each a Row")
    faults = []
    if lacking := [path for path, p in model.named_parameters() if id(p) not in named]:
        faults.append(f"no Row names {', '.join(lacking)}: add it to the table of {type(model).__name__}")
    faults += [
        f"no module of {type(model).__name__} is called {path}, as the Row of {row.theirs} says"
        for row in family_of(model).rows
        for path in row.paths
        if all(_submodule(model, path.format(i)) is None for i in range(len(model.trf_blocks)))
    ]
    if faults:
        raise ValueError("; ".join(faults))


def head_name(model: Decoder) -> str:
    """The name of `out_head` there: "score" in a classifier, else "lm_head"."""
    return family_of(model).heads()[model.classifies]


def kinds(model: Decoder, headless: bool = False) -> dict[str, str]:
    """The kind of every module there, "linear", "embedding" or "other", by name, in the order of PEFT's traversal."""
    family = family_of(model)
    found: dict[str, str] = {}
    for name, layer in layers(model, headless).items():
        for i in range(1, name.count(".") + 1):
            found.setdefault(".".join(name.split(".")[:i]), "other")
        kind = next(
            (k for k, c in (("linear", nn.Linear), ("embedding", nn.Embedding)) if isinstance(layer.owners[0], c)), "other"
        )
        found[name] = kind
    for other in family.others:
        for row in _per_block((Row(other, ()),), len(model.trf_blocks)):
            found.setdefault(row.theirs.removeprefix(family.base) if headless else row.theirs, "other")
    return found


def _per_block(rows: tuple[Row, ...], count: int) -> Iterator[Row]:
    """Rows with {} once per block, with its number; others as they are."""
    for row in rows:
        for i in range(count) if "{}" in row.theirs else ("",):
            ours = tuple(path.format(i) for path in row.paths)
            yield Row(row.theirs.format(i), ours, row.turned, row.bias, row.gguf and row.gguf.format(i), row.rotary)


def rows_of(family: Family, blocks: int) -> Iterator[Row]:
    """A family's rows for a model with this number of blocks."""
    return _per_block(family.rows, blocks)


def _submodule(model: nn.Module, path: str) -> nn.Module | None:
    for name in path.split("."):
        found = model._modules.get(name)
        if found is None:
            return None
        model = found
    return model


def full_names(names: set[str], model: Decoder) -> dict[str, str]:
    """Full name -> name in the file: adds the base's prefix where it is missing, and leaves out computed arrays.

    A tied head that is stored beside the embedding is left out; stored alone, it is read as the embedding.
    """
    family = family_of(model)
    apart = (family.base, *(f"{head}." for head in family.heads()))
    full = {name if name.startswith(apart) else family.base + name: name for name in names}
    kept = {name: stored for name, stored in full.items() if not (family.skipped and re.fullmatch(family.skipped, name))}
    if model.head_is_tied and (head := kept.pop(f"{family.heads()[0]}.weight", None)):
        kept.setdefault(f"{embedding_name(model)}.weight", head)
    return kept


def embedding_name(model: Decoder) -> str:
    """The name of the token embedding there."""
    return next(row.theirs for row in family_of(model).rows if row.ours == "tok_emb")


def preset(name: str) -> Decoder | None:
    """A new model of a preset's size; None if there is no preset of that name."""
    return next((family.model(name) for family in FAMILIES if name in family.model.presets), None)
