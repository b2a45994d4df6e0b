"""Does the network fit the images? Asked once, before any long work."""

import torch
from torch import Tensor, nn

from lightning_gradood.errors import Refusal
from lightning_gradood.gradients import exact_arithmetic, probing


def check_network(network: nn.Module, images: Tensor, classes: int | None) -> None:
    """Run two images through the network and look at what comes out.

    Args:
        network: images in, logits out.
        images: one or more images as the data gives them, float [N, C, H, W].
        classes: how many the data have; None where they say nothing about it.

    Raises:
        Refusal: if the forward fails, the output is not [N, classes], or the class counts differ.
    """
    shape = list(images.shape[1:])
    try:
        with exact_arithmetic(), probing(network), torch.no_grad():
            logits = network(images)
    except RuntimeError as error:
        raise Refusal(
            f"The network should accept images of shape {shape}. Got: {_first_line(error)}. Give `data.transform` a resize "
            "or channel conversion to the network's input, or the network the images' size and channels."
        ) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(images):
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise Refusal(
            f"The network should return logits of shape [{len(images)}, classes]. Got {got}. Wrap it so that it does."
        )
    if classes is not None and logits.shape[1] != classes:
        raise Refusal(
            f"The network should have as many outputs as the data have classes, {classes}. Got {logits.shape[1]} outputs. "
            f"Set its number of classes, e.g. --model.init_args.network.init_args.num_classes {classes}."
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
