"""Seeds at a safe scale: a float32 backward pass must not underflow, however sure the network is."""

from __future__ import annotations

from torch import Tensor

from lightning_gradood.gradients.labels import LabelDesign
from lightning_gradood.gradients.precision import exact, sent


def scaled_seed(design: LabelDesign, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return each image's seed scaled to a largest entry of 1, and the scale.

    A squared gradient norm is the norm of the scaled backward pass times the square of the scale.

    Args:
        design: the confounding label and its loss.
        logits: [N, C], any floating dtype.

    Returns:
        The seed [N, C] in the dtype and on the device of `logits`, and the scale, float64 [N], on the CPU where that device
        has no float64. A seed of zeros stays zeros, with scale 1.
    """
    seed = design.seed(exact(logits.detach()))
    scale = seed.abs().amax(1)
    scale = scale.where(scale > 0, 1.0)
    return sent(seed / scale[:, None], logits), scale


def natural_seed(design: LabelDesign, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return each image's seed as it is, for a backward that is not linear, and a scale of 1; otherwise as `scaled_seed`."""
    seed = design.seed(exact(logits.detach()))
    return sent(seed, logits), seed.new_ones(seed.shape[0])
