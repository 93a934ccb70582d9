"""Writes the lists of names in docs/pytorch.md: `python tests/names_page.py`. A test checks that they are current."""

import re
import sys
import textwrap
import types
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tinylora.torch_api.as_torch import find, names_in

PAGE = Path(__file__).parent.parent / "docs" / "pytorch.md"
BEGIN, END = "<!-- names: begin (python tests/names_page.py) -->\n", "<!-- names: end -->\n"

MODULES = {
    "torch": "functions, dtypes and classes",
    "torch.Tensor": "methods and properties",
    "torch.nn": "modules",
    "torch.nn.functional": "functions",
    "torch.nn.init": "initial values",
    "torch.nn.utils": "",
    "torch.optim": "optimizers",
    "torch.optim.lr_scheduler": "schedules",
    "torch.utils.data": "datasets and loaders",
    "torch.autograd": "",
    "torch.cuda": "",
    "torch.amp": "",
    "torch.backends": "accepted; `cuda.matmul.allow_tf32` has an effect",
    "torch.distributed": "questions alone; the rest raises",
    "torch.linalg": "norms and products; no decompositions",
}

# What is public here and no name of PyTorch's at that place.
OURS = {
    "torch": "Run adapters as_torch checkpoint count_parameters finetune functional load_model lora models no_kernels ops "
    "profile resume testing",
    "torch.Tensor": "alias array attach node",
    "torch.nn": "fan_out activations containers count extras hooks layers losses module recurrent state transformer",
    "torch.nn.functional": "abs add amax amin clamp cos cumsum div einsum erf exp linear_cross_entropy log lora_linear "
    "masked_fill matmul maximum mean minimum mul neg pow prod rope rsqrt sin sqrt std sub sum swiglu var where",
    "torch.nn.init": "GAINS default_generator random",
    "torch.nn.utils": "pad_sequence full cat stack",
    "torch.utils.data": "default_generator",
    "torch.amp": "is_autocast_enabled",
    "torch.autograd": "Context",
    "torch.backends": "get_float32_matmul_precision set_float32_matmul_precision",
    "torch.linalg": "mul sum",
    "torch.cuda": "can_capture capture Captured Properties cupy",
}


def own_names(path: str) -> list[str]:
    """The public names of a module or class that are PyTorch's too: not what it imports, nor what is tinylora's own."""
    holder, skipped = find(path), set(OURS.get(path, "").split())
    found = []
    for name in names_in(path):
        value = getattr(holder, name, None)
        if name not in skipped and belongs(value, path):
            found.append(name)
    return sorted(set(found), key=lambda name: (name.lower(), name))


def belongs(value: object, path: str) -> bool:
    """Was it made in this package, and is it not a helper that a module imports? (All that torch and Tensor show does.)"""
    if isinstance(value, types.ModuleType):
        return path == "torch.backends" and value.__name__.startswith("tinylora")
    if path in ("torch", "torch.Tensor"):
        return True
    home = getattr(value, "__module__", "") or ""
    return home.startswith("tinylora") and getattr(value, "__name__", "") not in HELPERS


HELPERS = {
    "Array", "Generator", "Handle", "Node", "Tensor", "array_module", "bfloat16", "default_generator", "each", "full",
    "grad_enabled", "no_grad", "once", "overwrite", "register_hook", "stack", "tensor", "written",
}  # fmt: skip


def lists() -> str:
    """The part of the page between BEGIN and END."""
    parts = []
    for path, about in MODULES.items():
        names = " ".join(f"`{name}`" for name in own_names(path))
        wrapped = "\n".join(textwrap.wrap(names, 120, break_long_words=False, break_on_hyphens=False))
        parts.append(f"### {path}{': ' + about if about else ''}\n\n{wrapped}\n")
    return "\n".join(parts)


def current(text: str) -> str:
    """The page with the lists as they should be."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n" + lists() + "\n" + END + rest.split(END)[1]


def listed(text: str) -> dict[str, list[str]]:
    """The names that the page lists, by module."""
    sections = re.findall(r"^### (torch[\w.]*)[^\n]*\n\n(.*?)\n\n", text.split(BEGIN)[1], re.MULTILINE | re.DOTALL)
    return {path: re.findall(r"`(\w+)`", names) for path, names in sections}


if __name__ == "__main__":
    PAGE.write_text(current(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
