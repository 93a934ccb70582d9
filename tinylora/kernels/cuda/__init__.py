"""Tuned CuPy versions of ops, registered by import; of two for one op, the later is asked first.

The kernels are CUDA C++, in the .cu files. CuPy comes in when the first is called.
"""

from tinylora.kernels.cuda import rounded as rounded  # first: the others know better
from tinylora.kernels.cuda import blocks as blocks
from tinylora.kernels.cuda import attention as attention
from tinylora.kernels.cuda import elementwise as elementwise
from tinylora.kernels.cuda import last as last
from tinylora.kernels.cuda import linear as linear
from tinylora.kernels.cuda import lora as lora
from tinylora.kernels.cuda import loss as loss
from tinylora.kernels.cuda import many as many
from tinylora.kernels.cuda import norm as norm
from tinylora.kernels.cuda import sums as sums
