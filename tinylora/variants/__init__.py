"""Kin of LoRA, each a small class in its own file."""

from tinylora.variants.dropout import DropoutLoRA
from tinylora.variants.embedding import EmbeddingWithLoRA
