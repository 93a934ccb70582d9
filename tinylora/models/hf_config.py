"""GPT-2's `config.json`, to the lecture's configuration and back: every entry is honoured, or refused by its name.

To the lecture's dictionary come, where they differ from GPT-2's own: `ff_dim` (n_inner), `activation`, `norm_eps`, and
`drop_emb`, `drop_att` beside `drop_rate` (Hugging Face's resid_pdrop). `labels` makes it a classifier; `.._token_id` stay.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

from tinylora.formats import LoadError

SIZES = {"vocab_size": "vocab_size", "n_positions": "context_length", "n_embd": "emb_dim", "n_head": "n_heads",
         "n_layer": "n_layers"}  # fmt: skip
OTHER_NAMES = {"hidden_size": "n_embd", "max_position_embeddings": "n_positions", "num_attention_heads": "n_head",
               "num_hidden_layers": "n_layer"}  # fmt: skip
DEFAULTS = {
    "vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": None,
    "activation_function": "gelu_new", "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1, "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True, "bos_token_id": 50256, "eos_token_id": 50256, "pad_token_id": None,
}  # fmt: skip
ACTIVATIONS = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu", "relu", "silu", "swish")
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
ARCHITECTURES = ("GPT2LMHeadModel", "GPT2ForSequenceClassification", "GPT2Model")

# entries that would compute something else; only these values of them are what tinylora computes
ONLY: dict[str, tuple[Any, ...]] = {
    "scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,), "add_cross_attention": (False,),
    "is_decoder": (True, False), "is_encoder_decoder": (False,), "pruned_heads": ({}, None), "quantization_config": (None,),
    "auto_map": (None,), "problem_type": (None, "single_label_classification"), "chunk_size_feed_forward": (0,),
    "cross_attention_hidden_size": (None,), "tie_encoder_decoder": (False,),
}  # fmt: skip
# reorder_and_upcast_attn changes rounding in half precision alone, and tinylora computes in float32
WITHOUT_EFFECT = frozenset(
    """reorder_and_upcast_attn initializer_range use_cache summary_type summary_use_proj summary_activation
    summary_proj_to_labels summary_first_dropout architectures model_type num_labels id2label label2id dtype torch_dtype
    transformers_version name_or_path _name_or_path task_specific_params n_ctx output_hidden_states output_attentions
    return_dict use_return_dict output_past predict_special_tokens n_special finetuning_task torchscript use_bfloat16
    attn_implementation _attn_implementation_autoset _commit_hash tokenizer_class prefix sep_token_id decoder_start_token_id
    gradient_checkpointing base_model_tp_plan""".split()
)


def to_lecture(config: dict[str, Any], where: str) -> dict[str, Any]:
    """The lecture's configuration of a Hugging Face `config`; `where` begins every message of LoadError."""
    if config.get("model_type") != "gpt2":
        raise LoadError(f"{where}: model_type is {config.get('model_type')!r}, and tinylora reads 'gpt2'")
    for other, name in OTHER_NAMES.items():
        if other in config and config.get(name, config[other]) != config[other]:
            raise LoadError(f"{where}: {other} and {name} are one entry, and here they differ")
    config = {OTHER_NAMES.get(key, key): value for key, value in config.items()}
    _refuse(config, where)
    full = {**DEFAULTS, **config}
    cfg: dict[str, Any] = {ours: _size(full[theirs], theirs, where) for theirs, ours in SIZES.items()}
    if cfg["emb_dim"] % cfg["n_heads"]:
        raise LoadError(f"{where}: n_embd {cfg['emb_dim']} is not divisible by n_head {cfg['n_heads']}")
    cfg |= {"drop_rate": _share(full, "resid_pdrop", where), "qkv_bias": True}
    for theirs, ours in (("embd_pdrop", "drop_emb"), ("attn_pdrop", "drop_att")):
        if (p := _share(full, theirs, where)) != cfg["drop_rate"]:
            cfg[ours] = p
    if full["n_inner"] is not None:
        cfg["ff_dim"] = _size(full["n_inner"], "n_inner", where)
    if full["activation_function"] not in ACTIVATIONS:
        raise LoadError(f"{where}: activation_function {full['activation_function']!r}; known are {', '.join(ACTIVATIONS)}")
    if full["activation_function"] != DEFAULTS["activation_function"]:
        cfg["activation"] = full["activation_function"]
    if (eps := _number(full, "layer_norm_epsilon", where)) != DEFAULTS["layer_norm_epsilon"]:
        cfg["norm_eps"] = eps
    if labels := _labels(config, where):
        cfg["labels"] = labels
    elif full["tie_word_embeddings"] is True:
        cfg["tie_head"] = True
    elif full["tie_word_embeddings"] is not False:
        raise LoadError(f"{where}: tie_word_embeddings must be true or false, not {str(full['tie_word_embeddings'])[:60]}")
    return cfg | {name: _token(full[name], name, where) for name in TOKENS}


