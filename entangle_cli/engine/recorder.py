"""Sees every use of a parameter in a forward pass, and reports it with the gradient that reaches it.

A torch function mode is handed each call of a torch function, whichever module makes it. A call that takes a
parameter is a use of it: recognised ones (linear, embedding, norm, scale, bias) get a hook on their result and are
reported in the backward pass, the moment the gradient exists; any other use makes the parameter one for the slow
way. So a parameter cannot be missed, nor used behind a module's back, without the recorder knowing.
No formula lives here, and nothing is stored on the user's modules or parameters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class UseKind(str, Enum):
    """How a parameter enters the computation, and so which product its gradient needs."""

    LINEAR = "linear"
    """y = x W or x W': the gradient is a sum of outer products of inputs and output gradients."""
    LOOKUP = "lookup"
    """y = W[ids]."""
    VECTOR = "vector"
    """A broadcast scale or bias: the gradient is a sum of (factor times) output gradients."""
    UNEMBEDDING = "unembedding"
    """The last linear layer, which `head` evaluates in chunks."""


@dataclass(frozen=True, slots=True, eq=False)
class Use:
    """One use of a parameter in the forward pass."""

    name: str
    kind: UseKind
    shape: torch.Size
    left: Tensor | Callable[[], Tensor] | None
    """LINEAR: inputs [B, T, I], one object for all weights that read it. LOOKUP: ids [B, T]. VECTOR: the factor that
    a scale multiplies [B, ...], or a function that gives it; None for a bias."""
    lines_up: bool = True
    """LINEAR: whether dimension 1 of `left` is the batch's token positions, so that shared prefixes line up."""
    constant_id: int | None = None
    """LOOKUP: the id whose row takes no gradient (`padding_idx`)."""


class Unrecognised(Exception):
    """A call does not have the form that its rule needs."""


Consume = Callable[[Use, Tensor], None]


