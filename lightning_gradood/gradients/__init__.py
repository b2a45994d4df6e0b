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

Only torch is imported here. It costs about as much as an ordinary training step (benchmarks/README.md), and memory does
not grow with the batch.

To follow one image through the room:

1. `norms` is the front door: it refuses what has no answer (`checks`), takes the network for itself among threads, freezes
   it and lifts autocast, inference mode and TF32 (`state`).
2. `batches` asks `plan` how to go on. On a network's first batch `proof` makes the plan: three probe images go through the
   `loop`, one-image-at-a-time autograd, and through the fast way, in batches of different size and order, on a copy of
   the network whose tiny weights are filled so that no error is too small to be seen (`copied`). The two must agree, entry by
   entry; the images must not influence each other (`coupling`); and what was done is kept as a trace. Where anything speaks
   against the fast way, the loop is the plan; a single image takes it too, unless the parameters are large. The plan holds
   while the network stays as it is (`fingerprint`), and `precautions` keep its passes from leaving or using stale tensors.
3. `engine` runs a micro-batch forward under `interception`, which sees every torch call. Where a call takes a parameter, a
   closed form (`rules`, one file per kind of layer, all of the shape described in `layer`) takes its place in the
   autograd graph. Weights that are computed from parameters first are `reparametrised`.
4. The logits' gradient (`labels`, brought to a safe scale by `logit_gradients`) goes backward once for each label design. Each
   closed form returns the input's gradient and records its parameters' norms in the `accumulator`. A convolution chooses
   between five forms by `costs`; forms that could cancel are guarded (`gram`).
5. The tally's columns, times the squared scale, are the result.
6. The first micro-batch of each size, any that reaches parameters for the first time, and later a few by chance (1 % of the
   time, `costs.Limits.recheck`) are compared with the loop and under logit gradients times powers of two (`verification`). What
   disagrees there is computed by the loop, or refused where earlier numbers may be wrong, too.

Half precision: parameters and activations stay in the network's own dtype, one image at a time; norms are summed in float64.
Autocast around the call is lifted; a network whose own forward enters autocast is computed one image at a time, too, rounded
as it asks.

Seeds, squares and their sums are float64. On a device that has none, Apple's GPUs, they are computed on the CPU or from
scaled float32 sums, and the result lies on the CPU (`precision`).

A new kind of layer is one file in `rules` and one line in its table; until then networks that have it take the loop.
"""

from lightning_gradood.gradients.labels import AllOnes, AllZeros, KHot, LabelDesign, Predicted, SecondBest, Uniform
from lightning_gradood.gradients.norms import parameter_names, probe_gradients, squared_gradient_norms, warm_up
from lightning_gradood.gradients.plan import adopt_proofs, proofs_of

__all__ = [
    "AllOnes",
    "AllZeros",
    "KHot",
    "LabelDesign",
    "Predicted",
    "SecondBest",
    "Uniform",
    "adopt_proofs",
    "parameter_names",
    "probe_gradients",
    "proofs_of",
    "squared_gradient_norms",
    "warm_up",
]
