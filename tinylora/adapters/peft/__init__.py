"""Reads and writes LoRA adapters in the format of Hugging Face PEFT."""
