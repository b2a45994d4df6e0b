"""Blocks of networks of today: exact, the fast way, at any batch size."""

import pytest
import torch
from torch import nn

from lightning_gradood.core.network_state import evaluating, exact_arithmetic
from lightning_gradood.gradients import squared_gradient_norms
from lightning_gradood.gradients.plan import plan_for

from . import truth
from .block_modules import BLOCKS
from .toys import pictures, trained


def built(name: str) -> nn.Module:
    torch.manual_seed(sum(map(ord, name)))
    return trained(BLOCKS[name]()).double().eval()


@pytest.mark.parametrize("name", BLOCKS)
def test_block_is_exact_and_fast(name: str) -> None:
    network = built(name)
    for number in (4, 1, 2, 3, 5, 8, 16):  # there are 16 tokens and 8 rows
        images = pictures(number, seed=number)
        truth.assert_exact(squared_gradient_norms(network, images), truth.true_norms(network, images))
    with exact_arithmetic(), evaluating(network):
        plan = plan_for(network, pictures(4), list(network.parameters()))
    assert (plan.trace is None) == name.startswith("rows"), plan.reason  # recurrent cells have no closed form
