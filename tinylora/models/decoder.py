"""Decoder, the base class of all models: features at one position, the head, the cache, loading and saving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from tinylora import nn, ops
from tinylora.backend import seen
from tinylora.models import pretrained
from tinylora.models.cache import Cache, LastPosition
from tinylora.models.config import ModelConfig
from tinylora.tensor import Tensor, record
from tinylora.torch_api.creation import arange

if TYPE_CHECKING:
    from tinylora.models.steps import Steps


class Decoder(nn.Module):
    """Token ids (B, T) -> features (B, T, C) -> scores by `out_head`.

    Subclasses set `config` and define `tok_emb`, `trf_blocks`, `final_norm`, `out_head` (made by `new_head`), `forward` and
    `features(ids, cache)`. Blocks are called as `block(x, *self.shared(positions), cache)`.
    """

    config: ClassVar[type[ModelConfig]]
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    cfg: Any  # of the type `config`
    tok_emb: nn.Embedding
    trf_blocks: nn.Sequential
    final_norm: nn.Module
    out_head: nn.Linear

    def __init__(self, cfg: ModelConfig | Mapping[str, Any] | str) -> None:
        super().__init__()
        if isinstance(cfg, str):
            if cfg not in self.presets:
                raise ValueError(f"unknown preset {cfg!r}: expected one of {', '.join(self.presets)}")
            cfg = self.presets[cfg]
        self.cfg = cfg if isinstance(cfg, ModelConfig) else self.config.of(cfg)
        if not isinstance(self.cfg, self.config):
            raise TypeError(f"{type(self).__name__} takes a {self.config.__name__}, not a {type(cfg).__name__}")

    # --------------------------------------------------------------------------------- forward
    def features(self, in_idx: Tensor, cache: Cache | None = None) -> Tensor:
        """Token ids (B, T) -> final features, the head's input, (B, T, C)."""
        raise NotImplementedError(f"{type(self).__name__} defines no features")

    def embed(self, in_idx: Tensor, positions: Tensor) -> Tensor:
        """Token ids (B, T) -> the first block's input, (B, T, C)."""
        return self.tok_emb(in_idx)

    def positions(self, in_idx: Tensor, cache: Cache | None = None) -> Tensor:
        """Positions of the tokens (B, T) in their texts: (T,), or (B, T) if the cache has padding."""
        if not isinstance(in_idx, Tensor):
            raise TypeError(
                f"token ids are a Tensor of integers (B, T), not {type(in_idx).__name__}: tinylora.tensor([[..]])"
            )
        if in_idx.dim() != 2:
            raise ValueError(f"token ids have the shape (B, T), not {in_idx.shape}: one text is ids[None]")
        T = in_idx.shape[-1]
        if self.cfg.context_length < T:
            raise ValueError(f"{T} tokens do not fit the context of {self.cfg.context_length}")
        return arange(T, device=in_idx.device) if cache is None else cache.positions(T)

    def shared(self, positions: Tensor) -> tuple[Any, ...]:
        """Inputs that all blocks share beside x, such as rotary angles, for tokens at positions (T,) or (B, T)."""
        return ()

    def features_at(self, ids: Tensor, last: Tensor) -> Tensor:
        """The features at position `last` (B,) of each row of ids (B, T): (B, C). All that a classifier needs.

        If blocks define `keys_values`, the last block computes its output at one position per row only, which gives the same
        numbers as `features` and saves a fifth of the work in a model of four blocks. Raises IndexError unless `last` holds
        a position of each row.
        """
        known = seen(last.array)
        if last.shape != ids.shape[:1] or (known.size and not (known.min() >= 0 and known.max() < ids.shape[1])):
            raise IndexError(f"features_at: {last.shape} positions, {known.tolist()}, do not fit rows of shape {ids.shape}")
        *blocks, block = self.trf_blocks
        if not hasattr(block, "keys_values"):
            return record(ops.rows_at, self.features(ids), last)
        positions = self.positions(ids)
        x, shared = self.embed(ids, positions), self.shared(positions)
        for other in blocks:
            x = other(x, *shared)
        kept = LastPosition(last, *block.keys_values(x, *shared))
        y = block(record(ops.rows_at, x, last)[:, None], *self.shared(last[:, None]), kept)  # (B, 1, C)
        return self.final_norm(y)[:, 0]

    def new_cache(self, padding: Sequence[int] = (0,), size: int | None = None) -> Cache:
        """An empty key-value cache for `size` positions per text, by default the whole context: see cache.py."""
        heads, head_dim = self.kv_heads()
        shape = (len(padding), heads, size or self.cfg.context_length, head_dim)
        return Cache(len(self.trf_blocks), shape, self.tok_emb.weight.array, padding)

    def new_steps(self, cache: Cache) -> Steps | None:
        """What computes one token after another behind those in `cache` by CUDA graphs, or None where it cannot."""
        from tinylora.models.steps import Steps

        return Steps(self, cache) if cache.length < cache.size and Steps.fit(self, cache) else None

    def kv_heads(self) -> tuple[int, int]:
        """The number of key heads of a block, and the features of one."""
        return self.cfg.n_heads, self.cfg.emb_dim // self.cfg.n_heads

    # ------------------------------------------------------------------------------------ head
    def new_head(self) -> nn.Linear:
        """The head that the configuration describes: token scores, tied or not, or class scores."""
        cfg = self.cfg
        head = nn.Linear(cfg.emb_dim, len(cfg.labels) or cfg.vocab_size, bias=False)
        head.scores_tokens = not cfg.labels  # a Linear without this mark classifies
        if cfg.tie_head and not cfg.labels:
            head.weight = self.tok_emb.weight
        return head

    @property
    def classifies(self) -> bool:
        """Whether out_head scores classes rather than tokens."""
        head = self.out_head._modules.get("linear", self.out_head)  # wrapped in LoRA, perhaps
        return not getattr(head, "scores_tokens", False)

    @property
    def head_is_tied(self) -> bool:
        """Whether out_head shares the token embedding's weight."""
        head = self.out_head._modules.get("linear", self.out_head)
        embedding = self.tok_emb._modules.get("linear", self.tok_emb)
        return head._parameters.get("weight") is embedding._parameters["weight"]

    def set_classes(self, labels: Sequence[str] | int, bias: bool = False) -> None:
        """Replace the head by a new one with a score per class. `labels` as a number n means LABEL_0 .. LABEL_(n-1).

        Hugging Face's classifiers have no bias there. Raises ValueError for fewer than two classes.
        """
        names = tuple(f"LABEL_{i}" for i in range(labels)) if isinstance(labels, int) else tuple(labels)
        if len(names) < 2:
            raise ValueError(f"a classifier needs two classes or more, not {len(names)}")
        self.cfg = replace(self.cfg, labels=names, tie_head=False)
        self.out_head = nn.Linear(self.cfg.emb_dim, len(names), bias=bias)

    # --------------------------------------------------------------------------------- folders
    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """The model in a folder as transformers writes it, in float32 and evaluation mode, on the default device.

        Reads `config.json` and `model.safetensors` or its shards, F32, F16 or BF16. Names and shapes are checked before
        anything is allocated, and at most one array is held in memory beside the model. Raises LoadError that names the
        file, the configuration entry or the arrays that do not fit.
        """
        return pretrained.load(folder, cls)

    def save_pretrained(
        self, folder: str | Path, labels: Sequence[str] | None = None, max_shard_bytes: int = 5_000_000_000
    ) -> None:
        """Write `config.json` and the weights, in float32, as transformers reads them; a tied head is not written.

        A classifier's head is stored as `score`, with its classes named by `labels`, by default the configuration's. Raises
        ValueError for what this format cannot hold: LoRA that is not merged, a bias of the head.
        """
        pretrained.save(self, Path(folder), labels, max_shard_bytes)
