"""Chat templates from strangers, rendered by transformers within a time and a size.

transformers renders in jinja2's sandbox, which forbids code and allows loops and texts of any size. Here the sandbox
has a budget as well. Every step that can make something longer than what it was given asks the budget first, or pays
for its result. What is left is bounded by the length of the template times what the budget allows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from string import Formatter
from typing import Any

from jinja2 import nodes, pass_context, pass_environment
from jinja2.filters import make_attrgetter
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEscapeFormatter, SandboxedFormatter
from markupsafe import Markup
from transformers.utils import chat_template_utils

from entangle_cli.data.template_limits.budget import (
    SECONDS,
    SMALLEST_BUDGET,
    WORKING_BYTES,
    Budget,
    TemplateTooLarge,
    paid,
    paid_with_parts,
    running,
    spend,
    too_long,
)
from entangle_cli.data.template_limits.sizes import FILTER_SIZES, METHOD_SIZES, operation_size, refuse_wide

_replacing = threading.Lock()


@contextmanager
def bounded_templates(max_characters: int, seconds: float = SECONDS) -> Iterator[None]:
    """While it is open, chat templates that transformers compiles and renders in this thread have a budget.

    A template that was compiled outside it, as in a notebook, has none.

    Args:
        max_characters: of the longest text that is rendered; it may take up WORKING_BYTES bytes for each on the way.
        seconds: of wall time.
    Raises:
        TemplateTooLarge: within the block.
        TemplateTooSlow: likewise.
    """
    module: Any = chat_template_utils
    with _replacing:
        original = module.ImmutableSandboxedEnvironment
        module.ImmutableSandboxedEnvironment = BoundedEnvironment
        num_bytes = SMALLEST_BUDGET + WORKING_BYTES * max_characters
        running.budget = Budget(max_characters, seconds, num_bytes, time.monotonic() + seconds)
        try:
            yield
        finally:
            running.budget = None
            module.ImmutableSandboxedEnvironment = original


@pass_context
def _step(_: Any, value: Any) -> Any:
    """One turn of a loop or one call of a macro."""
    spend(64)
    return value


STEP, PAID, PAID_WITH_PARTS = "entangle: step", "entangle: paid", "entangle: paid with parts"
"""Filters of ours; no template can write a name with a space."""


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """jinja2's sandbox, whose templates spend the budget of the rendering that is under way."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        del self.globals["lipsum"]  # text of any length, another one every time

    @staticmethod
    def concat(pieces: Any) -> str:
        """A text of pieces, which jinja2 joins at the end of a template, a macro or a block."""
        budget = running.budget
        if budget is None:
            return "".join(pieces)
        kept, length = [], 0
        for piece in pieces:
            kept.append(piece)
            length += len(piece) + 1
            if length > budget.max_characters:
                raise TemplateTooLarge(too_long(budget.max_characters))
        return str(paid("".join(kept)))

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        """jinja2's own hook between a template's tree and its code."""
        if STEP not in self.filters:
            bounded = {name: _bounded_filter(name, function) for name, function in self.filters.items()}
            self.filters = {**bounded, STEP: _step, PAID: paid, PAID_WITH_PARTS: paid_with_parts}
        _make_it_pay(source)
        return super()._generate(source, *args, **kwargs)

    def call_filter(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Filters that `map` and `select` call for every item."""
        spend(64)
        return super().call_filter(name, *args, **kwargs)

    def call_test(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Tests that `select` and `reject` call for every item."""
        spend(64)
        return super().call_test(name, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """An operator whose result may be longer than its operands."""
        spend(operation_size(operator, left, right))
        return paid(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __callee: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """A method, a macro or a function. Underscores leave all names of keywords to the template."""
        method = getattr(__callee, "__wrapped__", __callee)
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str | bytes | int):
            size = METHOD_SIZES.get(method.__name__)
            if size is not None:
                args = tuple(_materialised(argument) for argument in args)
                spend(size(owner, *args, **kwargs))
        result = super().call(__context, __callee, *args, **kwargs)
        return paid(result) if isinstance(owner, str | bytes) else paid_with_parts(result)

    def wrap_str_format(self, value: Any) -> Any:
        """`str.format`, with the sandbox's look at attributes and ours at widths."""
        if super().wrap_str_format(value) is None:
            return None
        text, is_map = value.__self__, value.__name__ == "format_map"
        formatter: Formatter = _BoundedFormatter(self)
        if isinstance(text, Markup):
            formatter = _BoundedEscapeFormatter(self, escape=text.escape)

        @wraps(value)
        def formatted(*args: Any, **kwargs: Any) -> Any:
            return type(text)(formatter.vformat(text, () if is_map else args, args[0] if is_map else kwargs))

        return formatted


class _BoundedWidths(Formatter):
    """Looks at what a formatter is about to write."""

    def format_field(self, value: Any, format_spec: str) -> Any:
        refuse_wide(format_spec)
        paid_with_parts(value)
        return paid(super().format_field(value, format_spec))

    def convert_field(self, value: Any, conversion: Any) -> Any:
        paid_with_parts(value)
        return super().convert_field(value, conversion)


class _BoundedFormatter(_BoundedWidths, SandboxedFormatter):
    pass


class _BoundedEscapeFormatter(_BoundedWidths, SandboxedEscapeFormatter):
    pass


def _make_it_pay(tree: nodes.Template) -> None:
    """Put our filters into a template's tree, wherever it repeats, joins, copies or collects."""
    repeated: tuple[type[Any], ...] = (nodes.For, nodes.Macro, nodes.CallBlock, nodes.FilterBlock)
    joined: tuple[type[Any], ...] = (nodes.Concat, nodes.Output)
    node: Any
    for node in list(tree.find_all(repeated)):
        step = _filtered(nodes.Const(None), STEP)
        node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno))
    for node in list(tree.find_all(joined)):
        node.nodes = [
            part if isinstance(part, nodes.TemplateData | nodes.Const) else _filtered(part, PAID_WITH_PARTS)
            for part in node.nodes
        ]
    _replace(tree)


