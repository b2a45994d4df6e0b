"""Figures of the page: whose gradients they show, and that no name is cut off."""

import numpy as np
import torch

from lightning_gradood.data import DigitsSource
from lightning_gradood.data.folder import Opening
from lightning_gradood.experiments.artifacts import RunArtifacts
from lightning_gradood.networks import CifarResNet
from lightning_gradood.report import activation_norms, as_png, first_layer, method_rocs, weight_gradients


def test_the_first_layer_s_gradient_is_plain_autograd_s_and_leaves_the_network_as_it_was():
    source = Opening(None, 1.0, 0).load("normal", DigitsSource(digits=[9]))
    network = CifarResNet(1, 3).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = first_layer(network, {"normal": source})
    assert network.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    logits = network.eval()(source.images([len(source) // 2]).float() / 255)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.ones_like(logits), reduction="sum")
    loss.backward()
    ours, plain = found["gradients"]["normal"], network.conv1.weight.grad.numpy()
    # their lengths differ by the reduction over classes, which is the label design's own
    np.testing.assert_allclose(ours / np.linalg.norm(ours), plain / np.linalg.norm(plain), atol=1e-5)
    assert found["name"] == "conv1.weight"


def test_a_network_without_convolution_has_no_first_layer_to_show():
    assert first_layer(torch.nn.Linear(3, 2), {}) == {}


def test_artifacts_are_read_as_they_were_stored(tmp_path):
    stored = RunArtifacts("digest", {"normal": np.eye(2)}, ["x", "y"], {}, {}, {"logits": {"milliseconds": 1.5}})
    RunArtifacts.path(tmp_path).write_bytes(stored.to_bytes())
    found = RunArtifacts.read(tmp_path)
    np.testing.assert_array_equal(found.norms["normal"], np.eye(2))
    assert (found.weights, found.layer_names, found.probes) == ("digest", ["x", "y"], stored.probes)


def test_the_legend_of_few_layers_and_many_sources_fits():
    sources = ["normal", *(f"source_{number}" for number in range(8))]
    features = {source: np.random.default_rng(0).random((647, 4)) for source in sources}
    figure = activation_norms(features, ["relu.0", "relu.1", "layer1.0", "layer1.1"])
    as_png(figure)
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    (ticks,) = [[tick.get_text() for tick in axes.get_xticklabels()] for axes in figure.axes]
    assert ticks == ["relu", "layer1"]


def test_a_roc_has_a_line_for_each_detector_and_its_area():
    scores = {
        name: {"labels": np.array([0, 0, 1, 1]), "scores": np.array(one)}
        for name, one in {"good": [0.0, 1.0, 2.0, 3.0], "bad": [3.0, 2.0, 1.0, 0.0]}.items()
    }
    figure = method_rocs("smoke", scores)
    assert [line.get_label() for line in figure.axes[0].lines][1:] == ["good 100.00", "bad 0.00"]


def test_gradients_share_a_scale_and_say_their_norm():
    weights = np.ones((16, 3, 3, 3))
    images = {name: np.zeros((8, 8, 3), np.uint8) for name in ("normal", "far: sky")}
    figure = weight_gradients("conv", weights, {"normal": 0.5 * weights, "far: sky": weights}, images)
    titles = {axes.get_title(): axes for axes in figure.axes if axes.get_title().startswith("gradient")}
    assert list(titles) == ["gradient, norm² 108", "gradient, norm² 432"]
    assert [axes.images[0].get_array()[0, 0, 0] for axes in titles.values()] == [0.75, 1.0]
