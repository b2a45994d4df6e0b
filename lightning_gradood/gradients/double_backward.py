"""Squared gradient norms with a graph behind them, for attacks that follow a detector of norms: double backward."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from lightning_gradood.core import Refusal, evaluating, exact_arithmetic, logits_out, requiring_grad, to_float64
from lightning_gradood.gradients.labels import LabelDesign


def norms_with_graph(network: nn.Module, images: Tensor, label_designs: Sequence[LabelDesign]) -> tuple[Tensor, Tensor]:
    """Return what `probe_gradients` returns, as functions of the images that autograd differentiates.

    Each image's gradient is taken by `torch.func`, all at once; a step through norms and back costs about six plain steps.
    The logit gradient, a function of the logits, is differentiated too.

    Args:
        network: pixels in, logits out; its parameters are frozen meanwhile.
        images: floating point [N, ...], pixels in [0, 1]; with a graph or a leaf that requires grad.
        label_designs: K of them, which share a forward pass.

    Returns:
        Squared norms [N, K·L], float64, and logits [N, C], both with a graph.

    Raises:
        Refusal: an operation of the network cannot be differentiated twice, or not for several images at once.
    """
    parameters: dict[str, Tensor] = dict(network.named_parameters())
    state = dict(network.named_buffers())

    def one(parameters: dict[str, Tensor], image: Tensor) -> tuple[Tensor, Tensor]:
        def logits_of(values: dict[str, Tensor]) -> Tensor:
            return functional_call(network, (values, state), (image[None],))  # type: ignore[no-any-return]

        logits, back = vjp(logits_of, parameters)[:2]
        norms = []
        for design in label_designs:
            (gradients,) = back(design.logit_gradient(to_float64(logits)).to(logits))
            norms += [to_float64(gradient).square().sum() for gradient in gradients.values()]
        return torch.stack(norms), logits[0]

    with exact_arithmetic(), evaluating(network), requiring_grad(parameters.values(), False), logits_out(network):
        try:
            norms, logits = vmap(one, in_dims=(None, 0))(parameters, images)
        except (NotImplementedError, RuntimeError) as error:
            raise Refusal(
                "The network should be one whose gradients torch.func takes for several images at once, and differentiates "
                f"again. Got: {str(error).strip().splitlines()[0]} Attack a guard whose detector reads no gradients."
            ) from error
    return norms, logits
