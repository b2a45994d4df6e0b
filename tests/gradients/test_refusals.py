"""What has no gradient norm is refused in one sentence; each is matched by its words."""

import pytest
import torch
from torch import Tensor, nn

from lightning_gradood.core import Refusal
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
        (lambda z: z.mean(0), r"output = \[5\]"),
        (lambda z: z[:, :, None], r"output = \[[13], 5, 1\]"),
        (lambda z: (None, len(z)), r"output = tuple"),
        (lambda z: z[:0], r"output = \[0, 5\]"),
        (lambda z: z[:, :0], r"output = \[[13], 0\]"),
    ],
)
def test_output_that_is_not_logits(spoil: object, got: str) -> None:
    with pytest.raises(
        Refusal, match=rf"output should be logits \[N, classes\], .*Got `{got}` for a batch of 1\. Wrap"
    ):
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
    with pytest.raises(Refusal, match=r"`network` should hold numbers\. Got tensors on the meta device.*to_empty"):
        squared_gradient_norms(make("linear").to("meta"), pictures(2))
    with pytest.raises(Refusal, match=r"`images` should hold numbers\. Got tensors on the meta device"):
        squared_gradient_norms(make("linear"), pictures(2).to("meta"))
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 7), nn.Linear(7, 5).to("meta")).double()
    with pytest.raises(Refusal, match=r"`network` should hold numbers\. Got tensors on the meta device"):
        squared_gradient_norms(network, pictures(2))


@pytest.mark.parametrize(
    ("images", "got"),
    [
        (pictures(2).numpy(), r"images = ndarray`\. Convert with torch\.as_tensor"),
        (list(pictures(2)), r"images = list`\. Convert with torch\.as_tensor, or torch\.stack"),
        (pictures(2).to_sparse(), r"images = torch\.sparse_coo`\. Convert with `images\.to_dense\(\)`"),
        (None, r"images = NoneType`"),
    ],
    ids=["numpy", "list", "sparse", "nothing"],
)
def test_images_that_are_no_dense_tensor(images: Tensor, got: str) -> None:
    with pytest.raises(Refusal, match=rf"`images` should be a dense torch tensor \[N, \.\.\.\]\. Got `{got}"):
        squared_gradient_norms(make("linear"), images)


@pytest.mark.parametrize("network", [lambda images: images.mean((2, 3)), None, "resnet18"])
def test_network_that_is_no_module(network: nn.Module) -> None:
    with pytest.raises(
        Refusal, match=r"should be a torch\.nn\.Module.*Got `network = (function|NoneType|str)`\. Pass the"
    ):
        squared_gradient_norms(network, pictures(2))


def test_exported_program() -> None:
    exported = torch.export.export(make("linear"), (pictures(2),))
    with pytest.raises(Refusal, match=r"should be a torch\.nn\.Module.*Got `network = ExportedProgram`"):
        squared_gradient_norms(exported, pictures(2))
    with pytest.raises(Refusal, match=r"train and eval modes\. Got a program of torch\.export.*it was made from"):
        squared_gradient_norms(exported.module(), pictures(2))


class Without(torch.autograd.Function):
    """No backward."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x


@torch.library.custom_op("toys::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return 2 * x


def incomplete(x: Tensor) -> Tensor:
    """A function of torch's own without a derivative in its first argument."""
    return torch.igamma(x.abs() + 1, torch.ones_like(x))


@pytest.mark.parametrize("operation", [Without.apply, twice, incomplete], ids=["function", "operator", "torch's own"])
@pytest.mark.parametrize("on_weight", [False, True])
def test_operation_without_a_backward(operation: object, on_weight: bool) -> None:
    class Operated(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if on_weight:
                return x.flatten(1) @ operation(self.weight).T  # type: ignore[operator]
            return operation(super().forward(x.flatten(1)))  # type: ignore[operator]

    with pytest.raises(
        Refusal, match=r"through autograd\. Got an operation of Operated without a backward: .*Define its"
    ):
        squared_gradient_norms(Operated(192, 5).double(), pictures(3))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")  # torch is to drop quantised tensors
def test_quantised_layers_and_tensors() -> None:
    class Quantised(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            x = super().forward(x.flatten(1))
            return torch.quantize_per_tensor(x, 0.1, 0, torch.qint8).dequantize() * self.weight.sum()

    with pytest.raises(
        Refusal, match=r"floating point numbers throughout\. Got a quantised tensor from `quantize_per_tensor`"
    ):
        squared_gradient_norms(Quantised(192, 5), pictures(3, torch.float32))
    packed = torch.ao.nn.quantized.dynamic.Linear(7, 5)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 7), packed)
    with pytest.raises(Refusal, match=r"can record gradients\. Got `2`, a quantised Linear, .*before quantisation"):
        squared_gradient_norms(network, pictures(3, torch.float32))


@pytest.mark.parametrize("number", [1, 3])
def test_hooks_on_parameters(number: int) -> None:
    """Also when they come after the network was planned."""
    network = make("linear")
    squared_gradient_norms(network, pictures(3))
    handle = network[1].weight.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3))
    fresh = make("linear")
    fresh[1].weight.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3))
    for hooked in (network, fresh):
        with pytest.raises(Refusal, match=r"no hooks on its parameters.*Got one on `1\.weight`\. .*handle\.remove"):
            squared_gradient_norms(hooked, pictures(3))
    handle.remove()
    squared_gradient_norms(network, pictures(number))


def test_complex_parameters() -> None:
    network = nn.Linear(192, 5)
    network.phase = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(Refusal, match=r"real parameters\. Got `phase`, torch\.complex64\. .*view_as_real"):
        squared_gradient_norms(network, pictures(2).flatten(1))


def test_tensor_that_outlives_its_graph() -> None:
    kept: list[Tensor] = []

    class Outside(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if not kept:
                kept.append(self.weight * self.weight)
            return x.flatten(1) @ kept[0].T

    with pytest.raises(Refusal, match=r"compute its output anew in every call\. Got a tensor in Outside that is kept"):
        squared_gradient_norms(Outside(192, 5).double(), pictures(3))


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
    with pytest.raises(Refusal, match=r"at least one parameter.*Got a network without any. Pass"):
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
