"""Perturbations: attacks and corruptions, and the images they make of normal ones."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor, nn

from lightning_gradood.core import (
    Component,
    Logits,
    check_ids,
    check_images,
    check_labels,
    check_network,
    check_result,
    exact_arithmetic,
    frozen_network,
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
        check_images(images)
        refuse_single_image(network, images)
        labels = torch.as_tensor(labels)
        check_labels(labels, images)
        check_network(network)
        check_ids(ids, images)
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

    def describe(self) -> dict[str, object]:
        """JSON-able text of all settings that change the images; part of the cache key."""
        kind = type(self)
        settings = {name: getattr(self, name) for name in inspect.signature(kind).parameters}
        return {"attack": f"{kind.__module__}.{kind.__qualname__}", "version": self.version, "settings": settings}

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
