"""The folder that a fine-tuning run leaves, and how it is read again."""
