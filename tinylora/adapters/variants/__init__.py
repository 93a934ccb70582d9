"""Variants of LoRA (DoRA, PiSSA, LoRA-FA, QLoRA and others), one class per file."""

from tinylora.adapters.variants.dora import DoRA, DropoutDoRA
from tinylora.adapters.variants.dropout import DropoutLoRA
from tinylora.adapters.variants.embedding import EmbeddingWithLoRA
from tinylora.adapters.variants.int8 import Int8Linear
from tinylora.adapters.variants.lora_fa import LoRAFA
from tinylora.adapters.variants.lora_plus import lora_plus
from tinylora.adapters.variants.nf4 import NF4Linear
from tinylora.adapters.variants.pissa import PiSSA
from tinylora.adapters.variants.quantized import QLoRA, QuantizedLinear, dequantize, quantize, weight_error
from tinylora.adapters.variants.tied import TiedHeadLoRA, TokenRows
