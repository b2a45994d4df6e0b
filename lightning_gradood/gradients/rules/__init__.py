"""The closed forms, one file per family of layers; a new family is one file and one line in the table below."""

from collections.abc import Callable
from typing import Any

from lightning_gradood.gradients.closed_form import Rule
from lightning_gradood.gradients.rules import broadcast, convolution, linear, normalisation

RULES: dict[Callable[..., Any], Rule] = convolution.RULES | linear.RULES | normalisation.RULES | broadcast.RULES
"""What takes the place of a torch function: a closed form, or the same spelt out in simpler functions."""
