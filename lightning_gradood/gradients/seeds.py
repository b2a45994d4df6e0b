"""Seeds at a safe scale: a float32 backward pass must not underflow, however sure the network is."""

from __future__ import annotations

from torch import Tensor

from lightning_gradood.gradients.labels import LabelDesign


def scaled_seed(design: LabelDesign, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return each image's seed scaled to a largest entry of 1, and the scale.

    A squared gradient norm is the norm of the scaled backward pass times the square of the scale.

    Args:
        design: the confounding label and its loss.
        logits: [N, C], any floating dtype.

    Returns:
        The seed [N, C] in the dtype of `logits`, and the scale, float64 [N]. A seed of zeros stays zeros, with scale 1.
    """
    seed = design.seed(logits.detach().double())
    scale = seed.abs().amax(1)
    scale = scale.where(scale > 0, 1.0)
    return (seed / scale[:, None]).to(logits.dtype), scale


def natural_seed(design: LabelDesign, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return each image's seed as it is, in the dtype of `logits`, and a scale of 1: for a backward that is not linear."""
    seed = design.seed(logits.detach().double())
    return seed.to(logits.dtype), seed.new_ones(seed.shape[0])
