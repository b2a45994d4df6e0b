"""Networks that nobody here wrote: every one takes the fast way and equals plain autograd in float64."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from lightning_gradood.core.network_state import exact_arithmetic, frozen_network
from lightning_gradood.gradients import squared_gradient_norms
from lightning_gradood.gradients.plan import plan_for

from . import truth
from .toys import trained

# vit_b_16 without its 86 million parameters
SMALL = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 3, "hidden_dim": 48, "mlp_dim": 96}

NETWORKS: dict[str, dict[str, int]] = {
    "resnet18": {}, "densenet121": {}, "mobilenet_v3_small": {}, "efficientnet_b0": {}, "convnext_tiny": {},
    "shufflenet_v2_x0_5": {}, "VisionTransformer": SMALL, "swin_t": {}, "regnet_y_400mf": {},
}  # fmt: skip


def _network(name: str, **settings: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    network = getattr(torchvision.models, name)(num_classes=10, **settings)
    return trained(network).double().eval(), torch.rand(2, 3, 32, 32, dtype=torch.float64)


@pytest.mark.parametrize("name", NETWORKS)
def test_torchvision_network_equals_the_loop(name: str) -> None:
    network, images = _network(name, **NETWORKS[name])
    found = squared_gradient_norms(network, images)
    truth.assert_exact(found, truth.true_norms(network, images))
    with exact_arithmetic(), frozen_network(network):
        plan = plan_for(network, images, list(network.parameters()))
    assert plan.trace is not None, plan.reason
