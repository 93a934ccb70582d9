"""Tuned versions of ops, registered on them by import. Each agrees with the op's definition, which is the oracle."""

from tinylora.kernels import attention as attention
from tinylora.kernels import cpu as cpu
from tinylora.kernels import cuda as cuda
