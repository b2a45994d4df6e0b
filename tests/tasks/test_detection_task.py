"""The paper's detector as a task: standardised inputs, binary cross entropy, settings that are checked."""

import re

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from toy_images import Loader, trainer

from lightning_gradood.core import Refusal
from lightning_gradood.tasks import DetectionTask, MLPSettings


@pytest.fixture
def representations():
    """Squared norms over many decades, one column constant, one with zeros; float64 [40, 4]."""
    rng = np.random.default_rng(0)
    values = 10 ** rng.normal(-8, 4, size=(40, 4))
    values[:, 1] = 3e-7
    values[::5, 2] = 0
    return torch.from_numpy(values)


def into_network(task, values):
    """Return what the MLP is given for representations."""
    seen = []
    task.eval()
    hook = task.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    task(values)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("log_values", [True, False])
def test_inputs_are_standardised_with_the_statistics_of_the_training_split(representations, log_values):
    task = DetectionTask(representations, MLPSettings(log_values=log_values, whitening=None))
    values = np.log(representations.numpy() + 1e-30) if log_values else representations.numpy()
    constant = values.std(axis=0) < 1e-12 * abs(values.mean(axis=0))
    assert constant.tolist() == [False, True, False, False]
    expected = (values - values.mean(axis=0)) / np.where(constant, 1.0, values.std(axis=0))
    found = into_network(task, representations)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)
    # other records are moved by the same statistics, not by their own
    np.testing.assert_allclose(into_network(task, representations[3:5]).numpy(), expected[3:5], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1 / 3, 1e-20, 7e5])
@pytest.mark.parametrize("log_values", [True, False])
def test_a_constant_column_is_not_blown_up_by_rounding(constant, log_values):
    """The mean of n equal numbers may round, and their spread with it, to something that is not quite zero."""
    train = torch.full((1001, 1), constant, dtype=torch.float64)
    task = DetectionTask(train, MLPSettings(log_values=log_values))
    assert into_network(task, train[:3]).abs().max() < 1e-6
    elsewhere = into_network(task, train[:3] * 1.01 + 1e-25)
    assert elsewhere.abs().max() < 1e4


def test_standardisation_does_not_lose_what_float32_cannot_hold():
    """Columns that differ in the ninth digit, or below float32's smallest number, still tell records apart."""
    train = torch.tensor([[1 + 1e-9, 1e-50], [1 + 2e-9, 2e-50], [1 + 3e-9, 3e-50]], dtype=torch.float64)
    found = into_network(DetectionTask(train, MLPSettings(log_values=False, whitening=None)), train)
    expected = [-(1.5**0.5), 0, 1.5**0.5]
    np.testing.assert_allclose(found.numpy(), np.stack([expected, expected], axis=1), atol=1e-5)


@pytest.mark.parametrize("whitening", [1e-6, 0.3, 1.0])
def test_whitening_divides_principal_components_by_their_spread(representations, whitening):
    """Against scikit-learn; a component's sign is free."""
    values = StandardScaler().fit_transform(np.log(representations.numpy() + 1e-30))
    pca = PCA().fit(values)
    variances = pca.explained_variance_ * 39 / 40  # scikit-learn divides by n − 1
    expected = pca.transform(values) / np.sqrt(variances + whitening)
    found = into_network(DetectionTask(representations, MLPSettings(whitening=whitening)), representations).numpy()
    found = found[:, ::-1]  # scikit-learn names the largest component first
    np.testing.assert_allclose(abs(found[:, :3]), abs(expected[:, :3]), rtol=1e-3, atol=1e-5)


def test_the_sign_of_a_component_is_fixed_though_its_largest_entries_are_a_tie(representations):
    values = torch.log(representations[:, :1]) * torch.tensor([1.0, -1.0, 1.0, -1.0])
    for noise in torch.randn(5, 40, 4, dtype=torch.float64) * 1e-9:
        task = DetectionTask(values + noise, MLPSettings(log_values=False))
        assert task.directions[:, -1].sign().tolist() == [-1, 1, -1, 1]


