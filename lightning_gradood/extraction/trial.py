"""A trial on a few images of whether detectors can read a network."""

from collections.abc import Sequence
from contextlib import suppress

from torch import Tensor, nn

from lightning_gradood.core import NotFinite, generator_states, restore_generators
from lightning_gradood.networks import TwoLogits
from lightning_gradood.probes import Probe, read_probes
from lightning_gradood.tasks import check_network


def with_two_logits(network: nn.Module) -> nn.Module:
    """A network with one logit as `TwoLogits`."""
    return network if isinstance(network, TwoLogits) else TwoLogits(network)


def try_probes(probes: Sequence[Probe], network: nn.Module, images: Tensor) -> None:
    """Read a few images and forget them, so that a network that cannot be read is refused before any long work.

    Network and random generators are as before afterwards.

    Args:
        probes: those that need no training images are tried.
        network: pixels in, logits out; a single logit is taken as `TwoLogits`.
        images: float [N, C, H, W].

    Raises:
        Refusal: a probe does not fit the network.
    """
    generators = generator_states()
    device = next((one.device for one in network.parameters()), images.device)
    try:
        ready = [probe for probe in probes if not probe.needs_preparation]
        if check_network(network, images.to(device), None) == 1:
            network = with_two_logits(network)
        with suppress(NotFinite):  # what to do with such images is decided where all are read
            read_probes(ready, network, images.to(device))
    finally:
        restore_generators(generators)
