"""Squared gradient norms of a batch of images, with or without the logits of the same pass.

The public functions refuse what has no answer; behind them input is trusted. The batch is cut into micro-batches, so
that memory does not grow with it. Each goes through closed forms if the network's way allows it (`comparison`), and
some are compared with the loop.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lightning_gradood.core import (
    Refusal,
    check_batch,
    check_finite_rows,
    probing_state,
    refuse_single_image,
    requiring_grad,
)
from lightning_gradood.gradients import engine
from lightning_gradood.gradients.comparison import MISMATCH, NO_NUMBERS, SMALL, Checks, Way, find_fault, prove
from lightning_gradood.gradients.copies import Afresh
from lightning_gradood.gradients.fingerprint import Fingerprint, Structure, check_network, structure_of
from lightning_gradood.gradients.independence import check_same_logits, check_statistics
from lightning_gradood.gradients.labels import AllOnes, LabelDesign
from lightning_gradood.gradients.loop import check_logits, loop_norms

_PASS_OF_LOGIT_GRADIENTS, _IMAGE_OF_LOOP = 0.7, 2.5  # what comparing costs, in images of the fast way
_chance = random.Random()  # not the caller's, and not the same images in every run


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
    structure = structure_of(network)
    _check_images(network, images, structure)
    with probing_state(network, structure.modules(network).values()):
        work = _Work(network, label_designs, structure, way_for(network, images, structure))
        norms, logits = work.batch(images)
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
    parameter = next(iter(structure_of(network).parameters.values()), None)
    images = torch.rand(tuple(shape), generator=torch.Generator().manual_seed(0))
    images = images.to(None if parameter is None else parameter.device)
    squared_gradient_norms(network, images)
    way, _ = _ways[network][_key(images)]
    if way.trace is not None and (way.sizes or images.shape[0] == 1):
        return "closed forms"
    return f"one image at a time: {way.reason or 'the network does something else in larger batches'}"


def _check_images(network: nn.Module, images: Tensor, structure: Structure) -> None:
    """Refuse images that are not a batch on the device of the network's parameters."""
    found = {parameter.device for parameter in structure.parameters.values()}
    if not found:
        raise Refusal(
            "`network` should have at least one parameter, because gradients are taken with respect to parameters. "
            "Got a network without any. Pass the classifier itself."
        )
    check_batch(images)
    if any(device.type == "meta" for device in (images.device, *found)):
        what = "`images`" if images.device.type == "meta" else "`network`"
        raise Refusal(
            f"{what} should hold numbers. Got tensors on the meta device, which have shapes alone. "
            "Create them on the CPU or an accelerator; `network.to_empty(device=...)` and load_state_dict do so for weights."
        )
    if found != {images.device}:
        devices = sorted(map(str, found))
        raise Refusal(
            "`images` should be on the device of the network's parameters. "
            f"Got `images.device = {images.device}` and parameters on {', '.join(devices)}. "
            f"Move them with `images.to({devices[0]!r})`."
        )
    refuse_single_image(network, images)


_Key = tuple[torch.Size, torch.dtype, torch.device]
_ways: WeakKeyDictionary[nn.Module, dict[_Key, tuple[Way, Fingerprint]]] = WeakKeyDictionary()


def way_for(network: nn.Module, images: Tensor, structure: Structure) -> Way:
    """Return the way for a network in eval mode and images of this shape; make it on the first call."""
    parameters = list(structure.parameters.values())
    ways = _ways.setdefault(network, {})
    known = ways.get(_key(images))
    if known is not None and not any(parameter._backward_hooks for parameter in parameters):
        way, fingerprint = known
        # a single image's loop holds for any network
        if (images.shape[0] == 1 and not way.single) or fingerprint.fits(structure, network):
            return way
    check_network(network, structure)
    check_statistics(structure.modules(network).items())
    way = prove(network, images, parameters)
    if way.reason != NO_NUMBERS:  # which the next batch may have
        ways[_key(images)] = (way, Fingerprint(structure, network, way.moving))
    return way


def _key(images: Tensor) -> _Key:
    return (images.shape[1:], images.dtype, images.device)


