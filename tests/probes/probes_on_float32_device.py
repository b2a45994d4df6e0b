"""Every probe on a device without float64: the columns of the CPU; see tests/test_devices_without_float64.py."""

import copy

import pytest
import torch
from float32_device import without_float64

from lightning_gradood import detectors, probes
from lightning_gradood.detectors import GradNormProbe, ImageStatisticsProbe, MahalanobisProbe, OdinProbe, ViewsProbe
from lightning_gradood.gradients import AllOnes, Predicted
from lightning_gradood.networks import CifarResNet, Normalized
from lightning_gradood.probes import (
    FeatureProbe,
    FeatureSpreadProbe,
    GradientProbe,
    LogitsProbe,
    PenultimateProbe,
    PixelProbe,
    Probe,
    read_probes,
)
from lightning_gradood.report import first_layer

PROBES = [
    GradientProbe(AllOnes()),
    GradientProbe(Predicted()),
    LogitsProbe(),
    FeatureProbe(),
    FeatureSpreadProbe(),
    PenultimateProbe(),
    GradNormProbe(),
    ImageStatisticsProbe(),
    OdinProbe(),
    MahalanobisProbe(),
    MahalanobisProbe(magnitudes=[0, 0.002, 0.1]),
    ViewsProbe(),
    *(PixelProbe(dtype) for dtype in ("uint8", "float16", "float32")),
]


@pytest.fixture
def device():
    with without_float64() as device:
        yield device


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = Normalized(CifarResNet(1, 4), mean=[0.4] * 3, std=[0.3] * 3)
    network.train()
    network(torch.rand(64, 3, 16, 16))  # running statistics
    return network.eval()


@pytest.fixture
def images():
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def training(device="cpu"):
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        images, labels = torch.rand(40, 3, 16, 16, generator=generator), torch.arange(40) % 4
        yield images.to(device), labels.to(device)


def test_no_probe_is_forgotten():
    rooms = {**vars(probes), **vars(detectors)}
    found = {one for one in rooms.values() if isinstance(one, type) and issubclass(one, Probe)}
    assert {type(probe) for probe in PROBES} == found - {Probe, probes.FeatureLayerProbe, probes.SharedLogitsProbe}


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_probe_has_the_columns_of_the_cpu(probe, network, images, device):
    there = copy.deepcopy(network).to(device)
    if probe.needs_preparation:
        state = probe.prepare(network, training())
        found = probe.prepare(there, training(device))
        assert {tensor.device.type for tensor in found.values()} == {"cpu"}
        for name in state:
            if name.endswith("means"):  # the sign of a direction is free
                torch.testing.assert_close(found[name], state[name], rtol=1e-6, atol=1e-12)
        probe.load(state)
    truth, values = probe(network, images), probe(there, images.to(device)).cpu()
    assert values.dtype == truth.dtype
    torch.testing.assert_close(values, truth, rtol=1e-6, atol=1e-6 * float(truth.double().abs().max()))


def test_probes_prepared_on_the_device_give_the_distances_of_the_cpu(network, images, device):
    here, there = MahalanobisProbe(), MahalanobisProbe()
    here.load(here.prepare(network, training()))
    twin = copy.deepcopy(network).to(device)
    there.load(there.prepare(twin, training(device)))
    torch.testing.assert_close(there(twin, images.to(device)), here(network, images), rtol=1e-6, atol=0)


def test_probes_read_together(network, images, device):
    asked = [probe for probe in PROBES if not probe.needs_preparation]
    truth = read_probes(asked, network, images)
    found = read_probes(asked, copy.deepcopy(network).to(device), images.to(device))
    for name, values in truth.values.items():
        atol = 1e-6 * float(values.double().abs().max())
        torch.testing.assert_close(found.values[name].cpu(), values, rtol=1e-6, atol=atol)


def test_under_inference_mode(network, images, device):
    truth = OdinProbe()(network, images)
    there = copy.deepcopy(network).to(device)
    with torch.inference_mode():
        torch.testing.assert_close(OdinProbe()(there, images.to(device)), truth, rtol=1e-6, atol=1e-7)


class _Source:
    """What `first_layer` takes from a loaded source."""

    def __len__(self):
        return 3

    def images(self, rows):
        return torch.rand(len(rows), 3, 16, 16, generator=torch.Generator().manual_seed(2))


def test_gradients_of_the_first_layer(network, device):
    truth = first_layer(network, {"one": _Source()})["gradients"]["one"]
    found = first_layer(copy.deepcopy(network).to(device), {"one": _Source()})["gradients"]["one"]
    torch.testing.assert_close(
        torch.from_numpy(found), torch.from_numpy(truth), rtol=1e-5, atol=1e-6 * abs(truth).max()
    )
