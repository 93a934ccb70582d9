"""Questions about GPUs by torch.cuda's names, and `capture`, which makes a training step a CUDA graph."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tinylora.backend import bfloat16, cupy, manual_seed

if TYPE_CHECKING:
    from tinylora.torch_api import amp as amp
    from tinylora.training.cuda import Captured as Captured
    from tinylora.training.cuda import can_capture as can_capture
    from tinylora.training.cuda import capture as capture
else:

    def __getattr__(name: str) -> Any:
        """Training is imported at its first use."""
        if name in ("Captured", "can_capture", "capture"):
            return getattr(importlib.import_module("tinylora.training.cuda"), name)
        if name == "amp":
            return importlib.import_module("tinylora.torch_api.amp")
        raise AttributeError(f"module 'tinylora.cuda' has no attribute {name!r}")


def is_available() -> bool:
    """Is there a GPU, with a driver and CuPy?"""
    try:
        cupy()
    except RuntimeError:
        return False
    return True


def device_count() -> int:
    """1 if there is a GPU, else 0. tinylora uses the first one."""
    return int(is_available())


def current_device() -> int:
    """0, the number of the only GPU that is used."""
    cupy()
    return 0


def set_device(device: Any) -> None:
    """Accepts the first GPU. Raises RuntimeError for others: choose one by CUDA_VISIBLE_DEVICES."""
    if str(device) not in ("0", "cuda", "cuda:0"):
        raise RuntimeError(f"only the first GPU is used, not {device}: choose it by the variable CUDA_VISIBLE_DEVICES")
    cupy()


@dataclass(frozen=True)
class Properties:
    """A GPU: its name, its memory in bytes, its compute capability, its processors."""

    name: str
    total_memory: int
    major: int
    minor: int
    multi_processor_count: int


def get_device_properties(device: Any = None) -> Properties:
    found = cupy().cuda.runtime.getDeviceProperties(0)
    return Properties(
        found["name"].decode(), found["totalGlobalMem"], found["major"], found["minor"], found["multiProcessorCount"]
    )


def get_device_name(device: Any = None) -> str:
    return get_device_properties(device).name


def get_device_capability(device: Any = None) -> tuple[int, int]:
    found = get_device_properties(device)
    return found.major, found.minor


def is_bf16_supported() -> bool:
    """Does the GPU compute in bfloat16, and is ml_dtypes installed?"""
    return is_available() and bfloat16.kind == "V" and bfloat16.name == "bfloat16" and get_device_capability()[0] >= 8


def synchronize(device: Any = None) -> None:
    """Wait until everything that was given to the GPU is done."""
    cupy().cuda.runtime.deviceSynchronize()


def empty_cache() -> None:
    """Give memory that is not in use back to the driver. Without a GPU, nothing."""
    if is_available():
        cupy().get_default_memory_pool().free_all_blocks()


def memory_allocated(device: Any = None) -> int:
    """Bytes of GPU memory that arrays use; 0 without a GPU."""
    return cupy().get_default_memory_pool().used_bytes() if is_available() else 0


def memory_reserved(device: Any = None) -> int:
    """Bytes of GPU memory that this process holds, in use or not; 0 without a GPU."""
    return cupy().get_default_memory_pool().total_bytes() if is_available() else 0


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """(free, total) bytes of the GPU's memory."""
    return cupy().cuda.runtime.memGetInfo()


def manual_seed_all(seed: int) -> None:
    """`manual_seed`: one seed serves all devices."""
    manual_seed(seed)
