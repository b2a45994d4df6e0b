"""Per-sample squared gradient norms: how much would each image, alone, change each parameter of a trained network?

An image is pushed through the network, its logits meet a confounding label (a `LabelDesign`, whose closed form gives
the gradient in the logits), and that gradient is propagated back to every parameter tensor; what is kept is the squared
L2 norm for each image and tensor. The result is exact: equal to backpropagating every image alone.

    >>> import torch
    >>> from lightning_gradood.gradients import AllOnes, Predicted, parameter_names, squared_gradient_norms
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 10))
    >>> images = torch.rand(4, 3, 2, 2)
    >>> squared_gradient_norms(network, images, AllOnes()).shape, parameter_names(network)
    (torch.Size([4, 2]), ['1.weight', '1.bias'])
    >>> squared_gradient_norms(network, images, [AllOnes(), Predicted()]).shape
    torch.Size([4, 4])

Only torch is imported here. To follow one image, read `norms` (the front door), `seeds`, then `loop` (the slow truth).
"""

from lightning_gradood.gradients.labels import AllOnes, AllZeros, KHot, LabelDesign, Predicted, Uniform
from lightning_gradood.gradients.norms import parameter_names, probe_gradients, squared_gradient_norms
from lightning_gradood.gradients.state import exact_arithmetic, probing

__all__ = [
    "AllOnes",
    "AllZeros",
    "KHot",
    "LabelDesign",
    "Predicted",
    "Uniform",
    "exact_arithmetic",
    "parameter_names",
    "probe_gradients",
    "probing",
    "squared_gradient_norms",
]
