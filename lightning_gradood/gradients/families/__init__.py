"""The closed forms, one file per family of layers; a new family is one file and one line in `MATCHES`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning_gradood.gradients.families import batch_norm, convolution, linear
from lightning_gradood.gradients.layer import Match

MATCHES: dict[Callable[..., Any], Match] = {
    **convolution.MATCHES,
    **linear.MATCHES,
    **batch_norm.MATCHES,
}
