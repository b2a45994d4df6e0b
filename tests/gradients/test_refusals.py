"""What has no gradient norm is refused in one sentence, each matched by its words, or by torch's own error."""

import re

import pytest
import torch
from torch import nn

from lightning_gradood.core import Refusal
from lightning_gradood.gradients import probe_gradients, squared_gradient_norms

from .block_modules import Made
from .toys import Checkpointed, make, pictures


def assert_refused(cases, error=Refusal):
    """Each network and images are refused with such words; those that are not are all listed."""
    missed = []
    for network, images, words in cases:
        try:
            squared_gradient_norms(network, images)
            said = "no refusal"
        except error as refusal:
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
        (lambda z: (None, len(z)), logits.format("tuple")),
        (lambda z: z[:, :0], logits.format(r"\[[13], 0\]")),
        (lambda z: z.long(), r"output should be floating point logits .*Got `output.dtype = torch.int64` and no graph"),
        (lambda z: z.detach(), r"logits that depend on its parameters through autograd\. .*without no_grad"),
        (lambda z: z + 0 * (z - z.detach()).abs().sqrt(), nan),
    ]
    images = pictures(40)
    images[[2, 37]] = torch.nan
    spoilt = (make("linear"), images, r"logits should be finite\. Got NaN or infinity in 2 of 40 rows: 2, 37\.")
    assert_refused([spoilt, *((Operated(spoil), pictures(3), words) for spoil, words in cases)])


def test_images():
    uint8 = r"floating point pixels in \[0, 1\]\. Got .*torch\.uint8.*/ 255"
    cases = [
        (pictures(3)[:0], r"of at least one image.* Got \[0, 3, 8, 8\]"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), uint8),
        (pictures(2).to("meta"), r"on the device of the network's parameters\. Got `images\.device = meta`"),
        (list(pictures(2)), r"`images` should be a dense tensor .* Got list"),
    ]
    assert_refused([(make("linear"), images, words) for images, words in cases])
    with pytest.raises(Refusal, match=r"at least one label design\. Got none"):
        probe_gradients(make("linear"), pictures(2), [])


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")  # torch is to drop quantised tensors
def test_networks():
    class Quantised(nn.Linear):
        def forward(self, x):
            x = super().forward(x.flatten(1))
            return torch.quantize_per_tensor(x, 0.1, 0, torch.qint8).dequantize() * self.weight.sum()

    exported = torch.export.export(make("linear"), (pictures(2),))
    phased, indexed, hooked = nn.Linear(192, 5), nn.Linear(192, 5), make("linear")
    phased.phase = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    indexed.index = nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False)
    squared_gradient_norms(hooked, pictures(2))  # also where hooks come after the network was compared
    handle = hooked[1].weight.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3))
    cases = [
        (
            lambda images: images.mean((2, 3)),
            r"should be a bare torch\.nn\.Module.*Got `network = function`\. Pass the",
        ),
        (exported.module(), r"train and eval modes\. Got a program of torch\.export.*it was made from"),
        (nn.Flatten(), "floating point parameters.*Got no parameter; pass the classifier itself"),
        (nn.DataParallel(make("linear")), r"Got `network = DataParallel`\. .*parallel wrapper `network\.module`"),
        (phased, r"real floating point parameters.*Got `phase` of torch\.complex64; .*view_as_real"),
        (indexed, r"Got `index` of torch\.int64"),
        (hooked, r"without hooks.*Got a hook on `1\.weight`, .*handle\.remove"),
    ]
    assert_refused([(network, pictures(2), words) for network, words in cases])
    packed = nn.Sequential(nn.Flatten(), nn.Linear(192, 7), torch.ao.nn.quantized.dynamic.Linear(7, 5))
    words, images = (
        r"floating point numbers throughout\. Got a quantised layer or tensor in `{}",
        pictures(2, torch.float32),
    )
    assert_refused(
        [
            (packed, images, words.format("linear_dynamic")),
            (Quantised(192, 5), images, words.format("quantize_per_tensor")),
        ]
    )
    handle.remove()
    squared_gradient_norms(hooked, pictures(2))


class Without(torch.autograd.Function):
    """No backward."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x


def test_what_torch_refuses_itself():
    """A missing backward, a tensor that outlives its graph, a checkpoint that gives its parameters no gradient."""
    kept = []

    def first_weight(weight):
        kept.append(weight * weight)
        return kept[0]

    assert_refused(
        [
            *(
                (Operated(Without.apply, on_weight), pictures(3), "must implement either the backward")
                for on_weight in (0, 1)
            ),
            (Operated(first_weight, True), pictures(3), "backward through the graph a second time"),
            *((Checkpointed(stem, True).double(), pictures(3), "requires_grad=True|use_reentrant") for stem in (0, 1)),
        ],
        (NotImplementedError, RuntimeError, UserWarning),
    )
