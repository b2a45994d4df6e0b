"""The closed forms, one file per family of layers; a new family is one file and one line below."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightning_gradood.gradients.layer import Match, Rewrite
from lightning_gradood.gradients.rules import attention, broadcast, contraction, convolution, linear, normalisation


def _merged(*tables: Mapping[Callable[..., Any], Match]) -> dict[Callable[..., Any], tuple[Match, ...]]:
    functions = dict.fromkeys(function for table in tables for function in table)
    return {function: tuple(table[function] for table in tables if function in table) for function in functions}


MATCHES: dict[Callable[..., Any], tuple[Match, ...]] = _merged(
    convolution.STANDARDISED_MATCHES,
    convolution.MATCHES,
    linear.MATCHES,
    contraction.MATCHES,
    normalisation.BATCH_NORM_MATCHES,
    normalisation.MATCHES,
    broadcast.MATCHES,
    linear.PRELU_MATCHES,
    linear.EMBEDDING_MATCHES,
)
"""Closed forms by the function whose place they take; the first that does not decline is taken."""

REWRITES: dict[Callable[..., Any], Rewrite] = {
    **attention.REWRITES,
    **normalisation.REWRITES,
    **broadcast.REWRITES,
    **contraction.REWRITES,
    **contraction.ROW_REWRITES,
}
