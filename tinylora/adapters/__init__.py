"""LoRA at work: apply it by name, merge it, and store the change alone."""

from tinylora.adapters.apply import Plan, PlanEntry, apply_lora, resolve
from tinylora.adapters.config import INITS, SCALES, LoRAConfig
from tinylora.adapters.merging import merge, merge_and_unload, unmerge
from tinylora.adapters.store import fingerprint, load_adapter, read_adapter, save_adapter
