"""Faster versions of ops, registered on import. Each must agree with the op's definition."""

import importlib

from tinylora import backend
from tinylora.kernels import layer_by_layer as layer_by_layer  # registered first: those in cuda/ take precedence
from tinylora.kernels import cpu
from tinylora.kernels.cpu.threads import get_num_threads, set_num_threads
from tinylora.kernels.switch import no_kernels

backend.at_first_cupy.append(lambda: importlib.import_module("tinylora.kernels.cuda"))
