"""Squared gradient norms of a batch of images, with or without the logits of the same pass.

The batch is cut into micro-batches, so that memory does not grow with it, and each pass is compared with the plan.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lightning_gradood.core import (
    Refusal,
    check_finite_rows,
    probing_state,
    refuse_single_image,
    requiring_grad,
)
from lightning_gradood.gradients import costs, engine
from lightning_gradood.gradients.coupling import check_same_logits
from lightning_gradood.gradients.fallback import loop_norms
from lightning_gradood.gradients.labels import AllOnes, LabelDesign
from lightning_gradood.gradients.network_checks import Structure, check_images, check_logits, check_module, structure_of
from lightning_gradood.gradients.plan import distrust, plan_for, way_of
from lightning_gradood.gradients.proof import MISMATCH, Plan
from lightning_gradood.gradients.verification import SMALL, Checks, Fault, Subject, find_fault

_PASS_OF_LOGIT_GRADIENTS, _IMAGE_OF_LOOP = 0.7, 2.5  # what comparing costs, in images of the fast way
_chance = random.Random()  # not the caller's, and not the same images in every run


def batched_norms(
    network: nn.Module,
    images: Tensor,
    label_designs: Sequence[LabelDesign],
    structure: Structure,
) -> tuple[Tensor, Tensor]:
    """Return what `loop_norms` returns, in the fastest way that is right for a network in eval mode."""
    plan = plan_for(network, images, structure)
    work = _Work(network, label_designs, structure.parameters, plan)
    done, first = [], 0
    if images.shape[0] == 1 and not plan.single:
        return work.loop(_ready(images, work.parameters[0].dtype))
    size = plan.micro_batch if plan.trace is not None else costs.limits(images.device).micro_batch
    for part in torch.tensor_split(images, math.ceil(images.shape[0] / size)):
        part = _ready(part, work.parameters[0].dtype)
        done.append(work.loop(part) if work.plan.trace is None else work.micro_batch(part, first))
        first += part.shape[0]
    return torch.cat([norms for norms, _ in done]), torch.cat([logits for _, logits in done])


def _ready(images: Tensor, dtype: torch.dtype) -> Tensor:
    # a clone, because a tensor made in inference mode cannot be saved for backward
    return (images.clone() if images.is_inference() else images.detach()).to(dtype)


class _Work:
    """One call's network, designs and plan; the plan is replaced where an image shows that it was wrong."""

    def __init__(
        self,
        network: nn.Module,
        label_designs: Sequence[LabelDesign],
        parameters: Mapping[str, nn.Parameter],
        plan: Plan,
    ) -> None:
        self.network, self.label_designs, self.plan = network, label_designs, plan
        self.subject = plan.subject(network)
        self.names, self.parameters = list(parameters), list(parameters.values())

    def loop(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """One image at a time."""
        return loop_norms(
            self.subject, images, self.label_designs, self.parameters, self.plan.reorders, self.plan.scales
        )

    def micro_batch(self, images: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """The fast way, or the loop where it fails; `first` is the number of the first image."""
        checked = self.plan.checked
        is_new = images.shape[0] not in checked.sizes
        checks = self._due(images, is_new)
        outcome = self._fast(images, checks, first, is_new)
        if outcome is None:
            return self._alone(images)
        reached = (outcome[0] > 0).any(1).any(0)
        if not checks.logit_gradients and bool((new := reached & ~checked.columns.to(reached)).any()):
            row = int(outcome[0][:, :, new].sum((1, 2)).argmax())  # the image that reaches the new parameters most
            checks = Checks(logit_gradients=True, row=row)
            outcome = self._fast(images, checks, first, is_new=True)
            if outcome is None:
                return self._alone(images)
        if checks.logit_gradients:
            checked.columns = checked.columns | reached.to(checked.columns)
            checked.sizes.add(images.shape[0])
        return outcome

    def _alone(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The loop, for a batch that does not follow the plan; refuse it if its images influence each other."""
        norms, logits = self.loop(images)
        with requiring_grad(self.parameters, False):
            check_same_logits(self.subject, images, logits)
        return norms, logits

    def _due(self, images: Tensor, is_new: bool) -> Checks:
        """Choose the comparisons to make: all for a new size of micro-batch, else few, at random."""
        number = images.shape[0]
        row = _chance.randrange(number)
        if is_new:
            return Checks(logit_gradients=True, row=row, logits=number > SMALL)
        share = costs.limits(images.device).recheck / 2  # for each of two comparisons
        return Checks(
            logit_gradients=number > 1 and _chance.random() < share / _PASS_OF_LOGIT_GRADIENTS,
            row=row if _chance.random() < share * number / _IMAGE_OF_LOOP else None,
        )

    def _fast(self, images: Tensor, checks: Checks, first: int, is_new: bool) -> tuple[Tensor, Tensor] | None:
        """Norms and logits; None where the pass differs from the plan or fails."""
        plan, passes = self.plan, len(self.label_designs) + bool(checks)
        try:
            with requiring_grad(self.parameters, False):
                pass_ = engine.forward(self.subject, images, self.parameters, passes)
                if tuple(pass_.watch.trace) != plan.trace or pass_.watch.unknown:
                    return None
                check_logits(pass_.output, images.shape[0])
                norms = engine.backward(pass_, self.label_designs, keep=bool(checks))
                subject = Subject(self.subject, self.parameters, plan.reorders)
                fault = checks and find_fault(subject, images, self.label_designs[0], pass_, norms[:, 0], checks)
        except Refusal:
            raise
        except Exception:  # the loop may succeed where interception fails
            return None
        if fault:
            self._doubt(fault, images, first, is_new)
            return None
        return norms, pass_.output.detach()

    def _doubt(self, fault: Fault, images: Tensor, first: int, is_new: bool) -> None:
        """Take the loop from now on where nothing was returned yet; refuse where earlier numbers may be wrong, too."""
        if fault.kind == "logits":
            return  # `_alone` compares them with the loop's
        if not is_new:
            raise Refusal(
                "`network` should give each image the same gradient in a batch as alone. "
                f"Got another one for `{self.names[fault.column]}` of image {first + fault.row}, in a batch of "
                f"{images.shape[0]}, although earlier batches agreed. Look for what depends on the other images, on the "
                "number of images or on earlier calls there."
            )
        self.plan = distrust(self.network, images, self.plan, MISMATCH)


def parameter_names(network: nn.Module) -> list[str]:
    """Return the L parameter tensors' names in the order of the norms' columns, a shared one under its first name."""
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
    """Return `squared_gradient_norms` for K label designs together with the logits of the same forward pass.

    Returns:
        The norms, float64 [N, K·L], and the logits [N, C], detached, in the dtype of the network's output.
    """
    if not label_designs:
        raise Refusal(
            "`label_designs` should name at least one label design. Got `label_designs = []`. Write e.g. [AllOnes()]."
        )
    check_module(network)
    structure = structure_of(network)
    check_images(images, structure.parameters)
    refuse_single_image(network, images)
    with probing_state(network, structure.modules(network).values()):
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
