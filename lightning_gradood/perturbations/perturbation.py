"""The base class of perturbations, the images that they make of normal ones, and noise of the same size."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor, nn

from lightning_gradood.core import (
    Component,
    Refusal,
    check_images,
    check_logits_shape,
    frozen_network,
    image_generator,
    input_gradient,
    to_float64,
)


@dataclass(frozen=True)
class Perturbed:
    """Anomalous images and what the attack achieved on each."""

    images: Tensor  # [N, ...], pixels in [0, 1]
    success: Tensor  # bool [N], whether the prediction differs from the label
    target_hit: Tensor | None  # bool [N], whether the prediction is the target; None for attacks without targets
    l2: Tensor  # float64 [N], norm of the change of an image; on the CPU where the images' device has no float64
    linf: Tensor  # float64 [N], largest change of a pixel; there too


@dataclass(frozen=True)
class Crafted:
    """Anomalous images that no network has judged yet."""

    images: Tensor  # [N, ...], pixels in [0, 1], no graph
    clean: Tensor  # [N, ...], the images they were made from
    labels: Tensor  # int64 [N], the class that each image should keep
    targets: Tensor | None = None  # int64 [N], the class that each was driven to; None for attacks without targets

    @classmethod
    def concatenate(cls, parts: "Sequence[Crafted]") -> "Crafted":
        """Join the images of several batches that one perturbation made."""
        images, clean, labels, targets = zip(*((p.images, p.clean, p.labels, p.targets) for p in parts), strict=True)
        joined = None if targets[0] is None else torch.cat(targets)
        return cls(torch.cat(images), torch.cat(clean), torch.cat(labels), joined)

    def at(self, rows: Sequence[int]) -> "Crafted":
        """Return the images of some rows."""
        index = torch.tensor(list(rows), dtype=torch.int64, device=self.images.device)
        targets = None if self.targets is None else self.targets[index]
        return Crafted(self.images[index], self.clean[index], self.labels[index], targets)

    def eight_bit(self) -> "Crafted":
        """Round to the 256 grey levels of a file, k / 255; small changes may vanish, and `eps` be exceeded by 1/510."""
        return replace(self, images=(self.images * 255).round() / 255)

    def judge(self, logits: Tensor) -> Perturbed:
        """Read from the network's logits [N, classes] for `images` what was achieved, without a further pass."""
        predictions = logits.argmax(1)
        change = (to_float64(self.images) - to_float64(self.clean)).flatten(1)
        return Perturbed(
            images=self.images,
            success=predictions != self.labels,
            target_hit=None if self.targets is None else predictions == self.targets,
            l2=change.square().sum(1).sqrt(),
            linf=change.abs().amax(1),
        )


Made = tuple[Tensor, Tensor | None]
"""Images [N, ...], and the classes they were driven to, int64 [N], where an attack has targets."""


class Perturbation(Component, ABC):
    """Changes images so that a network should fail on them.

    A subclass writes `_craft`; its constructor takes settings only and keeps each under its own name. What it draws at
    random for an image comes from `image_generator(self.seed, its id)`, never from the global generator, so that neither
    the order of images nor the number of processes matters.
    """

    version: int = 1
    """Raised by one when the images that an attack makes change; records of older versions are not read again."""

    eps: float | None = None
    """Largest change of a pixel, checked after crafting; None where the attack has no such bound."""

    @final
    def craft(
        self, network: nn.Module, images: Tensor, labels: Tensor | Sequence[int], ids: Sequence[str] | None = None
    ) -> Crafted:
        """Make the anomalous images, without testing them on the network.

        Meanwhile the network is in eval mode, its parameters are frozen, autocast and TF32 are off, and gradients are
        on, under `torch.no_grad` and `torch.inference_mode` too. All that is restored, also when something is raised.

        Args:
            network: Pixels in [0, 1] in, logits [N, classes] out.
            images: float32 or float64 [N, ...], pixels in [0, 1], on the network's device.
            labels: Integer [N], a tensor, an array or a list, the class that each image should keep; -1 where the
                network's prediction is meant, which costs one forward pass of these images.
            ids: A name for each image, from which its random numbers come; row numbers if not given.

        Returns:
            The images, in the dtype of `images` and without a graph.

        Raises:
            Refusal: The images do not fit, or what was crafted leaves [0, 1] or `eps`.
        """
        check_images(images)
        names = list(map(str, range(len(images)))) if ids is None else list(ids)
        with frozen_network(network):
            clean = images.detach()
            kept = torch.as_tensor(labels).to(images.device, torch.int64, copy=True)
            if (unknown := kept < 0).any():
                with torch.no_grad():
                    kept[unknown] = Logits(network)(clean[unknown]).argmax(1)
            # may be overwritten, takes part in autograd also under inference mode; advertorch calls view on it
            copy = clean.clone(memory_format=torch.contiguous_format)
            try:
                crafted, targets = self._craft(network, copy, kept, names)
            except (AttributeError, RuntimeError, TypeError):
                leaf = clean[:1].clone().requires_grad_()
                input_gradient(network(leaf).sum(), leaf)  # a refusal, if it was for a gradient that is None
                raise
            check_result(crafted, clean, self.eps, type(self).__name__)
            return Crafted(crafted.detach(), clean, kept, targets)

    @final
    def perturb(
        self, network: nn.Module, images: Tensor, labels: Tensor | Sequence[int], ids: Sequence[str] | None = None
    ) -> Perturbed:
        """Make the anomalous images, as `craft` does, and test them on the network with one more forward pass."""
        crafted = self.craft(network, images, labels, ids)
        with frozen_network(network), torch.no_grad():
            return crafted.judge(network(crafted.images))

    @abstractmethod
    def _craft(self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]) -> Made:
        """Return the images, and the class each one was driven to if the attack is targeted.

        Args:
            network: In eval mode, its parameters frozen; gradients are on.
            images: [N, ...], a copy that may be changed in place.
            labels: int64 [N], none negative.
            ids: N names.
        """


