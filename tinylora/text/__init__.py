"""Tokenizers, chat templates, text generation and perplexity."""
