"""What has no gradient norm is refused in one sentence; each is matched by its words."""

import itertools
import re

import pytest
import torch
from torch import nn

from lightning_gradood.core import Refusal
from lightning_gradood.gradients import probe_gradients, squared_gradient_norms

from .block_modules import Made
from .toys import Checkpointed, make, pictures


def assert_refused(cases):
    """Each network and images are refused with such words; those that are not are all listed."""
    missed = []
    for network, images, words in cases:
        try:
            squared_gradient_norms(network, images)
            said = "no refusal"
        except Refusal as refusal:
            said = str(refusal)
        if not re.search(words, said):
            missed.append((said, words))
    assert missed == []


class Operated(Made):
    """A linear classifier with an operation on its output, or on its weight."""

    def made(self, operation, on_weight=False):
        self.linear, self.operation, self.on_weight = nn.Linear(192, 5).double(), operation, on_weight

    def forward(self, x):
        if self.on_weight:
            return x.flatten(1) @ self.operation(self.linear.weight).T
        return self.operation(self.linear(x.flatten(1)))


def test_outputs():
    logits = r"output should be logits \[N, classes\], .*Got `output = {}` for a batch of 1\. Wrap"
    nan = r"squared gradient norms should be finite\. Got NaN or infinity in 3 of 3 rows"
    cases = [
        (lambda z: z.mean(0), logits.format(r"\[5\]")),
        (lambda z: z[:, :, None], logits.format(r"\[[13], 5, 1\]")),
        (lambda z: (None, len(z)), logits.format("tuple")),
        (lambda z: z[:0], logits.format(r"\[0, 5\]")),
        (lambda z: z[:, :0], logits.format(r"\[[13], 0\]")),
        (lambda z: z.long(), r"output should be floating point logits\. Got `output.dtype = torch.int64`"),
        (lambda z: z.detach(), r"should depend on its parameters through autograd\. .*Remove torch\.no_grad"),
        (lambda z: z + 0 * (z - z.detach()).abs().sqrt(), nan),
    ]
    images = pictures(40)
    images[[2, 37]] = torch.nan
    spoilt = (make("linear"), images, r"logits should be finite\. Got NaN or infinity in 2 of 40 rows: 2, 37\.")
    assert_refused([spoilt, *((Operated(spoil), pictures(3), words) for spoil, words in cases)])


def test_images():
    dense = r"`images` should be a dense torch tensor \[N, \.\.\.\]\. Got `images = "
    uint8 = r"floating point pixels in \[0, 1\]\. Got `images\.dtype = torch\.uint8`.*/ 255"
    cases = [
        (pictures(3)[:0], r"batch \[N, \.\.\.\] of at least one image\. Got `images\.shape = \[0, 3, 8, 8\]`"),
        (torch.zeros(192), r"batch \[N, \.\.\.\] of at least one image.*leading dimension of 1"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), uint8),
        (pictures(2).to("meta"), r"`images` should hold numbers\. Got tensors on the meta device"),
        (pictures(2).numpy(), dense + r"ndarray`\. Convert with torch\.as_tensor"),
        (list(pictures(2)), dense + r"list`\. Convert with torch\.as_tensor, or torch\.stack"),
        (pictures(2).to_sparse(), dense + r"torch\.sparse_coo`\. Convert with `images\.to_dense\(\)`"),
        (None, dense + "NoneType`"),
    ]
    assert_refused([(make("linear"), images, words) for images, words in cases])
    with pytest.raises(Refusal, match=r"at least one label design\. Got `label_designs = \[\]`"):
        probe_gradients(make("linear"), pictures(2), [])


def test_networks():
    exported = torch.export.export(make("linear"), (pictures(2),))
    no_module = r"should be a torch\.nn\.Module.*Got `network = {}`\. Pass the"
    meta = r"`network` should hold numbers\. Got tensors on the meta device"
    partly = nn.Sequential(nn.Flatten(), nn.Linear(192, 7), nn.Linear(7, 5).to("meta")).double()
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(5))
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
        (lazy, r"initialised parameters\. Got `1\.weight` without a shape\. Run the network once"),
        (phased, r"real floating point parameters.*Got `phase`, torch\.complex64\. .*view_as_real"),
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
def twice(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def incomplete(x):
    """A function of torch's own without a derivative in its first argument."""
    return torch.igamma(x.abs() + 1, torch.ones_like(x))


def test_operations_without_a_backward():
    words = r"through autograd\. Got an operation of Operated without a backward: .*Define its"
    cases = itertools.product((Without.apply, twice, incomplete), (False, True))
    assert_refused([(Operated(*case), pictures(3), words) for case in cases])


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")  # torch is to drop quantised tensors
def test_quantised_layers_and_tensors():
    class Quantised(nn.Linear):
        def forward(self, x):
            x = super().forward(x.flatten(1))
            return torch.quantize_per_tensor(x, 0.1, 0, torch.qint8).dequantize() * self.weight.sum()

    packed = nn.Sequential(nn.Flatten(), nn.Linear(192, 7), torch.ao.nn.quantized.dynamic.Linear(7, 5))
    tensor = r"floating point numbers throughout\. Got a quantised tensor from `quantize_per_tensor`"
    layer = r"can record gradients\. Got `2`, a quantised Linear, .*before quantisation"
    images = pictures(3, torch.float32)
    assert_refused([(Quantised(192, 5), images, tensor), (packed, images, layer)])


def test_hooks_on_parameters():
    """Also when they come after the network was compared."""
    network, fresh = make("linear"), make("linear")
    squared_gradient_norms(network, pictures(3))
    handle, _ = (one[1].weight.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3)) for one in (network, fresh))
    words = r"no hooks on its parameters.*Got one on `1\.weight`\. .*handle\.remove"
    assert_refused([(hooked, pictures(number), words) for hooked in (network, fresh) for number in (1, 3)])
    handle.remove()
    for number in (1, 3):
        squared_gradient_norms(network, pictures(number))


def test_tensor_that_outlives_its_graph():
    kept = []

    class Outside(nn.Linear):
        def forward(self, x):
            if not kept:
                kept.append(self.weight * self.weight)
            return x.flatten(1) @ kept[0].T

    words = r"compute its output anew in every call\. Got a tensor in Outside that is kept"
    assert_refused([(Outside(192, 5).double(), pictures(3), words)])


def test_checkpoints_that_hide_their_gradients():
    """Without parameters before the block, torch itself gives its parameters no gradient, and a warning."""
    words = r"torch\.autograd\.grad\. Got a block of Checkpointed .* `use_reentrant = True`.*`use_reentrant=False`"
    cases = itertools.product((False, True), (1, 3))
    assert_refused([(Checkpointed(stem, True).double(), pictures(number), words) for stem, number in cases])
