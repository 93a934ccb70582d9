"""Methods and properties of Tensor that are other names for what there is, or have one answer here."""

from __future__ import annotations

from typing import Any

from tinylora.backend import bfloat16, bool_, float16, float32, float64, int8, int16, int32, int64, uint8
from tinylora.tensor import Node, Tensor
from tinylora.torch_api.creation import empty, tensor

KINDS = {
    float32: "Float", float64: "Double", float16: "Half", bfloat16: "BFloat16", int64: "Long", int32: "Int",
    int16: "Short", int8: "Char", uint8: "Byte", bool_: "Bool",
}  # fmt: skip


def nelement(input: Tensor) -> int:
    """`numel()`."""
    return input.array.size


def ndimension(input: Tensor) -> int:
    """`dim()`."""
    return input.array.ndim


def new(input: Tensor, *data: Any, device: Any = None) -> Tensor:
    """A tensor of the same dtype and device: of these sizes (zeros), or of a sequence of numbers."""
    where = device if device is not None else input.device
    if not data or all(isinstance(n, int) for n in data):
        return empty(*(data or (0,)), dtype=input.dtype, device=where)
    if len(data) > 1:
        raise TypeError(f"new takes sizes, or one sequence of numbers, and got {len(data)} arguments")
    return tensor(data[0], dtype=input.dtype, device=where)


def type_of(input: Tensor, dtype: Any = None, non_blocking: bool = False) -> Any:
    """Without arguments "torch.FloatTensor" and its like; with a dtype or such a name, the tensor in that dtype."""
    place = "torch.cuda." if input.device == "cuda" else "torch."
    if dtype is None:
        return f"{place}{KINDS[input.dtype]}Tensor"
    if isinstance(dtype, str) and dtype.endswith("Tensor"):
        names = {f"{kind}Tensor": known for known, kind in KINDS.items()}
        dtype = names[dtype.rpartition(".")[2]]
    return input.to(getattr(dtype, "dtype", dtype))


def pin_memory(input: Tensor, device: Any = None) -> Tensor:
    """The tensor itself: memory is not pinned here."""
    return input


def get_device(input: Tensor) -> int:
    """0 on the GPU, -1 on the CPU."""
    return 0 if input.device == "cuda" else -1


def detach_(input: Tensor) -> Tensor:
    """Cut the tensor from the graph: it becomes a leaf that requires no grad."""
    input.node = None
    return input


def bfloat16_of(input: Tensor) -> Tensor:
    """In bfloat16."""
    return input.to(bfloat16)


def byte(input: Tensor) -> Tensor:
    """In uint8."""
    return input.to(uint8)


def char(input: Tensor) -> Tensor:
    """In int8."""
    return input.to(int8)


def short(input: Tensor) -> Tensor:
    """In int16."""
    return input.to(int16)


def stride(input: Tensor, dim: int | None = None) -> Any:
    """How many elements apart neighbours are in memory, for each axis or for one."""
    steps = tuple(step // input.array.itemsize for step in input.array.strides)
    return steps if dim is None else steps[dim]


def data_ptr(input: Tensor) -> int:
    """The address of the first element."""
    return input.array.ctypes.data if input.device == "cpu" else input.array.data.ptr


class Aliases:
    """Methods and properties of Tensor."""

    __slots__ = ()

    nelement = nelement
    ndimension = ndimension
    get_device = get_device
    pin_memory = pin_memory
    new = new
    type = type_of
    detach_ = detach_
    stride = stride
    data_ptr = data_ptr
    bfloat16 = bfloat16_of
    byte = byte
    char = char
    short = short

    @property
    def is_cuda(self: Any) -> bool:
        """Is it on the GPU?"""
        return self.device == "cuda"

    @property
    def is_cpu(self: Any) -> bool:
        """Is it on the CPU?"""
        return self.device == "cpu"

    @property
    def is_meta(self: Any) -> bool:
        """Has it no numbers?"""
        return self.device == "meta"

    @property
    def itemsize(self: Any) -> int:
        """Bytes per element."""
        return self.array.itemsize

    @property
    def nbytes(self: Any) -> int:
        """Bytes of all elements."""
        return self.array.nbytes

    @property
    def grad_fn(self: Any) -> Node | None:
        """The node of what was computed; None for leaves."""
        return None if self.is_leaf else self.node
