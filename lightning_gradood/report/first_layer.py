"""What single images ask to change of the first convolution, after the paper's Figure 1."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_gradood.core import as_float, exact_arithmetic, frozen_network, to_float64
from lightning_gradood.data import LoadedSource
from lightning_gradood.gradients import AllOnes


def first_layer(network: nn.Module, sources: Mapping[str, LoadedSource]) -> dict[str, Any]:
    """Take the gradient of the first convolution's weight for an image from the middle of each source.

    Args:
        network: pixels in, logits out; left as it was found.
        sources: whose images are loaded, by name.

    Returns:
        `name` of the weight, `weights` float32 [filters, C, h, w] and, by source, `gradients` of the all-ones loss of one
        image, of the same shape, and `images` uint8 [H, W, C]; empty if the network has no convolution.

    Reference:
        Lee et al. 2022, Figure 1 and Eq. 1.
    """
    found = next(((name, one) for name, one in network.named_modules() if isinstance(one, nn.Conv2d)), None)
    if found is None:
        return {}
    name, convolution = found
    device = convolution.weight.device
    images = {source: as_float(loaded.images([len(loaded) // 2])).to(device) for source, loaded in sources.items()}
    return {
        "name": f"{name}.weight",
        "weights": convolution.weight.detach().cpu().numpy().copy(),
        "gradients": {source: _gradient(network, convolution, image) for source, image in images.items()},
        "images": {source: _picture(image) for source, image in images.items()},
    }


def _gradient(network: nn.Module, convolution: nn.Conv2d, image: Tensor) -> np.ndarray:
    with exact_arithmetic(), frozen_network(network):
        convolution.weight.requires_grad_(True)  # `frozen_network` puts back what it was
        logits = network(image)
        logit_gradient = AllOnes().logit_gradient(to_float64(logits.detach())).to(logits)
        (gradient,) = torch.autograd.grad(logits, [convolution.weight], logit_gradient)
    return np.asarray(gradient.cpu().numpy())


def _picture(image: Tensor) -> np.ndarray:
    return np.asarray((image[0] * 255).round().to(torch.uint8).cpu().numpy().transpose(1, 2, 0))