class Recorder(TorchFunctionMode):
    """Watches parameters through one forward pass of a batch.

    Args:
        names: id of each watched parameter to its name.
        batch_shape: (B, T) of the ids.
        unembedding: the model's output embedding weight; its linear call is cut off and its input kept.
        consume: called in the backward pass with each use and the gradient at its result, rows first.

    Attributes:
        kinds: parameter name to the kinds of its recognised uses, in forward order.
        num_readers: id of each linear input to the number of weights that read it.
        unrecognised: parameter name to the function that used it in a way no rule covers.
        hidden: input of the unembedding [B, T, D], with its graph.
    """

    def __init__(
        self,
        names: Mapping[int, str],
        batch_shape: tuple[int, int],
        unembedding: Tensor,
        consume: Consume,
    ) -> None:
        super().__init__()
        self.kinds: dict[str, list[UseKind]] = {}
        self.num_readers: Counter[int] = Counter()
        self.unrecognised: dict[str, str] = {}
        self.hidden: Tensor | None = None
        self._names = names
        self._num_rows, self._num_tokens = batch_shape
        self._unembedding = unembedding
        self._consume = consume
        # Tensors equal to a parameter up to dtype or an added constant (Gemma's 1 + w): same gradient.
        self._aliases: dict[int, tuple[Tensor, str]] = {}
        self._inputs: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear and _argument(args, kwargs, 1, "weight") is self._unembedding:
            return self._cut_off(_argument(args, kwargs, 0, "input"))
        used = self._watched(args, kwargs)
        if not used:
            return func(*args, **kwargs)
        if func in CASTS or (func is torch.Tensor.add and _is_number(args[-1])):
            return self._alias(func(*args, **kwargs), args[0])
        try:
            rule = RULES.get(func)
            if rule is None:
                raise Unrecognised
            return rule(self, func, args, kwargs)
        except Unrecognised:
            result = func(*args, **kwargs)
            if _holds_tensor(result):
                for name in used:
                    self.unrecognised[name] = getattr(func, "__name__", str(func))
            return result

    def __exit__(self, *exception: Any) -> None:
        TorchFunctionMode.__exit__(self, *exception)
        self._aliases.clear()
        self._inputs.clear()

    def _name_of(self, value: Any) -> str | None:
        """The watched parameter that `value` is or stands for."""
        if not isinstance(value, Tensor):
            return None
        alias = self._aliases.get(id(value))
        return alias[1] if alias is not None else self._names.get(id(value))

    def _watched(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> list[str]:
        found = []
        for value in (*args, *kwargs.values()):
            for item in value if isinstance(value, list | tuple) else (value,):
                if (name := self._name_of(item)) is not None:
                    found.append(name)
        return found

    def _alias(self, result: Tensor, source: Tensor) -> Tensor:
        """Note that `result` has the gradient of `source`, if that is a parameter (a cast may only borrow a dtype)."""
        name = self._name_of(source)
        if name is not None and id(result) not in self._names:
            self._aliases[id(result)] = (result, name)
        return result

    def _cut_off(self, hidden: Tensor) -> Tensor:
        """Keep the unembedding's input; the model gets a row of zeros a sequence instead of its logits.

        Raises:
            Unrecognised: the input is not every position, or the unembedding was applied before.
        """
        if self.hidden is not None or hidden.numel() != self._num_rows * self._num_tokens * hidden.shape[-1]:
            raise Unrecognised
        self.hidden = hidden.reshape(self._num_rows, self._num_tokens, hidden.shape[-1])
        return hidden.new_zeros(self._num_rows, 1, self._unembedding.shape[0])

    def _report(self, result: Tensor, uses: Sequence[Use]) -> Tensor:
        """Have `consume` called for `uses` with the gradient at `result`, which starts a graph if none exists yet."""
        for use in uses:
            self.kinds.setdefault(use.name, []).append(use.kind)
            if use.kind is UseKind.LINEAR:
                self.num_readers[id(use.left)] += 1
        if not result.requires_grad:
            result.requires_grad_()
        pending = list(uses)

        def on_gradient(gradient: Tensor) -> None:
            # The graph keeps this function until the pass ends; popping lets go of the inputs now.
            gradient = self._rows_first(gradient)
            while pending:
                self._consume(pending.pop(), gradient)

        result.register_hook(on_gradient)
        return result

    def _rows_first(self, values: Tensor) -> Tensor:
        """A view [B, ..., I] of values that keep the rows first, or that flatten rows and positions into one."""
        if values.dim() >= 3 and values.shape[0] == self._num_rows:
            return values
        if values.dim() == 2 and values.shape[0] == self._num_rows * self._num_tokens:
            return values.view(self._num_rows, self._num_tokens, values.shape[1])
        raise Unrecognised

    def _shared_input(self, values: Tensor) -> Tensor:
        """The detached [B, T, I] view of a linear layer's input: one object for all layers that read one tensor."""
        if id(values) not in self._inputs:
            rows = self._rows_first(values).detach()
            self._inputs[id(values)] = (values, rows.reshape(self._num_rows, -1, rows.shape[-1]))
        return self._inputs[id(values)][1]

    def _linear_use(self, weight: Tensor, inputs: Tensor) -> list[Use]:
        name = self._names.get(id(weight))
        if name is None:
            return []
        lines_up = self._rows_first(inputs).shape[1:-1] == (self._num_tokens,)
        return [Use(name, UseKind.LINEAR, weight.shape, self._shared_input(inputs), lines_up=lines_up)]

    def _vector_use(self, value: Any, factor: Tensor | Callable[[], Tensor] | None) -> list[Use]:
        name = self._name_of(value)
        return [] if name is None else [Use(name, UseKind.VECTOR, value.shape, factor)]

    def linear(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        """F.linear(input, weight, bias)."""
        inputs, weight, bias = (
            _argument(args, kwargs, place, name) for place, name in enumerate(("input", "weight", "bias"))
        )
        self._refuse_alias(weight)
        uses = self._linear_use(weight, inputs) + self._vector_use(bias, None)
        return self._report(func(*args, **kwargs), uses)

    def addmm(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        """torch.addmm(bias, inputs, weight), as transformers' Conv1D calls it."""
        if kwargs or len(args) != 3:
            raise Unrecognised
        bias, inputs, weight = args
        self._refuse_alias(weight, inputs)
        uses = self._linear_use(weight, inputs) + self._vector_use(bias, None)
        return self._report(func(*args), uses)

    def embedding(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        """F.embedding(ids, weight, ...): ids that the rows share are looked up once a row, so gradients stay apart."""
        ids, weight = _argument(args, kwargs, 0, "input"), _argument(args, kwargs, 1, "weight")
        name = self._names.get(id(weight))
        if name is None or self._renormalises(args, kwargs):
            raise Unrecognised
        if ids.shape in ((self._num_tokens,), (1, self._num_tokens)):
            ids = ids.reshape(1, -1).expand(self._num_rows, -1)
        if ids.shape != (self._num_rows, self._num_tokens):
            raise Unrecognised
        constant = _argument(args, kwargs, 2, "padding_idx")
        constant = constant if constant is None else constant % weight.shape[0]
        return self._report(func(ids, weight), [Use(name, UseKind.LOOKUP, weight.shape, ids, constant_id=constant)])

    @staticmethod
    def _renormalises(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether the lookup rescales the table or its gradient."""
        return _argument(args, kwargs, 3, "max_norm") is not None or bool(
            _argument(args, kwargs, 5, "scale_grad_by_freq")
        )

    def norm(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        """F.layer_norm or F.rms_norm: the factor of the scale is the norm without its parameters."""
        places = {name: place for place, name in enumerate(NORM_ARGUMENTS[func])}
        inputs, shape, weight, bias, eps = (
            _argument(args, kwargs, places.get(name, len(args)), name)
            for name in ("input", "normalized_shape", "weight", "bias", "eps")
        )
        self._refuse_alias(inputs)
        rows = self._rows_first(inputs).detach()
        settings = {} if eps is None else {"eps": eps}
        uses = self._vector_use(weight, lambda: func(rows, shape, **settings))
        return self._report(func(*args, **kwargs), uses + self._vector_use(bias, None))

    def scale(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        """parameter * values, either way round."""
        return self._elementwise(func, args, kwargs, is_scale=True)

    def shift(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        """parameter + values, either way round."""
        return self._elementwise(func, args, kwargs, is_scale=False)

    def _elementwise(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], *, is_scale: bool) -> Tensor:
        if kwargs or len(args) != 2:
            raise Unrecognised
        (parameter, values) = args if self._name_of(args[0]) is not None else reversed(args)
        self._refuse_alias(values, aliases_too=True)
        if not isinstance(values, Tensor) or parameter.dim() >= values.dim():
            raise Unrecognised
        rows = self._rows_first(values).detach()
        result = func(*args)
        if result.shape != values.shape:
            raise Unrecognised
        return self._report(result, self._vector_use(parameter, rows if is_scale else None))

    def _refuse_alias(self, *values: Any, aliases_too: bool = False) -> None:
        """Weights must be used as they are, and the other operand must not be a parameter itself."""
        for value in values:
            if isinstance(value, Tensor) and id(value) in self._aliases:
                raise Unrecognised
            if aliases_too and self._name_of(value) is not None:
                raise Unrecognised


def _argument(args: Sequence[Any], kwargs: Mapping[str, Any], place: int, name: str) -> Any:
    return args[place] if place < len(args) else kwargs.get(name)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _holds_tensor(result: Any) -> bool:
    items = result if isinstance(result, list | tuple) else (result,)
    return any(isinstance(item, Tensor) for item in items)


NORM_ARGUMENTS = {
    F.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps"),
    F.rms_norm: ("input", "normalized_shape", "weight", "eps"),
}

CASTS = {torch.Tensor.float, torch.Tensor.double, torch.Tensor.to, torch.Tensor.type_as}

RULES: Mapping[Any, Callable[[Recorder, Any, Sequence[Any], Mapping[str, Any]], Tensor]] = {
    F.linear: Recorder.linear,
    torch.addmm: Recorder.addmm,
    F.embedding: Recorder.embedding,
    F.layer_norm: Recorder.norm,
    F.rms_norm: Recorder.norm,
    torch.Tensor.mul: Recorder.scale,
    torch.mul: Recorder.scale,
    torch.Tensor.add: Recorder.shift,
    torch.add: Recorder.shift,
}
