"""Checks of settings, images, labels, networks, logits and plain values; each refuses in one sentence."""

import math
from collections.abc import Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import torch
from torch import Tensor, nn

from lightning_gradood.core.errors import NotFinite, Refusal


def check_distance(name: str, value: float) -> None:
    """Refuse a distance between pixels that is not a float in (0, 1]; integers usually mean grey levels of 255."""
    if isinstance(value, float) and 0 < value <= 1:
        return
    level = int(value) if isinstance(value, int | float) and 1 <= value <= 255 and value == int(value) else 8
    raise Refusal(
        f"`{name}` should be a float above 0 and at most 1, as pixels are in [0, 1]. Got `{name} = {value!r}`. "
        f"If {level} of 255 grey levels are meant, write {level / 255:.6f}, which is {level}/255."
    )


def check_count(name: str, value: int) -> None:
    """Refuse a number of repetitions that is not a positive integer."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise Refusal(f"`{name}` should be a positive integer. Got `{name} = {value!r}`. Write e.g. 10.")


def check_at_least(name: str, value: float, least: float, example: float) -> None:
    """Refuse a number below `least`, infinity and NaN."""
    if not least <= value < float("inf"):
        raise Refusal(
            f"`{name}` should be a finite number of at least {least:g}. Got `{name} = {value!r}`. Write e.g. {example:g}."
        )


def check_above_zero(name: str, value: object, example: float) -> None:
    """Refuse what is not a number above 0, infinity and NaN."""
    if not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise Refusal(f"`{name}` should be a finite number above 0. Got `{name} = {value!r}`. Write e.g. {example:g}.")


_SHOWN = 10  # rows that a refusal names
_ROUNDING = 1e-6  # float32 pixels near 1 are 6e-8 apart, and a difference of two adds a few of these errors up


def check_batch(images: Tensor) -> None:
    """Refuse what is not a dense floating point tensor [N, ...] of at least one image."""
    if not isinstance(images, Tensor) or images.layout != torch.strided or images.is_quantized:
        got = f"{images.layout}" if isinstance(images, Tensor) else type(images).__name__
        fix = "`images.to_dense()`" if isinstance(images, Tensor) else "torch.as_tensor, or torch.stack for a list"
        raise Refusal(f"`images` should be a dense torch tensor [N, ...]. Got `images = {got}`. Convert with {fix}.")
    if images.ndim < 2 or images.shape[0] == 0:
        raise Refusal(
            "`images` should be a batch [N, ...] of at least one image. "
            f"Got `images.shape = {list(images.shape)}`. Skip empty batches; give one image a leading dimension of 1."
        )
    if not images.is_floating_point():
        raise Refusal(
            "`images` should be floating point pixels in [0, 1]. "
            f"Got `images.dtype = {images.dtype}`. Convert 8-bit pixels with `images.float() / 255`."
        )


def check_images(images: Tensor) -> None:
    """Refuse images that are not a batch of float32 or float64 pixels in [0, 1]."""
    check_batch(images)
    if images.dtype not in (torch.float32, torch.float64):
        raise Refusal(
            "`images` should be float32 or float64 pixels in [0, 1]. "
            f"Got `images.dtype = {images.dtype}`. Convert them with `images.float()`."
        )
    if not _inside(images):
        raise Refusal(
            f"`images` should be pixels in [0, 1]. Got values from {_range(images)}. "
            "Divide 8-bit pixels by 255, and put the normalisation into the network, as `networks.Normalized` does."
        )


def check_labels(labels: Tensor, images: Tensor) -> None:
    """Refuse labels that are not one integer of at least -1 for each image."""
    is_index = not labels.is_floating_point() and labels.dtype != torch.bool
    if labels.shape != images.shape[:1] or not is_index:
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
    """Refuse crafted images of another shape or dtype than the clean ones, outside [0, 1], or farther than `eps`."""
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


def check_logits_shape(output: object, number: int, classes: int = 1) -> None:
    """Refuse an output that is not one row of at least `classes` logits for each of `number` images."""
    if isinstance(output, Tensor) and output.ndim == 2 and len(output) == number and output.shape[1] >= classes:
        return
    got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
    several = " and two classes or more" if classes > 1 else ""
    raise Refusal(
        f"the network's output should be logits [N, classes], a row for each image{several}. "
        f"Got `output = {got}` for a batch of {number}. Wrap the network so that forward(images) returns its logits alone."
    )


def check_finite_rows(values: Tensor, what: str) -> None:
    """Raise `NotFinite` with the rows of values [N, ...] that hold a NaN or an infinity."""
    bad = (~torch.isfinite(values.detach().flatten(1)).all(1)).nonzero().flatten().tolist()
    if bad:
        rows = ", ".join(str(row) for row in bad[:_SHOWN]) + (", ..." if len(bad) > _SHOWN else "")
        raise NotFinite(
            f"{what} should be finite. Got NaN or infinity in {len(bad)} of {values.shape[0]} rows: {rows}. "
            "Look at these images and at the network's weights.",
            bad,
        )


class Logits:
    """A network whose output is refused if it cannot be attacked; `labels` must be among its classes."""

    def __init__(self, network: nn.Module, labels: Tensor) -> None:
        self.network = network
        self.labels: Tensor | None = labels

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits [N, classes] of `images`, with a graph to these if they require gradients."""
        logits: Tensor = self.network(images)
        check_logits_shape(logits, len(images), classes=2)
        if torch.is_grad_enabled() and images.requires_grad and not logits.requires_grad:
            raise Refusal(
                "the network's output should depend on its input through autograd, as the attack follows that gradient. "
                f"Got `network = {type(self.network).__name__}` without one. Remove torch.no_grad, detach, .data or argmax "
                "from its forward, or choose an attack that needs no gradient, such as Semantic."
            )
        self._check_labels(logits.shape[1])
        return logits

    def classes(self, images: Tensor) -> int:
        """Count the network's classes by the logits of a single image."""
        with torch.no_grad():
            return self(images[:1]).shape[1]

    def _check_labels(self, classes: int) -> None:
        if self.labels is None:  # checked once: reading them again would wait for the device at every step
            return
        if len(self.labels) and (largest := int(self.labels.max())) >= classes:
            raise Refusal(
                f"`labels` should be below the network's number of classes, {classes}. Got `labels.max() = {largest}`. "
                "Give -1 for images whose class the network does not know."
            )
        self.labels = None


def fits(value: Any, kind: Any) -> bool:
    """Whether plain values are of a type as an annotation says it; numbers must be finite.

    Types are `str`, `int`, `float`, `bool`, `None`, `Any`, literals, lists, dicts with keys of text, and unions.

    >>> fits({"a": [1, 2.5]}, dict[str, list[float]]), fits([1, "2"], list[int]), fits(True, int)
    (True, False, False)
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in inner
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in inner)
    if origin is list:
        return isinstance(value, list) and all(fits(one, inner[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            isinstance(key, str) and fits(one, inner[1]) for key, one in value.items()
        )
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return kind is Any or (value is None if kind in (None, type(None)) else type(value) is kind)
