"""LoRA of an embedding that a tied head follows, and single rows of an embedding trained on their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinylora import nn
from tinylora.adapters.variants.embedding import EmbeddingWithLoRA
from tinylora.backend import Array, to_device
from tinylora.lora import LinearWithLoRA, LoRALayer
from tinylora.tensor import Tensor


class TiedLoRALayer(LoRALayer):
    """The LoRA of an embedding, read as that of a head with the same weight: A is its Bᵀ, B its Aᵀ; no parameters."""

    def __init__(self, embedding: LoRALayer) -> None:
        nn.Module.__init__(self)
        self.__dict__["embedding"] = embedding  # into __dict__, since assignment would register its parameters twice

    @property
    def A(self) -> Tensor:  # type: ignore[override]
        return self.__dict__["embedding"].B.T

    @property
    def B(self) -> Tensor:  # type: ignore[override]
        return self.__dict__["embedding"].A.T

    @property
    def alpha(self) -> float:  # type: ignore[override]
        return self.__dict__["embedding"].alpha


class TiedHeadLoRA(LinearWithLoRA):
    """y = x (W + ΔW)ᵀ with the W and ΔW = s A B of an embedding in LoRA: PEFT's `ensure_weight_tying`.

    >>> from tinylora import nn, randn
    >>> embedding, head = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
    >>> head.weight = embedding.weight
    >>> TiedHeadLoRA(head, EmbeddingWithLoRA(embedding, rank=2, alpha=4.0))(randn(3, 4)).shape
    (3, 10)
    """

    def __init__(self, head: nn.Linear, embedding: EmbeddingWithLoRA) -> None:
        nn.Module.__init__(self)
        self.linear = head
        self.lora = TiedLoRALayer(embedding.lora)
        self._original = None


class TokenRows(EmbeddingWithLoRA):
    """An embedding of which the rows `tokens` are trained and the others frozen: PEFT's `trainable_token_indices`.

    It is LoRA with a fixed A, one-hot in the tokens' rows, and B the change of these rows, (tokens, dim).

    >>> from tinylora import nn, tensor
    >>> layer = TokenRows(nn.Embedding(10, 4), [5, 6])
    >>> layer.rows().shape, layer(tensor([[1, 5]])).shape
    ((2, 4), (1, 2, 4))
    """

    def __init__(self, embedding: nn.Embedding, tokens: Sequence[int]) -> None:
        super().__init__(embedding, len(tokens), 1.0)
        self.tokens = tuple(tokens)
        chosen = np.zeros((embedding.num_embeddings, len(tokens)), np.float32)
        chosen[list(tokens), range(len(tokens))] = 1
        self.lora.A = nn.Parameter(Tensor(to_device(chosen, embedding.weight.device)), requires_grad=False)

    def rows(self) -> Array:
        """The rows of the tokens as they are now, in float32."""
        base = self.linear.weight if self._original is None else self._original
        return base.array[list(self.tokens)].astype("float32") + self.lora.B.array

    def put(self, rows: Array) -> None:
        """Set the rows of the tokens."""
        base = to_device(self.linear.weight.array, "cpu")[list(self.tokens)].astype(np.float32)
        self.lora.B.array = to_device(np.ascontiguousarray(rows - base), self.lora.B.device)
