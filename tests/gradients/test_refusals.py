"""What has no gradient norm is refused in one sentence, each matched by its words, or by torch's own error."""

from functools import partial

import pytest
import torch
from asserts import assert_refused
from torch import nn

from lightning_gradood.gradients import probe_gradients, squared_gradient_norms

from .block_modules import Net, lin
from .toys import Checkpointed, make, pictures


def refused(*cases):
    """Each network and images are refused with such words; those that are not are all listed."""
    assert_refused(*((partial(squared_gradient_norms, network, images), words) for network, images, words in cases))


def on_output(operation):
    """A linear classifier with an operation on its output."""
    return Net(lambda self, x: operation(self.linear(x.flatten(1))), linear=lin(192, 5)).double()


def on_weight(operation):
    """A linear classifier with an operation on its weight."""
    return Net(lambda self, x: x.flatten(1) @ operation(self.weight).T, weight=(5, 192)).double()


def test_outputs():
    logits = "output should be logits [N, classes], .*Got `output = {}` for a batch of 1. Wrap"
    cases = [
        (lambda z: z.mean(0), logits.format("[5]")),
        (lambda z: (None, len(z)), logits.format("tuple")),
        (lambda z: z[:, :0], "Got `output = [.*, 0]"),
        (lambda z: z.long(), "output should be floating point logits .*Got `output.dtype = torch.int64` and no graph"),
        (lambda z: z.detach(), "logits that depend on its parameters through autograd. .*without no_grad"),
        (
            lambda z: z + 0 * (z - z.detach()).abs().sqrt(),
            "squared gradient norms should be finite. Got NaN or infinity in 3 of 3 rows",
        ),
    ]
    images = pictures(40)
    images[[2, 37]] = torch.nan
    spoilt = make("linear"), images, "logits should be finite. Got NaN or infinity in 2 of 40 rows: 2, 37."
    refused(spoilt, *((on_output(spoil), pictures(3), words) for spoil, words in cases))


def test_images():
    refused(
        (make("linear"), pictures(3)[:0], "of at least one image.* Got [0, 3, 8, 8]"),
        (make("linear"), pictures(2).byte(), "pixels in [0, 1]. Got .*torch.uint8.*/ 255"),
        (make("linear"), pictures(2).to("meta"), "device of the network's parameters. Got `images.device = meta`"),
        (make("linear"), list(pictures(2)), "`images` should be a dense tensor .* Got list"),
    )
    assert_refused((lambda: probe_gradients(make("linear"), pictures(2), []), "at least one label design. Got none"))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")  # torch is to drop quantised tensors
def test_networks():
    phased, indexed, hooked = nn.Linear(192, 5), nn.Linear(192, 5), make("linear")
    phased.phase = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    indexed.index = nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False)
    squared_gradient_norms(hooked, pictures(2))  # also where hooks come after the network was compared
    handle = hooked[1].weight.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3))
    packed = nn.Sequential(nn.Flatten(), nn.Linear(192, 7), torch.ao.nn.quantized.dynamic.Linear(7, 5)).float()
    quantise = partial(torch.quantize_per_tensor, scale=0.1, zero_point=0, dtype=torch.qint8)
    quantised = Net(lambda self, x: quantise(self.a(x.flatten(1))).dequantize() * self.b, a=lin(192, 5), b=(5,))
    single, words = (
        pictures(2, torch.float32),
        "floating point numbers throughout. Got a quantised layer or tensor in `{}`",
    )
    program = torch.export.export(make("linear"), (pictures(2),)).module()
    refused(
        (lambda images: images, pictures(2), "should be a bare torch.nn.Module.*Got `network = function`. Pass the"),
        (program, pictures(2), "train and eval modes. Got a program of torch.export.*it was made from"),
        (nn.Flatten(), pictures(2), "floating point parameters.*Got no parameter; pass the classifier itself"),
        (nn.DataParallel(make("linear")), pictures(2), "Got `network = DataParallel`. .*wrapper `network.module`"),
        (phased, pictures(2), "real floating point parameters.*Got `phase` of torch.complex64; .*view_as_real"),
        (indexed, pictures(2), "Got `index` of torch.int64"),
        (hooked, pictures(2), "without hooks.*Got a hook on `1.weight`, .*handle.remove"),
        (packed, single, words.format("linear_dynamic")),
        (quantised, single, words.format("quantize_per_tensor")),
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
    for network, error, words in (
        (on_output(Without.apply), NotImplementedError, "must implement either the backward"),
        (on_weight(Without.apply), NotImplementedError, "must implement either the backward"),
        (on_weight(lambda weight: kept.append(weight * weight) or kept[0]), RuntimeError, "graph a second time"),
        (Checkpointed(False, True).double(), UserWarning, "requires_grad=True"),
        (Checkpointed(True, True).double(), RuntimeError, "use_reentrant"),
    ):
        with pytest.raises(error, match=words):
            squared_gradient_norms(network, pictures(3))
