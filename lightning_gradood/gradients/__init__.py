"""Per-sample squared gradient norms: how much would each image, alone, change each parameter of a trained network?

The loss between an image's logits and a confounding label (a `LabelDesign`, whose closed form gives the loss's gradient
in the logits) is backpropagated to every parameter tensor; what is kept is the squared L2 norm for each image and
tensor. The result is exact: equal to backpropagating every image alone.

    >>> import torch
    >>> from lightning_gradood.gradients import AllOnes, Predicted, parameter_names, squared_gradient_norms
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 10))
    >>> images = torch.rand(4, 3, 2, 2)
    >>> squared_gradient_norms(network, images, [AllOnes(), Predicted()]).shape, parameter_names(network)
    (torch.Size([4, 4]), ['1.weight', '1.bias'])

A batch costs about as much as an ordinary training step (benchmarks/README.md), and memory does not grow with it:

1. `norms` has the public functions. They refuse what has no answer, lock and freeze the network in eval mode and full
   precision, and cut the batch into micro-batches.
2. On a network's first batch `comparison` finds the way to compute them: closed forms where they equal plain autograd,
   one image at a time (`loop`), entry by entry; else that loop. The way holds while the network stays the same
   (`changes`). Later some passes are compared at random (1 % of the time).
3. `engine` intercepts every torch call of the forward pass. Where one takes a parameter, a closed form (`rules`, by
   family of layers; `closed_form` has their contract) takes its place in the autograd graph; `reparametrised` holds
   weights that are computed from parameters first. `costs` chooses among a convolution's six forms.
4. The logits' gradient (`labels`) goes backward once for each label design. Each closed form returns the input's
   gradient and adds its parameters' squared norms to the accumulator, whose columns are the result.

Parameters and activations stay in the network's own dtype; norms are summed in float64. Networks of half precision are
computed one image at a time. A new kind of layer is one rule and a line in its table; networks with other layers take
the loop.
"""

from lightning_gradood.gradients.costs import images_at_once
from lightning_gradood.gradients.labels import AllOnes, AllZeros, KHot, LabelDesign, Predicted, SecondBest, Uniform
from lightning_gradood.gradients.norms import (
    layer_gradients,
    norms_with_graph,
    parameter_names,
    probe_gradients,
    squared_gradient_norms,
    way_taken,
)

__all__ = [
    "AllOnes", "AllZeros", "KHot", "LabelDesign", "Predicted", "SecondBest", "Uniform", "images_at_once",
    "layer_gradients", "norms_with_graph", "parameter_names", "probe_gradients", "squared_gradient_norms", "way_taken",
]  # fmt: skip
