"""The base class of optimizers, and SGD, Adam and AdamW, with PyTorch's arguments and arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tinylora import ops
from tinylora.backend import Array, array_module, overwrite, to_device, written
from tinylora.tensor import Tensor


class Optimizer:
    """Base class: groups of parameters with their options, and the state of each parameter.

    `parameters` is an iterable of Tensors, of (name, Tensor), or of dicts {"params": one or several, "lr": ..} whose options
    override the defaults. A step writes into the parameters, so what shares memory with them sees it. With `maximize` steps
    go up the gradient. PyTorch's `foreach`, `fused` and `capturable` choose between implementations of the same step: they
    are accepted and change nothing. `differentiable` is refused.
    """

    def __init__(self, parameters: Iterable[Any], options: dict[str, Any] | None = None, **defaults: Any) -> None:
        if isinstance(parameters, Tensor):
            raise TypeError("the optimizer takes an iterable of tensors or dicts, and got one tensor: put it in a list")
        defaults |= checked_options(type(self).__name__, options or {})
        given = list(parameters)
        if not given:
            raise ValueError("the optimizer got an empty list of parameters")
        self.defaults = defaults
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[Tensor, dict[str, Any]] = {}
        for group in given if isinstance(given[0], dict) else [{"params": given}]:
            self.add_param_group(group)

    def add_param_group(self, group: dict[str, Any]) -> None:
        """Take {"params": a Tensor or several, further options} as one more group.

        Raises TypeError for what is no Tensor, ValueError for a computed tensor, one that is in a group already, or options
        that make no sense.
        """
        if not isinstance(group, dict):
            raise TypeError(f"a group of parameters is a dict, not {type(group).__name__}")
        params = group["params"]
        if isinstance(params, set):
            raise TypeError("a set of parameters has no order to save their state in: use a list")
        found = [params] if isinstance(params, Tensor) else list(params)
        names = [p[0] for p in found if isinstance(p, tuple)]
        if names and len(names) < len(found):
            raise ValueError("either all parameters have names, as from named_parameters(), or none")
        made = {**self.defaults, **group, "params": [p[1] for p in found] if names else found}
        taken = {id(p) for p in self.parameters()}
        for p in made["params"]:
            if not isinstance(p, Tensor):
                raise TypeError(f"the optimizer takes tensors, and one of its parameters is {type(p).__name__}")
            if not p.is_leaf:
                raise ValueError(f"a computed tensor of shape {p.shape} cannot be optimized: take the leaf it comes from")
            if id(p) in taken:
                raise ValueError(f"a parameter of shape {p.shape} is in the optimizer twice")
            taken.add(id(p))
        for name in ("lr", "momentum", "weight_decay", "eps"):
            if not 0 <= made.get(name, 0) < float("inf"):
                raise ValueError(f"{name} must be a finite number of at least 0, not {made[name]}")
        for beta in made.get("betas", ()):
            if not 0 <= beta < 1:
                raise ValueError(f"betas must be at least 0 and below 1, and one is {beta}")
        self.param_groups.append(made | ({"param_names": names} if names else {}))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set all gradients to None, or to zeros."""
        for p in self.parameters():
            p.grad = None if set_to_none or p.grad is None else Tensor(array_module(p.grad.array).zeros_like(p.grad.array))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every parameter that has a gradient. `closure` computes the gradients first; its loss is returned."""
        loss = None if closure is None else closure()
        moved = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        self.move([(p, -p.grad.array if group.get("maximize") else p.grad.array, group) for p, group in moved])
        return loss

    def move(self, moved: list[tuple[Tensor, Array, dict[str, Any]]]) -> None:
        """One step of parameters with their gradients and groups."""
        for p, g, group in moved:
            overwrite(p.array, self.update(p.array, g, self.state.setdefault(p, {}), group))

    def update(self, w: Array, g: Array, state: dict[str, Any], group: dict[str, Any]) -> Array:
        """The new value of a weight w with gradient g. `state` is this weight's own, and shares memory with neither."""
        raise NotImplementedError

    def parameters(self) -> list[Tensor]:
        """Parameters of all groups, in order."""
        return [p for group in self.param_groups for p in group["params"]]

    def state_dict(self) -> dict[str, Any]:
        """State that `load_state_dict` needs to resume exactly: numbers and CPU arrays."""
        states = [self.state.get(p, {}) for p in self.parameters()]
        host = [{k: v if isinstance(v, int | float) else to_device(v, "cpu").copy() for k, v in s.items()} for s in states]
        options = [{k: v for k, v in group.items() if k != "params"} for group in self.param_groups]
        return {"state": host, "param_groups": options}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore a saved state; the parameters must have the same order as when it was saved."""
        parameters = self.parameters()
        if len(saved["state"]) != len(parameters) or len(saved["param_groups"]) != len(self.param_groups):
            raise ValueError(f"the saved optimizer had {len(saved['state'])} parameters, this one has {len(parameters)}")
        for p, old in zip(parameters, saved["state"], strict=True):
            here = {k: v if isinstance(v, int | float) else to_device(v.copy(), p.device) for k, v in old.items()}
            state = self.state.setdefault(p, {})  # updated in place, since a captured step refers to this dict
            state.clear()
            state.update(here)
        for group, options in zip(self.param_groups, saved["param_groups"], strict=True):
            group.update(options)


def checked_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """What of PyTorch's further options changes a step: `maximize`. See Optimizer."""
    unknown = options.keys() - {"maximize", "foreach", "fused", "capturable", "differentiable"}
    if unknown:
        raise TypeError(f"{name} has no option {', '.join(sorted(unknown))}")
    if options.get("differentiable"):
        raise NotImplementedError(f"{name}: differentiable=True is not supported: no gradient flows through a step here")
    return {"maximize": bool(options.get("maximize", False))}


