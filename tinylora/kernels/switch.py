"""Turns tuned versions off: `no_kernels` for a block, TINYLORA_KERNELS=0 for a process."""

from __future__ import annotations

import os

from tinylora.backend import Switch
from tinylora.op import this_thread


class no_kernels(Switch):
    """Inside this block, or a function decorated with it, every op is computed by its plain definition.

    >>> import tinylora
    >>> x = tinylora.randn(4, 8)
    >>> with tinylora.no_kernels():
    ...     plain = tinylora.nn.functional.gelu(x, approximate="tanh")
    >>> tinylora.allclose(plain, tinylora.nn.functional.gelu(x, approximate="tanh"))
    True
    """

    def change(self) -> bool:
        before, this_thread.tuned = this_thread.tuned, False
        return before

    def restore(self, before: bool) -> None:
        this_thread.tuned = before


type(this_thread).tuned = os.environ.get("TINYLORA_KERNELS", "1") != "0"  # in every thread
