"""GPT-2 in Hugging Face's files: names, shapes as stored, and the entries of its configuration.

Conv1D stores its weight as (in, out), a Linear as (out, in); `c_attn` is query, key and value concatenated.
"""

from __future__ import annotations

from typing import Any

from tinylora.models.activations import ACTIVATIONS
from tinylora.models.gpt import GPTConfig, GPTModel
from tinylora.models.hf_config import ConfigTable, choice, number, optional_size, share, size
from tinylora.models.names import Family, Row, register


def adjust(theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """Query, key and value always have a bias; equal dropouts become `drop_rate` alone."""
    if ours["emb_dim"] % ours["n_heads"]:
        raise ValueError(f"n_embd {ours['emb_dim']} is not divisible by n_head {ours['n_heads']}")
    same = [name for name in ("drop_emb", "drop_att") if ours[name] == ours["drop_rate"]]
    return {**ours, "qkv_bias": True, **dict.fromkeys(same)}


def restore(cfg: GPTConfig, config: dict[str, Any]) -> dict[str, Any]:
    """config.json has all three dropouts."""
    same = [name for name in ("embd_pdrop", "attn_pdrop") if config[name] is None]
    return config | dict.fromkeys(same, cfg.drop_rate)


ROWS = (
    Row("transformer.wte", "tok_emb"),
    Row("transformer.wpe", "pos_emb"),
    Row("transformer.h.{}.ln_1", "trf_blocks.{}.norm1"),
    Row(
        "transformer.h.{}.attn.c_attn",
        ("trf_blocks.{}.att.W_query", "trf_blocks.{}.att.W_key", "trf_blocks.{}.att.W_value"),
        turned=True,
        bias=True,
    ),
    Row("transformer.h.{}.attn.c_proj", "trf_blocks.{}.att.out_proj", turned=True),
    Row("transformer.h.{}.ln_2", "trf_blocks.{}.norm2"),
    Row("transformer.h.{}.mlp.c_fc", "trf_blocks.{}.ff.layers.0", turned=True),
    Row("transformer.h.{}.mlp.c_proj", "trf_blocks.{}.ff.layers.2", turned=True),
    Row("transformer.ln_f", "final_norm"),
)

OTHERS = (  # modules without parameters
    "transformer.drop", "transformer.h.{}.attn.attn_dropout", "transformer.h.{}.attn.resid_dropout",
    "transformer.h.{}.mlp.act", "transformer.h.{}.mlp.dropout",
)  # fmt: skip

ENTRIES = {
    "vocab_size": size("vocab_size", 50257), "n_positions": size("context_length", 1024), "n_embd": size("emb_dim", 768),
    "n_head": size("n_heads", 12), "n_layer": size("n_layers", 12), "n_inner": optional_size("ff_dim"),
    "activation_function": choice("activation", "gelu_new", ACTIVATIONS), "layer_norm_epsilon": number("norm_eps", 1e-5),
    "resid_pdrop": share("drop_rate", 0.1), "embd_pdrop": share("drop_emb", 0.1), "attn_pdrop": share("drop_att", 0.1),
}  # fmt: skip

CONFIG = ConfigTable(
    config=GPTConfig,
    architectures={"gpt2": ("GPT2LMHeadModel", "GPT2ForSequenceClassification", "GPT2Model")},
    entries=ENTRIES,
    defaults={"gpt2": {"tie_word_embeddings": True, "bos_token_id": 50256, "eos_token_id": 50256}},
    other_names={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    only={"scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,)},
    # reorder_and_upcast_attn only changes rounding in half precision, and tinylora computes in float32
    without_effect=frozenset(
        """reorder_and_upcast_attn summary_type summary_use_proj summary_activation summary_proj_to_labels
        summary_first_dropout n_ctx output_past predict_special_tokens n_special""".split()
    ),
    adjust=adjust,
    restore=restore,
)

GPT2 = register(
    Family(
        model=GPTModel,
        config=CONFIG,
        base="transformer.",
        rows=ROWS,
        others=OTHERS,
        skipped=r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",  # masks in older files
    )
)
