"""The closed forms, one file per family of layers; a new family is one file and one line in each table below."""

from collections.abc import Callable
from typing import Any

from lightning_gradood.gradients.closed_form import Match, Rewrite
from lightning_gradood.gradients.rules import broadcast, convolution, linear, normalisation

MATCHES: dict[Callable[..., Any], Match] = {
    **convolution.MATCHES,
    **linear.MATCHES,
    **normalisation.MATCHES,
    **broadcast.MATCHES,
}
"""Closed forms by the function whose place they take."""

REWRITES: dict[Callable[..., Any], Rewrite] = {
    **convolution.REWRITES,
    **linear.REWRITES,
    **normalisation.REWRITES,
    **broadcast.REWRITES,
}
"""Ways to spell a function out in others, for calls that no closed form takes."""
