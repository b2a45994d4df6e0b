"""What a guard can name: objects that keep each argument under its own name."""

import pytest

from lightning_gradood.core import Refusal
from lightning_gradood.gradients import LabelDesign
from lightning_gradood.guard import component_of


class Plain(LabelDesign):
    """No dataclass; keeps its argument under another name, or under its own."""

    name = "plain"

    def __init__(self, scale, honest=True):
        self.honest = honest
        setattr(self, "scale" if honest else "_scale", scale)

    def logit_gradient(self, logits):
        return self.scale * logits


def test_a_label_design_that_is_no_dataclass_is_described_by_its_arguments():
    assert component_of(Plain(3.0)).init_args == {"scale": 3.0, "honest": True}


def test_one_that_hides_an_argument_is_refused():
    with pytest.raises(
        Refusal, match=r"A Plain in a guard should keep each argument of its constructor under its own name\."
    ):
        component_of(Plain(3.0, honest=False))
