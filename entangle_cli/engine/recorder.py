"""Sees every use of a parameter in a forward pass, and reports it with the gradient that reaches it.

A torch function mode sees every call of a torch function. A call that takes a
parameter is a use of it: recognised ones (linear, embedding, norm, scale, bias) get a hook on their result and are
reported in the backward pass, the moment the gradient exists; any other use makes the parameter one for the slow
way. So a parameter cannot be missed, nor used behind a module's back, without the recorder knowing.
No formula lives here, and nothing is stored on the user's modules or parameters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from entangle_cli.engine.once import TokenLayout, linear_once
from entangle_cli.engine.routing import GatheredRows
from entangle_cli.engine.uses import Consume, LinearInput, Unrecognised, Use, UseKind


@dataclass(frozen=True, slots=True, eq=False)
class _Stand:
    """A tensor that has the gradient of a parameter, or of a slice of one."""

    tensor: Tensor
    name: str
    part: int | None = None
    is_transposed: bool = False
    is_reshaped: bool = False
    """Its elements are those of the parameter in their order, its shape is another."""


class Recorder(TorchFunctionMode):
    """Watches parameters through one forward pass of a batch.

    Args:
        names: id of each watched parameter to its name.
        batch_shape: (B, T) of the ids.
        unembedding: the model's output embedding weight; its linear call is cut off and its input kept.
        consume: called in the backward pass with each use and the gradient at its result, rows first.
        layout: lets linear layers skip padding and the second copy of shared prompts.
        note_kept: called with every tensor that is kept for the backward pass.

    Attributes:
        kinds: parameter name to the kinds of its recognised uses, in forward order.
        num_uses: number of recognised uses by `Use.key`.
        unrecognised: parameter name to the function that used it in a way no rule covers.
    """

    def __init__(
        self,
        names: Mapping[int, str],
        batch_shape: tuple[int, int],
        unembedding: Tensor,
        consume: Consume,
        layout: TokenLayout,
        note_kept: Callable[[Tensor], None] | None = None,
    ) -> None:
        super().__init__()
        self.kinds: dict[str, list[UseKind]] = {}
        self.num_uses: Counter[tuple[str, int | None]] = Counter()
        self.unrecognised: dict[str, str] = {}
        self._hidden: Tensor | None = None
        self._names = names
        self._num_rows, self._num_tokens = batch_shape
        self._unembedding = unembedding
        self._consume = consume
        # One a device, for models that are spread over several.
        self._layouts = {layout.computed_U.device: layout}
        # Tensors equal to a parameter, or to a slice of one, up to dtype, transposition or an added constant
        # (Gemma's 1 + w): same gradient.
        self._stands: dict[int, _Stand] = {}
        self._gathered = GatheredRows(*batch_shape)
        self._inputs: dict[int, tuple[Tensor, LinearInput]] = {}
        self._forms: dict[tuple[str, int | None], tuple[Any, ...]] = {}
        self._in_slices: dict[str, bool] = {}
        self._note_kept = note_kept

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear and _argument(args, kwargs, 1, "weight") is self._unembedding:
            return self._cut_off(_argument(args, kwargs, 0, "input"))
        result = self._call(func, args, kwargs)
        self._gathered.follow(func, args, kwargs, result)
        return result

    def _call(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        used = self._watched(args, kwargs)
        if not torch.is_grad_enabled():
            return func(*args, **kwargs)
        if not used:
            return self._once(func, args, kwargs)
        if func in CASTS and self._known(args[0]) is None:
            return func(*args, **kwargs)  # borrows a parameter's dtype
        try:
            if (stand := self._stand(func, args)) is not None:
                return self._noted(func(*args, **kwargs), stand)
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
        self._stands.clear()
        self._gathered.clear()
        self._inputs.clear()

    def _known(self, value: Any) -> _Stand | None:
        """The watched parameter, or slice of one, that `value` is or stands for."""
        if not isinstance(value, Tensor):
            return None
        stand = self._stands.get(id(value))
        if stand is not None:
            return stand
        name = self._names.get(id(value))
        return None if name is None else _Stand(value, name)

    def _watched(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> list[str]:
        found = []
        for value in (*args, *kwargs.values()):
            for item in value if isinstance(value, list | tuple) else (value,):
                if (known := self._known(item)) is not None:
                    found.append(known.name)
        return found

    def _stand(self, func: Any, args: Sequence[Any]) -> _Stand | None:
        """What the result of `func` stands for, if it is a view or a cast of a parameter."""
        source = self._known(args[0]) if args else None
        if source is None:
            return None
        if func in CASTS or (func is torch.Tensor.add and _is_number(args[-1])):
            return source
        if func in TRANSPOSITIONS and source.tensor.dim() == 2 and not source.is_reshaped:
            return replace(source, is_transposed=not source.is_transposed)
        if func in RESHAPES or (func is torch.Tensor.__getitem__ and _only_adds_dimensions(args[1])):
            return None if source.is_transposed else replace(source, is_reshaped=True)
        if func is torch.Tensor.__getitem__ and source.part is None and source.tensor.dim() >= 2:
            index = args[1]
            if isinstance(index, int) or (isinstance(index, Tensor) and index.dim() == 0 and index.dtype == torch.long):
                return replace(source, part=int(index))
        return None

    def _noted(self, result: Tensor, stand: _Stand) -> Tensor:
        """`result`, remembered to stand for a parameter."""
        if id(result) not in self._names:
            self._stands[id(result)] = replace(stand, tensor=result)
        return result

    def _cut_off(self, hidden: Tensor) -> Tensor:
        """Keep the unembedding's input; the model gets a row of zeros a sequence instead of its logits.

        Raises:
            Unrecognised: the input is not every position, or the unembedding was applied before.
        """
        if self._hidden is not None or hidden.numel() != self._num_rows * self._num_tokens * hidden.shape[-1]:
            raise Unrecognised
        self._hidden = hidden.reshape(self._num_rows, self._num_tokens, hidden.shape[-1])
        return hidden.new_zeros(self._num_rows, 1, self._unembedding.shape[0])

    def take_hidden(self) -> Tensor | None:
        """Input of the unembedding [B, T, D], with its graph; None if the unembedding was not seen.

        Handed over once: the graph's hooks hold this recorder, and one that held the graph would keep both for ever,
        since the garbage collector does not see through autograd's nodes.
        """
        hidden, self._hidden = self._hidden, None
        return hidden

    def _report(self, result: Tensor, uses: Sequence[Use]) -> Tensor:
        """Have `consume` called for `uses` with the gradient at `result`, which starts a graph if none exists yet."""
        for use in uses:
            self._count(use)
        if not result.requires_grad:
            result.requires_grad_()
        pending = list(uses)

        def on_gradient(gradient: Tensor) -> None:
            # The graph keeps this function until the pass ends; popping lets go of the inputs now.
            if any(use.rows is None for use in pending):
                gradient = self._rows_first(gradient)
            while pending:
                self._consume(pending.pop(), gradient)

        result.register_hook(on_gradient)
        return result

    def _count(self, use: Use) -> None:
        self.kinds.setdefault(use.name, []).append(use.kind)
        self.num_uses[use.key] += 1
        if self._forms.setdefault(use.key, use.form) != use.form:
            self.unrecognised[use.name] = "layers that take it in different ways"
        kept = use.left
        if isinstance(kept, LinearInput):
            kept.num_readers += 1
            kept = kept.values_BTI
        if self._note_kept is not None and isinstance(kept, Tensor):
            self._note_kept(kept)
        in_slices = use.part is not None
        if self._in_slices.setdefault(use.name, in_slices) != in_slices:
            self.unrecognised[use.name] = "a layer that takes it whole and another that takes a slice"

    def _rows_first(self, values: Tensor) -> Tensor:
        """A view [B, ..., I] of values that keep the rows first, or that flatten rows and positions into one."""
        if values.dim() >= 3 and values.shape[0] == self._num_rows:
            return values
        if values.dim() == 2 and values.shape[0] == self._num_rows * self._num_tokens:
            return values.view(self._num_rows, self._num_tokens, values.shape[1])
        raise Unrecognised

    def _shared_input(self, values: Tensor) -> LinearInput:
        """A linear layer's input: one object for all layers that read one tensor."""
        if id(values) not in self._inputs:
            rows = self._rows_first(values).detach()
            self._inputs[id(values)] = (values, LinearInput(rows.reshape(self._num_rows, -1, rows.shape[-1])))
        return self._inputs[id(values)][1]

    def _linear_use(self, weight: Tensor, inputs: Tensor, *, outputs_first: bool) -> list[Use]:
        known = self._known(weight)
        if known is None:
            return []
        if weight.dim() != 2:
            raise Unrecognised
        rows = self._gathered.of(inputs)
        use = Use(
            known.name,
            UseKind.LINEAR if rows is None else UseKind.ROUTED,
            weight.T.shape if known.is_transposed else weight.shape,
            self._shared_input(inputs) if rows is None else inputs.detach(),
            rows=rows,
            part=known.part,
            outputs_first=outputs_first != known.is_transposed,
        )
        if rows is not None:
            return [use]
        return [replace(use, lines_up=self._rows_first(inputs).shape[1:-1] == (self._num_tokens,))]

    def _vector_use(self, value: Any, values: Tensor, factor: Tensor | Callable[[], Tensor] | None = None) -> list[Use]:
        """The use of a scale or bias beside `values`, which tell whose tokens they are."""
        known = self._known(value)
        if known is None:
            return []
        if known.is_transposed:
            raise Unrecognised
        rows = self._gathered.of(values)
        return [Use(known.name, UseKind.VECTOR, value.shape, factor, rows=rows, part=known.part)]

    def linear(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        """F.linear(input, weight, bias)."""
        inputs, weight, bias = (
            _argument(args, kwargs, place, name) for place, name in enumerate(("input", "weight", "bias"))
        )
        return self._multiply(func, args, kwargs, inputs, weight, bias)

    def addmm(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        """torch.addmm(bias, inputs, weight), as transformers' Conv1D calls it."""
        if kwargs or len(args) != 3:
            raise Unrecognised
        bias, inputs, weight = args
        return self._multiply(func, args, kwargs, inputs, weight, bias)

    def matmul(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        """inputs @ weight."""
        inputs, weight = args
        return self._multiply(func, args, kwargs, inputs, weight, None)

    def _multiply(
        self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], inputs: Tensor, weight: Tensor, bias: Any
    ) -> Tensor:
        if self._known(inputs) is not None:
            raise Unrecognised
        uses = self._linear_use(weight, inputs, outputs_first=func is F.linear) + self._vector_use(bias, inputs)
        return self._report(self._once(func, args, kwargs), uses)

    def _once(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The function's result; that of a linear layer on the batch's positions without what need not be computed."""
        if kwargs or not (func is F.linear or (func is torch.addmm and len(args) == 3)):
            return func(*args, **kwargs)
        if func is F.linear:
            inputs, weight, *rest = args
            weight_IO, bias = weight.T, rest[0] if rest else None
        else:
            bias, inputs, weight_IO = args
        if not self._is_by_position(inputs) or weight_IO.requires_grad or (bias is not None and bias.requires_grad):
            return func(*args)
        layout = self._layout(inputs.device)
        return linear_once(inputs, weight_IO, bias, layout) if layout.pays(*weight_IO.shape) else func(*args)

    def _layout(self, device: torch.device) -> TokenLayout:
        if device not in self._layouts:
            self._layouts[device] = next(iter(self._layouts.values())).to(device)
        return self._layouts[device]

    def _is_by_position(self, values: Tensor) -> bool:
        """Whether `values` are [B, T, I] or [B * T, I] in the batch's own order."""
        if values.dim() == 3:
            return values.shape[:2] == (self._num_rows, self._num_tokens)
        return (
            values.dim() == 2
            and values.shape[0] == self._num_rows * self._num_tokens
            and self._gathered.of(values) is None
        )

    def embedding(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        """F.embedding(ids, weight, ...): ids that the rows share are looked up once a row, so gradients stay apart."""
        ids, weight = _argument(args, kwargs, 0, "input"), _argument(args, kwargs, 1, "weight")
        known = self._known(weight)
        rearranged = known is None or known.part is not None or known.is_transposed or known.is_reshaped
        if known is None or rearranged or self._renormalises(args, kwargs):
            raise Unrecognised
        if ids.shape in ((self._num_tokens,), (1, self._num_tokens)):
            ids = ids.reshape(1, -1).expand(self._num_rows, -1)
        if ids.shape != (self._num_rows, self._num_tokens):
            raise Unrecognised
        constant = _argument(args, kwargs, 2, "padding_idx")
        constant = constant if constant is None else constant % weight.shape[0]
        use = Use(known.name, UseKind.LOOKUP, weight.shape, ids, constant_id=constant)
        return self._report(func(ids, weight), [use])

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
        if self._known(inputs) is not None:
            raise Unrecognised
        rows = self._entries(inputs)
        settings = {} if eps is None else {"eps": eps}
        uses = self._vector_use(weight, inputs, lambda: func(rows, shape, **settings))
        return self._report(func(*args, **kwargs), uses + self._vector_use(bias, inputs))

    def scale(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        """parameter * values, either way round."""
        return self._elementwise(func, args, kwargs, is_scale=True)

    def shift(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        """parameter + values, either way round."""
        return self._elementwise(func, args, kwargs, is_scale=False)

    def _elementwise(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], *, is_scale: bool) -> Tensor:
        if kwargs or len(args) != 2:
            raise Unrecognised
        (parameter, values) = args if self._known(args[0]) is not None else reversed(args)
        if self._known(values) is not None:
            raise Unrecognised
        if not isinstance(values, Tensor) or not _broadcasts_over_rows(parameter, values):
            raise Unrecognised
        factor = self._entries(values)
        result = func(*args)
        if result.shape != values.shape:
            raise Unrecognised
        return self._report(result, self._vector_use(parameter, values, factor if is_scale else None))

    def expand(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        """parameter.expand(...): a copy for every row, as attention sinks and learned queries have."""
        result = func(*args, **kwargs)
        parameter = args[0]
        if result.shape[0] != self._num_rows or not _broadcasts_over_rows(parameter, result):
            raise Unrecognised
        return self._report(result, self._vector_use(parameter, result))

    def _entries(self, values: Tensor) -> Tensor:
        """Detached: gathered values as they are, others with the rows first."""
        return (values if self._gathered.of(values) is not None else self._rows_first(values)).detach()


def _argument(args: Sequence[Any], kwargs: Mapping[str, Any], place: int, name: str) -> Any:
    return args[place] if place < len(args) else kwargs.get(name)


def _broadcasts_over_rows(parameter: Tensor, values: Tensor) -> bool:
    """Whether the first dimension of `values` is one that the parameter lacks."""
    return parameter.dim() < values.dim() or (parameter.dim() == values.dim() and parameter.shape[0] == 1)


def _only_adds_dimensions(index: Any) -> bool:
    """Whether indexing gives every element in its order, as [None, :, None] does."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is Ellipsis or (isinstance(part, slice) and part == slice(None)) for part in parts)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _holds_tensor(result: Any) -> bool:
    items = result if isinstance(result, list | tuple) else (result,)
    return any(isinstance(item, Tensor) for item in items)


NORM_ARGUMENTS = {
    F.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps"),
    F.rms_norm: ("input", "normalized_shape", "weight", "eps"),
}

TRANSPOSITIONS = {
    torch.Tensor.t,
    torch.t,
    torch.Tensor.transpose,
    *(getattr(torch.Tensor, name).__get__ for name in ("T", "mT")),
}

RESHAPES = {
    torch.Tensor.reshape,
    torch.Tensor.view,
    torch.Tensor.squeeze,
    torch.Tensor.unsqueeze,
    torch.unsqueeze,
    torch.squeeze,
    torch.Tensor.flatten,
}

CASTS = {torch.Tensor.float, torch.Tensor.double, torch.Tensor.to, torch.Tensor.type, torch.Tensor.type_as}

RULES: Mapping[Any, Callable[[Recorder, Any, Sequence[Any], Mapping[str, Any]], Tensor]] = {
    F.linear: Recorder.linear,
    torch.addmm: Recorder.addmm,
    torch.Tensor.matmul: Recorder.matmul,
    torch.Tensor.__matmul__: Recorder.matmul,
    torch.matmul: Recorder.matmul,
    F.embedding: Recorder.embedding,
    F.layer_norm: Recorder.norm,
    F.rms_norm: Recorder.norm,
    torch.Tensor.expand: Recorder.expand,
    torch.Tensor.mul: Recorder.scale,
    torch.mul: Recorder.scale,
    torch.Tensor.add: Recorder.shift,
    torch.add: Recorder.shift,
}
