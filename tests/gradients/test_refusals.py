"""What has no gradient norm is refused in one sentence; each is matched by its words."""

import itertools
import re

import pytest
import torch
from torch import Tensor, nn

from lightning_gradood.core import Refusal
from lightning_gradood.gradients import probe_gradients, squared_gradient_norms

from .toy_modules import Checkpointed
from .toys import make, pictures


def refusal(network: object, images: object) -> str:
    """The sentence with which they are refused; empty where they are not."""
    try:
        squared_gradient_norms(network, images)  # type: ignore[arg-type]
    except Refusal as error:
        return str(error)
    return ""


def assert_refused(cases: list[tuple[object, object, str]]) -> None:
    """Each network and images are refused with such words."""
    told = [(refusal(network, images), words) for network, images, words in cases]
    assert not [(text, words) for text, words in told if not re.search(words, text)]


class Output(nn.Module):
    """A linear classifier whose output is spoilt by `spoil`."""

    def __init__(self, spoil: object) -> None:
        super().__init__()
        self.linear, self.spoil = nn.Linear(192, 5), spoil
        self.double()

    def forward(self, x: Tensor) -> object:
        return self.spoil(self.linear(x.flatten(1)))  # type: ignore[operator]


def test_outputs() -> None:
    logits = r"output should be logits \[N, classes\], .*Got `output = {}` for a batch of 1\. Wrap"
    cases = [
        (lambda z: z.mean(0), logits.format(r"\[5\]")),
        (lambda z: z[:, :, None], logits.format(r"\[[13], 5, 1\]")),
        (lambda z: (None, len(z)), logits.format("tuple")),
        (lambda z: z[:0], logits.format(r"\[0, 5\]")),
        (lambda z: z[:, :0], logits.format(r"\[[13], 0\]")),
        (lambda z: z.long(), r"output should be floating point logits\. Got `output.dtype = torch.int64`"),
        (lambda z: z.detach(), r"should depend on its parameters through autograd\. .*Remove torch\.no_grad"),
        (
            lambda z: z + 0 * (z - z.detach()).abs().sqrt(),
            r"squared gradient norms should be finite\. Got NaN or infinity in 3 of 3 rows",
        ),
    ]
    assert_refused([(Output(spoil), pictures(3), words) for spoil, words in cases])
    images = pictures(40)
    images[[2, 37]] = torch.nan
    nan = r"logits should be finite\. Got NaN or infinity in 2 of 40 rows: 2, 37\."
    assert_refused([(make("linear"), images, nan)])


def test_images() -> None:
    dense = r"`images` should be a dense torch tensor \[N, \.\.\.\]\. Got `images = "
    cases = [
        (pictures(3)[:0], r"batch \[N, \.\.\.\] of at least one image\. Got `images\.shape = \[0, 3, 8, 8\]`"),
        (torch.zeros(192), r"batch \[N, \.\.\.\] of at least one image.*leading dimension of 1"),
        (
            torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
            r"floating point pixels in \[0, 1\]\. Got `images\.dtype = torch\.uint8`.*/ 255",
        ),
        (pictures(2).to("meta"), r"`images` should hold numbers\. Got tensors on the meta device"),
        (pictures(2).numpy(), dense + r"ndarray`\. Convert with torch\.as_tensor"),
        (list(pictures(2)), dense + r"list`\. Convert with torch\.as_tensor, or torch\.stack"),
        (pictures(2).to_sparse(), dense + r"torch\.sparse_coo`\. Convert with `images\.to_dense\(\)`"),
        (None, dense + "NoneType`"),
    ]
    assert_refused([(make("linear"), images, words) for images, words in cases])
    with pytest.raises(Refusal, match=r"at least one label design\. Got `label_designs = \[\]`"):
        probe_gradients(make("linear"), pictures(2), [])


