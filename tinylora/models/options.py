"""GPT-2's relatives: what a configuration may say beyond the lecture's dictionary, put into a model built from it."""

from __future__ import annotations

from collections.abc import Callable

from tinylora import nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {  # by the names that transformers has for them: the first three are one
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_fast"), lambda: nn.GELU("tanh")),
    "gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "swish": nn.SiLU,
}  # fmt: skip


def configure(model: nn.Module) -> None:
    """Honour the optional entries of `model.cfg`, for a GPTModel that was just built: its weights are new ones then.

    `ff_dim`: features inside the feed-forward (4 · emb_dim); `activation`: one of ACTIVATIONS ("gelu_new");
    `norm_eps`: of every layer norm (1e-5); `drop_emb`, `drop_att`: dropout where it differs from `drop_rate`; `labels`: the
    classes of a head without bias. Raises ValueError for an unknown activation.
    """
    cfg, C = model.cfg, model.cfg["emb_dim"]
    hidden, activation = cfg.get("ff_dim", 4 * C), cfg.get("activation", "gelu_new")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is one of {', '.join(ACTIVATIONS)}, not {activation!r}")
    for block in model.trf_blocks if "ff_dim" in cfg or "activation" in cfg else ():
        block.ff.layers = nn.Sequential(nn.Linear(C, hidden), ACTIVATIONS[activation](), nn.Linear(hidden, C))
    for block in model.trf_blocks:
        block.att.dropout.p = cfg.get("drop_att", cfg["drop_rate"])
    model.drop_emb.p = cfg.get("drop_emb", cfg["drop_rate"])
    for module in model.modules():
        if hasattr(module, "eps"):
            module.eps = cfg.get("norm_eps", module.eps)
    if "labels" in cfg:
        model.out_head = nn.Linear(C, len(cfg["labels"]), bias=False)
