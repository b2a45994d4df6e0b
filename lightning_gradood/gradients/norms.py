"""Squared gradient norms of a batch of images, with or without the logits of the same pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_gradood.core import Refusal, alone_with, evaluating, exact_arithmetic, without_cached_parametrizations
from lightning_gradood.gradients.batches import batched_norms
from lightning_gradood.gradients.labels import AllOnes, LabelDesign
from lightning_gradood.gradients.network_checks import check_finite_rows, check_images, check_module, structure_of
from lightning_gradood.gradients.plan import way_of


def parameter_names(network: nn.Module) -> list[str]:
    """Return the names of the L parameter tensors in the order of the norms' columns.

    Args:
        network: any module; a tensor that several modules share is listed once, under its first name.
    """
    return list(structure_of(network).parameters)


def squared_gradient_norms(
    network: nn.Module,
    images: Tensor,
    label_design: LabelDesign | Sequence[LabelDesign] = AllOnes(),  # noqa: B008 - frozen, so sharing it is harmless
) -> Tensor:
    """Return the squared L2 norm of each image's own gradient, for every parameter tensor.

    Row n equals what backpropagating image n alone would give: nothing is averaged over the batch. The network runs in
    eval mode, in its own dtype, frozen parameters included; afterwards its state is what it was. It may be called
    under `torch.inference_mode()`, autocast or no_grad: all are lifted inside.

    Args:
        network: any classifier, images in, logits [N, C] out, that treats the images of a batch independently.
        images: floating point [N, ...], cast to the dtype of the network's parameters.
        label_design: a confounding label with its loss, or K of them, which share one forward pass.

    Returns:
        float64 [N, L], columns in the order of `parameter_names(network)`; for K designs [N, K·L], design after design.
        An unused parameter has norm 0.

    Raises:
        Refusal: if an input, the network or its output admits no such number; the sentence says why and what to do.

    Reference:
        Lee and AlRegib, Eq. 1 and 2.

    Example:
        >>> import torch
        >>> squared_gradient_norms(torch.nn.Linear(3, 2), torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """
    designs = [label_design] if isinstance(label_design, LabelDesign) else list(label_design)
    return probe_gradients(network, images, designs)[0]


def probe_gradients(network: nn.Module, images: Tensor, label_designs: Sequence[LabelDesign]) -> tuple[Tensor, Tensor]:
    """Return `squared_gradient_norms` together with the logits of the same forward pass.

    Args:
        network: as for `squared_gradient_norms`.
        images: as for `squared_gradient_norms`.
        label_designs: K designs.

    Returns:
        The norms, float64 [N, K·L], and the logits [N, C], detached, in the dtype of the network's output.

    Raises:
        Refusal: as `squared_gradient_norms`.
    """
    if not label_designs:
        raise Refusal(
            "`label_designs` should name at least one label design. Got `label_designs = []`. Write e.g. [AllOnes()]."
        )
    check_module(network)
    structure = structure_of(network)
    check_images(images, structure.parameters)
    state = evaluating(network, structure.modules(network).values())
    with alone_with(network), exact_arithmetic(), without_cached_parametrizations(), state:
        norms, logits = batched_norms(network, images, label_designs, structure)
        check_finite_rows(logits, "the network's logits")
        check_finite_rows(norms, "squared gradient norms")
    return norms.flatten(1), logits


def warm_up(network: nn.Module, shape: Sequence[int]) -> str:
    """Prove the fast way on random images, so that the first batch of real ones need not wait for it.

    Args:
        network: as for `squared_gradient_norms`.
        shape: of the batches to come, [N, ...].

    Returns:
        "closed forms", or why single images are computed one after the other.

    Raises:
        Refusal: as `squared_gradient_norms`.

    Example:
        >>> import torch
        >>> warm_up(torch.nn.Linear(3, 2), (16, 3))
        'closed forms'
    """
    check_module(network)
    parameter = next(iter(structure_of(network).parameters.values()), None)
    device = None if parameter is None else parameter.device
    images = torch.rand(tuple(shape), generator=torch.Generator().manual_seed(0)).to(device)
    squared_gradient_norms(network, images)
    return way_of(network, images)
