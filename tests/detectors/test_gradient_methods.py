"""NAC, GROOD and GradPCA against the papers' formulas on plain autograd, image by image, in float64."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from asserts import assert_refused
from detector_cases import gradient_method_records
from torch import nn

from lightning_gradood.detectors import GROOD, NAC, FromNoiseProbe, GradPCAProbe, NeuronLayer, NeuronProbe
from lightning_gradood.detectors.grood import prototype_gradient
from lightning_gradood.gradients import layer_gradients
from lightning_gradood.networks import CifarResNet
from lightning_gradood.probes import PENULTIMATE, feature_layer_outputs

IMAGES, LABELS = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 4


class Last(nn.Module):
    """A network whose first layer gives channels-last maps, and whose last is used through its parameters alone."""

    def __init__(self):
        super().__init__()
        self.mix, self.head = nn.Linear(3, 5), nn.Linear(5, 4)

    def forward(self, x):
        return self.head(F.gelu(self.mix(x.permute(0, 2, 3, 1))).mean((1, 2)))


@pytest.fixture(params=[lambda: CifarResNet(1, num_classes=4), Last], ids=["resnet", "channels_last"])
def network(request):
    torch.manual_seed(0)
    return request.param().eval()


def by_autograd(network, names, weigh):
    """Gradients of a number per image in some parameters, one image after the other, in float64."""
    network, rows = copy.deepcopy(network).double(), []
    wanted = [dict(network.named_parameters())[name] for name in names]
    for image in IMAGES.double().split(1):
        found = torch.autograd.grad(weigh(network(image)), wanted)
        rows.append(torch.cat([one.flatten() for one in found]))
    return torch.stack(rows).numpy()


def test_layer_gradients_are_those_of_each_image_alone(network):
    names = [name for name, _ in network.named_parameters()][-3:]
    expected = by_autograd(network, names, lambda logits: logits.square().sum())
    for images in (IMAGES, IMAGES[:1]):
        found = layer_gradients(network, images, names, lambda logits: 2 * logits)
        np.testing.assert_allclose(
            found.numpy(), expected[: len(images)], rtol=1e-4, atol=1e-6 * np.abs(expected).max()
        )


def test_gradpca_is_the_projection_on_differences_of_the_classes_mean_gradients(network):
    probe = GradPCAProbe(share=0.9).prepare(network, list(zip(IMAGES.split(10), LABELS.split(10), strict=True)))
    gradients = by_autograd(network, probe.names_of_parameters, lambda logits: logits.max())
    assert {name.rpartition(".")[0] for name in probe.names_of_parameters} == {
        "mix" if isinstance(network, Last) else "layer3.0.conv2"
    }
    means = np.stack([gradients[LABELS.numpy() == label].mean(axis=0) for label in range(4)])
    _, sizes, directions = np.linalg.svd(means - means.mean(axis=0), full_matrices=False)
    kept = int(np.argmax(np.cumsum(sizes**2) / np.sum(sizes**2) >= 0.9)) + 1
    centred = gradients - means.mean(axis=0)
    inside = np.linalg.norm(centred @ directions[:kept].T, axis=1)
    np.testing.assert_allclose(probe(network, IMAGES)[:, 0], inside / np.linalg.norm(centred, axis=1), rtol=1e-4)
    refused = GradPCAProbe("nowhere")
    assert_refused((lambda: refused.prepare(network, [(IMAGES, LABELS)]), "`layer` of GradPCA .* Got 'nowhere'"))


def test_neuron_states_are_outputs_times_gradients_summed_over_places(network):
    layers = ["mix", PENULTIMATE] if isinstance(network, Last) else ["layer1", "conv1", PENULTIMATE]
    for layer in layers:
        module = network.get_submodule(
            {PENULTIMATE: "head" if isinstance(network, Last) else "linear"}.get(layer, layer)
        )
        kept = []
        handle = (
            module.register_forward_pre_hook(lambda _, args, kept=kept: kept.append(args[0]))
            if layer == PENULTIMATE
            else module.register_forward_hook(lambda _, args, output, kept=kept: kept.append(output))
        )
        loss = -F.log_softmax(network(IMAGES.clone().requires_grad_()), dim=1).mean(dim=1).sum()
        handle.remove()
        (gradient,) = torch.autograd.grad(loss, kept[0])
        places = (1, 2) if layer == "mix" else tuple(range(2, gradient.ndim))
        total = [one.sum(places) if places else one for one in (kept[0].detach(), gradient)]
        found = NeuronProbe(layer)(network, IMAGES)
        torch.testing.assert_close(found, total[0] * total[1], rtol=1e-3, atol=1e-7)
    assert_refused((lambda: NeuronProbe("nowhere")(network, IMAGES), "Got 'nowhere'. Its children are"))


def test_nac_is_the_share_of_covered_intervals_of_the_original():
    table, layer = gradient_method_records(), NeuronLayer(steepness=30.0, bins=50, enough=7)
    column = "neurons/penultimate"
    states = 1 / (1 + np.exp(-30.0 * table.probe(column)))
    left = np.log(np.linspace(1, np.sqrt(1e3), 25)) / np.log(1e3)
    ends = np.append(np.concatenate([left[:-1], (1 - left)[::-1]]), 1.2)
    ends[-2] += 1e-2
    inside = (states[:, None] >= ends[:-1, None]) & (states[:, None] < ends[1:, None])  # [images, intervals, neurons]
    normal = (table.column("split") == "train") & (table.anomalous == 0)
    covered = np.minimum(inside[normal].sum(axis=0) / 7, 1)
    expected = -(inside * covered).sum(axis=1).mean(axis=1)
    np.testing.assert_allclose(NAC([layer]).fit(table, 0).score(table), expected, rtol=1e-9)


def test_grood_is_the_distance_of_gradients_by_the_outlier_prototype():
    table = gradient_method_records()
    features = torch.tensor(table.probe("features/penultimate/from_noise"))
    normal = (table.column("split") == "train") & (table.anomalous == 0)
    classes = torch.tensor(table.column("prediction"))
    prototypes = torch.stack([features[normal][classes[normal] == one].mean(dim=0) for one in range(3)])
    noise = torch.zeros(features.shape[1], dtype=torch.float64, requires_grad=True)
    gradients = []
    for feature, label in zip(features, classes, strict=True):
        scores = -(feature - torch.cat([prototypes, noise[None]])).norm(dim=1)
        gradients += torch.autograd.grad(F.cross_entropy(scores, label), noise)
    gradients = torch.stack(gradients)
    np.testing.assert_allclose(prototype_gradient(features.numpy(), prototypes.numpy()), gradients, rtol=1e-9)
    expected = torch.cdist(gradients, gradients[torch.tensor(normal)]).amin(dim=1)
    np.testing.assert_allclose(GROOD().fit(table, 0).score(table)[~normal], expected[~torch.tensor(normal)], rtol=1e-6)


def test_features_are_relative_to_those_of_noise_images_and_do_not_depend_on_the_caller_s_random_numbers(network):
    torch.manual_seed(7)
    probe = FromNoiseProbe().prepare(network, [(IMAGES, LABELS)])
    again = FromNoiseProbe().prepare(network, [(IMAGES, LABELS)])
    assert np.array_equal(probe.origin, again.origin)
    plain = feature_layer_outputs(network, IMAGES, [PENULTIMATE])[1][0].detach()
    torch.testing.assert_close(probe(network, IMAGES), plain - torch.from_numpy(probe.origin))
    assert not np.array_equal(FromNoiseProbe(seed=1).prepare(network, [(IMAGES, LABELS)]).origin, probe.origin)
