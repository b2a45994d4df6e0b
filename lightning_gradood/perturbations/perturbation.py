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
    check_network,
    exact_arithmetic,
    frozen_network,
    image_generator,
    input_gradient,
    refuse_single_image,
    to_float64,
)


@dataclass(frozen=True)
class Perturbed:
    """Anomalous images and what the attack achieved on each.

    Args:
        images: [N, ...], pixels in [0, 1].
        success: bool [N], whether the prediction differs from the label.
        target_hit: bool [N], whether the prediction is the target; None for attacks without targets.
        l2: float64 [N], Euclidean norm of the change of all pixels of an image; on the CPU where the images' device
            has no float64, as is `linf`.
        linf: float64 [N], largest change of a pixel.
    """

    images: Tensor
    success: Tensor
    target_hit: Tensor | None
    l2: Tensor
    linf: Tensor


@dataclass(frozen=True)
class Crafted:
    """Anomalous images that no network has judged yet.

    Args:
        images: [N, ...], pixels in [0, 1], no graph.
        clean: [N, ...], the images they were made from.
        labels: int64 [N], the class that each image should keep.
        targets: int64 [N], the class that each image was driven to; None for attacks without targets.
    """

    images: Tensor
    clean: Tensor
    labels: Tensor
    targets: Tensor | None = None

    @classmethod
    def concatenate(cls, parts: "Sequence[Crafted]") -> "Crafted":
        """Join the images of several batches that one perturbation made."""
        targets = [one.targets for one in parts if one.targets is not None]
        return cls(
            images=torch.cat([one.images for one in parts]),
            clean=torch.cat([one.clean for one in parts]),
            labels=torch.cat([one.labels for one in parts]),
            targets=torch.cat(targets) if targets else None,
        )

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


class Perturbation(Component, ABC):
    """Changes images so that a network should fail on them.

    A subclass writes `_craft` and `passes`; its constructor takes settings only and keeps each under its own name. What
    it draws at random for an image comes from `image_generator(self.seed, its id)`, never from the global generator, so
    that neither the order of images nor the number of processes matters.
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
            Refusal: The input does not fit, or what was crafted leaves [0, 1] or `eps`.
        """
        labels = torch.as_tensor(labels)
        check_images(images)
        _check_labels_and_ids(labels, ids, len(images))
        refuse_single_image(network, images)
        check_network(network)
        names = list(map(str, range(len(images)))) if ids is None else list(ids)
        with exact_arithmetic(), frozen_network(network):
            clean = images.detach()
            kept = _resolved(network, clean, labels)
            # may be overwritten, takes part in autograd also under inference mode; advertorch calls view on it
            copy = clean.clone(memory_format=torch.contiguous_format)
            try:
                crafted, targets = self._craft(network, copy, kept, names)
            except (AttributeError, RuntimeError, TypeError):  # of a gradient that is None
                _refuse_missing_gradient(network, clean[:1])
                raise
            check_result(crafted, clean, self.eps, type(self).__name__)
            return Crafted(crafted.detach(), clean, kept, targets)

    @final
    def perturb(
        self, network: nn.Module, images: Tensor, labels: Tensor | Sequence[int], ids: Sequence[str] | None = None
    ) -> Perturbed:
        """Make the anomalous images, as `craft` does, and test them on the network with one more forward pass."""
        crafted = self.craft(network, images, labels, ids)
        with exact_arithmetic(), frozen_network(network), torch.no_grad():
            return crafted.judge(Logits(network, crafted.labels)(crafted.images))

    @property
    @abstractmethod
    def passes(self) -> int:
        """Forward and input-gradient passes for each image that the attack's definition requires."""

    @abstractmethod
    def _craft(
        self, network: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]
    ) -> tuple[Tensor, Tensor | None]:
        """Return the images, and the class each one was driven to if the attack is targeted.

        Args:
            network: In eval mode, its parameters frozen; gradients are on.
            images: [N, ...], a copy that may be changed in place.
            labels: int64 [N], none negative.
            ids: N names.
        """


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
        if self.labels is not None and len(self.labels) and (largest := int(self.labels.max())) >= logits.shape[1]:
            raise Refusal(
                f"`labels` should be below the network's number of classes, {logits.shape[1]}. "
                f"Got `labels.max() = {largest}`. Give -1 for images whose class the network does not know."
            )
        self.labels = None  # checked once: reading them again would wait for the device at every step
        return logits

    def classes(self, images: Tensor) -> int:
        """Count the network's classes by the logits of a single image."""
        with torch.no_grad():
            return self(images[:1]).shape[1]


_ROUNDING = 1e-6  # float32 pixels near 1 are 6e-8 apart, and a difference of two adds a few of these errors up


