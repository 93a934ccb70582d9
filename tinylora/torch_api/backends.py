"""torch.backends: which of PyTorch's backends there are, and TF32, the one switch with an effect here.

`torch.backends.cuda.matmul.allow_tf32 = True` is `set_float32_matmul_precision("high")`. cudnn's switches are accepted.
"""

from __future__ import annotations

import types

from tinylora.kernels.cuda.gemm import get_float32_matmul_precision, set_float32_matmul_precision


class _MatMul:
    """cuda.matmul."""

    @property
    def allow_tf32(self) -> bool:
        return get_float32_matmul_precision() != "highest"

    @allow_tf32.setter
    def allow_tf32(self, allowed: bool) -> None:
        set_float32_matmul_precision("high" if allowed else "highest")


def _module(name: str, **members: object) -> types.ModuleType:
    module = types.ModuleType(f"{__name__}.{name}", f"torch.backends.{name}.")
    module.__dict__.update(members)
    return module


cuda = _module("cuda", matmul=_MatMul(), is_built=lambda: True)
cudnn = _module(
    "cudnn", enabled=True, benchmark=False, deterministic=True, allow_tf32=False, is_available=lambda: False,
    version=lambda: None,
)  # fmt: skip
mps = _module("mps", is_available=lambda: False, is_built=lambda: False)
mkldnn = _module("mkldnn", is_available=lambda: False)
openmp = _module("openmp", is_available=lambda: False)
