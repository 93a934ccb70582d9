"""Llama, Mistral and Qwen in Hugging Face's and GGUF files: layer names, and the entries of their configurations."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinylora.formats.gguf import GGUF
from tinylora.models.gguf import GGUFTable
from tinylora.models.hf_config import ConfigTable, flag, number, optional_size, share, size
from tinylora.models.llama import LlamaConfig, LlamaModel
from tinylora.models.names import Family, Row, register
from tinylora.models.rotary import KINDS, RopeScaling, frequencies

ROWS = (
    Row("model.embed_tokens", "tok_emb", gguf="token_embd"),
    Row("model.layers.{}.self_attn.q_proj", "trf_blocks.{}.att.W_query", gguf="blk.{}.attn_q", rotary=True),
    Row("model.layers.{}.self_attn.k_proj", "trf_blocks.{}.att.W_key", gguf="blk.{}.attn_k", rotary=True),
    Row("model.layers.{}.self_attn.v_proj", "trf_blocks.{}.att.W_value", gguf="blk.{}.attn_v"),
    Row("model.layers.{}.self_attn.o_proj", "trf_blocks.{}.att.out_proj", gguf="blk.{}.attn_output"),
    Row("model.layers.{}.self_attn.q_norm", "trf_blocks.{}.att.q_norm", gguf="blk.{}.attn_q_norm"),
    Row("model.layers.{}.self_attn.k_norm", "trf_blocks.{}.att.k_norm", gguf="blk.{}.attn_k_norm"),
    Row("model.layers.{}.mlp.gate_proj", "trf_blocks.{}.ff.fc1", gguf="blk.{}.ffn_gate"),
    Row("model.layers.{}.mlp.up_proj", "trf_blocks.{}.ff.fc2", gguf="blk.{}.ffn_up"),
    Row("model.layers.{}.mlp.down_proj", "trf_blocks.{}.ff.fc3", gguf="blk.{}.ffn_down"),
    Row("model.layers.{}.input_layernorm", "trf_blocks.{}.norm1", gguf="blk.{}.attn_norm"),
    Row("model.layers.{}.post_attention_layernorm", "trf_blocks.{}.norm2", gguf="blk.{}.ffn_norm"),
    Row("model.norm", "final_norm", gguf="output_norm"),
)

ENTRIES = {
    "vocab_size": size("vocab_size", 32000), "max_position_embeddings": size("context_length", 2048), "hidden_size":
    size("emb_dim", 4096), "num_attention_heads": size("n_heads", 32), "num_hidden_layers": size("n_layers", 32),
    "num_key_value_heads": optional_size("n_kv_heads"), "intermediate_size": size("hidden_dim", 11008), "head_dim":
    optional_size("head_dim"), "rms_norm_eps": number("norm_eps", 1e-6), "attention_dropout": share("drop_att", 0.0),
    "mlp_bias": flag("mlp_bias", False), "attention_bias": flag("qkv_bias", False), "sliding_window":
    optional_size("sliding_window"),
}  # fmt: skip

# defaults by model_type, where they differ from those in ENTRIES
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"bos_token_id": 1, "eos_token_id": 2},
    "mistral": {
        "bos_token_id": 1, "eos_token_id": 2, "num_key_value_heads": 8, "intermediate_size": 14336,
        "max_position_embeddings": 131072, "sliding_window": 4096,
    },
    "qwen2": {"vocab_size": 151936, "intermediate_size": 22016, "max_position_embeddings": 32768},
    "qwen3": {"vocab_size": 151936, "intermediate_size": 22016, "max_position_embeddings": 32768, "head_dim": 128},
}  # fmt: skip
ROPE = {"rope_theta", "rope_type", "type", "factor", "low_freq_factor", "high_freq_factor", "partial_rotary_factor",
        "original_max_position_embeddings"}  # fmt: skip


LACKING = {  # entries that a model_type does not have
    "llama": {"sliding_window"}, "mistral": {"attention_bias", "mlp_bias"},
    "qwen2": {"attention_bias", "mlp_bias", "head_dim", "sliding_window"}, "qwen3": {"mlp_bias", "sliding_window"},
}  # fmt: skip


def adjust(theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """Entries that depend on several of theirs, or on model_type."""
    kind = theirs["model_type"]
    base, scaling = _rope(theirs)
    window = ours["sliding_window"] if kind == "mistral" else None
    if kind in ("qwen2", "qwen3") and theirs.get("use_sliding_window", False) is not False:
        raise ValueError("use_sliding_window is true, and tinylora computes it as false alone")
    if lacked := [name for name in LACKING[kind] - {"sliding_window", "head_dim"} if ours[ENTRIES[name].ours]]:
        raise ValueError(f"{min(lacked)} is true, and a {kind} has none")
    layer_types = theirs.get("layer_types") or []
    if not isinstance(layer_types, list) or any(layer != "full_attention" for layer in layer_types):
        raise ValueError(f"layer_types is {str(theirs['layer_types'])[:60]}, and tinylora computes full_attention alone")
    return {
        **ours, "model_type": kind, "rope_base": base, "rope_scaling": scaling, "sliding_window": window,
        "context_length": min(ours["context_length"], window or ours["context_length"]),
        "max_positions": ours["context_length"] if window and window < ours["context_length"] else None,
        "head_dim": ours["head_dim"] or 0, "n_kv_heads": ours["n_kv_heads"] or ours["n_heads"],
        "qkv_bias": kind == "qwen2" or ours["qkv_bias"], "out_bias": kind != "qwen2" and ours["qkv_bias"],
        "qk_norm": kind == "qwen3",
    }  # fmt: skip


def _rope(theirs: dict[str, Any]) -> tuple[float, RopeScaling | None]:
    """The rotary base and scaling: from `rope_parameters`, or in older files from `rope_theta` and `rope_scaling`."""
    name = "rope_scaling" if theirs.get("rope_scaling") else "rope_parameters"  # the older entry comes first there too
    found = theirs.get(name) or {}
    if not isinstance(found, dict):
        raise ValueError(f"{name} must be an object, not {str(found)[:60]}")
    base = found.get("rope_theta", theirs.get("rope_theta", 10_000.0))
    kind = found.get("rope_type", found.get("type", "default"))
    if found.get("partial_rotary_factor", theirs.get("partial_rotary_factor")) not in (1, 1.0, None):
        raise ValueError("partial_rotary_factor is not 1, and tinylora rotates all features alone")
    if kind != "default" and kind not in KINDS:
        raise ValueError(f"rope kind {str(kind)[:60]!r}; known are default, {', '.join(KINDS)}")
    if unknown := found.keys() - ROPE:
        raise ValueError(f"{name} has the entry {min(unknown)!r}, which tinylora does not know how to honour")
    if kind == "default":
        return base, None
    found = {"original_max_position_embeddings": theirs.get("max_position_embeddings", 2048), **found}
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    used = names if kind == "llama3" else names[:1]
    if lacking := [name for name in used if name not in found]:
        raise ValueError(f"the rope kind {kind} needs {', '.join(lacking)}")
    return base, RopeScaling(kind, *(found[name] for name in used))


def restore_rope(scaling: RopeScaling | None) -> dict[str, Any]:
    """Rotary scaling as in config.json, without the base: the inverse of `_rope`."""
    if scaling is None:
        return {"rope_type": "default"}
    found = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "llama3":
        found |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
        found |= {"original_max_position_embeddings": scaling.original_context}
    return found


def restore(cfg: LlamaConfig, config: dict[str, Any]) -> dict[str, Any]:
    """Add rotary scaling in the present and the older format; leave out entries that the model_type does not have."""
    kept = {name: value for name, value in config.items() if name not in LACKING[cfg.model_type]}
    kept["max_position_embeddings"] = cfg.max_positions or cfg.context_length
    if cfg.head_dim != cfg.emb_dim // cfg.n_heads:
        kept["head_dim"] = cfg.head_dim
    rope = restore_rope(cfg.rope_scaling)
    return kept | {
        "hidden_act": "silu", "rope_theta": cfg.rope_base, "rope_parameters": {"rope_theta": cfg.rope_base, **rope},
        "rope_scaling": rope if cfg.rope_scaling else None,
    }  # fmt: skip


CONFIG = ConfigTable(
    config=LlamaConfig,
    architectures={
        "llama": ("LlamaForCausalLM", "LlamaForSequenceClassification", "LlamaModel"),
        "mistral": ("MistralForCausalLM", "MistralForSequenceClassification", "MistralModel"),
        "qwen2": ("Qwen2ForCausalLM", "Qwen2ForSequenceClassification", "Qwen2Model"),
        "qwen3": ("Qwen3ForCausalLM", "Qwen3ForSequenceClassification", "Qwen3Model"),
    },
    entries=ENTRIES,
    defaults=DEFAULTS,
    only={"hidden_act": ("silu", "swish"), "pretraining_tp": (1,)},
    without_effect=frozenset(
        """rope_parameters rope_scaling rope_theta partial_rotary_factor use_sliding_window layer_types max_window_layers
        rope_interleaved is_llama_config""".split()
    ),
    adjust=adjust,
    restore=restore,
)


def complete_gguf(file: GGUF, config: dict[str, Any]) -> dict[str, Any]:
    """Entries that need several keys or tensors of a GGUF file: rotary scaling, vocabulary size, tied head, biases."""
    arch = file.metadata["general.architecture"]
    for key in ("rope.dimension_count", "attention.value_length"):
        size = file.metadata.get(f"{arch}.{key}", head := config.get("head_dim") or _head_dim(config))
        if size != head:
            raise ValueError(f"{arch}.{key} is {size}, and tinylora computes it as the size of a head, {head}, alone")
    if file.metadata.get(f"{arch}.expert_count"):
        raise ValueError(f"{arch}.expert_count is {file.metadata[f'{arch}.expert_count']}: experts are not known")
    embedding = file.shapes.get("token_embd.weight", ())
    if config.setdefault("vocab_size", embedding[0] if embedding else 0) != (embedding[0] if embedding else 0):
        raise ValueError(f"{arch}.vocab_size is {config['vocab_size']}, and token_embd.weight has shape {embedding}")
    kind = file.metadata.get(f"{arch}.rope.scaling.type", "none")
    scaling: dict[str, Any] = {}
    if "rope_freqs.weight" in file.shapes:
        scaling = _llama3_of(file.floats("rope_freqs.weight"), config)
    elif kind != "none":
        scaling = {"rope_type": kind, "factor": file.metadata.get(f"{arch}.rope.scaling.factor", 1.0)}
    more = {"rope_scaling": scaling or None, "tie_word_embeddings": "output.weight" not in file.shapes}
    if "blk.0.attn_output.bias" in file.shapes:
        more["attention_bias"] = True
    return {**config, **more}


def _head_dim(config: dict[str, Any]) -> int:
    return config.get("hidden_size", 0) // (config.get("num_attention_heads") or 1)


def _llama3_of(factors: np.ndarray, config: dict[str, Any]) -> dict[str, Any]:
    """The Llama 3 rotary scaling with these factors per pair. Raises ValueError for other factors."""
    scaling = RopeScaling("llama3", float(factors.max()))
    head, base = config.get("head_dim") or _head_dim(config), config.get("rope_theta", 10_000.0)
    plain, scaled = frequencies(head, base, None), frequencies(head, base, scaling)
    if factors.shape != plain.shape or not np.allclose(plain / factors, scaled, rtol=1e-3):
        raise ValueError("rope_freqs.weight holds other factors than Llama 3's, which are the only ones known")
    return restore_rope(scaling)


GGUF_TABLE = GGUFTable(
    architectures={"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"},
    interleaved=("llama",),
    entries={
        "context_length": "max_position_embeddings",
        "embedding_length": "hidden_size",
        "block_count": "num_hidden_layers",
        "feed_forward_length": "intermediate_size",
        "attention.head_count": "num_attention_heads",
        "attention.head_count_kv": "num_key_value_heads",
        "attention.key_length": "head_dim",
        "attention.layer_norm_rms_epsilon": "rms_norm_eps",
        "rope.freq_base": "rope_theta",
        "vocab_size": "vocab_size",
    },
    without_effect=(
        "rope.dimension_count",
        "attention.value_length",
        "expert_count",
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.scaling.original_context_length",
        "rope.scaling.finetuned",
    ),
    complete=complete_gguf,
)

LLAMA = register(
    Family(
        model=LlamaModel,
        config=CONFIG,
        base="model.",
        rows=ROWS,
        others=("model.layers.{}.mlp.act_fn", "model.rotary_emb"),
        gguf=GGUF_TABLE,
        skipped=r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",  # angles in older files
    )
)
