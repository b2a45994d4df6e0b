"""Refuse, in one sentence each, inputs and outputs for which a gradient norm has no meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_gradood.errors import Refusal

_SHOWN = 10  # row numbers in a message; the count says how many more there are


def check_network(network: nn.Module, named: Mapping[str, nn.Parameter]) -> None:
    """Refuse a network whose parameters, `named`, cannot all be differentiated."""
    if isinstance(network, nn.parallel.DistributedDataParallel | nn.DataParallel):
        raise Refusal(
            "`network` should be the bare network, because a parallel wrapper would average its gradients. "
            f"Got `network = {type(network).__name__}`. Pass `network.module`."
        )
    if not named:
        raise Refusal(
            "`network` should have at least one parameter, because gradients are taken with respect to parameters. "
            f"Got `network = {type(network).__name__}` without any. Pass the classifier itself."
        )
    for name, parameter in named.items():
        if is_lazy(parameter):
            raise Refusal(
                "`network` should have initialised parameters. "
                f"Got `{name}` without a shape. Run the network once on a batch of images."
            )
        if parameter.is_inference() or not parameter.is_floating_point():
            kind = "an inference tensor" if parameter.is_inference() else str(parameter.dtype)
            raise Refusal(
                "`network` should have floating point parameters that can record gradients. "
                f"Got `{name}`, {kind}. Build or load the network outside torch.inference_mode and unquantised."
            )


def check_images(images: Tensor, parameters: Sequence[nn.Parameter]) -> None:
    """Refuse images that are not a batch of floating point pixels on the parameters' device."""
    if images.ndim < 2 or images.shape[0] == 0:
        raise Refusal(
            "`images` should be a batch [N, ...] of at least one image. "
            f"Got `images.shape = {list(images.shape)}`. Skip empty batches; give one image a leading dimension of 1."
        )
    if not images.is_floating_point():
        raise Refusal(
            "`images` should be floating point pixels in [0, 1]. "
            f"Got `images.dtype = {images.dtype}`. Convert with `images.float() / 255`."
        )
    found = {parameter.device for parameter in parameters}
    if found != {images.device}:
        devices = sorted(map(str, found))
        raise Refusal(
            "`images` should be on the device of the network's parameters. "
            f"Got `images.device = {images.device}` and parameters on {', '.join(devices)}. "
            f"Move them with `images.to({devices[0]!r})`."
        )


def check_logits(logits: Tensor, images: Tensor) -> None:
    """Refuse an output that is not one row of logits, with a graph behind it, for each image.

    Args:
        logits: what the network returned for `images`.
        images: the batch that it was given.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != images.shape[0] or not logits.numel():
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise Refusal(
            f"the network's output should be logits [N, classes] with N = {images.shape[0]} here. "
            f"Got `output = {got}`. Wrap the network so that forward(images) returns its logits alone."
        )
    if not logits.is_floating_point():
        raise Refusal(
            "the network's output should be floating point logits. "
            f"Got `output.dtype = {logits.dtype}`. Return the scores before argmax."
        )
    if not logits.requires_grad:
        raise Refusal(
            "the network's output should depend on its parameters through autograd. "
            "Got an output without a graph. Remove torch.no_grad, detach or .data from its forward."
        )


def check_finite_rows(values: Tensor, what: str) -> None:
    """Refuse values [N, ...] with a NaN or an infinity, and say in which rows."""
    bad = (~torch.isfinite(values.detach().flatten(1)).all(1)).nonzero().flatten().tolist()
    if bad:
        rows = ", ".join(str(row) for row in bad[:_SHOWN]) + (", ..." if len(bad) > _SHOWN else "")
        raise Refusal(
            f"{what} should be finite. Got NaN or infinity in {len(bad)} of {values.shape[0]} rows: {rows}. "
            "Look at these images and at the network's weights."
        )