def test_networks() -> None:
    exported = torch.export.export(make("linear"), (pictures(2),))
    no_module = r"should be a torch\.nn\.Module.*Got `network = {}`\. Pass the"
    meta = r"`network` should hold numbers\. Got tensors on the meta device"
    partly = nn.Sequential(nn.Flatten(), nn.Linear(192, 7), nn.Linear(7, 5).to("meta")).double()
    phased, indexed = nn.Linear(192, 5), nn.Linear(192, 5)
    phased.phase = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    indexed.index = nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False)
    with torch.inference_mode():
        inferring = nn.Linear(192, 5)
    cases = [
        (lambda images: images.mean((2, 3)), no_module.format("function")),
        (None, no_module.format("NoneType")),
        ("resnet18", no_module.format("str")),
        (exported, r"should be a torch\.nn\.Module.*Got `network = ExportedProgram`"),
        (exported.module(), r"train and eval modes\. Got a program of torch\.export.*it was made from"),
        (make("linear").to("meta"), meta + r".*to_empty"),
        (partly, meta),
        (nn.Flatten(), r"at least one parameter.*Got a network without any. Pass"),
        (nn.DataParallel(make("linear")), r"bare network.*Got `network = DataParallel`\. Pass `network\.module`"),
        (
            nn.Sequential(nn.Flatten(), nn.LazyLinear(5)),
            r"initialised parameters\. Got `1\.weight` without a shape\. Run the network once",
        ),
        (phased, r"real parameters\. Got `phase`, torch\.complex64\. .*view_as_real"),
        (inferring, r"can record gradients\. Got `weight`, an inference tensor"),
        (indexed, r"can record gradients\. Got `index`, torch\.int64"),
    ]
    assert_refused([(network, pictures(2), words) for network, words in cases])


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


class Operated(nn.Linear):
    """A linear layer with an operation on its output, or on its weight."""

    def __init__(self, operation: object, on_weight: bool) -> None:
        super().__init__(192, 5)
        self.operation, self.on_weight = operation, on_weight
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        if self.on_weight:
            return x.flatten(1) @ self.operation(self.weight).T  # type: ignore[operator]
        return self.operation(super().forward(x.flatten(1)))  # type: ignore[operator]


def test_operations_without_a_backward() -> None:
    words = r"through autograd\. Got an operation of Operated without a backward: .*Define its"
    cases = itertools.product((Without.apply, twice, incomplete), (False, True))
    assert_refused([(Operated(*case), pictures(3), words) for case in cases])


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


def test_hooks_on_parameters() -> None:
    """Also when they come after the network was planned."""
    network, fresh = make("linear"), make("linear")
    squared_gradient_norms(network, pictures(3))
    handle = network[1].weight.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3))
    fresh[1].weight.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3))
    words = r"no hooks on its parameters.*Got one on `1\.weight`\. .*handle\.remove"
    assert_refused([(hooked, pictures(number), words) for hooked in (network, fresh) for number in (1, 3)])
    handle.remove()
    squared_gradient_norms(network, pictures(1))
    squared_gradient_norms(network, pictures(3))


def test_tensor_that_outlives_its_graph() -> None:
    kept: list[Tensor] = []

    class Outside(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if not kept:
                kept.append(self.weight * self.weight)
            return x.flatten(1) @ kept[0].T

    with pytest.raises(Refusal, match=r"compute its output anew in every call\. Got a tensor in Outside that is kept"):
        squared_gradient_norms(Outside(192, 5).double(), pictures(3))


def test_checkpoints_that_hide_their_gradients() -> None:
    """Without parameters before the block, torch itself gives its parameters no gradient, and a warning."""
    words = r"torch\.autograd\.grad\. Got a block of Checkpointed .* `use_reentrant = True`.*`use_reentrant=False`"
    cases = itertools.product((False, True), (1, 3))
    assert_refused([(Checkpointed(stem, True).double(), pictures(number), words) for stem, number in cases])
