"""torch.amp without mixed precision: autocast computes in the dtype of the tensors, and GradScaler scales by 1.

A program that asks for float16 or bfloat16 here gets float32, which is more exact and needs no scaling.
"""

from __future__ import annotations

import contextlib
from typing import Any

from tinylora.backend import array_module
from tinylora.tensor import Tensor


class autocast(contextlib.ContextDecorator):
    """Accepted, and changes nothing. To compute in fewer bits: `model.to(tinylora.bfloat16)`."""

    def __init__(
        self, device_type: str = "cuda", dtype: Any = None, enabled: bool = True, cache_enabled: bool | None = None
    ) -> None:
        self.device_type, self.dtype, self.enabled = device_type, dtype, enabled

    def __enter__(self) -> autocast:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is undone, as nothing was changed."""


def is_autocast_enabled(device_type: str = "cuda") -> bool:
    """False."""
    return False


class GradScaler:
    """Scales by 1. As in PyTorch, `step` skips an update whose gradients are infinite or NaN."""

    def __init__(self, device: str = "cuda", *_: Any, enabled: bool = True, **__: Any) -> None:
        self._enabled = enabled

    def scale(self, outputs: Any) -> Any:
        """The loss as it is."""
        return outputs

    def unscale_(self, optimizer: Any) -> None:
        """The gradients are unscaled already."""

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """optimizer.step(), unless a gradient is infinite or NaN. Returns what step returns, or None."""
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        finite = all(bool(array_module(g.array).isfinite(g.array).all()) for g in grads if isinstance(g, Tensor))
        return optimizer.step(*args, **kwargs) if finite or not self._enabled else None

    def update(self, new_scale: float | None = None) -> None:
        """The scale stays 1."""

    def get_scale(self) -> float:
        return 1.0

    def is_enabled(self) -> bool:
        return self._enabled

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """There is no state."""
