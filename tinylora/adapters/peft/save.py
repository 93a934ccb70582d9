"""Saves a model's LoRA in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.

Query, key and value have an A and a B each, and PEFT's c_attn has one. With A = [A_q; A_k; A_v] stacked, (3r, in), and the
three B the diagonal blocks of one, (3 out, 3r), it is the same function: B A x = [B_q A_q x; B_k A_k x; B_v A_v x]. Where
the three share one A, as they do in an adapter that came from PEFT, it stays one of rank r.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from tinylora import nn
from tinylora.adapters.apply import below
from tinylora.adapters.config import LoRAConfig
from tinylora.adapters.peft import config as peft
from tinylora.adapters.peft.vocabulary import ROWS
from tinylora.adapters.variants import DoRA, EmbeddingWithLoRA, TiedHeadLoRA, TokenRows
from tinylora.backend import to_device
from tinylora.formats import safetensors, strict_json
from tinylora.lora import LinearWithLoRA, LoRALayer, lora_modules
from tinylora.models.decoder import Decoder
from tinylora.models.names import Layer, family_of, head_name, layers


def save_peft(model: Decoder, folder: Path, config: LoRAConfig, about: dict[str, Any]) -> None:
    """Write the adapter of `model` into `folder`, with `about` in its metadata. See `store.save_adapter`."""
    found, wrapped = layers(model), dict(lora_modules(model))
    if len({isinstance(module, DoRA) for module in wrapped.values()}) > 1:
        raise ValueError("PEFT has one kind of LoRA in an adapter, and here some layers are DoRA and some are not")
    arrays: dict[str, np.ndarray] = {}
    ranks: dict[str, tuple[int, float]] = {}
    rows = next((module for module in wrapped.values() if isinstance(module, TokenRows)), None)
    for name, layer in found.items():
        if rows is not None and isinstance(wrapped.get(layer.paths[0]), TokenRows | TiedHeadLoRA):
            arrays |= {f"{name}.{ROWS}": to_device(rows.rows(), "cpu")} if layer.paths == ["tok_emb"] else {}
        elif any(path in wrapped for path in layer.paths):
            factors, scale = _factors(layer, wrapped)
            arrays |= factors
            r = len(next(iter(factors.values())))
            alpha = scale * (math.sqrt(r) if config.scaling == "rslora" else r)
            ranks[name] = (r, float(f"{alpha:.12g}"))  # 16.000000000000004 is 16
    whole = _whole(found, config.train)
    arrays |= {f"{name}.{leaf}": found[name].stored(leaf) for name in whole for leaf in found[name].parameters()}
    for name in model.__dict__.get("stored_whole", ()):
        owner = "base_layer." if name in ranks else "" if rows is None else "token_adapter.base_layer."
        arrays.setdefault(f"{name}.{owner}weight", found[name].stored("weight"))
    bias, biases = _biases(found, whole, ranks)
    arrays |= {f"{n}.base_layer.bias" if n in ranks else f"{n}.bias": found[n].stored("bias") for n in biases}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{folder}: NaN or infinity in {name}")
    if "score.bias" in arrays and arrays.pop("score.bias").any():
        raise ValueError(f"out_head has a bias, and {family_of(model).name} has none there: train a head with bias=False")
    folder.mkdir(parents=True, exist_ok=True)
    ready = {peft.PREFIX + name: array for name, array in arrays.items()}
    safetensors.save(folder / peft.WEIGHTS, ready, {"format": "pt", "tinylora": json.dumps(about)})
    tied = _ties(model, found, whole, ranks)
    turned = any(found[name].row.turned for name in ranks)
    written = _config(config, ranks, whole, bias, about.get("model"), head_name(model), turned)
    written["use_dora"] = any(isinstance(module, DoRA) for module in wrapped.values())
    written |= {"ensure_weight_tying": True} if tied else {}
    written |= {"trainable_token_indices": list(rows.tokens)} if rows is not None else {}
    safetensors.write(folder / peft.CONFIG, strict_json.text_of(written))


def _ties(model: Decoder, found: dict[str, Layer], whole: list[str], ranks: dict[str, tuple[int, float]]) -> bool:
    """Whether PEFT has to keep head and embedding equal: both are one trained weight, or the head follows the embedding's
    LoRA, and is then left out of `ranks`. PEFT knows only an embedding called embed_tokens as such; others get two LoRAs."""
    embedding, head = (next(n for n, layer in found.items() if layer.paths == [path]) for path in ("tok_emb", "out_head"))
    if embedding in whole and head in whole and model.head_is_tied:
        return True
    if isinstance(model.out_head, TiedHeadLoRA) and head in ranks and embedding.endswith("embed_tokens"):
        del ranks[head]
        return True
    return False


def _factors(layer: Layer, wrapped: dict[str, LinearWithLoRA]) -> tuple[dict[str, np.ndarray], float]:
    """A, B and DoRA's magnitude of a layer by their names in the file, A first, and the scale."""
    parts = [(i, wrapped[path]) for i, path in enumerate(layer.paths) if path in wrapped]
    A, B, scale = fused([(i, module.lora) for i, module in parts], len(layer.paths))
    if isinstance(parts[0][1], EmbeddingWithLoRA):
        return {f"{layer.name}.lora_embedding_A": A, f"{layer.name}.lora_embedding_B": B}, scale
    found = {f"{layer.name}.lora_A.weight": A, f"{layer.name}.lora_B.weight": B}
    if isinstance(parts[0][1], DoRA):
        lengths = [_magnitude(wrapped.get(path), owner) for path, owner in zip(layer.paths, layer.owners, strict=True)]
        found[f"{layer.name}.lora_magnitude_vector"] = np.concatenate(lengths)
    return found, scale


