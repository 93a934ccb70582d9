"""A language model's head and its loss in one op, so that the scores of a large vocabulary need not exist at once."""

from __future__ import annotations

from tinylora.op import op
from tinylora.ops.nn import cross_entropy, linear


@op
def linear_cross_entropy(xp, x, weight, target, ignore_index=-100):
    """L = mean over rows of -log softmax(xᵢ Wᵀ)[tᵢ],  x (N, C), W (V, C), target t (N,); rows of `ignore_index` do not
    count.

    dL/dx and dL/dW are those of `linear` and `cross_entropy`, one after the other.
    """
    logits, (d_x, d_weight, _) = linear.definition(xp, x, weight)  # (N, V)
    loss, (d_logits, *_) = cross_entropy.definition(xp, logits, target, ignore_index=ignore_index)
    return loss, (lambda g: d_x(d_logits(g)), lambda g: d_weight(d_logits(g)), None)