def check_result(crafted: Tensor, clean: Tensor, eps: float | None, attack: str) -> None:
    """Refuse crafted images of another shape or dtype than the clean ones, outside [0, 1], or farther than `eps`."""
    wanted = f"the images that {attack} returns should"
    if not isinstance(crafted, Tensor) or (crafted.shape, crafted.dtype) != (clean.shape, clean.dtype):
        got = f"{list(crafted.shape)}, {crafted.dtype}" if isinstance(crafted, Tensor) else type(crafted).__name__
        raise Refusal(
            f"{wanted} be {list(clean.shape)}, {clean.dtype}, as those it was given. "
            f"Got {got}. Return one image for each, in the same order, shape and dtype."
        )
    low, high = map(float, crafted.aminmax())
    if not (low >= 0 and high <= 1):  # true for NaN
        raise Refusal(
            f"{wanted} be pixels in [0, 1]. Got values from {low:.6g} to {high:.6g}. "
            "Clamp them with `images.clamp(0, 1)`."
        )
    if eps is not None and (farthest := float((crafted - clean).abs().amax())) > eps + _ROUNDING:
        raise Refusal(
            f"{wanted} differ from the clean ones by at most `eps = {eps:.6g}` a pixel. "
            f"Got a difference of {farthest:.6g}. Clamp the change to [-eps, eps], or give the `eps` that is meant."
        )


def _check_labels_and_ids(labels: Tensor, ids: Sequence[str] | None, number: int) -> None:
    is_index = not labels.is_floating_point() and labels.dtype != torch.bool
    if labels.shape != (number,) or not is_index or int(labels.min()) < -1:
        lowest = f", at least {int(labels.min())}" if is_index and labels.numel() else ""
        raise Refusal(
            f"`labels` should be one class index for each image, integer [{number}], or -1 where the prediction is meant. "
            f"Got `labels` of shape {list(labels.shape)}, {labels.dtype}{lowest}. Count classes from 0."
        )
    if ids is not None and (isinstance(ids, str) or len(ids) != number):
        raise Refusal(
            f"`ids` should be one name for each of the {number} images. "
            f"Got `ids` of length {len(ids)}. Leave it out to use row numbers."
        )


def _refuse_missing_gradient(network: nn.Module, image: Tensor) -> None:
    """Refuse a network through which no gradient comes back to its images."""
    leaf = image.clone().requires_grad_()
    input_gradient(network(leaf).sum(), leaf)


def _resolved(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Labels on the images' device, with predictions where they are -1."""
    labels = labels.to(images.device, torch.int64, copy=True)
    unknown = labels < 0
    if unknown.any():
        with torch.no_grad():
            labels[unknown] = Logits(network, labels)(images[unknown]).argmax(1)
    return labels


_HALVINGS = 40  # of the interval that the scale lies in; float32 has 24 bits
_LARGEST = 1e3  # standard deviations in pixels of [0, 1] beyond which clipping leaves nothing to gain


def noise_like(crafted: Crafted, ids: Sequence[str], seed: int = 0) -> Crafted:
    """Change the clean images by Gaussian noise of the same L2 norm, after clipping to [0, 1].

    Where the clean image's own pixels allow no change of that norm along the drawn noise, it is as near as possible.

    Args:
        crafted: What an attack made; its norms are copied, image by image.
        ids: A name for each image; it and `seed` decide the noise.

    Returns:
        Noisy images of the same dtype in [0, 1], with the same clean images and labels, and without targets.

    Reference:
        Lee et al. 2018, A Simple Unified Framework, section 3.2: noisy samples are normal in the adversarial setting.
    """
    clean = crafted.clean
    drawn = [
        torch.randn(clean.shape[1:], generator=image_generator(seed, f"{name}/noise"), dtype=torch.float64)
        for name in ids
    ]
    noise = torch.stack(drawn).to(clean)
    wanted = _norms(crafted.images, clean)
    low, high = torch.zeros_like(wanted), torch.full_like(wanted, _LARGEST)
    for _ in range(_HALVINGS):  # the norm grows with the scale
        middle = (low + high) / 2
        enough = _norms(_noisy(clean, noise, middle), clean) >= wanted
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return replace(crafted, images=_noisy(clean, noise, low), targets=None)


def _noisy(clean: Tensor, noise: Tensor, scale: Tensor) -> Tensor:
    return (clean + scale.to(clean).view(-1, *[1] * (clean.ndim - 1)) * noise).clamp(0, 1)


def _norms(images: Tensor, clean: Tensor) -> Tensor:
    return (to_float64(images) - to_float64(clean)).flatten(1).square().sum(1).sqrt()
