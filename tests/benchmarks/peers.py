"""The same three numbers per pair computed with other libraries, for `engine_speed`.

Each contestant takes a model and pairs whose sequences all have one length and one first scored position, and returns
a float64 tensor [3, pairs]: |g_chosen|^2, |g_rejected|^2 and <g_chosen, g_rejected>, where g is the gradient of the
summed log-prob of the response over all parameters. What a library leaves out is said with its contestant. None of the
packages is a dependency of this project.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from transformers import PreTrainedModel

from entangle_cli.records.measurement import TokenizedPair, TokenizedResponse

PACKAGES = {"dattri": "dattri_llm", "torch_func": "torch.func", "bergson": "bergson"}


def is_available(name: str) -> str | None:
    """Why a contestant cannot run, or None if it can."""
    try:
        import_module(PACKAGES[name])
    except ImportError as error:
        return f"{PACKAGES[name]} cannot be imported: {error}"
    return None


def dattri(model: PreTrainedModel, pairs: Sequence[TokenizedPair]) -> Tensor:
    """dattri-llm: one forward and backward of all rows with its hooks, then its aligned dots layer by layer.

    `capture_style="auto"` lets its cost rule choose between factors and dense gradients in each layer. It scores a tied
    weight as two independent ones.
    """
    rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    with _frozen(model), _quiet("Full backward hook is firing", ".*have no trainable parameter"):
        manager = import_module("dattri_llm").HookManager(model, config=_dattri_config(model))
        with manager.collect(deregister_on_exit=True):
            _backward(model, rows)
    gradient = manager.get_gradient()
    return _total(_dattri_products(gradient.data[name], gradient.layer_types[name]) for name in gradient.data)


def torch_func(model: PreTrainedModel, pairs: Sequence[TokenizedPair]) -> Tensor:
    """torch.func: per-sample gradients of the two rows of a pair by vmap, then dot products."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    first = pairs[0].chosen.first_scored

    def log_prob(parameters: dict[str, Tensor], ids: Tensor) -> Tensor:
        return _summed_log_prob(lambda **inputs: functional_call(model, parameters, (), inputs), ids[None], first)

    gradients = vmap(grad(log_prob), in_dims=(None, 0))
    columns = []
    with _quiet("There is a performance drop"):
        for pair in pairs:
            rows = gradients(parameters, _ids(model, (pair.chosen, pair.rejected)))
            columns.append(_total(_dense_products(gradient.flatten(1)) for gradient in rows.values()))
    return torch.cat(columns, dim=1)


def bergson(model: PreTrainedModel, pairs: Sequence[TokenizedPair]) -> Tensor:
    """Bergson: exact gradients of the linear layers below the head, one pair at a time, then dot products.

    It knows no embeddings and no norms, and its own commands hook the model without the head, so these are not the
    numbers of all parameters, and its time is a lower bound.
    """
    collectors, gradients = import_module("bergson.collector.gradient_collectors"), import_module("bergson.gradients")
    model.requires_grad_(True)  # Its collector takes the dtype from a trainable parameter.
    collector = collectors.StreamingGradientCollector(
        model=model.base_model, processor=gradients.GradientProcessor(include_bias=True), dtype=model.dtype
    )
    columns = []
    with _frozen(model), collector:
        for pair in pairs:
            _backward(model, (pair.chosen, pair.rejected))
            columns.append(_total(map(_dense_products, collector.mod_grads.values())))
            collector.mod_grads.clear()
    return torch.cat(columns, dim=1)


def _ids(model: PreTrainedModel, rows: Sequence[TokenizedResponse]) -> Tensor:
    """Token ids of rows of one length."""
    return torch.tensor([row.ids for row in rows], device=model.device)


def _summed_log_prob(call: Callable[..., Any], ids: Tensor, first: int) -> Tensor:
    """Sum of all rows' log-probs, with position ids for every row: dattri-llm needs them to tell the rows apart."""
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    keep = positions[0, first - 1 : -1]
    logits: Tensor = call(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=keep).logits
    return logits.log_softmax(-1).gather(-1, ids[:, first:, None]).sum()


def _backward(model: PreTrainedModel, rows: Sequence[TokenizedResponse]) -> None:
    """Forward and backward of rows, for hooks to see."""
    _summed_log_prob(model, _ids(model, rows), rows[0].first_scored).backward()


@contextmanager
def _frozen(model: PreTrainedModel) -> Iterator[None]:
    """No weight gradients from autograd.

    The graph starts at the embeddings' outputs: the tables of frozen embeddings would not enter it, nor be captured.
    """
    model.requires_grad_(False)
    handles = [
        module.register_forward_hook(lambda module, inputs, output: output.requires_grad_())
        for module in model.modules()
        if isinstance(module, nn.Embedding)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _quiet(*messages: str) -> Iterator[None]:
    """Suppress warnings with this start."""
    with warnings.catch_warnings():
        for message in messages:
            warnings.filterwarnings("ignore", message=message)
        yield


def _dattri_config(model: nn.Module) -> Any:
    """Hooks on every layer; the RMSNorm of transformers must be declared by hand."""
    library, describe = import_module("dattri_llm"), import_module("dattri_llm.utils.module")
    norms = {name: module for name, module in model.named_modules() if hasattr(module, "variance_epsilon")}
    return library.HookManagerConfig(
        linear_io=library.REGISTER_ALL,
        hook_types=dict.fromkeys(norms, "linear_io"),
        layer_types=dict.fromkeys(norms, "nn.RMSNorm"),
        module_kwargs={
            name: describe.rms_norm_module_kwargs(normalized_shape=norm.weight.shape[0], eps=norm.variance_epsilon)
            for name, norm in norms.items()
        },
        capture_style="auto",
        include_frozen=True,
    )


def _dattri_products(captured: Any, layer_type: str) -> Tensor:
    """The contribution of a layer to the three numbers. The first half of the captured rows is chosen."""
    ops, factorized = import_module("dattri_llm.gradient.ops"), import_module("dattri_llm").Factorized
    if ops.is_norm(layer_type) or isinstance(captured, Tensor):
        return _dense_products(ops.materialize(captured, layer_type))
    activation, output_gradient = ops.preprocess_factorized(captured, layer_type)
    if layer_type == "nn.Embedding":
        # Its dot fills a table of as many rows as the largest id, for every pair: ids without gaps spare most of it.
        activation = activation.unique(return_inverse=True)[1]
    chosen, rejected = map(factorized, activation.chunk(2), output_gradient.chunk(2))
    sides = ((chosen, chosen), (rejected, rejected), (chosen, rejected))
    return torch.stack([ops.dot(left, right, layer_type) for left, right in sides]).double()


def _dense_products(gradients: Tensor) -> Tensor:
    """The three numbers [3, N] of gradients [2 N, D], first all chosen, then all rejected.

    Not by a BLAS dot: in float32 it loses digits over vectors as long as these.
    """
    chosen, rejected = gradients.chunk(2)
    sides = ((chosen, chosen), (rejected, rejected), (chosen, rejected))
    return torch.stack([(left * right).sum(-1, dtype=torch.float64) for left, right in sides])


def _total(parts: Iterable[Tensor]) -> Tensor:
    """Sum over layers."""
    return torch.stack(list(parts)).sum(0)