class _Work:
    """One call's network, label designs and way; the way changes where an image shows that it was wrong."""

    def __init__(
        self, network: nn.Module, label_designs: Sequence[LabelDesign], structure: Structure, way: Way
    ) -> None:
        self.subject = network if way.starts is None else Afresh(network, way.starts)
        self.label_designs, self.way = label_designs, way
        self.names, self.parameters = list(structure.parameters), list(structure.parameters.values())

    def batch(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `loop_norms` returns, in the fastest way that is right."""
        way, first, done = self.way, 0, []
        size = way.limits.micro_batch if way.trace is None else way.micro_batch
        for part in torch.tensor_split(images, math.ceil(images.shape[0] / size)):
            # a clone, because a tensor made in inference mode cannot be saved for backward
            part = (part.clone() if part.is_inference() else part.detach()).to(self.parameters[0].dtype)
            takes_loop = way.trace is None or (images.shape[0] == 1 and not way.single)
            done.append(self.loop(part) if takes_loop else self.micro_batch(part, first))
            first += part.shape[0]
        return torch.cat([norms for norms, _ in done]), torch.cat([logits for _, logits in done])

    def loop(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """One image at a time."""
        return loop_norms(self.subject, images, self.label_designs, self.parameters, self.way.reorders, self.way.scales)

    def micro_batch(self, images: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """The fast way, or the loop where it fails; `first` is the number of the first image.

        A batch that does not follow the way is refused if its images influence each other.
        """
        way = self.way
        is_new = images.shape[0] not in way.sizes
        checks = self._due(images.shape[0], is_new)
        outcome = self._fast(images, checks, first, is_new)
        if outcome is not None and not (checks and checks.logit_gradients):
            unseen = _reached(outcome[0]) & ~way.columns.to(outcome[0].device)
            if bool(unseen.any()):
                row = int(outcome[0][:, :, unseen].sum((1, 2)).argmax())  # the image that reaches new parameters most
                checks = Checks(logit_gradients=True, row=row)
                outcome = self._fast(images, checks, first, is_new=True)
        if outcome is None:
            norms, logits = self.loop(images)
            with requiring_grad(self.parameters, False):
                check_same_logits(self.subject, images, logits)
            return norms, logits
        if checks and checks.logit_gradients:
            way.columns = way.columns | _reached(outcome[0]).to(way.columns.device)
            way.sizes.add(images.shape[0])
        return outcome

    def _due(self, number: int, is_new: bool) -> Checks | None:
        """Choose the comparisons to make: all for a new size of micro-batch, else few, at random."""
        row = _chance.randrange(number)
        if is_new:
            return Checks(logit_gradients=True, row=row, logits=number > SMALL)
        share = self.way.limits.recheck / 2  # for each of two comparisons
        logit_gradients = number > 1 and _chance.random() < share / _PASS_OF_LOGIT_GRADIENTS
        loop = _chance.random() < share * number / _IMAGE_OF_LOOP
        return Checks(logit_gradients, row if loop else None) if logit_gradients or loop else None

    def _fast(self, images: Tensor, checks: Checks | None, first: int, is_new: bool) -> tuple[Tensor, Tensor] | None:
        """Norms and logits; None where the pass differs from the way or fails."""
        keep = checks is not None
        try:
            with requiring_grad(self.parameters, False):
                pass_ = engine.forward(self.subject, images, self.parameters, len(self.label_designs) + keep)
                if pass_.trace != self.way.trace or pass_.unknown:
                    return None
                check_logits(pass_.output, images.shape[0])
                norms = engine.backward(pass_, self.label_designs, keep)
                fault = None if checks is None else find_fault(pass_, self.label_designs[0], norms[:, 0], checks)
        except Refusal:
            raise
        except Exception:  # the loop may succeed where interception fails
            return None
        if fault is None:
            return norms, pass_.output.detach()
        row, column = fault
        if column is not None and not is_new:
            raise Refusal(
                "`network` should give each image the same gradient in a batch as alone. "
                f"Got another one for `{self.names[column]}` of image {first + row}, in a batch of {images.shape[0]}, "
                "although earlier batches agreed. Look for what depends on the other images, on the number of images or "
                "on earlier calls there."
            )
        if column is not None:  # the loop from now on, as nothing was returned yet
            self.way.take_loop(MISMATCH)
        return None


def _reached(norms: Tensor) -> Tensor:
    """Which parameters have a gradient other than zero in norms [N, K, L], bool [L]."""
    return (norms > 0).any(1).any(0)
