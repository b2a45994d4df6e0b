"""The digest sees every bit of the weights and nothing else; the description sees every plain attribute."""

import json

import torch
import torch.nn.functional as F
from torch import nn

from lightning_gradood.networks import Normalized, architecture, resnet20, state_digest


class Scaled(nn.Module):
    def __init__(self, **attributes):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.scale = 1
        for name, value in attributes.items():
            setattr(self, name, value)


def _seeded(seed=0):
    torch.manual_seed(seed)
    return resnet20()


def test_digest_is_a_function_of_the_weights_and_sees_every_change_of_tensors():
    network = _seeded()
    digests = [state_digest(network), state_digest(_seeded(seed=1))]
    assert len(bytes.fromhex(digests[0])) == 32
    assert state_digest(_seeded()) == digests[0]
    for change in (
        lambda n: n.get_parameter("conv1.weight").data.view(-1)[0].mul_(1 + 1e-6),
        lambda n: n.get_buffer("bn1.running_var").view(-1)[0].add_(1e-6),
        lambda n: n.get_buffer("bn1.num_batches_tracked").add_(1),
        lambda n: n.double(),
        lambda n: setattr(n.linear.weight, "data", n.linear.weight.data.view(5, 128)),
        lambda n: n.get_parameter("linear.bias").data.copy_(n.get_parameter("linear.bias").data.flip(0)),
        lambda n: setattr(n, "linear", nn.Sequential(n.linear)),
    ):
        change(network)
        digests.append(state_digest(network))
    outside_the_state_dict = (Normalized(_seeded(), [mean] * 3, [0.5] * 3) for mean in (0.5, 0.4))
    digests += map(state_digest, outside_the_state_dict)
    assert len(set(digests)) == len(digests)
    # cached records outlive a process; if this changes, every cache is read in vain
    layer = nn.Linear(2, 1)
    nn.init.constant_(layer.weight, 0.5)
    nn.init.constant_(layer.bias, -1.0)
    assert state_digest(layer) == "e97dd5d889532e4dabbc0661e4891b82a340a5be8ae590d12a2f25c3e50be1af"


def test_digest_and_description_ignore_how_the_network_is_used():
    network = _seeded()
    before = state_digest(network), architecture(network)
    network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    network.conv1.register_forward_hook(lambda *arguments: None)
    assert (state_digest(network), architecture(network)) == before


def test_digest_takes_every_dtype():
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.bool, torch.complex64, torch.int8):
        network = nn.Module()
        network.register_buffer("values", torch.tensor([0, 1]).to(dtype))
        network.register_buffer("scalar", torch.tensor(1).to(dtype))
        network.register_buffer("nothing", torch.empty(0, dtype=dtype))
        digest = state_digest(network)
        network.values[0] = 1
        assert state_digest(network) != digest


def test_description_names_every_submodule_and_tells_values_of_one_attribute_apart():
    plain = [1, 2, 1.5, True, "1", None, (1, 2), (2, 1), [(1, (2,))], {"a": 1}, {"a": 2}]
    values = [*plain, torch.zeros(2), torch.ones(2), F.relu, F.gelu, torch.tanh, nn.ReLU]
    described = {json.dumps(architecture(Scaled(scale=value))) for value in values}
    described |= {json.dumps(architecture(Scaled(**{name: 1}))) for name in ("_private", "more")}
    assert len(described) == len(values) + 2
    assert architecture(Scaled(other=object())) == architecture(Scaled(other=object()))
    network = Normalized(resnet20(), mean=[0.5] * 3, std=[0.5] * 3)
    described = architecture(network)
    assert [entry["name"] for entry in described] == [name for name, _ in network.named_modules()]
    assert described[0]["class"] == "lightning_gradood.networks.architectures.Normalized"
    by_name = {entry["name"]: entry for entry in described}
    assert by_name["network.layer2.0"]["attributes"] == {"new_channels": 16, "stride": 2}
    assert by_name["network.conv1"]["attributes"]["kernel_size"] == [3, 3]
