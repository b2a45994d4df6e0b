"""Squared gradient norms of a batch of images, with or without the logits of the same pass.

The batch is cut into micro-batches, so that memory does not grow with it. Each goes through closed forms if the
network's way allows it (`comparison`), and some are compared with the loop.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from lightning_gradood.core import (
    Refusal,
    check_batch,
    check_finite_rows,
    evaluating,
    exact_arithmetic,
    first_line,
    logits_out,
    probing_state,
    refuse_single_image,
    requiring_grad,
    to_float64,
)
from lightning_gradood.gradients import comparison, costs, engine
from lightning_gradood.gradients.changes import Afresh
from lightning_gradood.gradients.comparison import Checks, Way
from lightning_gradood.gradients.labels import AllOnes, LabelDesign
from lightning_gradood.gradients.loop import check_logits, check_same_logits, loop_gradients, loop_norms

_PASS_OF_LOGIT_GRADIENTS, _IMAGE_OF_LOOP = 0.7, 2.5  # what comparing costs, in images of the fast way
_ELEMENTS = 1 << 25  # of the gradients that `layer_gradients` holds at a time
_chance = random.Random()  # not the caller's, and not the same images in every run


def parameter_names(network: nn.Module) -> list[str]:
    """Return the L parameter tensors' names in the order of the norms' columns, a shared one under its first name."""
    return [name for name, _ in network.named_parameters()]


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

    Examples:
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
        raise Refusal("`label_designs` should name at least one label design. Got none. Write e.g. [AllOnes()].")
    parameters = _checked(network, images)
    with probing_state(network):
        way = way_for(network, images, parameters)
        norms, logits = _Work(network, parameters, label_designs, way).batch(images)
    check_finite_rows(logits, "the network's logits")
    check_finite_rows(norms, "squared gradient norms")
    return norms.flatten(1), logits


def layer_gradients(
    network: nn.Module, images: Tensor, names: Sequence[str], logit_gradient: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return each image's own gradient in some parameter tensors, flattened side by side, [N, P] in the network's dtype.

    Args:
        network, images: as for `squared_gradient_norms`.
        names: of the parameters, as in `parameter_names(network)`.
        logit_gradient: the gradient by the logits, [N, C] of detached logits [N, C]; row n of image n's logits alone.

    Examples:
        >>> network = torch.nn.Linear(3, 2)
        >>> layer_gradients(network, torch.ones(5, 3), ["weight"], torch.ones_like).shape
        torch.Size([5, 6])
    """
    parameters, places = _checked(network, images), dict(network.named_parameters())
    wanted = [places[name] for name in names]
    with probing_state(network):
        way = way_for(network, images, parameters)
        own = network if way.starts is None else Afresh(network, way.starts)
        size = max(min(way.micro_batch, _ELEMENTS // sum(one.numel() for one in wanted)), 1)
        rows = []
        for part in torch.split(images, size):
            part = (part.clone() if part.is_inference() else part.detach()).to(parameters[0].dtype)
            pass_ = None if way.reason or len(part) == 1 else engine.forward(own, part, parameters, 1)
            if pass_ is not None and pass_.trace == way.trace and not pass_.unknown:
                pass_.accumulator.hold(wanted)
                engine.norms_for(pass_, logit_gradient(pass_.output.detach()), keep=False)
                rows.append(torch.cat([pass_.accumulator.held(one).flatten(1) for one in wanted], 1))
            else:
                rows += [loop_gradients(own, image, wanted, logit_gradient) for image in torch.split(part, 1)]
    return torch.cat(rows)


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
                f"again. Got: {first_line(error)}. Attack a guard whose detector reads no gradients."
            ) from error
    return norms, logits


def way_taken(network: nn.Module, images: Tensor) -> str:
    """Say how the norms of images [N, ...] like these were computed last: "closed forms", or why one at a time; "" before."""
    way = _ways.get(network, {}).get(_key(images))
    if way is None:
        return ""
    if not way.reason and (way.sizes or images.shape[0] == 1):
        return "closed forms"
    return f"one image at a time: {way.reason or 'the network does something else in larger batches'}"


def _checked(network: nn.Module, images: Tensor) -> list[nn.Parameter]:
    """The network's parameters; refuse what cannot be differentiated throughout, and images that are no batch for it."""
    if not isinstance(network, nn.Module) or isinstance(network, nn.parallel.DistributedDataParallel | nn.DataParallel):
        raise Refusal(
            f"`network` should be a bare torch.nn.Module. Got `network = {type(network).__name__}`. "
            "Pass the module itself, not a function that calls it, and of a parallel wrapper `network.module`."
        )
    named, got = list(network.named_parameters()), ""
    for name, parameter in named:
        if not parameter.is_floating_point():
            got = f"`{name}` of {parameter.dtype}; torch.view_as_real keeps complex numbers in real ones"
        if parameter._backward_hooks:
            got = f"a hook on `{name}`, which may change its gradient; take it off meanwhile by `handle.remove()`"
    if got or not named:
        raise Refusal(
            "`network` should have real floating point parameters, without hooks, that gradients can be taken of. "
            f"Got {got or 'no parameter; pass the classifier itself'}."
        )
    check_batch(images)
    devices = {parameter.device for _, parameter in named}
    if devices != {images.device}:
        raise Refusal(
            "`images` should be on the device of the network's parameters. "
            f"Got `images.device = {images.device}` and parameters on {', '.join(sorted(map(str, devices)))}. Move one of them."
        )
    refuse_single_image(network, images)
    return [parameter for _, parameter in named]


_Key = tuple[torch.Size, torch.dtype, torch.device]
_ways: WeakKeyDictionary[nn.Module, dict[_Key, Way]] = WeakKeyDictionary()


def way_for(network: nn.Module, images: Tensor, parameters: Sequence[nn.Parameter]) -> Way:
    """Return the way for a frozen network in eval mode and images of this shape; make it on the first call."""
    ways = _ways.setdefault(network, {})
    way = ways.get(_key(images))
    if way is None or way.fingerprint is None or not way.fingerprint.fits(network):
        way = comparison.prove(network, images, parameters)
        if way.reason != comparison.NO_NUMBERS:  # which the next batch may have
            ways[_key(images)] = way
    return way


def _key(images: Tensor) -> _Key:
    return (images.shape[1:], images.dtype, images.device)


class _Work:
    """One call's network, label designs and way; the way changes where an image shows that it was wrong."""

    def __init__(
        self, network: nn.Module, parameters: list[nn.Parameter], label_designs: Sequence[LabelDesign], way: Way
    ) -> None:
        self.network = network if way.starts is None else Afresh(network, way.starts)
        self.parameters, self.label_designs, self.way = parameters, label_designs, way

    def batch(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `loop_norms` returns, in the fastest way that is right."""
        way, first, done = self.way, 0, []
        limits = costs.limits(images.device)
        size = limits.micro_batch if way.reason else way.micro_batch
        for part in torch.tensor_split(images, math.ceil(images.shape[0] / size)):
            # a clone, because a tensor made in inference mode cannot be saved for backward
            part = (part.clone() if part.is_inference() else part.detach()).to(self.parameters[0].dtype)
            takes_loop = way.reason or (images.shape[0] == 1 and not way.single)
            done.append(self.loop(part) if takes_loop else self.micro_batch(part, first, limits.recheck))
            first += part.shape[0]
        return torch.cat([norms for norms, _ in done]), torch.cat([logits for _, logits in done])

    def loop(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """One image at a time."""
        scales = self.way.reason != comparison.NOT_LINEAR
        return loop_norms(self.network, images, self.label_designs, self.parameters, self.way.reorders, scales)

    def micro_batch(self, images: Tensor, first: int, recheck: float) -> tuple[Tensor, Tensor]:
        """The fast way, or the loop where it fails; `first` is the number of the first image.

        All comparisons are made for a new size of micro-batch and where parameters are reached for the first time, else
        few, at random. A batch that does not follow the way is refused if its images influence each other.
        """
        way, number = self.way, images.shape[0]
        row, share = _chance.randrange(number), recheck / 2  # for each of two comparisons
        if number not in way.sizes:
            checks = Checks(True, row, logits=number > comparison.SMALL, is_new=True)
        else:
            of_logit_gradients = number > 1 and _chance.random() < share / _PASS_OF_LOGIT_GRADIENTS
            checks = Checks(of_logit_gradients, row if _chance.random() < share * number / _IMAGE_OF_LOOP else None)
        outcome = self._fast(images, checks, first)
        if outcome is not None and not checks.logit_gradients:
            unseen = _reached(outcome[0]) & ~way.columns.to(outcome[0].device)
            if bool(unseen.any()):
                row = int(outcome[0][:, :, unseen].sum((1, 2)).argmax())  # the image that reaches new parameters most
                checks = Checks(True, row, is_new=True)
                outcome = self._fast(images, checks, first)
        if outcome is None:
            norms, logits = self.loop(images)
            check_same_logits(self.network, images, logits)
            return norms, logits
        if checks.logit_gradients:
            way.columns = way.columns | _reached(outcome[0]).to(way.columns.device)
            way.sizes.add(number)
        return outcome

    def _fast(self, images: Tensor, checks: Checks, first: int) -> tuple[Tensor, Tensor] | None:
        """Norms and logits; None where the pass differs from the way or fails."""
        keep = checks.logit_gradients or checks.row is not None
        try:
            pass_ = engine.forward(self.network, images, self.parameters, len(self.label_designs) + keep)
            if pass_.trace != self.way.trace or pass_.unknown:
                return None
            check_logits(pass_.output, images.shape[0])
            norms = engine.backward(pass_, self.label_designs, keep)
            fault = comparison.find_fault(pass_, self.label_designs[0], norms[:, 0], checks) if keep else None
        except Refusal:
            raise
        except Exception:  # the loop may succeed where interception fails
            return None
        if fault is None:
            return norms, pass_.output.detach()
        row, column = fault
        if column is not None and not checks.is_new:
            raise Refusal(
                "`network` should give each image the same gradient in a batch as alone. Got another one for "
                f"`{parameter_names(self.network)[column]}` of image {first + row}, in a batch of {images.shape[0]}, although "
                "earlier batches agreed. Look for what depends on the other images, on their number or on earlier calls there."
            )
        if column is not None:  # the loop from now on, as nothing was returned yet
            self.way.take_loop(comparison.MISMATCH)
        return None


def _reached(norms: Tensor) -> Tensor:
    """Which parameters have a gradient other than zero in norms [N, K, L], bool [L]."""
    return (norms > 0).any(1).any(0)
