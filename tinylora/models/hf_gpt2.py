"""GPT-2 as Hugging Face stores it: which name and which configuration entry is which of ours.

The differences: Conv1D keeps its weight (in, out) where a Linear has (out, in); `c_attn` is query, key and value side by
side; the head is `lm_head`, tied to the token embedding, or `score`, without a bias; all but the head may stand below
"transformer.". Only names, shapes and arrays here; the model is built in models/pretrained.py.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from tinylora.formats import LoadError

BLOCK = {
    "att.W_query": "attn.c_attn", "att.W_key": "attn.c_attn", "att.W_value": "attn.c_attn", "att.out_proj": "attn.c_proj",
    "ff.layers.0": "mlp.c_fc", "ff.layers.2": "mlp.c_proj", "norm1": "ln_1", "norm2": "ln_2",
}  # fmt: skip
OUTSIDE = {"tok_emb": "wte", "pos_emb": "wpe", "final_norm": "ln_f"}
MASK = re.compile(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)")  # buffers that older files hold


def layer_of(path: str, head: str) -> str | None:
    """The layer there that our module `path` is, or is a third of; None if it is no layer.

    `head` is what out_head is there, "lm_head" or "score".

    >>> layer_of("trf_blocks.3.att.W_key", "lm_head")
    'transformer.h.3.attn.c_attn'
    """
    if path == "out_head":
        return head
    if path in OUTSIDE:
        return f"transformer.{OUTSIDE[path]}"
    found = re.fullmatch(r"trf_blocks\.(\d+)\.(.+)", path)
    return f"transformer.h.{found[1]}.{BLOCK[found[2]]}" if found and found[2] in BLOCK else None


def is_conv1d(layer: str) -> bool:
    """Is this a layer whose weight is stored (in, out)?"""
    return layer.endswith((".c_attn", ".c_proj", ".c_fc"))


def split(stored: np.ndarray, layer: str, count: int) -> list[np.ndarray]:
    """What is stored for a layer, as ours: `count` parts side by side, each turned to (out, in) if it is a Conv1D's."""
    parts = np.split(stored, count, axis=-1) if count > 1 else [stored]
    return [np.ascontiguousarray(part.T if is_conv1d(layer) else part) for part in parts]


def join(parts: list[np.ndarray], layer: str) -> np.ndarray:
    """The inverse of `split`."""
    turned = [part.T if is_conv1d(layer) else part for part in parts]
    return np.ascontiguousarray(np.concatenate(turned, axis=-1) if len(turned) > 1 else turned[0])


def shapes(cfg: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every array that the file of a model of configuration `cfg` holds, by name: {"transformer.wte.weight": (V, C), ..}."""
    C, hidden = cfg["emb_dim"], cfg.get("ff_dim", 4 * cfg["emb_dim"])
    found = {
        "transformer.wte.weight": (cfg["vocab_size"], C), "transformer.wpe.weight": (cfg["context_length"], C),
        "transformer.ln_f.weight": (C,), "transformer.ln_f.bias": (C,),
    }  # fmt: skip
    layers = {
        "ln_1": (C,), "ln_2": (C,), "attn.c_attn": (C, 3 * C), "attn.c_proj": (C, C), "mlp.c_fc": (C, hidden),
        "mlp.c_proj": (hidden, C),
    }  # fmt: skip
    for i in range(cfg["n_layers"]):
        for name, shape in layers.items():
            found[f"transformer.h.{i}.{name}.weight"] = shape
            found[f"transformer.h.{i}.{name}.bias"] = shape[-1:]
    if "labels" in cfg:
        found["score.weight"] = (len(cfg["labels"]), C)
    elif not cfg.get("tie_head"):
        found["lm_head.weight"] = (cfg["vocab_size"], C)
    return found


def aliases(names: set[str], cfg: dict[str, Any]) -> dict[str, str]:
    """The names in a file by what they are called here: with "transformer." in front, the mask buffers left out.

    A tied head is left out where a file holds it beside the embedding, and stands for the embedding where it is alone.
    """
    full = {n if n.startswith(("transformer.", "lm_head.", "score.")) else f"transformer.{n}": n for n in names}
    kept = {name: stored for name, stored in full.items() if not MASK.fullmatch(name)}
    if cfg.get("tie_head") and (head := kept.pop("lm_head.weight", None)):
        kept.setdefault("transformer.wte.weight", head)
    return kept


def check(cfg: dict[str, Any], found: dict[str, tuple[int, ...]], where: str) -> None:
    """Raise LoadError that lists every array of a file that is missing, unexpected or not of the shape `cfg` demands."""
    layers = {int(i) for i in re.findall(r"transformer\.h\.(\d{1,6})\.", "\n".join(found))}
    if cfg["n_layers"] != len(layers):  # before a billion names are made up
        raise LoadError(f"{where}: the configuration says {cfg['n_layers']} layers, and the weights have {len(layers)}")
    wanted = shapes(cfg)
    faults = [f"missing: {name}" for name in wanted.keys() - found.keys()]
    faults += [f"unexpected: {name}" for name in found.keys() - wanted.keys()]
    faults += [
        f"{name}: expected {shape}, got {found[name]}" for name, shape in wanted.items() if found.get(name, shape) != shape
    ]
    if faults:
        raise LoadError(f"{where}: does not fit its configuration:\n  " + "\n  ".join(sorted(faults)))
