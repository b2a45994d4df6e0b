"""Per-sample squared gradient norms: how much would each image, alone, change each parameter of a trained network?

The loss between an image's logits and a confounding label (a `LabelDesign`, whose closed form gives the loss's gradient
in the logits) is backpropagated to every parameter tensor; what is kept is the squared L2 norm for each image and
tensor. The result is exact: equal to backpropagating every image alone.

    >>> import torch
    >>> from lightning_gradood.gradients import AllOnes, Predicted, parameter_names, squared_gradient_norms
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 10))
    >>> images = torch.rand(4, 3, 2, 2)
    >>> squared_gradient_norms(network, images, AllOnes()).shape, parameter_names(network)
    (torch.Size([4, 2]), ['1.weight', '1.bias'])
    >>> squared_gradient_norms(network, images, [AllOnes(), Predicted()]).shape
    torch.Size([4, 4])

A batch costs about as much as an ordinary training step (benchmarks/README.md), and memory does not grow with it. How
one image goes through the room:

1. `norms` has the public functions. They refuse what has no answer and lock the network for their thread, in eval
   mode, without autocast, inference mode and TF32 (`core.network_state`). Behind them input is trusted.
2. `norms` cuts the batch into micro-batches. On a network's first batch `comparison` finds the way to compute them:
   it compares three images in plain autograd, one at a time (`loop`), with closed forms entry by entry, and checks that
   the images do not influence each other (`independence`). Where they disagree, the loop is taken; a single image
   takes it too, unless the parameters are large. The way holds while the network stays the same (`fingerprint`). Where
   it keeps or overwrites tensors, each pass goes through its own copy (`copies`).
3. `engine` runs a micro-batch forward and intercepts every torch call. Where a call takes a parameter, a closed form
   (`rules`, one file per family of layers; `closed_form` has their contract) takes its place in the autograd graph.
   Weights that are computed from parameters first are handled by `reparametrised`.
4. The logits' gradient (`labels`) goes backward once for each label design. Each closed form returns the input's
   gradient and adds its parameters' squared norms to the accumulator. A convolution's six forms are chosen by `costs`.
5. The accumulator's columns, times the squared scale of the logits' gradient, are the result.
6. The first micro-batch of each size, any that reaches parameters for the first time, and later a few at random (1 % of
   the time, `costs.Limits.recheck`) are compared with the loop (`comparison.find_fault`). What disagrees there is
   computed by the loop, or refused where earlier numbers may be wrong, too.

Half precision: parameters and activations stay in the network's own dtype; norms are summed in float64, on the CPU
where a device has no float64 (Apple's GPUs; `core.devices`). Networks of half precision, and those whose own forward
enters autocast, are computed one image at a time.

A new kind of layer is one closed form in `rules` and one line in its table; networks with other layers take the loop.
"""

from lightning_gradood.gradients.labels import AllOnes, AllZeros, KHot, LabelDesign, Predicted, SecondBest, Uniform
from lightning_gradood.gradients.norms import parameter_names, probe_gradients, squared_gradient_norms, warm_up

__all__ = [
    "AllOnes",
    "AllZeros",
    "KHot",
    "LabelDesign",
    "Predicted",
    "SecondBest",
    "Uniform",
    "parameter_names",
    "probe_gradients",
    "squared_gradient_norms",
    "warm_up",
]
