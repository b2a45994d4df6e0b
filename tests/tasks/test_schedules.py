"""Schedules: their rates, a run that goes on with the rates it would have had, and what is refused before the first step."""

import re
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.optim.lr_scheduler import MultiStepLR, StepLR
from toy_images import Rates, cosine, loader, network, trainer

from lightning_gradood.core import Refusal
from lightning_gradood.tasks import ClassificationTask, OneCycle

SGD = torch.optim.SGD
TEN_EPOCHS, ENDLESS = SimpleNamespace(max_epochs=10, max_steps=-1), SimpleNamespace(max_epochs=-1, max_steps=-1)


def fit(folder, scheduler, epochs, ckpt_path=None, stop=None, rate=0.1, batches=4):
    """Train and return the learning rates; `stop` epochs are trained of those that the schedule was made for."""
    rates = Rates()

    class Stop(Callback):
        def on_train_epoch_end(self, trainer, *_):
            trainer.save_checkpoint(folder / "last.ckpt")
            trainer.should_stop = trainer.current_epoch + 1 == stop

    task = ClassificationTask(network(), optimizer=partial(SGD, lr=rate), scheduler=scheduler)
    running = trainer(max_epochs=epochs, callbacks=[rates, Stop()])
    running.fit(task, loader(batches), loader(1), ckpt_path=ckpt_path, weights_only=True)
    return rates.rates


def steps(optimizer, steps):
    return StepLR(optimizer, 3)


@pytest.mark.parametrize("scheduler", [partial(OneCycle, warmup=0.5), cosine, steps, None])
def test_an_interrupted_run_goes_on_with_the_rates_of_a_whole_one(tmp_path, scheduler):
    whole = fit(tmp_path / "whole", scheduler, epochs=4)
    begun = fit(tmp_path, scheduler, epochs=4, stop=2)
    rest = fit(tmp_path, scheduler, epochs=4, ckpt_path=str(tmp_path / "last.ckpt"))
    assert len(begun) == len(rest) == 8
    assert [*begun, *rest] == pytest.approx(whole)
    if scheduler in (steps, None):  # without an end: it goes on for more epochs
        more = fit(tmp_path, scheduler, epochs=5, ckpt_path=str(tmp_path / "last.ckpt"))
        assert more == pytest.approx(fit(tmp_path / "whole", scheduler, epochs=5)[16:])


STEPS = r"`trainer.max_epochs`.* 8 in `ckpt_path = \S+last\.ckpt` and {} now.*--model\.weights \S+last\.ckpt"
OTHER = r"`model\.scheduler` .*should be those of the run that is continued"
RATE = r"`model\.optimizer` should be those.* learning rates \["


@pytest.mark.parametrize("before", [OneCycle, None])
def test_another_number_of_steps_schedule_or_learning_rate_is_refused(tmp_path, before):
    fit(tmp_path, before, epochs=2)
    changes = [({"rate": 0.01}, RATE), ({"scheduler": cosine}, OTHER)]
    if before is not None:
        changes += [({"epochs": 5}, STEPS.format(20)), ({"batches": 5}, STEPS.format(10)), ({"scheduler": None}, OTHER)]
    for change, words in changes:
        with pytest.raises(Refusal, match=words):
            fit(tmp_path, **({"scheduler": before, "epochs": 2, "ckpt_path": str(tmp_path / "last.ckpt")} | change))


def task(**settings):
    return ClassificationTask(network(), **settings)


BUILT = r"should have settings that it can be built with\. Got "
UNFIT = [
    ({"optimizer": partial(SGD, lr=-1.0)}, rf"`model\.optimizer` {BUILT}ValueError: Invalid learning rate: -1\.0\."),
    ({"optimizer": partial(SGD, lr=0.1, nesterov=True)}, "Nesterov momentum requires a momentum"),
    ({"scheduler": MultiStepLR}, rf"`model\.scheduler` {BUILT}"),
]


def test_an_optimizer_that_cannot_train_and_a_schedule_without_an_end_are_refused():
    for settings, words in UNFIT:
        with pytest.raises(Refusal) as refused:
            task(**settings).try_optimizer(TEN_EPOCHS)
        assert re.search(words, str(refused.value)), settings
    task(scheduler=OneCycle).try_optimizer(TEN_EPOCHS)
    with pytest.raises(Refusal, match=r"`trainer\.max_epochs` should be a number .* where `scheduler` is given"):
        task(scheduler=OneCycle).try_optimizer(ENDLESS)
    task(optimizer=torch.optim.AdamW).try_optimizer(ENDLESS)
