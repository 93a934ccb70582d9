"""Tuned CuPy versions of ops, registered on import; of two for one op, the later is tried first.

The kernels are CUDA C++ in the .cu files. CuPy is imported when the first is called.
"""

from tinylora.kernels.cuda import blocks as blocks
from tinylora.kernels.cuda import grouped as grouped  # before attention, which takes grouped heads where it can
from tinylora.kernels.cuda import attention as attention
from tinylora.kernels.cuda import elementwise as elementwise
from tinylora.kernels.cuda import gated as gated
from tinylora.kernels.cuda import head as head
from tinylora.kernels.cuda import last as last
from tinylora.kernels.cuda import linear as linear
from tinylora.kernels.cuda import lora as lora
from tinylora.kernels.cuda import lora_dropout as lora_dropout
from tinylora.kernels.cuda import loss as loss
from tinylora.kernels.cuda import many as many
from tinylora.kernels.cuda import norm as norm
from tinylora.kernels.cuda import quantized as quantized
from tinylora.kernels.cuda import rms as rms
from tinylora.kernels.cuda import scatter as scatter
from tinylora.kernels.cuda import rotary as rotary
from tinylora.kernels.cuda import sums as sums
