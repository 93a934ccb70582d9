"""Which module here is which layer in another library's files. One table a family; nothing else knows a name.

A row says what a layer is called in Hugging Face's files and here, and how it is stored there:

    Row("transformer.h.{}.mlp.c_fc", "trf_blocks.{}.ff.layers.0", turned=True)

"{}" is the number of the block. From the rows follow loading, saving, shapes (of a model on the meta device), PEFT's names
and GGUF's. `register(Family(..))` is all it takes to add a family: see docs/contributing.md.
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

LEAVES = {"scale": "weight", "shift": "bias"}  # a layer norm's parameters there; the others have the same names


@dataclass(frozen=True)
class Row:
    """A layer there and the module here, or the modules of which it is made, side by side.

    `turned`: its weight is stored (in, out), where a Linear has (out, in). `bias`: there it always has one. `gguf` is its
    name in a GGUF file, where `rotary` says that its rows stand in the order in which llama.cpp rotates them, pairs of
    neighbours instead of halves.
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
    """Models of one class, and all that is known of their files.

    `base` is the prefix that every layer but the head has there, in a file of the whole model. `others` are modules there
    that hold no weights, which patterns in PEFT's configurations may meet. `skipped` matches arrays that are computed, not
    read. `gguf` says how the family is stored in GGUF files, if it is.
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
        """What Hugging Face calls it."""
        return self.config.model_types[0]

    def heads(self) -> tuple[str, str]:
        """What out_head is called when it scores tokens, and when it scores classes."""
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
    """A layer there, by its name, and the modules that are it here: query, key and value for c_attn, else one.

    `owners` are the modules that hold the parameters: the Linear inside, where LoRA is around one.
    """

    name: str
    row: Row
    paths: list[str]
    owners: list[nn.Module]

    def parameters(self) -> dict[str, list[nn.Parameter]]:
        """The parameters by their name there, "weight" and "bias", each one's parts in order."""
        found = [{LEAVES.get(n, n): p for n, p in owner._parameters.items() if p is not None} for owner in self.owners]
        return {leaf: [part[leaf] for part in found] for leaf in found[0]}

    def shape(self, leaf: str) -> tuple[int, ...]:
        """The shape that a parameter has there."""
        parts = [p.shape[::-1] if self.row.turned else p.shape for p in self.parameters()[leaf]]
        return (*parts[0][:-1], sum(part[-1] for part in parts)) if len(parts) > 1 else tuple(parts[0])

    def stored(self, leaf: str) -> np.ndarray:
        """A parameter as it is stored there, in float32."""
        parts = [to_device(p.data, "cpu").astype(np.float32, copy=False) for p in self.parameters()[leaf]]
        turned = [part.T if self.row.turned else part for part in parts]
        return np.ascontiguousarray(np.concatenate(turned, axis=-1) if len(turned) > 1 else turned[0])

    def split(self, stored: np.ndarray) -> list[np.ndarray]:
        """The inverse of `stored`: what each module's parameter is."""
        parts = np.split(stored, len(self.owners), axis=-1) if len(self.owners) > 1 else [stored]
        return [np.ascontiguousarray(part.T if self.row.turned else part) for part in parts]


def layers(model: Decoder, headless: bool = False) -> dict[str, Layer]:
    """Every layer of `model` by its name there; `headless` are the names in a file of a model without a head."""
    family, found = family_of(model), {}
    for row in (*rows_of(family, len(model.trf_blocks)), Row(head_name(model), "out_head")):
        modules = [_submodule(model, path) for path in row.paths]
        if all(module is not None and any(True for _ in module.named_parameters()) for module in modules):
            name = row.theirs.removeprefix(family.base) if headless else row.theirs
            owners = [module._modules.get("linear", module) for module in modules if module is not None]
            found[name] = Layer(name, row, list(row.paths), [owner for owner in owners if owner is not None])
    return found


def check_rows(model: Decoder) -> None:
    """Raise ValueError for parameters that no row of the family names, and for parts of one layer that differ in shape."""
    named = set()
    for layer in layers(model).values():
        if layer.paths == ["out_head"] and model.head_is_tied:
            continue
        for parts in layer.parameters().values():
            named |= {id(p) for p in parts}
            if len({p.shape for p in parts}) > 1:
                raise ValueError(f"{layer.name} joins {', '.join(layer.paths)}, which differ in shape; give each a Row")
    if lacking := [path for path, p in model.named_parameters() if id(p) not in named]:
        raise ValueError(f"no Row names {', '.join(lacking)}: add it to the table of {type(model).__name__}")


def head_name(model: Decoder) -> str:
    """What `out_head` is called there: "score" if it tells classes apart, else "lm_head"."""
    return family_of(model).heads()[model.classifies]


def kinds(model: Decoder, headless: bool = False) -> dict[str, str]:
    """Every module there, by name: "linear", "embedding" or "other", in the order in which PEFT walks them."""
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
    """The rows outside the blocks, and those inside for every block."""
    for row in rows:
        for i in range(count) if "{}" in row.theirs else ("",):
            ours = tuple(path.format(i) for path in row.paths)
            yield Row(row.theirs.format(i), ours, row.turned, row.bias, row.gguf and row.gguf.format(i), row.rotary)


def rows_of(family: Family, blocks: int) -> Iterator[Row]:
    """A family's rows, for a model of so many blocks."""
    return _per_block(family.rows, blocks)


def _submodule(model: nn.Module, path: str) -> nn.Module | None:
    for name in path.split("."):
        found = model._modules.get(name)
        if found is None:
            return None
        model = found
    return model


def full_names(names: set[str], model: Decoder) -> dict[str, str]:
    """The names in a file by what they are called here: with the base's prefix in front, computed arrays left out.

    A tied head is left out where a file holds it beside the embedding, and stands for the embedding where it is alone.
    """
    family = family_of(model)
    apart = (family.base, *(f"{head}." for head in family.heads()))
    full = {name if name.startswith(apart) else family.base + name: name for name in names}
    kept = {name: stored for name, stored in full.items() if not (family.skipped and re.fullmatch(family.skipped, name))}
    if model.head_is_tied and (head := kept.pop(f"{family.heads()[0]}.weight", None)):
        kept.setdefault(f"{embedding_name(model)}.weight", head)
    return kept


def embedding_name(model: Decoder) -> str:
    """What the token embedding is called there."""
    return next(row.theirs for row in family_of(model).rows if row.ours == "tok_emb")


def preset(name: str) -> Decoder | None:
    """A new model of a well-known size, by its name; None for a name that is no preset's."""
    return next((family.model(name) for family in FAMILIES if name in family.model.presets), None)
