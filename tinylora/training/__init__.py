"""The fine-tuning loop, activation checkpointing and CUDA graphs."""
