"""The paper's detector: learns, keeps its best epoch, follows its seed alone and never looks at `test`."""

import numpy as np
import pytest
import torch
from made_up_records import PROBE, records, with_values
from sklearn.metrics import roc_auc_score

from lightning_gradood.detectors import MLP, mlp
from lightning_gradood.gradients import AllOnes, AllZeros
from lightning_gradood.records import Records
from lightning_gradood.tasks import MLPSettings

SETTINGS = MLPSettings(width=16, max_epochs=12, batch_size=32, learning_rate=1e-2)


def fitted(table=None, seed=0, settings=SETTINGS):
    """Return a detector fitted on made-up records, and its curves."""
    detector = MLP([AllOnes()], settings)
    return detector, detector.fit(table if table is not None else records(), seed)


@pytest.fixture(scope="module")
def learnt():
    """Fit once for the tests that only look."""
    return fitted()


def validation_loss(detector, table):
    """Mean binary cross entropy on `val`, by hand."""
    part = table.where(split="val")
    logits = detector.score(part)
    return np.mean(np.logaddexp(0, np.where(part.anomalous == 1, -logits, logits)))


def test_it_learns_what_can_be_learnt(learnt):
    test = records().where(split="test")
    scores = learnt[0].score(test)
    assert scores.dtype == np.float64
    assert scores.shape == (60,)
    assert roc_auc_score(test.anomalous, scores) > 0.95
    assert scores.max() > 1  # logits, not probabilities
    assert scores.min() < 0


def test_curves_hold_every_epoch(learnt):
    curves = learnt[1]
    assert [point["epoch"] for point in curves] == list(range(12))
    assert set(curves[0]) == {"epoch", "train/loss", "val/loss", "val/auroc"}
    assert curves[-1]["train/loss"] < curves[0]["train/loss"]


def test_training_stops_early_and_keeps_the_weights_of_the_best_epoch():
    """With as many anomalous as normal look-alikes the MLP can only overfit, so that the last epoch is a bad one."""
    table = records({"train": 20, "val": 40, "test": 5}, gap=0.2)
    settings = MLPSettings(width=64, max_epochs=200, patience=4, batch_size=8, learning_rate=2e-2)
    detector, curves = fitted(table, settings=settings)
    losses = [point["val/loss"] for point in curves]
    assert len(curves) == int(np.argmin(losses)) + 4 + 1 < 200
    assert min(losses) < losses[-1] - 0.01
    assert validation_loss(detector, table) == pytest.approx(min(losses), rel=1e-5)


def test_losses_of_the_curve_are_those_of_the_scores(learnt):
    detector, curves = learnt
    assert validation_loss(detector, records()) == pytest.approx(min(point["val/loss"] for point in curves), rel=1e-5)


def test_the_seed_fixes_everything(learnt):
    table = records()
    again, other = fitted(seed=0)[0], fitted(seed=1)[0]
    assert np.array_equal(again.score(table), learnt[0].score(table))
    assert not np.array_equal(other.score(table), learnt[0].score(table))


def test_every_epoch_mixes_the_sources_anew(monkeypatch):
    seen, loss = [], mlp.binary_cross_entropy_with_logits

    def noted(logits, labels):
        if logits.requires_grad:
            seen.append(labels.int().tolist())
        return loss(logits, labels)

    monkeypatch.setattr(mlp, "binary_cross_entropy_with_logits", noted)
    fitted(settings=MLPSettings(width=2, max_epochs=2, batch_size=30))
    assert [len(labels) for labels in seen] == [30] * 8
    assert all(0 < sum(labels) < 30 for labels in seen)
    assert seen[:4] != seen[4:]
    assert sum(map(sum, seen[:4])) == sum(map(sum, seen[4:])) == 60


@pytest.mark.parametrize("split", ["test", "val", "train"])
def test_only_train_and_val_are_looked_at(learnt, split):
    """Other values in `test` leave every weight as it was; other values in the splits it may see do not."""
    table = records()
    changed = with_values(table, split, np.exp(np.random.default_rng(9).normal(size=(1, 3))))
    state, before = fitted(changed)[0].state_dict(), learnt[0].state_dict()
    same = all(torch.equal(state[name], before[name]) for name in before)
    assert same == (split == "test")


def test_without_test_rows_the_weights_are_the_same(learnt):
    table = records()
    seen = Records.concatenate([table.where(split="train"), table.where(split="val")])
    expected = fitted(Records.concatenate([seen, table.where(split="test")]))[0].state_dict()
    found = fitted(seen)[0].state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_several_label_designs_are_read_side_by_side():
    table = records()
    twin = Records(
        table.table.rename_columns([{PROBE: "gradients/all_zeros"}.get(n, n) for n in table.table.column_names])
    )
    both = table.join(Records(twin.table))
    detector = MLP([AllOnes(), AllZeros()], SETTINGS)
    assert [probe.name for probe in detector.probes] == ["gradients/all_ones", "gradients/all_zeros"]
    detector.fit(both, seed=0)
    assert detector.state_dict()["network.1.weight"].shape == (16, 6)