def _replace(node: nodes.Node) -> None:
    for name, value in node.iter_fields():
        if isinstance(value, nodes.Node):
            _replace(value)
            setattr(node, name, _paying(value))
        elif isinstance(value, list):
            for part in value:
                if isinstance(part, nodes.Node):
                    _replace(part)
            setattr(node, name, [_paying(part) for part in value])


def _paying(node: Any) -> Any:
    """A part of a tree that makes a value, with the filter that pays for it."""
    is_made = isinstance(node, nodes.List | nodes.Dict) or (isinstance(node, nodes.Tuple) and node.ctx == "load")
    if is_made and any(True for _ in node.find_all((nodes.Name, nodes.Call, nodes.Filter))):
        return _filtered(node, PAID_WITH_PARTS)
    is_slice = isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
    return _filtered(node, PAID) if is_slice else node


def _filtered(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of jinja2 or transformers that pays for what it turns into text, and for its result."""
    if name in HARMLESS_FILTERS:
        return function
    if name == "sum":
        return _sum
    size = FILTER_SIZES.get(name)
    num_passed = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        given = [_materialised(value) for value in args[num_passed:]]
        if name not in STRUCTURE_FILTERS:
            for value in (*given, *kwargs.values()):
                paid_with_parts(value)
        if size is not None:
            spend(size(*given, **kwargs))
        return paid(function(*args[:num_passed], *given, **kwargs))

    return bounded


@pass_environment
def _sum(environment: BoundedEnvironment, values: Any, attribute: Any = None, start: Any = 0) -> Any:
    """jinja2's `sum`, an addition at a time: those of lists copy what they have so far."""
    for value in values if attribute is None else map(make_attrgetter(environment, attribute), values):
        start = paid(start + value)
    return start


def _materialised(value: Any) -> Any:
    """A list in place of a generator, for its length."""
    return list(value) if isinstance(value, Iterator) else value


HARMLESS_FILTERS = {"length", "count", "default", "d", "first", "last", "attr", "items", "random", "min", "max"}
"""They make nothing new."""

STRUCTURE_FILTERS = {
    *("map", "select", "reject", "selectattr", "rejectattr", "list", "sort", "unique", "groupby", "dictsort"),
    *("batch", "slice", "reverse"),
}
"""They take lists apart and put them together, and write no text."""
