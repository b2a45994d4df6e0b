"""Refuse, in one sentence each, what cannot be attacked and what an attack should not have returned."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_gradood.errors import Refusal

_ROUNDING = 1e-6  # float32 pixels near 1 are 6e-8 apart, and a difference of two sums up a few of these


def check_images(images: Tensor) -> None:
    """Refuse images that are not a batch of float32 or float64 pixels in [0, 1]."""
    if images.ndim < 2 or images.shape[0] == 0:
        raise Refusal(
            "`images` should be a batch [N, ...] of at least one image. "
            f"Got `images.shape = {list(images.shape)}`. Skip empty batches; give one image a leading dimension of 1."
        )
    if images.dtype not in (torch.float32, torch.float64):
        raise Refusal(
            "`images` should be float32 or float64 pixels in [0, 1]. "
            f"Got `images.dtype = {images.dtype}`. Convert 8-bit pixels with `images.float() / 255`."
        )
    if not _inside(images):
        raise Refusal(
            f"`images` should be pixels in [0, 1]. Got values from {_range(images)}. "
            "Divide 8-bit pixels by 255, and put the normalisation into the network, as `networks.Normalized` does."
        )


def check_labels(labels: Tensor, images: Tensor) -> None:
    """Refuse labels that are not one integer of at least -1 for each image."""
    if labels.shape != images.shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
        raise Refusal(
            f"`labels` should be one class index for each image, integer [{len(images)}]. "
            f"Got `labels` of shape {list(labels.shape)}, {labels.dtype}. Give -1 where the prediction is meant."
        )
    if int(labels.min()) < -1:
        raise Refusal(
            "`labels` should be class indices, or -1 where the prediction is meant. "
            f"Got `labels.min() = {int(labels.min())}`. Count classes from 0."
        )


def check_network(network: nn.Module) -> None:
    """Refuse parameters that autograd cannot pass through."""
    for name, parameter in network.named_parameters():
        if parameter.is_inference():
            raise Refusal(
                "`network` should have parameters that autograd can use. "
                f"Got `{name}`, an inference tensor. Build or load the network outside torch.inference_mode."
            )


def check_ids(ids: Sequence[str] | None, images: Tensor) -> None:
    """Refuse ids that are not one name for each image."""
    if ids is not None and (isinstance(ids, str) or len(ids) != len(images)):
        raise Refusal(
            f"`ids` should be one name for each of the {len(images)} images. "
            f"Got `ids` of length {len(ids)}. Leave it out to use row numbers."
        )


def check_result(crafted: Tensor, clean: Tensor, eps: float | None, attack: str) -> None:
    """Refuse crafted images of another kind than the clean ones, outside [0, 1], or farther than `eps` from them."""
    if not isinstance(crafted, Tensor) or (crafted.shape, crafted.dtype) != (clean.shape, clean.dtype):
        got = f"{list(crafted.shape)}, {crafted.dtype}" if isinstance(crafted, Tensor) else type(crafted).__name__
        raise Refusal(
            f"the images that {attack} returns should be {list(clean.shape)}, {clean.dtype}, as those it was given. "
            f"Got {got}. Return one image for each, in the same order, shape and dtype."
        )
    if not _inside(crafted):
        raise Refusal(
            f"the images that {attack} returns should be pixels in [0, 1]. Got values from {_range(crafted)}. "
            "Clamp them with `images.clamp(0, 1)`."
        )
    if eps is not None and (farthest := float((crafted - clean).abs().amax())) > eps + _ROUNDING:
        raise Refusal(
            f"the images that {attack} returns should differ from the clean ones by at most `eps = {eps:.6g}` a pixel. "
            f"Got a difference of {farthest:.6g}. Clamp the change to [-eps, eps], or give the `eps` that is meant."
        )


def _inside(images: Tensor) -> bool:
    low, high = images.aminmax()
    return bool((low >= 0) & (high <= 1))  # false for NaN


def _range(images: Tensor) -> str:
    low, high = images.aminmax()
    return f"{float(low):.6g} to {float(high):.6g}"
