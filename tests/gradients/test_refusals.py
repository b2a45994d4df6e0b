"""What has no gradient norm is refused in one sentence; each is matched by its words."""

import pytest
import torch
from torch import Tensor, nn

from lightning_gradood.errors import Refusal
from lightning_gradood.gradients import probe_gradients, squared_gradient_norms

from .toy_modules import Checkpointed
from .toys import make, pictures


class Output(nn.Module):
    """A linear classifier whose output is spoilt by `spoil`."""

    def __init__(self, spoil: object) -> None:
        super().__init__()
        self.linear, self.spoil = nn.Linear(192, 5), spoil
        self.double()

    def forward(self, x: Tensor) -> object:
        return self.spoil(self.linear(x.flatten(1)))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("spoil", "got"),
    [
        (lambda z: z[:, 0], r"output = \[[13]\]"),
        (lambda z: z[:, :, None], r"output = \[[13], 5, 1\]"),
        (lambda z: (z, z), r"output = tuple"),
        (lambda z: z[:0], r"output = \[0, 5\]"),
        (lambda z: z[:, :0], r"output = \[[13], 0\]"),
    ],
)
def test_output_that_is_not_logits(spoil: object, got: str) -> None:
    with pytest.raises(Refusal, match=rf"output should be logits \[N, classes\] .*Got `{got}`\. Wrap the network"):
        squared_gradient_norms(Output(spoil), pictures(3))


def test_output_that_is_not_floating() -> None:
    with pytest.raises(Refusal, match=r"output should be floating point logits\. Got `output.dtype = torch.int64`"):
        squared_gradient_norms(Output(lambda z: z.long()), pictures(3))


def test_output_without_a_graph() -> None:
    with pytest.raises(Refusal, match=r"should depend on its parameters through autograd\. .*Remove torch\.no_grad"):
        squared_gradient_norms(Output(lambda z: z.detach()), pictures(3))


def test_logits_that_are_not_finite_name_their_rows() -> None:
    images = pictures(40)
    images[[2, 37]] = torch.nan
    with pytest.raises(Refusal, match=r"logits should be finite\. Got NaN or infinity in 2 of 40 rows: 2, 37\."):
        squared_gradient_norms(make("linear"), images)


def test_gradients_that_are_not_finite() -> None:
    network = Output(lambda z: z + 0 * (z - z.detach()).abs().sqrt())
    with pytest.raises(Refusal, match=r"squared gradient norms should be finite\. Got NaN or infinity in 3 of 3 rows"):
        squared_gradient_norms(network, pictures(3))


def test_empty_batch() -> None:
    with pytest.raises(
        Refusal, match=r"batch \[N, \.\.\.\] of at least one image\. Got `images\.shape = \[0, 3, 8, 8\]`"
    ):
        squared_gradient_norms(make("linear"), pictures(3)[:0])


def test_one_image_without_a_batch_dimension() -> None:
    with pytest.raises(Refusal, match=r"batch \[N, \.\.\.\] of at least one image.*leading dimension of 1"):
        squared_gradient_norms(make("linear"), torch.zeros(192))


def test_integer_images() -> None:
    with pytest.raises(Refusal, match=r"floating point pixels in \[0, 1\]\. Got `images\.dtype = torch\.uint8`.*/ 255"):
        squared_gradient_norms(make("linear"), torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


def test_images_on_another_device() -> None:
    with pytest.raises(
        Refusal, match=r"on the device of the network's parameters\. Got `images\.device = cpu` .* meta"
    ):
        squared_gradient_norms(make("linear").to("meta"), pictures(2))


def test_parameters_on_two_devices() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 7), nn.Linear(7, 5).to("meta")).double()
    with pytest.raises(Refusal, match=r"Got `images\.device = cpu` and parameters on cpu, meta\. Move them"):
        squared_gradient_norms(network, pictures(2))


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("stem", [False, True])
def test_checkpoints_that_hide_their_gradients(stem: bool, number: int) -> None:
    """Without parameters before the block, torch itself gives its parameters no gradient, and a warning."""
    network = Checkpointed(stem, reentrant=True).double()
    with pytest.raises(
        Refusal,
        match=r"torch\.autograd\.grad\. Got a block of Checkpointed .* `use_reentrant = True`.*`use_reentrant=False`",
    ):
        squared_gradient_norms(network, pictures(number))


def test_network_without_parameters() -> None:
    with pytest.raises(Refusal, match=r"at least one parameter.*Got `network = Flatten` without any"):
        squared_gradient_norms(nn.Flatten(), pictures(2))


def test_parallel_wrapper() -> None:
    with pytest.raises(Refusal, match=r"the bare network.*Got `network = DataParallel`\. Pass `network\.module`"):
        squared_gradient_norms(nn.DataParallel(make("linear")), pictures(2))


def test_lazy_parameters() -> None:
    with pytest.raises(
        Refusal, match=r"initialised parameters\. Got `1\.weight` without a shape\. Run the network once"
    ):
        squared_gradient_norms(nn.Sequential(nn.Flatten(), nn.LazyLinear(5)), pictures(2))


def test_parameters_that_cannot_record_gradients() -> None:
    with torch.inference_mode():
        network = nn.Linear(192, 5)
    with pytest.raises(Refusal, match=r"can record gradients\. Got `weight`, an inference tensor"):
        squared_gradient_norms(network, pictures(2).flatten(1))
    network = nn.Linear(192, 5)
    network.index = nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False)
    with pytest.raises(Refusal, match=r"can record gradients\. Got `index`, torch\.int64"):
        squared_gradient_norms(network, pictures(2).flatten(1))


def test_no_label_design() -> None:
    with pytest.raises(Refusal, match=r"at least one label design\. Got `label_designs = \[\]`"):
        probe_gradients(make("linear"), pictures(2), [])
