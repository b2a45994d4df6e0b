"""A network that does not fit the images is refused before any long work, in a sentence that says what to change."""

import re

import pytest
import torch
from torch import nn
from toy_images import network

from lightning_gradood.core import Refusal
from lightning_gradood.tasks import check_network

IMAGES = torch.rand(2, 3, 4, 4)


class Returning(nn.Module):
    """Return whatever it was given for that."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, images):
        return self.output


@pytest.mark.parametrize("classes", [3, None])
def test_a_fitting_network_passes_and_keeps_its_state(classes):
    fitting = network()
    before = {name: value.clone() for name, value in fitting.state_dict().items()}
    check_network(fitting, IMAGES, classes)
    assert fitting.training
    assert all(parameter.requires_grad for parameter in fitting.parameters())
    assert all(torch.equal(value, before[name]) for name, value in fitting.state_dict().items())


class Failing(nn.Module):
    def forward(self, images):
        raise RuntimeError("The sizes differ.\nThis is how to find out more:\n...")


def test_only_the_first_line_of_what_torch_says_is_kept():
    with pytest.raises(Refusal, match=re.escape("Got: The sizes differ. Give `data.transform`")) as refused:
        check_network(Failing(), IMAGES, 3)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("images", "got"),
    [
        (torch.rand(2, 1, 4, 4), "should accept images of shape [1, 4, 4]. Got: Given groups=1, weight of size"),
    ],
)
def test_images_that_the_network_cannot_take_are_refused(images, got):
    with pytest.raises(Refusal, match=re.escape(got)) as refused:
        check_network(network(), images, 3)
    assert "\n" not in str(refused.value)
    assert "Give `data.transform` a resize or channel conversion" in str(refused.value)


@pytest.mark.parametrize(
    ("output", "got"),
    [
        (torch.zeros(2, 3, 1, 1), "Got `output = [2, 3, 1, 1]`"),
        (torch.zeros(3), "Got `output = [3]`"),
        (torch.zeros(1, 3), "Got `output = [1, 3]`"),
        ((None, "no tensor"), "Got `output = tuple`"),
    ],
)
def test_what_is_no_row_of_logits_per_image_is_refused(output, got):
    with pytest.raises(Refusal, match=f"should be logits .N, classes., a row for each image. {re.escape(got)}"):
        check_network(Returning(output), IMAGES, 3)


def test_more_classes_than_outputs_are_refused_with_the_flag_that_sets_it():
    words = r"as the data have classes, 10. Got 3 outputs\. .* built with e.g. --model.network.num_classes 10\."
    with pytest.raises(Refusal, match=words):
        check_network(network(), IMAGES, 10)


def test_more_outputs_than_classes_are_fine_and_a_single_output_tells_two_classes_apart():
    assert check_network(network(), IMAGES, 2) == 3
    single = nn.Sequential(nn.Flatten(), nn.Linear(48, 1))
    assert check_network(single, IMAGES, 2) == 1
    with pytest.raises(Refusal, match=r"as the data have classes, 3\. Got 1 outputs"):
        check_network(single, IMAGES, 3)
