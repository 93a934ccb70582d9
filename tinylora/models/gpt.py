"""GPT-2, in the lecture's names. (Reading path 5 of 6; next: lora.py.)

Token ids go in, (B, T); each becomes a vector of C features, passes through a stack of blocks, and comes out as scores,
(B, T, vocabulary). Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
"""

from __future__ import annotations

from typing import Any

from tinylora import nn
from tinylora.models.presets import GPT2_SMALL, PRESETS
from tinylora.models.pretrained import Pretrained
from tinylora.nn.side_by_side import side_by_side
from tinylora.tensor import Tensor
from tinylora.torch_api import functional as F
from tinylora.torch_api.creation import arange, ones, zeros


class LayerNorm(nn.Module):
    """Each position's features, (.., C), to mean 0 and variance 1, then scaled and shifted."""

    def __init__(self, emb_dim: int) -> None:
        super().__init__()
        self.eps = 1e-5
        self.scale = nn.Parameter(ones(emb_dim))
        self.shift = nn.Parameter(zeros(emb_dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.scale.shape, self.scale, self.shift, self.eps)


class GELU(nn.Module):
    """The smooth gate of GPT-2: x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")


class FeedForward(nn.Module):
    """Each position by itself: C -> 4C -> C."""

    def __init__(self, cfg: dict[str, Any]) -> None:
        super().__init__()
        C = cfg["emb_dim"]
        self.layers = nn.Sequential(nn.Linear(C, 4 * C), GELU(), nn.Linear(4 * C, C))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class MultiHeadAttention(nn.Module):
    """Each position gathers from itself and those before it, in H independent heads of D = C / H features."""

    def __init__(
        self, d_in: int, d_out: int, context_length: int, dropout: float, num_heads: int, qkv_bias: bool = False
    ) -> None:
        super().__init__()
        if num_heads < 1 or d_out % num_heads:
            raise ValueError(f"emb_dim {d_out} is not divisible by n_heads {num_heads}")
        self.num_heads = num_heads
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.out_proj = nn.Linear(d_out, d_out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = map(self.heads, side_by_side(x, self.W_query, self.W_key, self.W_value))
        p = self.dropout.p if self.training else 0.0
        context = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)  # (B, H, T, D)
        return self.out_proj(context.transpose(1, 2).flatten(2))  # (B, T, H, D) -> (B, T, C)

    def heads(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, H, T, D)"""
        B, T, C = x.shape
        return x.view(B, T, self.num_heads, C // self.num_heads).transpose(1, 2)


class TransformerBlock(nn.Module):
    """x + attention(norm x), then x + feed-forward(norm x)."""

    def __init__(self, cfg: dict[str, Any]) -> None:
        super().__init__()
        C, drop = cfg["emb_dim"], cfg["drop_rate"]
        self.att = MultiHeadAttention(C, C, cfg["context_length"], drop, cfg["n_heads"], cfg["qkv_bias"])
        self.ff = FeedForward(cfg)
        self.norm1 = LayerNorm(C)
        self.norm2 = LayerNorm(C)
        self.drop_resid = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_resid(self.att(self.norm1(x)))
        return x + self.drop_resid(self.ff(self.norm2(x)))


class GPTModel(Pretrained):
    """The whole model, from the lecture's configuration dictionary or the name of a preset.

    With `"tie_head": True` in the configuration the head shares the token embedding's weight, as in GPT-2 itself.
    Raises ValueError for a configuration that is incomplete, or whose emb_dim is not divisible by n_heads.

    >>> import tinylora
    >>> from tinylora.models.gpt import GPTModel
    >>> with tinylora.device("meta"):
    ...     model = GPTModel({**PRESETS["gpt2-small"], "tie_head": True})
    >>> model.summary().total
    124439808
    """

    def __init__(self, cfg: dict[str, Any] | str) -> None:
        super().__init__()
        if isinstance(cfg, str):
            if cfg not in PRESETS:
                raise ValueError(f"unknown preset {cfg!r}: expected one of {', '.join(PRESETS)}")
            cfg = PRESETS[cfg]
        if missing := set(GPT2_SMALL) - set(cfg):
            raise ValueError(f"the configuration lacks {', '.join(sorted(missing))}")
        C = cfg["emb_dim"]
        self.cfg = dict(cfg)
        self.tok_emb = nn.Embedding(cfg["vocab_size"], C)
        self.pos_emb = nn.Embedding(cfg["context_length"], C)
        self.drop_emb = nn.Dropout(cfg["drop_rate"])
        self.trf_blocks = nn.Sequential(*[TransformerBlock(cfg) for _ in range(cfg["n_layers"])])
        self.final_norm = LayerNorm(C)
        self.out_head = nn.Linear(C, cfg["vocab_size"], bias=False)
        if cfg.get("tie_head"):
            self.out_head.weight = self.tok_emb.weight

    def forward(self, in_idx: Tensor) -> Tensor:
        """Token ids (B, T) -> scores (B, T, vocabulary), or (B, T, classes) once out_head was replaced."""
        return self.out_head(self.features(in_idx))

    def features(self, in_idx: Tensor) -> Tensor:
        """Token ids (B, T) -> what the head sees, (B, T, C)."""
        return self.final_norm(self.trf_blocks(self.embed(in_idx)))

    def embed(self, in_idx: Tensor) -> Tensor:
        """Token ids (B, T) -> what the first block sees, (B, T, C): which token it is, plus where it stands."""
        T = in_idx.shape[-1]
        if self.pos_emb.num_embeddings < T:
            raise ValueError(f"{T} tokens do not fit the context of {self.pos_emb.num_embeddings}")
        return self.drop_emb(self.tok_emb(in_idx) + self.pos_emb(arange(T, device=in_idx.device)))
