"""The torchmetrics object equals scikit-learn on raw scores, where torchmetrics' own does not, and on two processes."""

import numpy as np
import pytest
import torch
import torch.multiprocessing
from sklearn.metrics import roc_auc_score
from torch import distributed
from torchmetrics.classification import BinaryAUROC

from lightning_gradood.core import Refusal
from lightning_gradood.tasks import RawBinaryAUROC

LABELS = np.random.default_rng(0).integers(0, 2, 60)
NORMAL = np.random.default_rng(1).standard_normal(60) + 0.5 * LABELS
SCORES = {
    "unbounded": np.exp(20 * NORMAL),
    "negative": -1e5 - np.exp(8 * NORMAL),
    "tied": np.round(NORMAL),
    "constant": np.full(60, 17.0),
    "mixed batches": NORMAL,
    "differences below float32": 1e8 + NORMAL,
}


def _computed(scores, batch_size):
    metric = RawBinaryAUROC()
    for start in range(0, len(scores), batch_size):
        batch = slice(start, start + batch_size)
        metric.update(torch.from_numpy(scores[batch]), torch.from_numpy(LABELS[batch]))
    return metric.compute()


@pytest.mark.parametrize("batch_size", [1, 7, 60])
@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES.keys())
def test_equals_scikit_learn_whatever_the_batches(scores, batch_size):
    computed = _computed(scores, batch_size)
    assert computed.dtype == torch.float64
    assert computed.shape == ()
    assert computed.item() == pytest.approx(roc_auc_score(LABELS, scores), abs=1e-12)


def test_torchmetrics_own_differs_on_unbounded_scores():
    """The reason for this class; if it fails, torchmetrics can be used instead."""
    scores = SCORES["negative"]
    theirs = BinaryAUROC()(torch.from_numpy(scores), torch.from_numpy(LABELS)).item()
    assert abs(theirs - roc_auc_score(LABELS, scores)) > 0.05


def test_reset_forgets():
    metric = RawBinaryAUROC()
    metric.update(torch.tensor([1.0, 0.0]), torch.tensor([0, 1]))
    assert metric.compute() == 0
    metric.reset()
    metric.update(torch.tensor([0.0, 1.0]), torch.tensor([0, 1]))
    assert metric.compute() == 1


def test_keeps_no_graph():
    metric = RawBinaryAUROC()
    metric.update(torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True) * 2, torch.tensor([0, 1]))
    assert not metric.scores[0].requires_grad
    assert metric.compute() == 1


def test_half_precision_scores_are_kept_at_their_value():
    metric = RawBinaryAUROC().half()
    metric.update(torch.tensor([0.25, 3.0], dtype=torch.bfloat16), torch.tensor([False, True]))
    assert metric.scores[0].tolist() == [0.25, 3.0]
    assert metric.scores[0].dtype == torch.float64


def test_passes_sync_on_compute_on():
    assert RawBinaryAUROC().sync_on_compute
    assert not RawBinaryAUROC(sync_on_compute=False).sync_on_compute


def test_nan_scores_are_refused_on_compute():
    metric = RawBinaryAUROC()
    metric.update(torch.tensor([float("nan"), 1.0]), torch.tensor([0, 1]))
    with pytest.raises(Refusal, match="Got 1 NaN"):
        metric.compute()


def test_two_processes_share_their_scores_unless_told_not_to(tmp_path):
    torch.multiprocessing.spawn(_one_process, args=(tmp_path,), nprocs=2)
    everything, own = torch.load(tmp_path / "0.pt"), torch.load(tmp_path / "1.pt")
    expected = roc_auc_score(LABELS, SCORES["unbounded"])
    assert everything["synced"] == own["synced"] == pytest.approx(expected, abs=1e-12)
    for rank, values in enumerate((everything, own)):
        part = slice(0, 25) if rank == 0 else slice(25, 60)
        assert values["alone"] == pytest.approx(roc_auc_score(LABELS[part], SCORES["unbounded"][part]), abs=1e-12)


def _one_process(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    part = slice(0, 25) if rank == 0 else slice(25, 60)  # ranks hold different numbers of images
    values = {}
    for name, metric in {"synced": RawBinaryAUROC(), "alone": RawBinaryAUROC(sync_on_compute=False)}.items():
        metric.update(torch.from_numpy(SCORES["unbounded"][part]), torch.from_numpy(LABELS[part]))
        values[name] = metric.compute().item()
    torch.save(values, folder / f"{rank}.pt")
    distributed.destroy_process_group()
