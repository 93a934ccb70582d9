"""CuPy and a card for it; a test file that imports this is skipped, with the reason, where CuPy is missing."""

import numpy as np
import pytest

from tinylora.kernels.cuda.compile import extra
from tinylora.kernels.cuda.gemm import cublas_lt

cupy = pytest.importorskip("cupy", reason="these tests need CuPy: pip install 'tinylora[cuda13]'")
try:
    CARDS = cupy.cuda.runtime.getDeviceCount()
except cupy.cuda.runtime.CUDARuntimeError:
    CARDS = 0
needs_a_card = pytest.mark.skipif(not CARDS, reason="these tests need an NVIDIA GPU")
EXTRAS = {"nvmath-python": cublas_lt(), "nvidia-cudnn-frontend": extra("cudnn")}
ABSENT = [name for name, module in EXTRAS.items() if module is None]
needs_nvmath = pytest.mark.skipif("nvmath-python" in ABSENT, reason="needs nvmath-python")
needs_cudnn = pytest.mark.skipif("nvidia-cudnn-frontend" in ABSENT, reason="needs nvidia-cudnn-frontend")


def apart(a, b):
    """‖a - b‖ / ‖b‖ in float64."""
    a, b = (x.get() if isinstance(x, cupy.ndarray) else x for x in (a, b))
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)
