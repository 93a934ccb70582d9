"""LoRA around an embedding."""

from __future__ import annotations

from tinylora import nn
from tinylora.backend import Array, device
from tinylora.lora import LinearWithLoRA, LoRALayer
from tinylora.tensor import Tensor
from tinylora.torch_api import functional as F
from tinylora.torch_api.promote import follow


class EmbeddingLoRALayer(LoRALayer):
    """ids -> alpha · A[ids] B: (..) -> (.., dim), with A (num, rank) and B (rank, dim)."""

    def forward(self, ids: Tensor) -> Tensor:
        return self.alpha * (F.embedding(ids, self.A) @ self.B)

    def delta(self) -> Array:
        """ΔWᵀ (dim, num): the weight of an embedding is (num, dim) already, where a Linear's is (out, in)."""
        return super().delta().T


class EmbeddingWithLoRA(LinearWithLoRA):
    """y = W[ids] + s A[ids] B. An embedding is a linear layer whose input is one-hot, so x A is a row of A.

    Hu et al. 2021, "LoRA", section 4.1, for W of any layer; PEFT's `lora_embedding_A` and `_B` are Aᵀ and Bᵀ.

    >>> from tinylora import nn, tensor
    >>> layer = EmbeddingWithLoRA(nn.Embedding(10, 4), rank=2, alpha=4.0)
    >>> layer(tensor([[1, 2, 3]])).shape
    (1, 3, 4)
    """

    def __init__(self, embedding: nn.Embedding, rank: int, alpha: float) -> None:
        nn.Module.__init__(self)
        if not isinstance(embedding, nn.Embedding):
            raise TypeError(f"this LoRA goes around an Embedding, not around a {type(embedding).__name__}")
        self.linear = embedding  # type: ignore[assignment]  # under the same name
        with device(embedding.weight.device):
            self.lora = EmbeddingLoRALayer(embedding.num_embeddings, embedding.embedding_dim, rank, alpha)
        self._original = None

    @property
    def num_embeddings(self) -> int:
        return self.linear.num_embeddings

    def forward(self, ids: Tensor) -> Tensor:
        if self.merged:
            return super().forward(ids)
        y = self.linear(ids)
        return y + follow(y, self.lora(ids))[0]  # A and B stay float32 where the base is bfloat16
