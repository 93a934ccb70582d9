"""Applies LoRA to layers by name, and saves, loads, merges, switches and combines adapters."""

from tinylora.adapters.apply import Plan, PlanEntry, apply_lora, resolve
from tinylora.adapters.by_row import adapters_by_row
from tinylora.adapters.combine import combine_adapters
from tinylora.adapters.config import INITS, SCALES, VARIANTS, LoRAConfig
from tinylora.adapters.convert import pissa_to_lora
from tinylora.adapters.merge import merge, merge_and_unload, unmerge, verify_merge
from tinylora.adapters.named import active_adapter, adapter_names, delete_adapter, disable_adapters, new_adapter
from tinylora.adapters.named import set_adapter
from tinylora.adapters.report import inspect_adapter
from tinylora.adapters.store import fingerprint, load_adapter, read_adapter, save_adapter