class SGD(Optimizer):
    """w ← w - lr · v,  v ← μ v + (1 - dampening) g, at first v ← g.  With nesterov, w ← w - lr · (g + μ v)."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        **options: Any,
    ) -> None:
        if nesterov and (momentum <= 0 or dampening):
            raise ValueError("nesterov needs a momentum above 0 and no dampening")
        numbers = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, options, **numbers, nesterov=nesterov)

    def update(self, w: Array, g: Array, state: dict[str, Any], group: dict[str, Any]) -> Array:
        g = g + group["weight_decay"] * w if group["weight_decay"] else g
        if group["momentum"]:
            state["v"] = v = group["momentum"] * state["v"] + (1 - group["dampening"]) * g if "v" in state else g.copy()
            g = g + group["momentum"] * v if group["nesterov"] else v
        return w - group["lr"] * g


class Adam(Optimizer):
    """w ← w - lr · m̂ / (√v̂ + ε), m and v the running means of g and g², hats their bias corrections.

    Kingma & Ba 2015, "Adam", algorithm 1. Weight decay is added to the gradient.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        **options: Any,
    ) -> None:
        if amsgrad:
            raise NotImplementedError(f"{type(self).__name__}: amsgrad=True is not supported")
        super().__init__(params, options, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    decay_apart = False  # weight decay is added to the gradient

    def move(self, moved: list[tuple[Tensor, Array, dict[str, Any]]]) -> None:
        """One op per device."""
        devices: dict[Any, list[tuple[Tensor, Array, dict[str, Any]]]] = {}
        for p, g, group in moved:
            devices.setdefault(array_module(p.array), []).append((p, g, group))
        for xp, some in devices.items():
            self._move_on(xp, some)

    def _move_on(self, xp: Any, moved: list[tuple[Tensor, Array, dict[str, Any]]]) -> None:
        states = [self.state.setdefault(p, {}) for p, _, _ in moved]
        for (p, _, _), state in zip(moved, states, strict=True):
            if not state:
                state.update(step=0, m=xp.zeros_like(p.array), v=xp.zeros_like(p.array))

        def numbers() -> list[tuple[float, ...]]:
            """Count a step, and return its numbers."""
            found = []
            for (_, _, group), state in zip(moved, states, strict=True):
                state["step"] += 1
                found.append((state["step"], group["lr"], *group["betas"], group["eps"], group["weight_decay"]))
            return found

        weights, gradients = [p.array for p, _, _ in moved], [g for _, g, _ in moved]
        ms, vs = ([state[name] for state in states] for name in ("m", "v"))
        new, _ = ops.adam(*weights, *gradients, *ms, *vs, numbers=numbers, apart=self.decay_apart)
        n = len(moved)
        for (p, _, _), state, w, m, v in zip(moved, states, new[:n], new[n : 2 * n], new[2 * n :], strict=True):
            state["m"], state["v"] = m, v
            if w is not p.array:
                overwrite(p.array, w)
        written(*weights)


class AdamW(Adam):
    """Adam with decoupled weight decay: w ← w (1 - lr · λ) first.

    Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2.
    """

    decay_apart = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, **options)
