"""MLPs that are trained side by side: each ends as a plain loop would end, whoever is trained beside it."""

import logging
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import distributed, multiprocessing, nn
from torch.nn.functional import binary_cross_entropy_with_logits as loss_of

from lightning_gradood.core import Refusal
from lightning_gradood.networks import MLPSettings
from lightning_gradood.tasks import DetectionTask, Member, train_detection

SHORT = MLPSettings(width=16, max_epochs=12, batch_size=32, learning_rate=1e-2)
SETTINGS = [  # several shapes, several of one shape, and every setting of training
    SHORT,
    SHORT,
    replace(SHORT, width=5, dropout=0.0),
    replace(SHORT, max_epochs=60, patience=3, learning_rate=3e-2),  # stops early
    replace(SHORT, max_epochs=30, batch_size=20, weight_decay=0.3, patience=2, dropout=0.5),
    replace(SHORT, max_epochs=4, batch_size=1000, whitening=None),
    replace(SHORT, max_epochs=25, learning_rate=2e-3),
]


def data(number, width, seed):
    """Representations float64 [n, L] that overlap, a third of them anomalous, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(number) % 3 == 0).astype(np.int64)
    values = rng.normal(size=(number, width)) + 0.8 * labels[:, None] * (np.arange(width) < 2)
    return torch.from_numpy(values), torch.from_numpy(labels)


def members():
    made = []
    for number, settings in enumerate(SETTINGS):
        width, train, val = [(4, 100, 60), (4, 77, 60), (9, 100, 33)][number % 3]
        made.append(Member.of(data(train, width, number), data(val, width, 99 + number), settings, seed=number))
    return made


def plain_loop(member):
    """Logits on `val` of the first best epoch, and the curves."""
    (inputs, labels), (val, val_labels), settings = member.train, member.val, member.settings
    torch.manual_seed(member.seed)
    width, drop = settings.width, settings.dropout
    hidden, output = nn.Linear(inputs.shape[1], width), nn.Linear(width, 1)
    network = nn.Sequential(nn.Dropout(drop), hidden, nn.ReLU(), nn.Dropout(drop), output, nn.Flatten(0))
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    curves, best = [], None
    while len(curves) < settings.max_epochs:
        total = 0.0
        for rows in torch.randperm(len(inputs)).split(settings.batch_size):
            loss = loss_of(network.train()(inputs[rows]), labels[rows].float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        with torch.no_grad():
            logits = network.eval()(val)
        found = {"epoch": len(curves), "train/loss": total / len(inputs)}
        found["val/auroc"] = roc_auc_score(val_labels, logits)
        curves.append(found | {"val/loss": loss_of(logits, val_labels.float()).item()})
        waited = len(curves) - 1 - int(np.argmin([point["val/loss"] for point in curves]))
        best = logits if not waited else best
        if waited >= settings.patience:
            break
    return best, curves


def logits_of(member, trained):
    network = trained.network
    hidden = (member.val[0] @ network.hidden_weight.T + network.hidden_bias).relu()
    return (hidden @ network.output_weight.T + network.output_bias).squeeze(1)


def test_each_member_learns_what_a_plain_loop_learns_from_its_records_and_seed_alone():
    together = members()
    found = train_detection(together)
    assert len({len(one.curves) for one in found}) > 4
    for member, one in zip(together, found, strict=True):
        expected, curves = plain_loop(member)
        torch.testing.assert_close(logits_of(member, one), expected, rtol=1e-4, atol=1e-4)
        assert [point.keys() for point in one.curves] == [curve.keys() for curve in curves]
        for point, curve in zip(one.curves, curves, strict=True):
            assert point == pytest.approx(curve, rel=1e-3, abs=1e-4)
        assert one.network.standardisation is member.standardisation


def test_a_member_trained_alone_in_other_company_or_another_order_scores_the_same():
    together = members()
    found = train_detection(together)
    backwards = train_detection(together[::-1])[::-1]
    for member, one, other in zip(together, found, backwards, strict=True):
        (alone,) = train_detection([member])
        for again in (alone, other):
            torch.testing.assert_close(logits_of(member, again), logits_of(member, one), rtol=1e-5, atol=1e-5)
            assert len(again.curves) == len(one.curves)
    (changed,) = train_detection([replace(together[1], seed=0)])  # another seed, other weights
    assert not torch.equal(changed.network.hidden_weight, found[1].network.hidden_weight)


def test_a_member_that_cannot_be_validated_is_refused_and_the_others_are_trained():
    good, second, third, *_ = members()
    one_class = replace(second, val=(second.val[0], torch.zeros(60, dtype=torch.int64)))
    not_finite = replace(third, train=(third.train[0] * float("nan"), third.train[1]))
    found = train_detection([one_class, good, not_finite])
    assert [type(one) for one in (found[0], found[2])] == [Refusal, Refusal]
    assert "NaN" in str(found[2])
    (alone,) = train_detection([good])
    torch.testing.assert_close(logits_of(good, found[1]), logits_of(good, alone))


def test_training_says_nothing_and_leaves_random_numbers_and_gradients_alone(caplog, recwarn, capfd):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    member = members()[0]
    with caplog.at_level(logging.INFO):
        (found,) = train_detection([member])
    assert torch.equal(torch.rand(3), expected)
    assert (caplog.records, list(recwarn), *capfd.readouterr()) == ([], [], "", "")
    pixels = torch.rand(2, 4, dtype=torch.float64, requires_grad=True)
    found.network(pixels).sum().backward()
    assert pixels.grad.abs().sum() > 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_processes_of_a_group_train_their_own_members_without_waiting_for_each_other(tmp_path):
    multiprocessing.start_processes(_one_process, args=(tmp_path,), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    expected = [logits_of(member, one) for member, one in zip(members(), train_detection(members()), strict=True)]
    for found, alone in zip([*first, *second], expected, strict=True):
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-4)


def _one_process(rank, folder):
    with pytest.MonkeyPatch.context() as patch:
        slurm = {"SLURM_NTASKS": 2, "SLURM_JOB_NAME": "job", "SLURM_PROCID": rank, "SLURM_LOCALID": rank}
        torchrun = {"TORCHELASTIC_RUN_ID": "run", "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2}
        for name, value in (slurm if rank else torchrun).items():
            patch.setenv(name, str(value))
        distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
        mine = members()[:1] if rank == 0 else members()[1:]  # a different number, of different length
        handlers = [signal.getsignal(signal.SIGUSR1)]
        patch.setattr(DetectionTask, "on_train_start", lambda _: handlers.append(signal.getsignal(signal.SIGUSR1)))
        logits = [logits_of(member, one) for member, one in zip(mine, train_detection(mine), strict=True)]
        assert handlers[0] is handlers[1], "SLURM's plugin would requeue the job"
        torch.save(logits, folder / f"{rank}.pt")
        distributed.destroy_process_group()
