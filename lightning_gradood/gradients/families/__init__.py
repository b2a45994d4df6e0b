"""The closed forms, one file per family of layers; a new family is one file and one line below."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightning_gradood.gradients.families import (
    attention,
    batch_norm,
    broadcast,
    contraction,
    convolution,
    embedding,
    layer_norm,
    linear,
    prelu,
    recurrent,
    rows,
    standardised,
)
from lightning_gradood.gradients.layer import Match, Rewrite


def _merged(*tables: Mapping[Callable[..., Any], Match]) -> dict[Callable[..., Any], tuple[Match, ...]]:
    functions = dict.fromkeys(function for table in tables for function in table)
    return {function: tuple(table[function] for table in tables if function in table) for function in functions}


MATCHES: dict[Callable[..., Any], tuple[Match, ...]] = _merged(
    standardised.MATCHES,
    convolution.MATCHES,
    linear.MATCHES,
    contraction.MATCHES,
    batch_norm.MATCHES,
    layer_norm.MATCHES,
    broadcast.MATCHES,
    prelu.MATCHES,
    embedding.MATCHES,
    recurrent.MATCHES,
)
"""Closed forms by the function whose place they take; the first that does not decline is taken."""

REWRITES: dict[Callable[..., Any], Rewrite] = {
    **attention.REWRITES,
    **layer_norm.REWRITES,
    **broadcast.REWRITES,
    **contraction.REWRITES,
    **recurrent.REWRITES,
    **rows.REWRITES,
}
