"""Optimizers and schedules that cannot train are refused before the first step."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from lightning_gradood.core import Refusal
from lightning_gradood.tasks import ClassificationTask, Cosine, OneCycle

SGD, ENDLESS = torch.optim.SGD, SimpleNamespace(max_epochs=-1, max_steps=-1)
TEN_EPOCHS = SimpleNamespace(max_epochs=10, max_steps=-1)


class Stuck(SGD):
    def step(self, closure=None):
        raise KeyError("momentum")


class StuckSchedule(Cosine):
    def step(self, epoch=None):
        if self.last_epoch >= 0:  # torch takes one step when it is built
            1 / 0  # noqa: B018
        super().step()


def task(**settings):
    return ClassificationTask(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)), **settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"optimizer": None}, r"`model\.optimizer` should name an optimizer's class\. Got `model\.optimizer = None`"),
        (
            {"optimizer": partial(SGD, lr=-1.0)},
            r"`model\.optimizer` should have settings .* Got ValueError: Invalid learning",
        ),
        (
            {"optimizer": partial(SGD, lr=float("nan"))},
            r"`model\.optimizer\.lr` should be a finite number\. Got .* = nan`",
        ),
        ({"optimizer": partial(SGD, lr=1e30)}, r"`model\.optimizer\.lr` should be at most 1e\+06"),
        ({"optimizer": partial(SGD, lr=0.1, nesterov=True)}, "Nesterov momentum requires a momentum"),
        (
            {"optimizer": partial(torch.optim.AdamW, betas=(0.9, float("nan")))},
            r"`model\.optimizer(\.betas)?` should .* Got .*nan",
        ),
        (
            {"scheduler": partial(OneCycle, warmup=1.5)},
            r"`model\.scheduler\.warmup` should be at most 1\. Got .* = 1\.5`",
        ),
        (
            {"scheduler": torch.optim.lr_scheduler.MultiStepLR},
            r"`model\.scheduler` should have settings that it can be built and take a step with\. Got ",
        ),
        (
            {"optimizer": partial(SGD, lr=0.1, differentiable=None)},
            r"`model\.optimizer` should have settings that it can be built and take a step with\. Got TypeError: ",
        ),
        ({"optimizer": Stuck}, r"`model\.optimizer` should have .* Got KeyError: 'momentum'\."),
        ({"scheduler": StuckSchedule}, r"`model\.scheduler` should have .* Got ZeroDivisionError: division by zero\."),
    ],
)
def test_an_optimizer_that_cannot_train_is_refused(settings, words):
    with pytest.raises(Refusal, match=words):
        task(**settings).prepare_training(TEN_EPOCHS)


def test_trying_changes_no_weight_and_takes_every_usual_optimizer():
    for optimizer in (torch.optim.AdamW, partial(SGD, lr=0.1), torch.optim.RMSprop, partial(torch.optim.LBFGS, lr=1)):
        one = task(optimizer=optimizer)
        before = {name: value.clone() for name, value in one.network.state_dict().items()}
        drawn = torch.get_rng_state()
        one.prepare_training(TEN_EPOCHS)
        assert torch.equal(torch.get_rng_state(), drawn)
        assert all(torch.equal(value, before[name]) for name, value in one.network.state_dict().items())


@pytest.mark.parametrize("scheduler", [OneCycle, Cosine])
def test_a_schedule_needs_an_end(scheduler):
    one = task(scheduler=scheduler)
    one.prepare_training(TEN_EPOCHS)
    with pytest.raises(Refusal, match=r"`trainer\.max_epochs` should be a number of epochs where `scheduler` is given"):
        one.prepare_training(ENDLESS)
    task().prepare_training(ENDLESS)
