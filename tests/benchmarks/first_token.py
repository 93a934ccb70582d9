"""A fresh process from its start to the first token that SmolLM2 answers with. Prints its peak memory in bytes."""

from workers import peak_memory

import tinylora
from tinylora.models.source import ModelSource
from tinylora.text.generate import generate
from tinylora.text.sampling import GREEDY

source = ModelSource.open("smollm2")
prompt = source.tokenizer.prompt("The capital of France is")
with tinylora.no_grad():
    next(generate(source.model(), prompt, 1, GREEDY))
print(peak_memory())