def test_directions_without_variance_are_left_out():
    """Of two records a line is all that can be learnt; elsewhere weights that nobody trained must not speak."""
    train = torch.tensor([[1.0, 2.0, 3.0], [2.0, 3.0, 5.0]], dtype=torch.float64)
    task = DetectionTask(train, MLPSettings(log_values=False))
    assert (task.directions != 0).any(0).tolist() == [False, False, True]
    across = torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]], dtype=torch.float64) * task.std
    found = into_network(task, train.mean(0) + across)
    assert found.abs().max() < 1e-6


def test_dropout_acts_in_training_alone(representations):
    task = DetectionTask(representations, MLPSettings(dropout=0.5))
    torch.manual_seed(0)
    assert not torch.equal(task.train()(representations), task(representations))
    assert torch.equal(task.eval()(representations), task(representations))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_whitening_by_no_positive_number_is_refused(value):
    with pytest.raises(Refusal, match=re.escape(f"`mlp.whitening` should be positive. Got `mlp.whitening = {value}`.")):
        MLPSettings(whitening=value)


@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_a_dropout_outside_its_range_is_refused(value):
    with pytest.raises(Refusal, match=re.escape(f"`mlp.dropout` should be in [0, 1). Got `mlp.dropout = {value}`.")):
        MLPSettings(dropout=value)


def test_logits_are_one_number_per_record(representations):
    task = DetectionTask(representations, MLPSettings(width=7))
    assert task(representations).shape == (40,)
    assert task(representations[:1]).shape == (1,)
    assert [tuple(parameter.shape) for parameter in task.network.parameters()] == [(7, 4), (7,), (1, 7), (1,)]


def test_statistics_are_saved_with_the_weights(representations):
    task = DetectionTask(representations, MLPSettings())
    other = DetectionTask(representations * 100, MLPSettings())
    other.load_state_dict(task.state_dict())
    task.eval(), other.eval()
    torch.testing.assert_close(other(representations), task(representations), rtol=0, atol=0)


def test_metrics_are_means_over_records_and_the_auroc_of_all(representations):
    torch.manual_seed(0)
    task = DetectionTask(representations, MLPSettings())
    labels = (torch.arange(40) % 3 == 0).long()
    parts = [slice(0, 16), slice(16, 32), slice(32, 40)]
    validating = trainer()
    logged = validating.validate(
        task, Loader([(representations[part], labels[part]) for part in parts]), verbose=False
    )[0]
    with torch.no_grad():
        logits = task.eval()(representations)
    assert logged["val/auroc"] == pytest.approx(roc_auc_score(labels, logits.double()), abs=1e-6)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.float())
    assert logged["val/loss"] == pytest.approx(float(loss))


def test_training_uses_the_settings(representations):
    task = DetectionTask(representations, MLPSettings(learning_rate=0.03, weight_decay=0.2))
    group = task.configure_optimizers().param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.03, 0.2)
    assert {id(p) for p in group["params"]} == {id(p) for p in task.network.parameters()}


@pytest.mark.parametrize(
    "setting", [{"width": 0}, {"learning_rate": 0.0}, {"max_epochs": -1}, {"patience": 0}, {"batch_size": 0}]
)
def test_settings_that_must_be_positive(setting):
    ((name, value),) = setting.items()
    wanted = "a finite number above 0" if name == "learning_rate" else "at least 1"
    with pytest.raises(Refusal, match=re.escape(f"`mlp.{name}` should be {wanted}. Got `mlp.{name} = {value}`.")):
        MLPSettings(**setting)


def test_a_negative_weight_decay_is_refused_and_none_at_all_is_not():
    with pytest.raises(Refusal, match=re.escape("should be at least 0. Got `mlp.weight_decay = -0.1`.")):
        MLPSettings(weight_decay=-0.1)
    assert MLPSettings(weight_decay=0).weight_decay == 0