def to_hugging_face(cfg: dict[str, Any], tied: bool, labels: list[str] | None) -> dict[str, Any]:
    """The `config.json` of a model of configuration `cfg`, whose head is tied or not, and a classifier's with `labels`."""
    drop = cfg["drop_rate"]
    config: dict[str, Any] = {
        "architectures": ["GPT2ForSequenceClassification" if labels else "GPT2LMHeadModel"], "model_type": "gpt2",
        **{theirs: cfg[ours] for theirs, ours in SIZES.items()}, "n_inner": cfg.get("ff_dim"),
        "activation_function": cfg.get("activation", DEFAULTS["activation_function"]),
        "layer_norm_epsilon": cfg.get("norm_eps", DEFAULTS["layer_norm_epsilon"]), "resid_pdrop": drop,
        "embd_pdrop": cfg.get("drop_emb", drop), "attn_pdrop": cfg.get("drop_att", drop), "dtype": "float32",
        "tie_word_embeddings": tied, **{name: cfg.get(name) for name in TOKENS},
    }  # fmt: skip
    if labels:
        config |= {"id2label": {str(i): name for i, name in enumerate(labels)}}
        config |= {"label2id": {name: i for i, name in enumerate(labels)}}
        if config["pad_token_id"] is None and isinstance(config["eos_token_id"], int):
            config["pad_token_id"] = config["eos_token_id"]  # without one transformers takes one message at a time
    return config


def _refuse(config: dict[str, Any], where: str) -> None:
    for name, allowed in ONLY.items():
        if name in config and config[name] not in allowed:
            raise LoadError(f"{where}: {name} is {str(config[name])[:60]}, and tinylora computes it as {allowed[0]} alone")
    architectures = config.get("architectures") or []
    for name in architectures if isinstance(architectures, list) else [architectures]:
        if name not in ARCHITECTURES:
            raise LoadError(f"{where}: architecture {name!r}; known are {', '.join(ARCHITECTURES)}")
    unknown = config.keys() - DEFAULTS.keys() - ONLY.keys() - WITHOUT_EFFECT
    if unknown:
        warnings.warn(f"{where}: not known and left out of account: {', '.join(sorted(unknown))}", stacklevel=2)


def _labels(config: dict[str, Any], where: str) -> list[str] | None:
    """The names of a classifier's classes in their order; None if it is a language model."""
    if "GPT2ForSequenceClassification" not in (config.get("architectures") or ()):
        return None
    count = config.get("num_labels", 2)
    named = config.get("id2label") or {str(i): f"LABEL_{i}" for i in range(count if type(count) is int else 0)}
    labels: list[Any] = [named.get(str(i)) for i in range(len(named))] if isinstance(named, dict) else []
    if "num_labels" in config and count != len(labels):
        raise LoadError(f"{where}: num_labels is {count!r}, and id2label has {len(labels)}")
    if len(labels) == 1:
        raise LoadError(f"{where}: num_labels is 1, a regression; tinylora classifies")
    if len(labels) < 2 or not all(isinstance(label, str) for label in labels) or len(set(labels)) < len(labels):
        raise LoadError(f"{where}: id2label must map 0, 1, .. to two different names or more, not {str(named)[:60]}")
    return labels


def _size(value: Any, name: str, where: str) -> int:
    if type(value) is not int or not 0 < value < 2**31:
        raise LoadError(f"{where}: {name} must be an integer of at least 1, not {str(value)[:60]}")
    return value


def _token(value: Any, name: str, where: str) -> int | list[int] | None:
    if value is not None and not all(type(i) is int and i >= 0 for i in (value if isinstance(value, list) else [value])):
        raise LoadError(f"{where}: {name} must be a token's number, or several, not {str(value)[:60]}")
    return value


def _number(config: dict[str, Any], name: str, where: str) -> float:
    value = config[name]
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise LoadError(f"{where}: {name} must be a number of at least 0, not {str(value)[:60]}")
    return float(value)


def _share(config: dict[str, Any], name: str, where: str) -> float:
    if (value := _number(config, name, where)) >= 1:
        raise LoadError(f"{where}: {name} must be below 1, not {value}")
    return value
