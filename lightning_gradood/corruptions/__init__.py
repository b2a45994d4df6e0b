"""Corruptions: the same image in noise, out of focus, in bad weather or badly stored, at five severities.

These are the 15 kinds of ImageNet-C and CIFAR-10-C, with the published parameters for the size of the image, made
with scipy and Pillow alone, so that any image can be corrupted. `corrupt` takes one 8-bit image and a generator;
`Corruption` is a `core.Perturbation` as attacks are, so that corrupted images serve as anomalous ones::

    >>> import torch
    >>> from lightning_gradood.corruptions import Corruption, corruptions_at
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
    >>> images, labels = torch.rand(4, 3, 32, 32), torch.tensor([3, 1, 4, 1])
    >>> snowy = Corruption("snow", severity=2).perturb(network, images, labels, ids=["a", "b", "c", "d"])
    >>> snowy.images.shape, bool((snowy.l2 > 0).all())
    (torch.Size([4, 3, 32, 32]), True)
    >>> len(corruptions_at(severity=5))
    15

One kind differs from what was published: frost blends in a drawn texture, as the photographs may not be redistributed.
"""

from lightning_gradood.corruptions.corruption import KINDS, Corruption, corrupt, corruptions_at, parameters_for

__all__ = [
    "KINDS",
    "Corruption",
    "corrupt",
    "corruptions_at",
    "parameters_for",
]
