"""PyTorch's functions of tensors, by PyTorch's names."""
