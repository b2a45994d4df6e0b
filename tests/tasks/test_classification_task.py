"""The classifier's task: trains, measures, loads its initial weights once, normalises inside the network."""

import math
import re

import pytest
import torch
from lightning.pytorch import Callback
from safetensors.torch import save_file
from torch import nn
from toy_images import Loader, batches, loader, network, trainer

from lightning_gradood.core import Refusal
from lightning_gradood.networks import Normalized
from lightning_gradood.tasks import ClassificationTask, Cosine, Normalization, OneCycle


class Rates(Callback):
    """Keep the learning rate and the loss of every batch."""

    def __init__(self):
        self.rates, self.losses = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.5)


@pytest.mark.parametrize("schedule", [OneCycle, Cosine, None])
def test_fit_learns_the_toy_and_walks_the_whole_schedule(schedule):
    rates = Rates()
    task = ClassificationTask(network(), optimizer=sgd, scheduler=schedule)
    fitting = trainer(max_epochs=10, callbacks=[rates])
    fitting.fit(task, loader(4), loader(2, seed=9))
    assert sum(rates.losses[-4:]) < 0.7 * sum(rates.losses[:4])
    assert fitting.callback_metrics["val/accuracy"] > 0.6
    assert len(rates.rates) == 40
    if schedule is None:
        assert set(rates.rates) == {0.5}
    if schedule is Cosine:
        expected = [0.25 * (1 + math.cos(math.pi * step / 40)) for step in range(40)]
        assert rates.rates == pytest.approx(expected)
    if schedule is OneCycle:
        assert rates.rates.index(max(rates.rates)) == pytest.approx(0.3 * 40, abs=1)
        assert max(rates.rates) == pytest.approx(0.5, rel=0.02)
        assert rates.rates[-1] < 1e-4 < rates.rates[0] < 0.1


def test_the_schedule_advances_with_the_optimizer_not_with_the_batches():
    rates = Rates()
    task = ClassificationTask(network(), optimizer=sgd, scheduler=Cosine)
    trainer(max_epochs=2, accumulate_grad_batches=2, callbacks=[rates]).fit(task, loader(4), loader(1))
    expected = [0.25 * (1 + math.cos(math.pi * step / 4)) for step in (0, 0, 1, 1, 2, 2, 3, 3)]
    assert rates.rates == pytest.approx(expected)


def test_warmup_of_one_cycle_is_a_fraction_of_the_steps():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4)
    schedule = OneCycle(optimizer, total_steps=100, warmup=0.1)
    rates = []
    for _ in range(99):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates.index(max(rates)) == 9
    assert max(rates) == pytest.approx(0.4)


def test_a_schedule_without_an_end_is_refused():
    task = ClassificationTask(network(), scheduler=Cosine)
    words = "Got `trainer.max_epochs = -1`. Write e.g. 40, or `scheduler: null`."
    with pytest.raises(Refusal, match=re.escape(words)):
        trainer(max_epochs=-1).fit(task, loader(1), loader(1))


def test_test_and_validate_log_means_over_images_of_unequal_batches():
    task = ClassificationTask(network(), label_smoothing=0.1)
    data = [*batches(2, size=16), *batches(1, size=5, seed=3)]
    logged = trainer().test(task, Loader(data), verbose=False)[0]
    task.eval()
    images, labels = (torch.cat([batch[part] for batch in data]) for part in (0, 1))
    with torch.no_grad():
        logits = task.network(images)
    by_hand = sum(int(row.argmax()) == int(label) for row, label in zip(logits, labels, strict=True)) / 37
    assert logged["test/accuracy"] == pytest.approx(by_hand)
    loss = nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert logged["test/loss"] == pytest.approx(float(loss))
    validated = trainer().validate(task, Loader(data), verbose=False)[0]
    assert validated == pytest.approx({"val/loss": logged["test/loss"], "val/accuracy": by_hand})


def test_predict_gives_logits_in_order():
    task = ClassificationTask(network())
    predicted = torch.cat(trainer().predict(task, loader(2)))
    with torch.no_grad():
        expected = task.eval().network(torch.cat([images for images, *_ in batches(2)]))
    torch.testing.assert_close(predicted, expected)


