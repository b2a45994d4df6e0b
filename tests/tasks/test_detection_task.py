"""The paper's detector as a task: standardised inputs, binary cross entropy, the AUROC of raw scores, checked settings."""

import numpy as np
import pytest
import torch
import torch.multiprocessing
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from torch import distributed
from toy_images import Loader, trainer

from lightning_gradood.core import Refusal
from lightning_gradood.tasks import DetectionTask, MLPSettings, RawBinaryAUROC


@pytest.fixture
def representations():
    """Squared norms over many decades, one column constant, one with zeros; float64 [40, 4]."""
    values = 10 ** np.random.default_rng(0).normal(-8, 4, size=(40, 4))
    values[:, 1], values[::5, 2] = 3e-7, 0
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
    # the mean of n equal numbers may round, and their spread with it, to something that is not quite zero
    for constant in (0.0, 0.1, 1 / 3, 1e-20, 7e5):
        train = torch.full((1001, 1), constant, dtype=torch.float64)
        task = DetectionTask(train, MLPSettings(log_values=log_values))
        assert into_network(task, train[:3]).abs().max() < 1e-6, constant
        assert into_network(task, train[:3] * 1.01 + 1e-25).abs().max() < 1e4, constant


def test_standardisation_does_not_lose_what_float32_cannot_hold():
    """Columns that differ in the ninth digit, or below float32's smallest number, still tell records apart."""
    train = torch.tensor([[1 + 1e-9, 1e-50], [1 + 2e-9, 2e-50], [1 + 3e-9, 3e-50]], dtype=torch.float64)
    found = into_network(DetectionTask(train, MLPSettings(log_values=False, whitening=None)), train)
    expected = [-(1.5**0.5), 0, 1.5**0.5]
    np.testing.assert_allclose(found.numpy(), np.stack([expected, expected], axis=1), atol=1e-5)


def test_whitening_divides_principal_components_by_their_spread(representations):
    """Against scikit-learn; a component's sign is free."""
    values = StandardScaler().fit_transform(np.log(representations.numpy() + 1e-30))
    pca = PCA().fit(values)
    variances = pca.explained_variance_ * 39 / 40  # scikit-learn divides by n − 1
    for whitening in (1e-6, 0.3, 1.0):
        expected = pca.transform(values) / np.sqrt(variances + whitening)
        found = into_network(DetectionTask(representations, MLPSettings(whitening=whitening)), representations).numpy()
        found = found[:, ::-1]  # scikit-learn names the largest component first
        np.testing.assert_allclose(abs(found[:, :3]), abs(expected[:, :3]), rtol=1e-3, atol=1e-5)


def test_the_sign_of_a_component_is_fixed_and_directions_without_variance_are_left_out(representations):
    values = torch.log(representations[:, :1]) * torch.tensor([1.0, -1.0, 1.0, -1.0])
    for noise in torch.randn(5, 40, 4, dtype=torch.float64) * 1e-9:  # the largest entries are a tie
        task = DetectionTask(values + noise, MLPSettings(log_values=False))
        assert task.directions[:, -1].sign().tolist() == [-1, 1, -1, 1]
    # of two records a line is all that can be learnt; elsewhere weights that nobody trained must not speak
    train = torch.tensor([[1.0, 2.0, 3.0], [2.0, 3.0, 5.0]], dtype=torch.float64)
    task = DetectionTask(train, MLPSettings(log_values=False))
    assert (task.directions != 0).any(0).tolist() == [False, False, True]
    across = torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]], dtype=torch.float64) * task.std
    assert into_network(task, train.mean(0) + across).abs().max() < 1e-6


