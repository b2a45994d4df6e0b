"""A run that is continued keeps the learning rates that it would have had, or is refused in a sentence."""

import re
from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, StepLR
from toy_images import loader, network, trainer

from lightning_gradood.core import Refusal
from lightning_gradood.tasks import ClassificationTask, Cosine, OneCycle


class Rates(Callback):
    """Keep the learning rate of each step."""

    def __init__(self):
        self.rates = []

    def on_train_batch_start(self, trainer, *_):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def sgd(rate):
    return lambda parameters: torch.optim.SGD(parameters, lr=rate)


def fit(folder, scheduler, epochs, ckpt_path=None, stop=None, rate=0.1, batches=4):
    """Train and return the learning rates; `stop` epochs are trained of those that the schedule was made for."""
    rates = Rates()

    class Stop(Callback):
        def on_train_epoch_end(self, trainer, *_):
            trainer.save_checkpoint(folder / "last.ckpt")
            trainer.should_stop = trainer.current_epoch + 1 == stop

    task = ClassificationTask(network(), optimizer=sgd(rate), scheduler=scheduler)
    running = trainer(max_epochs=epochs, callbacks=[rates, Stop()])
    running.fit(task, loader(batches), loader(1), ckpt_path=ckpt_path, weights_only=True)
    return rates.rates


def restarts(optimizer, steps):
    return CosineAnnealingWarmRestarts(optimizer, T_0=3)


def steps(optimizer, steps):
    return StepLR(optimizer, 3)


SCHEDULES = [OneCycle, partial(OneCycle, warmup=0.5), Cosine, restarts, steps, None]


@pytest.mark.parametrize("scheduler", SCHEDULES)
def test_an_interrupted_run_goes_on_with_the_rates_of_a_whole_one(tmp_path, scheduler):
    whole = fit(tmp_path / "whole", scheduler, epochs=4)
    begun = fit(tmp_path, scheduler, epochs=4, stop=2)
    rest = fit(tmp_path, scheduler, epochs=4, ckpt_path=str(tmp_path / "last.ckpt"))
    assert len(begun) == len(rest) == 8
    assert [*begun, *rest] == pytest.approx(whole)


@pytest.mark.parametrize("scheduler", [OneCycle, Cosine])
@pytest.mark.parametrize("stop", [1, None])
@pytest.mark.parametrize("changed", [{"epochs": 5}, {"epochs": 2, "batches": 5}])
def test_another_number_of_steps_is_refused(tmp_path, scheduler, stop, changed):
    fit(tmp_path, scheduler, epochs=2, stop=stop)
    total = changed["epochs"] * changed.get("batches", 4)
    words = rf"`trainer.max_epochs`.* 8 in `ckpt_path = \S+last\.ckpt` and {total} now.*--model\.weights \S+last\.ckpt"
    with pytest.raises(Refusal, match=words):
        fit(tmp_path, scheduler, ckpt_path=str(tmp_path / "last.ckpt"), **changed)


@pytest.mark.parametrize("scheduler", [restarts, steps, None])
def test_schedules_without_an_end_go_on_for_more_epochs(tmp_path, scheduler):
    fit(tmp_path, scheduler, epochs=2)
    rest = fit(tmp_path, scheduler, epochs=4, ckpt_path=str(tmp_path / "last.ckpt"))
    assert rest == pytest.approx(fit(tmp_path / "whole", scheduler, epochs=4)[8:])


@pytest.mark.parametrize(
    ("before", "after"), [(OneCycle, Cosine), (Cosine, OneCycle), (OneCycle, None), (None, Cosine)]
)
def test_another_schedule_is_refused(tmp_path, before, after):
    fit(tmp_path, before, epochs=2)
    with pytest.raises(Refusal, match=r"`model\.scheduler` .*should be those of the run that is continued"):
        fit(tmp_path, after, epochs=2, ckpt_path=str(tmp_path / "last.ckpt"))


@pytest.mark.parametrize("scheduler", [OneCycle, Cosine, None])
def test_another_learning_rate_is_refused_rather_than_ignored(tmp_path, scheduler):
    fit(tmp_path, scheduler, epochs=2)
    with pytest.raises(Refusal, match=re.escape("`model.optimizer` should be those")) as refused:
        fit(tmp_path, scheduler, epochs=2, ckpt_path=str(tmp_path / "last.ckpt"), rate=0.01)
    assert "learning rates [" in str(refused.value)
