"""Groups parameters by network part: embedding, attention, MLP and norms of each block, and head."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

BLOCK = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")
KINDS = (
    ("norms", re.compile(r"norm|(?:^|[._])ln(?:[_.]|\d|$)", re.IGNORECASE)),
    ("attention", re.compile(r"att|(?:^|[._])[qkvo]_proj|mixer|mamba|rotary|sinks", re.IGNORECASE)),
    ("MLP", re.compile(r"mlp|ffn|feed_?forward|expert|moe|router|gate|(?:^|[._])(?:fc|w)\d|dense", re.IGNORECASE)),
)
"""Part and regular expression. The first expression that matches a parameter's name within its block applies."""


def parameter_groups(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> dict[str, str]:
    """Parameter name to group name, in the order of the parameters.

    A tied embedding and unembedding are one parameter with one gradient, so they form one group.
    """
    any_model: Any = model
    embedding = _weight_ids(any_model.get_input_embeddings())
    head = _weight_ids(getattr(any_model, "get_output_embeddings", lambda: None)())
    return {name: _group(name, parameter, embedding, head) for name, parameter in parameters.items()}


def _weight_ids(module: nn.Module | None) -> set[int]:
    return set() if module is None else {id(parameter) for parameter in module.parameters()}


def _group(name: str, parameter: nn.Parameter, embedding: set[int], head: set[int]) -> str:
    roles = [role for role, ids in (("embedding", embedding), ("head", head)) if id(parameter) in ids]
    if roles:
        return " and ".join(roles)
    block = BLOCK.search(name)
    if block is None:
        return "final norm" if KINDS[0][1].search(name) else "embedding" if "emb" in name or "wpe" in name else "other"
    kinds = [kind for kind, expression in KINDS if expression.search(name[block.end() :])]
    return f"block {block[1]} {kinds[0] if kinds else 'other'}"
