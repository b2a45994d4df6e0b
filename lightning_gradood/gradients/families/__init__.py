"""The closed forms, one file per family of layers; a new family is one file and one line below."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning_gradood.gradients.families import (
    attention,
    batch_norm,
    broadcast,
    convolution,
    embedding,
    layer_norm,
    linear,
    prelu,
)
from lightning_gradood.gradients.layer import Match, Rewrite

MATCHES: dict[Callable[..., Any], Match] = {
    **convolution.MATCHES,
    **linear.MATCHES,
    **batch_norm.MATCHES,
    **layer_norm.MATCHES,
    **broadcast.MATCHES,
    **prelu.MATCHES,
    **embedding.MATCHES,
}

REWRITES: dict[Callable[..., Any], Rewrite] = {**attention.REWRITES, **layer_norm.REWRITES}
