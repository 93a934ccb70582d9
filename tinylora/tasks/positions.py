"""The part that tagging and language modelling share: a loss at some positions of each text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tinylora import nn
from tinylora.models.decoder import Decoder
from tinylora.tasks.batching import Padded, batches
from tinylora.tasks.task import IGNORE, Encoded, Task
from tinylora.tensor import Tensor, no_grad
from tinylora.torch_api.functional import cross_entropy
from tinylora.torch_api.network import linear_cross_entropy
from tinylora.torch_api.promote import tensor

MULTIPLE = 64  # positions of a batch are padded to a multiple of this, so that few CUDA graphs are needed


class PositionTask(Task):
    """Predicts something at every position with a target; the head computes nothing at the others."""

    def inputs(self, ids: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, ...]:
        """Tokens (B, T), the N positions with a target as numbers b · T + t, and their targets, (N,) each."""
        at = np.flatnonzero(targets != IGNORE)
        size = min(-(-len(at) // MULTIPLE) * MULTIPLE, targets.size)
        wanted = np.full(size, IGNORE)
        wanted[: len(at)] = targets.flat[at]
        return ids, np.pad(at, (0, size - len(at))), wanted

    def loss(self, model: Decoder, *inputs: Tensor) -> Tensor:
        ids, at, wanted = inputs
        x, head = features_at(model, ids, at), model.out_head
        if isinstance(head, nn.Linear) and head.bias is None:
            return linear_cross_entropy(x, head.weight, wanted, IGNORE)
        return cross_entropy(head(x), wanted, ignore_index=IGNORE)

    def mean_loss(self, model: Decoder, examples: Sequence[Any]) -> tuple[float, int]:
        """The mean loss over all targets, and their number."""
        total, count = 0.0, 0.0
        encoded = [piece for example in examples for piece in self.encode(example)]
        for batch, inputs in self.batches(model, encoded):
            weight = self.weight(batch.targets)
            total, count = total + weight * float(self.loss(model, *inputs).item()), count + weight
        return total / max(1.0, count), int(count)

    def batches(self, model: Decoder, encoded: Sequence[Encoded]) -> Iterator[tuple[Padded, list[Tensor]]]:
        """Batches from short to long, and their inputs, in evaluation mode and without a graph."""
        model.eval()
        where = model.tok_emb.weight.device
        for batch in batches(encoded, 16, self.tokenizer.pad):
            with no_grad():
                yield batch, [tensor(array, device=where) for array in self.inputs(batch.ids, batch.targets)]


def features_at(model: Decoder, ids: Tensor, at: Tensor) -> Tensor:
    """The features (N, C) at positions b · T + t of ids (B, T)."""
    x = model.features(ids)
    return x.flatten(0, 1)[at]
