"""Tuned versions off, to see what they buy: `no_kernels` for a block, TINYLORA_KERNELS=0 for a whole run."""

from __future__ import annotations

import contextlib
import os

from tinylora.op import this_thread


class no_kernels(contextlib.ContextDecorator):
    """Inside this block, or a function decorated with it, every op is computed by its plain definition.

    >>> import tinylora
    >>> x = tinylora.randn(4, 8)
    >>> with tinylora.no_kernels():
    ...     plain = tinylora.nn.functional.gelu(x, approximate="tanh")
    >>> tinylora.allclose(plain, tinylora.nn.functional.gelu(x, approximate="tanh"))
    True
    """

    def __enter__(self) -> None:
        self.outer = [*getattr(self, "outer", []), this_thread.tuned]
        this_thread.tuned = False

    def __exit__(self, *error: object) -> None:
        this_thread.tuned = self.outer.pop()


type(this_thread).tuned = os.environ.get("TINYLORA_KERNELS", "1") != "0"  # in every thread
