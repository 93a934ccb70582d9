"""LoRAConfig: which layers get LoRA, its rank, scale, initialisation and variant."""

from __future__ import annotations

import math
import re
from dataclasses import InitVar, dataclass

from tinylora.adapters.variants import DoRA, LoRAFA, PiSSA
from tinylora.lora import LinearWithLoRA

SCALES = {
    "alpha": lambda alpha, r: alpha,  # the lecture
    "alpha/r": lambda alpha, r: alpha / r,  # Hu et al. 2021, section 4.1; PEFT's default
    "rslora": lambda alpha, r: alpha / math.sqrt(r),  # Kalajdzievski 2023, "Rank-Stabilized LoRA", theorem 3.2
}
INITS = ("lecture", "peft")
VARIANTS: dict[str, type[LinearWithLoRA]] = {"lora": LinearWithLoRA, "dora": DoRA, "lora-fa": LoRAFA, "pissa": PiSSA}


@dataclass(frozen=True)
class LoRAConfig:
    """What to wrap, and how.

    targets: names of Linears, whole paths or their last parts ("W_query", "att.out_proj", "ff.*"), or "all-linear"; as one
    string, a regular expression that whole paths match. `train` names modules that are trained whole and not wrapped.
    scaling: the factor of A B, "alpha" (the lecture), "alpha/r" (the paper) or "rslora" (alpha/√r). init of A: "lecture"
    N(0, 1)/√r, or "peft" uniform in ±1/√in. dropout: of the input of A, in training. variant: "lora", "dora", "lora-fa" or
    "pissa" (see `variants`).
    """

    rank: int = 16
    alpha: float = 16.0
    targets: tuple[str, ...] | str = ("all-linear",)
    train: tuple[str, ...] = ()
    scaling: str = "alpha/r"
    init: str = "lecture"
    dropout: float = 0.0
    variant: str = "lora"
    r: InitVar[int | None] = None  # PEFT's name of the rank

    def __post_init__(self, r: int | None) -> None:
        if r is not None:
            object.__setattr__(self, "rank", r)
        if isinstance(self.train, str):
            raise ValueError("train is a tuple of names, not one string")
        if isinstance(self.targets, str):
            try:
                re.compile(self.targets)
            except re.error as error:
                way = "a tuple of names may have * in them"
                raise ValueError(f"targets {self.targets!r} is no regular expression ({error}); {way}") from None
        if self.scaling not in SCALES or self.init not in INITS:
            raise ValueError(f"scaling is one of {', '.join(SCALES)} and init one of {', '.join(INITS)}")
        if type(self.rank) is not int or self.rank <= 0 or not math.isfinite(self.alpha):
            raise ValueError(f"rank is an integer above 0 and alpha a finite number, got {self.rank!r}, {self.alpha!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is a probability of at least 0 and below 1, not {self.dropout!r}")
        if self.variant not in VARIANTS:
            raise ValueError(f"variant is one of {', '.join(VARIANTS)}, not {self.variant!r}")
        if self.dropout and self.variant not in ("lora", "dora"):
            raise ValueError(f"dropout goes with variants 'lora' and 'dora', not with {self.variant!r}")
        if self.init != "lecture" and self.variant == "pissa":
            raise ValueError("'pissa' is an initialisation itself: leave init as it is")

    @property
    def scale(self) -> float:
        """The factor of A B."""
        return float(SCALES[self.scaling](self.alpha, self.rank))


def variant_of(layer: LinearWithLoRA) -> str:
    """The name of a layer's variant; "lora" also with dropout or on a quantised base."""
    return next((name for name, kind in VARIANTS.items() if name != "lora" and isinstance(layer, kind)), "lora")