@dataclass(frozen=True)
class Logits:
    """A network whose output is refused if it cannot be attacked."""

    network: nn.Module

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits [N, classes] of `images`, with a graph to these if they require gradients."""
        logits: Tensor = self.network(images)
        check_logits_shape(logits, len(images), classes=2)
        if torch.is_grad_enabled() and images.requires_grad and not logits.requires_grad:
            input_gradient(logits, images)  # refuses: C&W would go on without the network
        return logits

    def classes(self, images: Tensor) -> int:
        """Count the network's classes by the logits of a single image."""
        with torch.no_grad():
            return self(images[:1]).shape[1]


_ROUNDING = 1e-6  # float32 pixels near 1 are 6e-8 apart, and a difference of two adds a few of these errors up


def check_result(crafted: Tensor, clean: Tensor, eps: float | None, attack: str) -> None:
    """Refuse crafted images of another shape or dtype than the clean ones, outside [0, 1], or farther than `eps`."""
    if not isinstance(crafted, Tensor) or (crafted.shape, crafted.dtype) != (clean.shape, clean.dtype):
        got = f"{list(crafted.shape)}, {crafted.dtype}" if isinstance(crafted, Tensor) else type(crafted).__name__
        raise Refusal(
            f"{attack} should return an image of {clean.dtype} for each that it is given, {list(clean.shape)}. Got {got}. "
            "Return them in the same order, shape and dtype."
        )
    low, high = map(float, crafted.aminmax())
    farthest = 0.0 if eps is None else float((crafted - clean).abs().amax())
    if not (low >= 0 and high <= 1) or farthest > (eps or 0.0) + _ROUNDING:  # the first is true for NaN
        bound = "" if eps is None else f", at most `eps = {eps:.6g}` from those it is given"
        raise Refusal(
            f"{attack} should return pixels in [0, 1]{bound}. "
            f"Got values from {low:.6g} to {high:.6g}, up to {farthest:.6g} away. Clamp them."
        )


_HALVINGS = 40  # of the interval that the scale lies in; float32 has 24 bits
_LARGEST = 1e3  # standard deviations in pixels of [0, 1] beyond which clipping leaves nothing to gain


def noise_like(crafted: Crafted, ids: Sequence[str], seed: int = 0) -> Crafted:
    """Change the clean images by Gaussian noise of the same L2 norm, image by image, after clipping to [0, 1].

    Where the clean image's own pixels allow no change of that norm along the noise drawn for `seed` and its id, it is as
    near as possible. The noisy images have the same clean images and labels, and no targets.

    Reference:
        Lee et al. 2018, A Simple Unified Framework, section 3.2: noisy samples are normal in the adversarial setting.
    """
    clean = crafted.clean
    streams = [image_generator(seed, f"{name}/noise") for name in ids]
    drawn = [torch.randn(clean.shape[1:], generator=stream, dtype=torch.float64) for stream in streams]
    noise = torch.stack(drawn).to(clean)

    def noisy(scale: Tensor) -> Tensor:
        return (clean + scale.to(clean).view(-1, *[1] * (clean.ndim - 1)) * noise).clamp(0, 1)

    wanted = _norms(crafted.images, clean)
    low, high = torch.zeros_like(wanted), torch.full_like(wanted, _LARGEST)
    for _ in range(_HALVINGS):  # the norm grows with the scale
        middle = (low + high) / 2
        enough = _norms(noisy(middle), clean) >= wanted
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return replace(crafted, images=noisy(low), targets=None)


def _norms(images: Tensor, clean: Tensor) -> Tensor:
    return (to_float64(images) - to_float64(clean)).flatten(1).square().sum(1).sqrt()
