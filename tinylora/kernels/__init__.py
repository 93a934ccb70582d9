"""Tuned versions of ops, registered on them by import. Each agrees with the op's definition, which is the oracle."""

from tinylora.kernels import layer_by_layer as layer_by_layer  # first: those of cuda/ know better
from tinylora.kernels import cpu, cuda
from tinylora.kernels.cpu.threads import get_num_threads, set_num_threads
from tinylora.kernels.switch import no_kernels
