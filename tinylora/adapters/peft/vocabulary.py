"""What PEFT's adapters store of the embedding and a head with the same weight: whole copies, more rows, single rows.

Where an embedding was resized before training, PEFT stores it whole, and the base has to be resized to it. Where the base's
head shares the embedding's weight, both follow one trained weight or LoRA only with `ensure_weight_tying`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tinylora import nn
from tinylora.adapters.peft import config as peft
from tinylora.adapters.variants import EmbeddingWithLoRA, TiedHeadLoRA, TokenRows
from tinylora.backend import to_device
from tinylora.formats import LoadError
from tinylora.lora import LinearWithLoRA
from tinylora.models.decoder import Decoder
from tinylora.models.names import Layer
from tinylora.tensor import Tensor

Arrays = dict[str, np.ndarray]
ROWS = "token_adapter.trainable_tokens_delta"


class Vocabulary:
    """The embedding and the head of a model that an adapter is put on. `embedding` and `head` are their names there."""

    def __init__(self, model: Decoder, found: dict[str, Layer], config: peft.PeftConfig, where: str) -> None:
        self.model, self.config, self.where = model, config, where
        self.embedding = next(name for name, layer in found.items() if layer.paths == ["tok_emb"])
        self.head = next(name for name, layer in found.items() if layer.paths == ["out_head"])
        self.tied = model.head_is_tied
        self.follows = self.tied and bool(config.trainable_token_indices)
        self.before = model.tok_emb, model.out_head, model.cfg
        self.unchanged = model.out_head._parameters.get("weight")  # a quantised head has none

    # ------------------------------------------------------------------------------------- arrays
    def simplified(self, arrays: Arrays, lora_only: bool = False) -> Arrays:
        """The arrays by one name each. `lora_only` leaves out what is trained whole.

        PEFT may store a module that is saved whole three times: as it is trained, as the base has it ("original_module"),
        and under its plain name, which is the one that it reads. What a tied head follows is stored for the head as well.
        """
        plain = {name: array for name, array in arrays.items() if not _copy_of(name)}
        for name, array in arrays.items():
            owner = _copy_of(name)
            if owner and name != f"{owner}.original_module.weight":
                plain.setdefault(f"{owner}.weight", array)
        original = arrays.get(f"{self.embedding}.original_module.weight")
        if original is not None and self.tied and not self.config.ensure_weight_tying:
            plain.setdefault(f"{self.head}.weight", original)  # such a head keeps the embedding of the base
        plain = {name.replace(".token_adapter.base_layer.", "."): array for name, array in plain.items()}
        if self.tied:
            plain = self._without_followers(plain)
        if lora_only:
            frozen = {f"{name}.weight" for name in (self.embedding, self.head) if not self.saves(name) and name != "score"}
            plain = {n: a for n, a in plain.items() if peft.LORA.fullmatch(n) or n.endswith(ROWS) or n in frozen}
            plain = {n: a for n, a in plain.items() if not n.startswith("score.")}
        return plain

    def _without_followers(self, arrays: Arrays) -> Arrays:
        """Leave out what a head stores of the LoRA or the weight of the embedding that it follows."""
        if f"{self.embedding}.{ROWS}" in arrays:
            arrays.pop(f"{self.head}.{ROWS}", None)
        if not self.config.ensure_weight_tying:
            return arrays
        pairs = [("lora_embedding_A", "lora_B.weight"), ("lora_embedding_B", "lora_A.weight"), ("weight", "weight")]
        for ours, theirs in pairs:
            one, other = arrays.get(f"{self.embedding}.{ours}"), arrays.get(f"{self.head}.{theirs}")
            if one is None or other is None or (ours == "weight" and not self.config.saves(self.embedding)):
                continue
            if not np.array_equal(one if ours == "weight" else one.T, other):
                raise LoadError(
                    f"{self.where}: ensure_weight_tying, and {self.head}.{theirs} is not that of {self.embedding}"
                )
            del arrays[f"{self.head}.{theirs}"]
            self.follows = True
        return arrays

    def saves(self, name: str) -> bool:
        """Whether a layer is trained whole and stored."""
        return self.config.saves(name) and not (self.follows and name == self.head)

    def trained_whole(self, whole: list[str]) -> list[str]:
        """The layers of which the weight is trained: with a head that follows the embedding, both."""
        return [*whole, self.head] if self.follows and self.embedding in whole else whole

    def chosen(self, modules: dict[str, str]) -> list[str]:
        """The layers with a LoRA of their own. Raises LoadError as PeftConfig.targets."""
        try:
            found = self.config.targets(modules)
        except LoadError as error:
            raise LoadError(f"{self.where}: {error}") from None
        if self.embedding in found and self.config.trainable_token_indices:
            raise LoadError(f"{self.where}: trainable_token_indices beside LoRA on {self.embedding} is not known here")
        return [name for name in found if not (self.follows and name == self.head)]

    def expected(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the arrays of rows that are trained on their own."""
        tokens = self.tokens()
        return {f"{self.embedding}.{ROWS}": (len(tokens), self.model.cfg.emb_dim)} if tokens else {}

    def replaces(self, name: str, leaf: str) -> bool:
        """Whether an array that differs from the base's may replace it: the embedding's and the head's weight."""
        return leaf == "weight" and name in (self.embedding, self.head) and name != "score"

    # ------------------------------------------------------------------------------------- sizes
    def resize(self, arrays: Arrays) -> None:
        """Give the model as many tokens as the stored embedding has. `restore` undoes it."""
        names = [f"{self.embedding}.weight", f"{self.embedding}.base_layer.weight"]
        stored = next((arrays[name] for name in names if name in arrays), None)
        dim, model = self.model.cfg.emb_dim, self.model
        if stored is None or stored.ndim != 2 or stored.shape[1] != dim or len(stored) == model.cfg.vocab_size:
            return
        count = len(stored)
        own_head = any(f"{self.head}.{leaf}" in arrays for leaf in ("weight", "base_layer.weight"))
        needs_own = not self.tied or (self.saves(self.embedding) and not self.follows)
        if needs_own and not own_head and not model.classifies:
            has = f"the model has {model.cfg.vocab_size:,} tokens, and the adapter's embedding {count:,}"
            raise LoadError(f"{self.where}: {has}, without a head of that size: resize the base, and save it")
        weight = _zeros((count, dim), model.tok_emb.weight)
        model.tok_emb = nn.Embedding(count, dim, device="meta").train(model.training)
        model.tok_emb.weight = weight
        if not model.classifies:
            head = nn.Linear(dim, count, bias=False, device="meta").train(model.training)
            head.weight = weight if self.tied else _zeros((count, dim), weight)
            head.scores_tokens = True
            model.out_head, self.unchanged = head, head.weight
        model.cfg = replace(model.cfg, vocab_size=count)

    def restore(self) -> None:
        """The model as it was before `resize`."""
        self.model.tok_emb, self.model.out_head, self.model.cfg = self.before

    # ------------------------------------------------------------------------------------ modules
    def tokens(self) -> list[int]:
        """The tokens whose rows are trained on their own. Raises LoadError for those of another module."""
        found: Any = self.config.trainable_token_indices or ()
        if isinstance(found, dict):
            if odd := [name for name in found if not f".{self.embedding}".endswith(f".{name}")]:
                raise LoadError(f"{self.where}: trainable_token_indices names {odd[0]}, and tinylora reads {self.embedding}")
            found = next(iter(found.values()))
        count = self.model.cfg.vocab_size
        if found and (len(set(found)) < len(found) or max(found) >= count):
            what = f"trainable_token_indices are not different tokens of {count:,}"
            raise LoadError(f"{self.where}: {what}: resize the base first, if the adapter is for a larger one")
        return list(found)

    def trained_rows(self) -> dict[str, LinearWithLoRA]:
        """The embedding with trained rows, by its path here, if there are any."""
        if not (tokens := self.tokens()):
            return {}
        embedding = self.model.tok_emb
        assert isinstance(embedding, nn.Embedding)
        return {"tok_emb": TokenRows(embedding, tokens)}

    def finish(self, arrays: Arrays, whole: list[str]) -> None:
        """Set trained rows, and let the head follow the embedding where PEFT's does: after all else is in the model."""
        model = self.model
        embedding: Any = model.tok_emb
        if isinstance(embedding, TokenRows):
            embedding.put(arrays[f"{self.embedding}.{ROWS}"])
        if not self.tied or model.classifies:
            return
        inner = embedding._modules.get("linear", embedding)
        head = model.out_head._modules.get("linear", model.out_head)
        replaced = inner.weight is not self.before[0].weight and self.embedding not in whole
        same = head.weight is self.unchanged or np.array_equal(*(to_device(m.weight.array, "cpu") for m in (inner, head)))
        if self.follows or (replaced and same):
            head.weight = inner.weight
        if self.follows and isinstance(embedding, EmbeddingWithLoRA):
            model._modules["out_head"] = TiedHeadLoRA(head, embedding).train(model.training)


def _copy_of(name: str) -> str:
    """The layer whose weight is stored under this name as well; empty for other names."""
    for suffix in (".modules_to_save.weight", ".original_module.weight"):
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return ""


def _zeros(shape: tuple[int, ...], like: Tensor) -> nn.Parameter:
    return nn.Parameter(Tensor(to_device(np.zeros(shape, np.float32), like.device).astype(like.dtype)), requires_grad=False)
