"""Records every use of a parameter in a forward pass, and reports it with the gradient at its output.

A torch function mode intercepts every call of a torch function. A call with a watched parameter as argument is a use. A
recognised use (`use_rules`) gets a hook on its result. The hook reports it in the backward pass once the gradient
exists. A parameter with any other use is marked unrecognised and needs the slow method. No use can bypass the recorder,
not even one outside the parameter's module. This module contains no formulas, and it stores nothing on the user's
modules or parameters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from entangle_cli.engine.calls import BatchShape, Call, Unrecognised
from entangle_cli.engine.distinct_tokens import TokenLayout
from entangle_cli.engine.gathered_rows import GatheredRows
from entangle_cli.engine.parameter_aliases import CASTS, ParameterAliases
from entangle_cli.engine.replaced_calls import ReplacedCalls
from entangle_cli.engine.use_rules import UseRules
from entangle_cli.engine.uses import Consume, LinearInput, Use, UseKind


class Recorder(TorchFunctionMode):
    """Watches parameters through one forward pass of a batch.

    Args:
        names: id of each watched parameter to its name.
        shape: shape of the batch's ids.
        unembedding: the model's output embedding weight. Its linear call is skipped and the input kept.
        consume: called in the backward pass with each use and the gradient at its result, rows first.
        layout: lets linear layers skip padding and the second copy of shared prompts.
        note_kept: called with every tensor that is kept for the backward pass.

    Attributes:
        kinds: parameter name to the kinds of its recognised uses, in forward order.
        num_uses: number of recognised uses by `Use.key`.
        unrecognised: parameter name to the function that used it in a way that no rule covers.
    """

    def __init__(
        self,
        names: Mapping[int, str],
        shape: BatchShape,
        unembedding: Tensor,
        consume: Consume,
        layout: TokenLayout,
        note_kept: Callable[[Tensor], None] | None = None,
    ) -> None:
        super().__init__()
        self.kinds: dict[str, list[UseKind]] = {}
        self.num_uses: Counter[tuple[str, int | None]] = Counter()
        self.unrecognised: dict[str, str] = {}
        self._shape = shape
        self._aliases = ParameterAliases(names)
        self._gathered = GatheredRows(shape.num_rows, shape.num_tokens)
        self._rules = UseRules(shape, self._aliases, self._gathered)
        self._calls = ReplacedCalls(shape, self._gathered, layout)
        self._unembedding = unembedding
        self._hidden: Tensor | None = None
        self._consume = consume
        self._note_kept = note_kept
        self._forms: dict[tuple[str, int | None], tuple[Any, ...]] = {}
        self._used_in_slices: dict[str, bool] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        call = Call(func, args, kwargs or {})
        if func is F.linear and call.argument(1, "weight") is self._unembedding:
            return self._cut_off(call.argument(0, "input"))
        result = self._recorded(call)
        self._gathered.follow(func, args, call.kwargs, result)
        return result

    def __exit__(self, *exception: Any) -> None:
        TorchFunctionMode.__exit__(self, *exception)
        self._aliases.clear()
        self._gathered.clear()
        self._rules.clear()

    def take_hidden(self) -> Tensor | None:
        """Return the unembedding's input [B, T, D] with its graph, only once; None if the unembedding was not seen.

        The recorder drops its reference. The graph's hooks refer to the recorder, and the garbage collector cannot
        detect reference cycles through autograd nodes.
        """
        hidden, self._hidden = self._hidden, None
        return hidden

    def _recorded(self, call: Call) -> Any:
        """Run a call, record its uses of parameters, and return the result."""
        used = self._aliases.parameters_in(call.args, call.kwargs)
        if not used or not torch.is_grad_enabled():
            return self._calls.result(call)
        if call.func in CASTS and self._aliases.alias_of(call.args[0]) is None:
            return call.run()  # the parameter only gives the target dtype
        if (alias := self._aliases.result_alias(call.func, call.args)) is not None:
            result = call.run()
            self._aliases.remember(result, alias)
            return result
        try:
            uses = self._rules.uses_of(call)
        except Unrecognised:
            return self._unrecognised(call, used)
        return self._reported(self._calls.result(call, uses), uses)

    def _unrecognised(self, call: Call, used: Sequence[str]) -> Any:
        result = call.run()
        if _holds_tensor(result):
            self.unrecognised |= dict.fromkeys(used, getattr(call.func, "__name__", str(call.func)))
        return result

    def _cut_off(self, hidden: Tensor) -> Tensor:
        """Keep the unembedding's input. The model gets one row of zeros per sequence instead of logits.

        Raises:
            Unrecognised: the input does not cover every position, or the unembedding was already applied.
        """
        num_rows, num_tokens = self._shape.num_rows, self._shape.num_tokens
        if self._hidden is not None or hidden.numel() != num_rows * num_tokens * hidden.shape[-1]:
            raise Unrecognised
        self._hidden = hidden.reshape(num_rows, num_tokens, hidden.shape[-1])
        return hidden.new_zeros(num_rows, 1, self._unembedding.shape[0])

    def _reported(self, result: Tensor, uses: Sequence[Use]) -> Tensor:
        """Hook `result` to call `consume` for `uses` with its gradient. Start a graph at `result` if there is none."""
        for use in uses:
            self._note(use)
        if not result.requires_grad:
            result.requires_grad_()
        pending = list(uses)

        def on_gradient(gradient: Tensor) -> None:
            # The graph keeps this function until the pass ends. Popping releases the inputs now.
            if any(use.rows is None for use in pending):
                gradient = self._shape.rows_first(gradient)
            while pending:
                self._consume(pending.pop(), gradient)

        result.register_hook(on_gradient)
        return result

    def _note(self, use: Use) -> None:
        self.kinds.setdefault(use.name, []).append(use.kind)
        self.num_uses[use.key] += 1
        if self._forms.setdefault(use.key, use.form) != use.form:
            self.unrecognised[use.name] = "layers that use it in different ways"
        kept = use.left
        if isinstance(kept, LinearInput):
            kept.num_readers += 1
            kept = kept.values_BTI
        if self._note_kept is not None and isinstance(kept, Tensor):
            self._note_kept(kept)
        in_slices = use.slice_index is not None
        if self._used_in_slices.setdefault(use.name, in_slices) != in_slices:
            self.unrecognised[use.name] = "one layer as a whole and by another as a slice"


def _holds_tensor(result: Any) -> bool:
    items = result if isinstance(result, list | tuple) else (result,)
    return any(isinstance(item, Tensor) for item in items)
