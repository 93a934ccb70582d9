"""Array modules (NumPy, CuPy), devices, dtypes, random numbers, and the "meta" arrays that have a shape and no data."""

from tinylora.backend.arrays import (
    NUMPY,
    SUPPORTED,
    Array,
    allocator,
    array_module,
    at_first_cupy,
    bfloat16,
    bool_,
    cupy,
    default_device,
)
from tinylora.backend.arrays import device, device_of, float16, float32, float64, full, int8, int16, int32, int64, is_cupy
from tinylora.backend.arrays import is_device, is_floating, known, seen, set_default_device, to_device, uint8
from tinylora.backend.memory import check_unchanged, overwrite, owner, writes, written
from tinylora.backend.meta import MetaArray
from tinylora.backend.random import (
    Generator,
    default_generator,
    initial_seed,
    keys_from,
    manual_seed,
    mix,
    next_key,
    random,
    random_bits,
    random_integers,
    random_state,
    set_random_state,
)
from tinylora.backend.sums import is_half, largest, running, scatter_sum, total, wide
from tinylora.backend.switch import Switch