def test_one_logit_per_record_dropout_in_training_alone_and_statistics_in_the_state_dict(representations):
    task = DetectionTask(representations, MLPSettings(width=7, dropout=0.5))
    assert [tuple(parameter.shape) for parameter in task.network.parameters()] == [(7, 4), (7,), (1, 7), (1,)]
    assert (task(representations).shape, task(representations[:1]).shape) == ((40,), (1,))
    torch.manual_seed(0)
    assert not torch.equal(task.train()(representations), task(representations))
    assert torch.equal(task.eval()(representations), task(representations))
    other = DetectionTask(representations * 100, MLPSettings(width=7)).eval()
    other.load_state_dict(task.state_dict())
    assert torch.equal(other(representations), task(representations))


def test_metrics_are_means_over_records_and_the_auroc_of_all(representations):
    torch.manual_seed(0)
    task = DetectionTask(representations, MLPSettings())
    labels = (torch.arange(40) % 3 == 0).long()
    parts = [(representations[part], labels[part]) for part in (slice(0, 16), slice(16, 32), slice(32, 40))]
    logged = trainer().validate(task, Loader(parts), verbose=False)[0]
    with torch.no_grad():
        logits = task.eval()(representations)
    assert logged["val/auroc"] == pytest.approx(roc_auc_score(labels, logits.double()), abs=1e-6)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.float())
    assert logged["val/loss"] == pytest.approx(float(loss))


LABELS = np.random.default_rng(0).integers(0, 2, 60)
NORMAL = np.random.default_rng(1).standard_normal(60) + 0.5 * LABELS
SCORES = {
    "unbounded": np.exp(20 * NORMAL), "negative": -1e5 - np.exp(8 * NORMAL), "tied": np.round(NORMAL),
    "constant": np.full(60, 17.0), "mixed batches": NORMAL, "differences below float32": 1e8 + NORMAL,
}  # fmt: skip


def test_auroc_of_raw_scores_equals_scikit_learn_whatever_the_batches():
    metric = RawBinaryAUROC()
    for name, scores in SCORES.items():
        for size in (1, 7, 60):
            metric.reset()
            for start in range(0, len(scores), size):
                batch = slice(start, start + size)
                metric.update(torch.from_numpy(scores[batch]).requires_grad_(), torch.from_numpy(LABELS[batch]))
            assert not metric.scores[0].requires_grad
            found = metric.compute()
            assert (found.dtype, found.shape) == (torch.float64, ())
            assert found.item() == pytest.approx(roc_auc_score(LABELS, scores), abs=1e-12), (name, size)
    metric = RawBinaryAUROC().half()
    metric.update(torch.tensor([0.25, 3.0], dtype=torch.bfloat16), torch.tensor([False, True]))
    assert (metric.scores[0].tolist(), metric.scores[0].dtype) == ([0.25, 3.0], torch.float64)
    metric.update(torch.tensor([float("nan"), 1.0]), torch.tensor([0, 1]))
    with pytest.raises(Refusal, match="Got 1 NaN"):
        metric.compute()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_two_processes_share_their_scores_unless_told_not_to(tmp_path):
    torch.multiprocessing.start_processes(_one_process, args=(tmp_path,), nprocs=2, start_method="fork")
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    expected = roc_auc_score(LABELS, SCORES["unbounded"])
    for found, part in zip(parts, (slice(0, 25), slice(25, 60)), strict=True):
        assert found["synced"] == pytest.approx(expected, abs=1e-12)
        assert found["alone"] == pytest.approx(roc_auc_score(LABELS[part], SCORES["unbounded"][part]), abs=1e-12)


def _one_process(rank, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    part = slice(0, 25) if rank == 0 else slice(25, 60)  # ranks hold different numbers of images
    values = {}
    for name, metric in {"synced": RawBinaryAUROC(), "alone": RawBinaryAUROC(sync_on_compute=False)}.items():
        metric.update(torch.from_numpy(SCORES["unbounded"][part]), torch.from_numpy(LABELS[part]))
        values[name] = metric.compute().item()
    torch.save(values, folder / f"{rank}.pt")
    distributed.destroy_process_group()
