"""Kin of LoRA, each a small class in its own file."""

from tinylora.variants.dora import DoRA
from tinylora.variants.dropout import DropoutLoRA
from tinylora.variants.embedding import EmbeddingWithLoRA
from tinylora.variants.int8 import Int8Linear
from tinylora.variants.lora_fa import LoRAFA
from tinylora.variants.lora_plus import lora_plus
from tinylora.variants.nf4 import NF4Linear
from tinylora.variants.pissa import PiSSA
from tinylora.variants.quantized import QLoRA, QuantizedLinear, dequantize, quantize, weight_error
