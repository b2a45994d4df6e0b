"""Every attack on a device without float64: the images of the CPU; see tests/test_devices_without_float64.py."""

import copy
from collections.abc import Iterator

import pytest
import torch
from float32_device import without_float64

from lightning_gradood.attacks import noise_like
from lightning_gradood.core import Crafted, Perturbed
from lightning_gradood.corruptions import Corruption

from .conftest import Digits
from .examples import ATTACKS

NAMES = [f"digits/{number}" for number in range(12)]


@pytest.fixture
def device() -> Iterator[torch.device]:
    with without_float64() as device:
        yield device


@pytest.fixture
def there(digits: Digits, device: torch.device) -> Digits:
    """The same on the device."""
    network = copy.deepcopy(digits.network).to(device)
    return Digits(network, digits.images[:12].to(device), digits.labels[:12].to(device))


def assert_same(found: Perturbed, truth: Perturbed) -> None:
    assert found.images.device.type != "cpu"
    torch.testing.assert_close(found.images.cpu(), truth.images, rtol=0, atol=1e-6)
    assert found.success.tolist() == truth.success.tolist()
    if truth.target_hit is not None:
        assert found.target_hit is not None
        assert found.target_hit.tolist() == truth.target_hit.tolist()
    for one, other in ((found.l2, truth.l2), (found.linf, truth.linf)):
        assert one.dtype == torch.float64
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_makes_the_images_of_the_cpu(name: str, digits: Digits, there: Digits) -> None:
    truth = ATTACKS[name].perturb(digits.network, digits.images[:12], digits.labels[:12], NAMES)
    assert_same(ATTACKS[name].perturb(there.network, there.images, there.labels, NAMES), truth)


def test_noise_is_that_of_the_cpu(digits: Digits, there: Digits) -> None:
    attack = ATTACKS["paper/bim"]
    here = attack.craft(digits.network, digits.images[:12], digits.labels[:12], NAMES)
    crafted = Crafted(here.images.to(there.images), there.images, there.labels)
    noisy, truth = noise_like(crafted, NAMES), noise_like(here, NAMES)
    assert torch.equal(noisy.images.cpu(), truth.images)
    logits = torch.rand(12, 10, generator=torch.Generator().manual_seed(0))
    assert_same(noisy.eight_bit().judge(logits.to(there.images)), truth.eight_bit().judge(logits))


def test_labels_may_be_predictions(digits: Digits, there: Digits) -> None:
    unknown = torch.full((12,), -1)
    truth = ATTACKS["paper/fgsm"].perturb(digits.network, digits.images[:12], unknown, NAMES)
    assert_same(ATTACKS["paper/fgsm"].perturb(there.network, there.images, unknown, NAMES), truth)


@pytest.mark.parametrize("kind", ["gaussian_noise", "frost", "elastic_transform", "jpeg_compression"])
def test_corruption_makes_the_images_of_the_cpu(kind: str, digits: Digits, device: torch.device) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels, network = (
        torch.zeros(2, dtype=torch.int64),
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 3)),
    )
    truth = Corruption(kind, 3).craft(network, images, labels, ["a", "b"])
    found = Corruption(kind, 3).craft(network.to(device), images.to(device), labels, ["a", "b"])
    assert torch.equal(found.images.cpu(), truth.images)
