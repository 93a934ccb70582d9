"""jinja2's immutable sandbox for chat templates: few functions, and a price on every step. Imported only where needed."""

from __future__ import annotations

import datetime
import functools
import json
import types
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from tinylora.text.template_budget import BITS, STEP, Budget, SpentError, size

SHALLOW = [  # filters that do not look into the items of what they are given
    "count", "d", "default", "first", "items", "last", "length", "list", "map", "reject", "rejectattr", "reverse", "select",
    "selectattr",
]  # fmt: skip
DEEP = [
    "abs", "capitalize", "dictsort", "e", "escape", "float", "indent", "int", "join", "lower", "max", "min", "replace",
    "safe", "sort", "string", "title", "trim", "unique", "upper",
]  # fmt: skip
SHALLOW_TESTS = [
    "boolean", "callable", "defined", "false", "float", "integer", "iterable", "mapping", "none", "number", "sameas",
    "sequence", "string", "true", "undefined",
]  # fmt: skip
METHODS: dict[Any, str] = {
    str: "capitalize count endswith find index isalnum isalpha isdigit islower isspace isupper join lower lstrip partition "
    "removeprefix removesuffix replace rfind rpartition rsplit rstrip split splitlines startswith strip title upper",
    dict: "copy get items keys values",
    list: "copy count index",
    tuple: "count index",
    LoopContext: "cycle",
}
WIDEST = 64  # columns of indentation
DEEPEST = 80  # blocks and expressions inside each other: Python takes 100, and jinja2 becomes slow before
READ, MADE, CONCATENATED = "_read", "_made", "_concatenated"  # filters that `Metered` puts in


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Compiles templates whose every step is paid for out of `budget`."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "%", "**"])

    def __init__(self, budget: Budget) -> None:
        given = {"trim_blocks": True, "lstrip_blocks": True, "finalize": self._printed}
        super().__init__(optimized=False, extensions=[loopcontrols, Generation], **given)
        self.budget = budget
        self.globals = {
            "range": self.globals["range"], "dict": dict, "namespace": ChatNamespace,
            "raise_exception": _raise_exception, "strftime_now": _strftime_now,
        }  # fmt: skip
        paying = {name: self._paying(name, self.filters[name], name in SHALLOW) for name in [*SHALLOW, *DEEP]}
        own = {"tojson": self._tojson, READ: self._printed, MADE: budget.made, CONCATENATED: self._concatenated}
        self.filters = {**paying, **own}
        self.tests = {name: self._paying(name, test, name in SHALLOW_TESTS) for name, test in self.tests.items()}

    def compiled(self, source: str) -> jinja2.Template:
        """The template. Raises jinja2's errors, SecurityError among them for what is not allowed."""
        tree = self.parse(source)
        _refuse_depth(tree)
        tree = Metered().visit(tree).set_environment(self)
        return jinja2.Template.from_code(self, self.compile(tree), self.make_globals(None))

    def pay(self, units: int) -> bool:
        """What the bodies of loops and macros begin with."""
        self.budget.pay(units)
        return True

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self.budget.pay(_result_size(operator, left, right))
        return self.budget.made(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        if isinstance(__obj, types.MethodType) and __obj.__self__ is __self:
            return __self.pay(*args)
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        __self._allow(__obj, owner, name)
        if isinstance(__obj, Macro | LoopContext):  # their bodies pay for what they do
            __self.budget.pay(10 * STEP)
        else:
            priced = (owner, *args) if isinstance(owner, str | list | tuple) else args
            named = {key: value for key, value in kwargs.items() if key not in ("_loop_vars", "_block_vars")}  # jinja2's own
            __self._price(name, priced, named, shallow=False)
        return __self.budget.made(super().call(__context, __obj, *args, **kwargs))

    def getitem(self, obj: Any, argument: Any) -> Any:
        self.budget.read(argument)  # to find it takes its hash
        return super().getitem(obj, argument)

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        raise SecurityError(f"it reads {attribute!r} of a {type(obj).__name__}, which it may not")

    def _allow(self, function: Any, owner: Any, name: str) -> None:
        allowed = isinstance(function, Macro | LoopContext | jinja2.Undefined)  # the last says itself what is missing
        allowed = allowed or any(function is known for known in self.globals.values())
        if not allowed and not any(isinstance(owner, kind) and name in names.split() for kind, names in METHODS.items()):
            raise SecurityError(f"it calls {str(name or type(function).__name__)!r}, which it may not")

    def _paying(self, name: str, function: Any, shallow: bool) -> Callable[..., Any]:
        skip = 1 if hasattr(function, "jinja_pass_arg") else 0  # the context comes first

        @functools.wraps(function)  # which copies that mark
        def paying(*args: Any, **kwargs: Any) -> Any:
            self._price(name, args[skip:], kwargs, shallow)
            result = function(*args, **kwargs)
            return self.budget.made(list(result) if isinstance(result, Iterator) else result)

        return paying

    def _price(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], shallow: bool) -> None:
        """Pay for what a function reads, and beforehand for what it makes, if that can be more."""
        given = [*args, *kwargs.values()]
        if not shallow and any(isinstance(value, Iterator) for value in given):
            raise SecurityError(f"it gives a loop to {name!r}, which it may not")
        for value in given:
            _ = self.budget.made(value) if shallow else self.budget.read(value)
        if name in ("strip", "lstrip", "rstrip", "trim", "rfind", "rsplit", "rpartition") and len(given) > 1:
            self.budget.pay(size(given[0]) * size(given[1]))  # they may compare each character with each
        if name in ("join", "replace", "indent") and not shallow:
            self.budget.pay(GROWING[name](*args, **kwargs))

    def _printed(self, value: Any) -> Any:
        self.budget.read(value)
        return value

    def _concatenated(self, values: list[Any]) -> str:
        self.budget.read(*values)
        return "".join(map(str, values))

    def _tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        """JSON as transformers writes it: nothing escaped for HTML."""
        encoder = json.JSONEncoder(
            ensure_ascii=ensure_ascii, indent=_width(indent), separators=separators, sort_keys=sort_keys
        )
        return "".join(self.budget.made(piece) for piece in encoder.iterencode(value))


