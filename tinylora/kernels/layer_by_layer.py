"""lora_linears by running lora_linear for each layer."""

from tinylora import ops
from tinylora.op import run
from tinylora.ops.lora import gathered


@ops.lora_linears.tune("numpy", "cupy")
def lora_linears(xp, x, scales, *layers):
    """Same numbers as separate layers, bit for bit."""
    each = [run(ops.lora_linear, x, *layers[4 * i : 4 * i + 4], s) for i, s in enumerate(scales)]
    return gathered(xp, each, layers)
