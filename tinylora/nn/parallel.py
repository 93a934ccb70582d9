"""torch.nn.parallel's wrappers, which raise when one is made."""

from __future__ import annotations

from typing import Any

from tinylora.nn.module import Module


class DistributedDataParallel(Module):
    """Raises NotImplementedError: there is no torch.distributed here."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError(f"{type(self).__name__} is not available: train the module itself, in one process")


class DataParallel(DistributedDataParallel):
    """Raises NotImplementedError: one GPU is used."""