class ChatNamespace(Namespace):
    """What {% set ns.name = .. %} writes to. Its text does not show what it holds, which may be itself."""

    def __repr__(self) -> str:
        return "<Namespace>"


class Generation(Extension):
    """{% generation %}..{% endgeneration %}, which marks what the model said: written like the rest."""

    tags = {"generation"}  # noqa: RUF012, as in jinja2

    def parse(self, parser: Any) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Metered(NodeTransformer):
    """Puts into a parsed template what jinja2 leaves no hook for: the price of loops, macros, `~`, `==` and slices."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.test is not None:
            node.test = nodes.And(_pay(_cost([node.test])), node.test)
        return self._body_pays(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._body_pays(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._body_pays(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), CONCATENATED)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        sides: list[Any] = [node, *node.ops]
        for side in sides:
            if not isinstance(side.expr, nodes.Const):
                side.expr = _filter(side.expr, READ)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)
        node.key = node.key if isinstance(node.key, nodes.Const) else _filter(node.key, READ)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, MADE) if isinstance(node.arg, nodes.Slice) else node

    def _refused(self, node: nodes.Node) -> NoReturn:
        raise SecurityError("it reads another template, which it may not")

    visit_Import = visit_FromImport = visit_Include = visit_Extends = _refused  # noqa: N815

    def _body_pays(self, node: Any) -> nodes.Node:
        price = nodes.ExprStmt(_pay(_cost(node.body)), lineno=node.lineno)
        self.generic_visit(node)
        node.body.insert(0, price)
        return node


def _pay(units: int) -> nodes.Expr:
    return nodes.Call(nodes.EnvironmentAttribute("pay"), [nodes.Const(units)], [], None, None)


def _filter(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _cost(body: list[nodes.Node]) -> int:
    """Nodes of a piece of a template, and the characters that are written in it."""
    todo, cost = list(body), STEP
    while todo:
        node = todo.pop()
        cost += STEP + size(getattr(node, "data", None)) + size(getattr(node, "value", None))
        todo += node.iter_child_nodes()
    return cost


def _refuse_depth(tree: nodes.Node) -> None:
    todo = [(tree, 0)]
    while todo:
        node, depth = todo.pop()
        if depth > DEEPEST:
            raise SecurityError(f"it has blocks or expressions inside each other, more than {DEEPEST} deep")
        todo += [(child, depth + 1) for child in node.iter_child_nodes()]


def _result_size(operator: str, left: Any, right: Any) -> int:
    """Items or characters of what an operator makes. Raises SpentError for a number that is too large."""
    if operator == "%" and isinstance(left, str):
        raise SecurityError("it formats a text with %, which it may not")
    if operator == "**" and isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > BITS:
        raise SpentError(
            f"it takes a number to the power of {right:,}" if right.bit_length() <= BITS else "its numbers are large"
        )
    if operator == "*":
        return max(size(left) * right if isinstance(right, int) else 0, size(right) * left if isinstance(left, int) else 0)
    return size(left) + size(right)


def _joined(*args: Any, **kwargs: Any) -> int:
    parts = [*args, *kwargs.values()]  # the filter has the list first, the method the text between
    return max(size(a) * size(b) for a, b in [(parts[0], part) for part in parts[1:]] or [((), ())])


def _replaced(text: Any, old: Any, new: Any, count: int | None = None) -> int:
    return str(text).count(str(old)) * size(str(new))


def _indented(text: Any, width: Any = 4, first: bool = False, blank: bool = False) -> int:
    return (str(text).count("\n") + 1) * (size(width) or _width(width) or 0)


GROWING: dict[str, Callable[..., int]] = {"join": _joined, "replace": _replaced, "indent": _indented}


def _width(columns: Any) -> int | None:
    if columns is not None and (not isinstance(columns, int) or columns > WIDEST):
        raise SpentError(f"it indents by more than {WIDEST} columns")
    return columns


def _raise_exception(message: Any = "") -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form[:100])