def test_normalisation_happens_inside_the_network():
    images = batches(1)[0][0]
    plain = network().eval()
    task = ClassificationTask(plain, normalize=Normalization(mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 1.0])).eval()
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.25, 1.0]).view(3, 1, 1)
    assert isinstance(task.network, Normalized)
    torch.testing.assert_close(task(images), plain((images - mean) / std))
    assert ClassificationTask(plain).network is plain


def save_plain(trained, folder):
    torch.save(trained.state_dict(), folder / "weights.pt")
    return folder / "weights.pt"


def save_safetensors(trained, folder):
    save_file(trained.state_dict(), folder / "weights.safetensors")
    return folder / "weights.safetensors"


def save_checkpoint(trained, folder):
    saving = trainer(max_epochs=0, default_root_dir=folder)
    saving.fit(ClassificationTask(trained, normalize=Normalization([0.5] * 3, [0.5] * 3)), loader(1), loader(1))
    saving.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


@pytest.mark.parametrize("save", [save_plain, save_safetensors, save_checkpoint])
@pytest.mark.parametrize("normalize", [None, Normalization([0.5] * 3, [0.5] * 3)], ids=["bare", "normalized"])
def test_initial_weights_are_loaded_before_the_first_loop(tmp_path, save, normalize):
    trained = network(seed=1)
    task = ClassificationTask(network(seed=2), normalize=normalize, weights=str(save(trained, tmp_path)))
    inner = task.network.network if normalize else task.network
    assert not torch.equal(inner[0].weight, trained[0].weight)  # nothing is read on construction
    trainer().validate(task, loader(1), verbose=False)
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(inner.state_dict()[name], value, rtol=0, atol=0)


def test_initial_weights_do_not_overwrite_trained_ones(tmp_path):
    task = ClassificationTask(network(), optimizer=sgd, weights=str(save_plain(network(seed=1), tmp_path)))
    trainer().fit(task, loader(2), loader(1))
    trained = task.network[0].weight.detach().clone()
    assert not torch.equal(trained, network(seed=1)[0].weight)
    trainer().test(task, loader(1), verbose=False)
    trainer().predict(task, loader(1))
    torch.testing.assert_close(task.network[0].weight, trained, rtol=0, atol=0)


def test_weights_named_later_take_the_place_of_the_initial_ones(tmp_path):
    (tmp_path / "later").mkdir()
    initial, later = save_plain(network(seed=1), tmp_path), save_plain(network(seed=2), tmp_path / "later")
    task = ClassificationTask(network(), weights=str(initial))
    task.load_trained_weights(str(later))
    trainer().predict(task, loader(1))
    torch.testing.assert_close(task.network[0].weight, network(seed=2)[0].weight, rtol=0, atol=0)


class Layouts(nn.Module):
    """Note the memory format of what the network sees."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images):
        self.seen.append(images.is_contiguous(memory_format=torch.channels_last))
        return images


def test_channels_last_changes_the_layout_of_images_and_weights_and_no_number():
    layouts = Layouts()
    plain, last = (
        ClassificationTask(network()),
        ClassificationTask(nn.Sequential(layouts, network()), channels_last=True),
    )
    expected, found = (trainer().predict(task, loader(1))[0] for task in (plain, last))
    torch.testing.assert_close(found, expected)
    assert layouts.seen == [True]
    assert last.network[1][0].weight.is_contiguous(memory_format=torch.channels_last)
    assert plain.network[0].weight.is_contiguous()


def test_channels_last_does_not_stop_training():
    task = ClassificationTask(network(), optimizer=sgd, channels_last=True)
    before = task.network[0].weight.detach().clone()
    trainer().fit(task, loader(2), loader(1))
    assert not torch.equal(task.network[0].weight, before)
    assert task.network[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_the_default_optimizer_is_the_recipe_that_the_help_names():
    optimizer = ClassificationTask(network()).optimizer_factory([nn.Parameter(torch.zeros(1))])
    names = ("lr", "momentum", "nesterov", "weight_decay")
    assert {name: optimizer.defaults[name] for name in names} == dict(zip(names, (0.1, 0.9, True, 5e-4), strict=True))
