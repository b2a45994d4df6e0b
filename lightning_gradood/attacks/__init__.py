"""Attacks: settings that turn clean images into ones that a network should fail on, and how far each one got.

Pixels are in [0, 1] and the normalisation is the network's own affair (`networks.Normalized`). An attack is an object with
typed settings; `craft` makes the images, `perturb` also says with one more forward pass what they do to the network. The
network may be any `nn.Module`; it is left as it was found::

    >>> import torch
    >>> from lightning_gradood.attacks import Attack
    >>> class Darker(Attack):
    ...     passes = 0
    ...     def _craft(self, network, images, labels, ids):
    ...         return images / 2, None
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 10))
    >>> found = Darker().perturb(network, torch.rand(4, 3, 2, 2), labels=torch.tensor([3, 1, 4, 1]))
    >>> found.images.shape, found.success.dtype, bool((found.linf <= 0.5).all())
    (torch.Size([4, 3, 2, 2]), torch.bool, True)
"""

from lightning_gradood.attacks.attack import Attack
from lightning_gradood.attacks.crafted import Crafted, Perturbed
from lightning_gradood.attacks.randomness import image_generator

__all__ = ["Attack", "Crafted", "Perturbed", "image_generator"]
