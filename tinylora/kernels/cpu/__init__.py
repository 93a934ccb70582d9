"""Tuned NumPy versions of ops, registered on import: multithreaded, in blocks that fit a core's cache."""

from tinylora.kernels.cpu import adam, attention, elementwise, linear, loss, matmul, memory, norm, rotary
