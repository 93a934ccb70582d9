"""A tiny GPT, tokens for it, and weights that hide no mistake."""

import numpy as np

import tinylora

TINY = {
    "vocab_size": 11,
    "context_length": 6,
    "emb_dim": 8,
    "n_heads": 2,
    "n_layers": 2,
    "drop_rate": 0.0,
    "qkv_bias": True,
}


def ids(*shape, high=11, seed=0):
    return tinylora.tensor(np.random.default_rng(seed).integers(0, high, shape))


def shaken(model, seed=0):
    """float64, every parameter random: ones, zeros and LoRA's B = 0 hide mistakes."""
    rng = np.random.default_rng(seed)
    for p in model.double().parameters():
        p.array = np.asarray(rng.standard_normal(p.shape)) * 0.5
    return model


def moved(model, seed=0):
    """What is trained, and nothing else, becomes random."""
    rng = np.random.default_rng(seed)
    for p in model.parameters():
        if p.requires_grad:
            p.array = rng.standard_normal(p.shape).astype(np.float32)
    return model


def state(model):
    """All that must not change: the tree, every parameter object, its array, its bytes and whether it is trained."""
    tree = [(path, id(m), m.training) for path, m in model.named_modules()]
    return tree, [(path, id(p), id(p.array), p.array.tobytes(), p.requires_grad) for path, p in model.named_parameters()]
