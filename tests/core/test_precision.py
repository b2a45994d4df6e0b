"""The one place for devices without float64: what is summed in float64 goes to the CPU first."""

import torch

from lightning_gradood.core import precision
from lightning_gradood.gradients import AllOnes, Uniform, squared_gradient_norms
from tests.gradients.toys import make, pictures


def test_what_is_summed_in_float64_goes_to_the_cpu_first(monkeypatch):
    """The CPU plays the device."""
    network, images = make("residual", torch.float32), pictures(4, torch.float32)
    normal = squared_gradient_norms(network, images, [AllOnes(), Uniform()])
    journeys = []
    monkeypatch.setattr(precision, "_WITHOUT_FLOAT64", {"cpu"})
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: (journeys.append(tensor.shape), tensor.clone())[1])
    for number in (4, 1):
        found = squared_gradient_norms(network, images[:number], [AllOnes(), Uniform()])
        torch.testing.assert_close(found, normal[:number], rtol=1e-4, atol=0)
    logits, parameters = (4, 5), {parameter.shape for parameter in network.parameters()}
    assert logits in journeys
    assert parameters <= set(journeys), "the loop's gradients, one image at a time"
    assert precision.to_float64(images).dtype == torch.float64
