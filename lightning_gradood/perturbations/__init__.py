"""Perturbations: attacks, corruptions and synthetic outliers, which make anomalous images of normal ones.

Pixels are in [0, 1]; normalisation is the network's own affair (`networks.Normalized`). A perturbation is an object
with typed settings; `craft` makes the images, `perturb` also says with one more forward pass what they do to the
network. The network may be any `nn.Module`; it is left as it was found::

    >>> import torch
    >>> from lightning_gradood.perturbations import PGD, Corruption, PatchShuffle, default_outliers, preset
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
    >>> images, labels, ids = torch.rand(4, 3, 32, 32), torch.tensor([3, 1, 4, 1]), ["a", "b", "c", "d"]
    >>> found = PGD(eps=8 / 255, step=2 / 255, steps=5).perturb(network, images, labels, ids)
    >>> found.images.shape, found.success.dtype, bool((found.linf <= 8 / 255 + 1e-6).all())
    (torch.Size([4, 3, 32, 32]), torch.bool, True)
    >>> bool((Corruption("snow", severity=2).perturb(network, images, labels, ids).l2 > 0).all())
    True
    >>> PatchShuffle().craft(network, images, labels, ids).images.shape
    torch.Size([4, 3, 32, 32])
    >>> list(preset("paper")), len(default_outliers())
    (['fgsm', 'bim', 'pgd', 'cw', 'iterll', 'semantic'], 22)

What is random about an image follows from the seed and its id alone, so that neither order nor number of processes
matters.

- *Attacks*: advertorch does the arithmetic of those that follow gradients; `AdvertorchAttack` takes any of its classes
  and `FunctionAttack` any function, by import path. A class of your own derives from `Perturbation`.
- *Corruptions*: the 15 kinds of ImageNet-C and CIFAR-10-C at five severities, with the published parameters for the
  size of the image, but for frost, a drawn texture.
- *Synthetic outliers* stand for unknown anomalies: detectors can be trained to tell normal images from them.
"""

from lightning_gradood.perturbations.attacks_by_path import AdvertorchAttack, FunctionAttack
from lightning_gradood.perturbations.corruption import KINDS, Corruption, Severity, corrupt, corruptions_at
from lightning_gradood.perturbations.gradient_attacks import BIM, FGSM, PGD, CarliniWagner, IterLL, Semantic, preset
from lightning_gradood.perturbations.gradient_outliers import (
    WITH_GRADIENT,
    BoundarySteps,
    EuclideanSteps,
    GradientOutlier,
    SignStep,
    SurerSteps,
    TargetSteps,
    default_outliers,
)
from lightning_gradood.perturbations.outliers import (
    WITHOUT_NETWORK,
    Blur,
    ChannelPermutation,
    ColourField,
    Draws,
    Elastic,
    GaussianNoise,
    Overlay,
    PatchShuffle,
    Recolour,
    Rectangles,
    Rotation,
    Sharpen,
    SignNoise,
    Solarise,
    Surroundings,
    SyntheticOutlier,
    Texture,
    Zoom,
    ZoomOut,
)
from lightning_gradood.perturbations.perturbation import Crafted, Perturbation, Perturbed, noise_like

__all__ = [
    "BIM", "FGSM", "KINDS", "PGD", "WITHOUT_NETWORK", "WITH_GRADIENT", "AdvertorchAttack", "Blur", "BoundarySteps",
    "CarliniWagner", "ChannelPermutation", "ColourField", "Corruption", "Crafted", "Draws", "Elastic",
    "EuclideanSteps", "FunctionAttack", "GaussianNoise", "GradientOutlier", "IterLL", "Overlay", "PatchShuffle",
    "Perturbation", "Perturbed", "Recolour", "Rectangles", "Rotation", "Semantic", "Severity", "Sharpen", "SignNoise",
    "SignStep", "Solarise", "SurerSteps", "Surroundings", "SyntheticOutlier", "TargetSteps", "Texture", "Zoom",
    "ZoomOut", "corrupt", "corruptions_at", "default_outliers", "noise_like", "preset",
]  # fmt: skip
