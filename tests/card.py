"""CuPy and a card for it; a test file that imports this is skipped, with the reason, where CuPy is missing."""

import pytest

cupy = pytest.importorskip("cupy", reason="these tests need CuPy: pip install 'tinylora[cuda13]'")
try:
    CARDS = cupy.cuda.runtime.getDeviceCount()
except cupy.cuda.runtime.CUDARuntimeError:
    CARDS = 0
needs_a_card = pytest.mark.skipif(not CARDS, reason="these tests need an NVIDIA GPU")
