"""Several LoRA layers of one input, each by the tuned version for one."""

from tinylora import ops
from tinylora.op import run
from tinylora.ops.lora import gathered


@ops.lora_linears.tune("numpy", "cupy")
def lora_linears(xp, x, scales, *layers):
    """The numbers of the layers one by one, bit for bit."""
    each = [run(ops.lora_linear, x, *layers[4 * i : 4 * i + 4], s) for i, s in enumerate(scales)]
    return gathered(xp, each, layers)
