"""A network's inputs and outputs: images cast to its dtype, and the logits found in what it returns."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from lightning_gradood.core.errors import Refusal

_LOGITS = "logits"
_said: WeakSet[nn.Module] = WeakSet()


def logits_in(output: Any) -> Any:
    """Return an output tensor itself; else its `logits`; else its first tensor with two dimensions; else `output`.

    `output` may also be a tuple, a mapping, a `ModelOutput` or torchvision's `GoogLeNetOutputs`.

    >>> logits_in({"features": torch.zeros(2, 5), "logits": torch.zeros(2, 3)}).shape
    torch.Size([2, 3])
    """
    return _found(output)[1]


def _found(output: Any) -> tuple[str, Any]:
    """Return the name of the output field and the logits; an empty name for a tensor, or where none is found."""
    if isinstance(output, Tensor):
        return "", output
    named = output.get(_LOGITS) if isinstance(output, Mapping) else getattr(output, _LOGITS, None)
    if isinstance(named, Tensor):
        return f"`{_LOGITS}`", named
    entries = output.items() if isinstance(output, Mapping) else enumerate(_parts(output))
    for name, entry in entries:
        if isinstance(entry, Tensor) and entry.ndim == 2:  # a loss or feature maps may stand before it
            return "its first tensor of rows" if isinstance(name, int) else f"`{name}`, its first tensor of rows", entry
    return "", output


def _parts(output: Any) -> Any:
    return output if isinstance(output, tuple | list) else getattr(output, "__dict__", {}).values()


@contextmanager
def images_in_logits_out(network: nn.Module) -> Iterator[None]:
    """Cast images to a network's own dtype, and take the logits out of what it returns (`logits_out`).

    Gradients come back in the images' dtype. The network's call refuses a single image or integers.
    """

    def take_images(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (fitting(module, given[0]), *given[1:]) if given and isinstance(given[0], Tensor) else given

    hook = None if isinstance(network, torch.jit.ScriptModule) else network.register_forward_pre_hook(take_images)
    try:
        with logits_out(network):
            yield
    finally:
        if hook is not None:
            hook.remove()


@contextmanager
def logits_out(network: nn.Module) -> Iterator[None]:
    """Take the logits out of what a network returns (`logits_in`), also in copies that are made meanwhile.

    Where they have to be looked for, a warning says once for a network which tensor is taken. What torch.jit compiled
    takes no hooks: its output is left as it is.
    """
    if isinstance(network, torch.jit.ScriptModule):
        yield
        return

    def take_logits(_module: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
        place, logits = _found(output)
        # a binary classifier may give [N]
        if given and isinstance(logits, Tensor) and isinstance(given[0], Tensor) and logits.shape == given[0].shape[:1]:
            logits = logits[:, None]
        if place and network not in _said:
            _said.add(network)
            kind = type(output).__name__
            warnings.warn(
                f"The network returns a {kind}; {place}, {list(logits.shape)}, is taken as logits.", stacklevel=2
            )
        return logits

    hook = network.register_forward_hook(take_logits)
    try:
        yield
    finally:
        hook.remove()


def fitting(network: nn.Module, images: Tensor) -> Tensor:
    """Return images in the dtype of a network's first floating point parameter; refuse a single image or integers."""
    refuse_single_image(network, images)
    own = next((one.dtype for one in network.parameters() if one.is_floating_point()), None)
    if own is not None and not images.is_floating_point():
        raise Refusal(
            "`images` should be floating point pixels in [0, 1]. "
            f"Got `images.dtype = {images.dtype}`. Convert with `images.float() / 255`."
        )
    return images if own in (None, images.dtype) else images.to(own)


def refuse_single_image(network: nn.Module, images: Tensor) -> None:
    """Refuse one image [C, H, W] for a network of images, which would take its channels for a batch."""
    if images.ndim == 3 and any(isinstance(module, nn.Conv2d) for module in network.modules()):
        raise Refusal(
            "`images` should be a batch [N, C, H, W]. "
            f"Got `images.shape = {list(images.shape)}`. Give one image a leading dimension of 1: `image[None]`."
        )


def input_gradient(output: Tensor, images: Tensor, weight: Tensor | None = None, keep: bool = False) -> Tensor:
    """Gradient of a network's output by its images, a leaf; refuse an output that no gradient leads back from.

    The output is a number, or [N, ...] with a `weight` of its shape, the loss's gradient in it.
    """
    gradient: Tensor | None = None
    if output.requires_grad:
        (gradient,) = torch.autograd.grad(output, images, weight, retain_graph=keep, allow_unused=True)
    if gradient is None:
        raise Refusal(
            "the network's output should depend on its input through autograd. Got an operation through which no gradient comes "
            "back to the images, such as a quantised layer or a custom function whose backward returns None. Pass the network "
            "as it was before quantisation, define that backward, or leave out attacks and detectors that need the gradient."
        )
    return gradient