def _magnitude(wrapped: LinearWithLoRA | None, owner: nn.Module) -> np.ndarray:
    """DoRA's magnitude (out,); for a part of c_attn without LoRA, the lengths of its rows, which change nothing."""
    found = owner.weight.array if wrapped is None else wrapped.lora.magnitude.array
    found = to_device(found, "cpu").astype(np.float32, copy=False)
    return np.sqrt((found * found).sum(axis=1)) if wrapped is None else found


def fused(parts: list[tuple[int, LoRALayer]], count: int) -> tuple[np.ndarray, np.ndarray, float]:
    """A (r, in), B (out, r) and the scale of the single LoRA that equals `parts`, which are (place, LoRA) of `count` places.

    B has zeros for a place without LoRA. Where scales differ, B is multiplied by their ratio.
    """
    a = [to_device(lora.A.array, "cpu").T.astype(np.float32) for _, lora in parts]
    b = [to_device(lora.B.array, "cpu").T.astype(np.float32) for _, lora in parts]
    scale = next((lora.alpha for _, lora in parts if lora.alpha), 0.0)
    shared = all(array.shape == a[0].shape and (array == a[0]).all() for array in a)
    tall, A = len(b[0]), a[0] if shared else np.concatenate(a)
    B = np.zeros((count * tall, len(A)), np.float32)
    at = 0
    for (i, lora), part in zip(parts, b, strict=True):
        ratio = 1.0 if lora.alpha == scale else lora.alpha / scale
        B[i * tall : (i + 1) * tall, at : at + part.shape[1]] = part * np.float32(ratio)
        at += 0 if shared else part.shape[1]
    return np.ascontiguousarray(A), B, scale


def _whole(found: dict[str, Layer], train: tuple[str, ...]) -> list[str]:
    """The layers that are trained whole. Raises ValueError if only some modules of one layer are."""
    whole = []
    for name, layer in found.items():
        inside = [below(path, train) for path in layer.paths]
        if any(inside) and not all(inside):
            raise ValueError(
                f"{name} is one layer in PEFT, and only a part of it is trained whole: {', '.join(layer.paths)}"
            )
        whole += [name] if all(inside) else []
    return whole


def _biases(found: dict[str, Layer], whole: list[str], ranks: dict[str, Any]) -> tuple[str, list[str]]:
    """PEFT's `bias` entry and the layers whose bias is stored, from the parameters that require grad."""
    moved: dict[str, list[str]] = defaultdict(list)
    for name, layer in found.items():
        for leaf, parameters in layer.parameters().items() if name not in whole else ():
            if any(p.requires_grad for p in parameters):
                moved[leaf].append(name)
    having = [name for name, layer in found.items() if name not in whole and "bias" in layer.parameters()]
    kinds = {"none": [], "lora_only": [name for name in having if name in ranks], "all": having}
    for kind, names in kinds.items():
        if moved["bias"] == names and not moved["weight"]:
            return kind, names
    odd = moved["weight"] or moved["bias"]
    raise ValueError(f"{', '.join(odd[:4])} would be trained and not stored: name it in LoRAConfig.train, or freeze it")


def _config(
    config: LoRAConfig,
    ranks: dict[str, tuple[int, float]],
    whole: list[str],
    bias: str,
    base: Any,
    head: str,
    turned: bool,
) -> dict[str, Any]:
    """The entries of `adapter_config.json`: the commonest rank and alpha, and patterns for layers that differ."""
    (r, alpha), _ = Counter(ranks.values()).most_common(1)[0]
    task = "SEQ_CLS" if "score" in whole else "CAUSAL_LM" if head == "lm_head" else None
    return {
        "peft_type": "LORA", "task_type": task, "auto_mapping": None, "inference_mode": True,
        "base_model_name_or_path": base if isinstance(base, str) else None, "r": r, "lora_alpha": _plain(alpha),
        "rank_pattern": {name: rank for name, (rank, _) in ranks.items() if rank != r},
        "alpha_pattern": {name: _plain(a) for name, (_, a) in ranks.items() if a != alpha},
        "use_rslora": config.scaling == "rslora", "lora_dropout": config.dropout, "bias": bias,
        "target_modules": list(ranks), "modules_to_save": whole or None,
        "fan_in_fan_out": turned, "init_lora_weights": True,
    }  # fmt: skip


def _plain(number: float) -> int | float:
    return int(number) if number == int(number) else number
