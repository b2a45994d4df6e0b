"""Attacks: settings that turn clean images into ones that a network should fail on, and how far each one got.

Pixels are in [0, 1] and the normalisation is the network's own affair (`networks.Normalized`). An attack is an object
with typed settings; `craft` makes the images, `perturb` also says with one more forward pass what they do to the
network. The network may be any `nn.Module`; it is left as it was found::

    >>> import torch
    >>> from lightning_gradood.attacks import PGD, preset
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 10))
    >>> images, labels = torch.rand(4, 3, 2, 2), torch.tensor([3, 1, 4, 1])
    >>> found = PGD(eps=8 / 255, step=2 / 255, steps=5).perturb(network, images, labels, ids=["a", "b", "c", "d"])
    >>> found.images.shape, found.success.dtype, bool((found.linf <= 8 / 255 + 1e-6).all())
    (torch.Size([4, 3, 2, 2]), torch.bool, True)
    >>> {name: attack.passes for name, attack in preset("paper").items()}
    {'fgsm': 1, 'bim': 6, 'pgd': 10, 'cw': 100, 'iterll': 10, 'semantic': 0}

What is random about an image follows from the seed and its id alone, so that neither order nor number of processes
matters. `AdvertorchAttack` takes any class of advertorch and `FunctionAttack` any function, by import path; a class of
your own derives from `Perturbation` and writes `_craft`. advertorch does the arithmetic of the gradient attacks.
"""

from lightning_gradood.attacks.advertorch_attack import AdvertorchAttack
from lightning_gradood.attacks.carlini_wagner import CarliniWagner
from lightning_gradood.attacks.function_attack import FunctionAttack
from lightning_gradood.attacks.gradient_sign import BIM, FGSM, PGD, IterLL
from lightning_gradood.attacks.presets import preset
from lightning_gradood.attacks.without_gradients import Semantic, noise_like

__all__ = [
    "BIM",
    "FGSM",
    "PGD",
    "AdvertorchAttack",
    "CarliniWagner",
    "FunctionAttack",
    "IterLL",
    "Semantic",
    "noise_like",
    "preset",
]
