"""What Llama adds to the ops of a transformer: rotary embedding and the gated product. (RMS norm stands beside layer
norm.)"""

from __future__ import annotations

from tinylora.op import op
from tinylora.ops.elementwise import sigmoid


@op
def rope(xp, x, cos, sin):
    """Each pair of features (x₁, x₂) = (x[i], x[i + D/2]) turned by its angle: y₁ = x₁ cos - x₂ sin, y₂ = x₂ cos + x₁ sin.

    x (.., T, D), D even; cos and sin (.., T, D / 2), constants that broadcast.  Su et al. 2021, "RoFormer", equation 34.

    dL/dx: g turned back, by the same angles with sin negated.
    """

    def turned(x, sin):
        x1, x2 = xp.split(x, 2, axis=-1)  # (.., T, D) -> 2 × (.., T, D / 2)
        return xp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1)

    return turned(x, sin), (lambda g: turned(g, -sin), None, None)


@op
def swiglu(xp, gate, up):
    """y = silu(gate) ∘ up = gate s up,  s = sigmoid(gate).  Shazeer 2020, "GLU Variants Improve Transformer", equation 6.

    dL/dgate = g up s (1 + gate (1 - s))      dL/dup = g gate s
    """
    s = sigmoid.definition(xp, gate)[0]

    def d_gate(g):
        return g * up * s * (1 + gate * (1 - s))

    def d_up(g):
        return g * gate * s

    return gate * s * up, (d_gate, d_up)
