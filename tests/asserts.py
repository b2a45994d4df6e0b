"""Properties that hold for every probe, each written once, a table of refusals, and the global random numbers."""

import random
import re

import numpy as np
import pytest
import torch

from lightning_gradood.core import Refusal
from lightning_gradood.probes import PixelProbe, read_probes


def assert_refused(*cases):
    """Every call is refused with its words, where `.*` stands for any others; those that are not are all listed."""
    missed = []
    for number, (call, words) in enumerate(cases):
        try:
            call()
            said = "no refusal"
        except Refusal as refusal:
            said = str(refusal)
        if not re.search(".*".join(re.escape(part) for part in words.split(".*")), said, re.DOTALL):
            missed.append((number, words, said))
    assert missed == []


def random_states():
    return torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()


def state_of(network):
    """Everything of a network, and of torch, that reading it could leave changed."""
    return (
        [module.training for module in network.modules()],
        [(parameter.requires_grad, parameter.grad) for parameter in network.parameters()],
        [(name, value.tolist()) for name, value in network.state_dict().items()],
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules()],
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
    )


def assert_reading_leaves_everything_as_it_was(probe, network, images):
    """Network, images and torch's modes stay, also when the images cannot be read; reading again gives the same bits."""
    before, given = state_of(network), images.clone()
    values = probe(network, given)
    assert torch.equal(given, images)
    assert not given.requires_grad
    assert not values.requires_grad
    assert torch.equal(probe(network, given), values)
    assert state_of(network) == before
    if isinstance(probe, PixelProbe):
        return  # it copies any images
    with pytest.raises((Refusal, RuntimeError, IndexError)):
        probe(network, images[:, 0])
    assert state_of(network) == before


def assert_rows_belong_to_their_images(probe, network, images):
    """A row follows its image into any order, and depends on no other image."""
    values = probe(network, images)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(3))
    for rows in (order, order[:1], order[1:2], order[2:3]):
        torch.testing.assert_close(probe(network, images[rows]), values[rows], rtol=1e-4, atol=1e-6)


def assert_modes_of_the_caller_change_nothing(probe, network, images):
    """Inference mode, where Lightning's predict hooks run, and autocast give the values of plain float32."""
    expected = probe(network, images)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = read_probes([probe], network, images.clone()).values[probe.name]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
