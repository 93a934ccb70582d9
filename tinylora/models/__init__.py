"""Decoder models: their modules, their configurations, loading and saving."""

from tinylora.models import gpt_table, llama_table
from tinylora.models.native import save_model
from tinylora.models.source import ModelSource, load_model
