"""The paper's detector without its training: inputs are standardised and whitened by the training split's statistics."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from lightning_gradood.core import decode, encode
from lightning_gradood.networks import MLPSettings, RepresentationMLP, Standardisation


@pytest.fixture
def representations():
    values = 10 ** np.random.default_rng(0).normal(-8, 4, size=(40, 4))
    values[:, 1], values[::5, 2] = 3e-7, 0
    return torch.from_numpy(np.log(values + 1e-30))


def test_inputs_are_standardised_with_the_statistics_of_the_training_split(representations):
    inputs, values = Standardisation.of(representations, MLPSettings(whitening=None)), representations.numpy()
    constant = values.std(axis=0) < 1e-12 * abs(values.mean(axis=0))
    assert constant.tolist() == [False, True, False, False]
    expected = (values - values.mean(axis=0)) / np.where(constant, 1.0, values.std(axis=0))
    found = inputs(representations)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(inputs(representations[3:5]).numpy(), expected[3:5], rtol=1e-4, atol=1e-6)
    # the mean of n equal numbers may round, and their spread with it, to something that is not quite zero
    for constant in (0.0, 0.1, 1 / 3, 1e-20, 7e5):
        train = torch.full((1001, 1), constant, dtype=torch.float64)
        inputs = Standardisation.of(train, MLPSettings())
        assert inputs(train[:3]).abs().max() < 1e-6, constant
        assert inputs(train[:3] * 1.01 + 1e-25).abs().max() < 1e4, constant


def test_standardisation_does_not_lose_what_float32_cannot_hold():
    train = torch.tensor([[1 + 1e-9, 1e-50], [1 + 2e-9, 2e-50], [1 + 3e-9, 3e-50]], dtype=torch.float64)
    found = Standardisation.of(train, MLPSettings(whitening=None))(train)
    expected = [-(1.5**0.5), 0, 1.5**0.5]
    np.testing.assert_allclose(found.numpy(), np.stack([expected, expected], axis=1), atol=1e-5)


def test_whitening_divides_principal_components_by_their_spread(representations):
    values = StandardScaler().fit_transform(representations.numpy())
    pca = PCA().fit(values)
    variances = pca.explained_variance_ * 39 / 40  # scikit-learn divides by n − 1
    for whitening in (1e-6, 0.3, 1.0):
        expected = pca.transform(values) / np.sqrt(variances + whitening)
        found = Standardisation.of(representations, MLPSettings(whitening=whitening))(representations).numpy()
        found = found[:, ::-1]  # scikit-learn names the largest component first
        np.testing.assert_allclose(abs(found[:, :3]), abs(expected[:, :3]), rtol=1e-3, atol=1e-5)


def test_the_sign_of_a_component_is_fixed_and_directions_without_variance_are_left_out(representations):
    values = representations[:, :1] * torch.tensor([1.0, -1.0, 1.0, -1.0])
    for noise in torch.randn(5, 40, 4, dtype=torch.float64) * 1e-9:  # the largest entries are a tie
        inputs = Standardisation.of(values + noise, MLPSettings())
        assert inputs.directions[:, -1].sign().tolist() == [-1, 1, -1, 1]
    # of two records a line is all that can be learnt; elsewhere weights that nobody trained must not speak
    train = torch.tensor([[1.0, 2.0, 3.0], [2.0, 3.0, 5.0]], dtype=torch.float64)
    inputs = Standardisation.of(train, MLPSettings())
    assert (inputs.directions != 0).any(0).tolist() == [False, False, True]
    across = torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]], dtype=torch.float64) * inputs.std
    assert inputs(train.mean(0) + across).abs().max() < 1e-6


def test_it_is_two_layers_on_standardised_inputs_and_is_saved_with_its_statistics(representations):
    layers = torch.nn.Sequential(torch.nn.Linear(4, 7), torch.nn.ReLU(), torch.nn.Linear(7, 1))
    inputs = Standardisation.of(representations, MLPSettings())
    network = RepresentationMLP(inputs, *(weight.detach() for weight in layers.parameters()))
    with torch.no_grad():
        torch.testing.assert_close(network(representations), layers(inputs(representations).float()).squeeze(1))
    arrays = {}
    loaded = decode(encode(network, arrays), arrays=arrays)
    assert torch.equal(loaded(representations), network(representations))
