"""The classifier's task: trains, measures, loads its initial weights once, normalises inside the network; what does not fit."""

import math
import re
from functools import partial

import pytest
import torch
from asserts import state_of
from torch import nn
from toy_images import Rates, as_loader, batches, cosine, loader, network, trainer

from lightning_gradood.core import Refusal
from lightning_gradood.networks import Normalized
from lightning_gradood.tasks import ClassificationTask, Normalization, OneCycle, check_network

IMAGES = torch.rand(2, 3, 4, 4)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.5)


@pytest.mark.parametrize("schedule", [partial(OneCycle, warmup=0.1), cosine, None])
def test_fit_learns_the_toy_and_walks_the_whole_schedule_which_advances_with_the_optimizer(schedule):
    task = ClassificationTask(network(), optimizer=sgd, scheduler=schedule)
    rates, halved = Rates(), Rates()
    fitting = trainer(max_epochs=10, callbacks=[rates])
    fitting.fit(task, loader(4), loader(2, seed=9))
    assert sum(rates.losses[-4:]) < 0.7 * sum(rates.losses[:4])
    assert fitting.callback_metrics["val/accuracy"] > 0.6
    assert len(rates.rates) == 40
    trainer(max_epochs=10, callbacks=[halved], accumulate_grad_batches=2).fit(task, loader(8), loader(1))
    assert halved.rates == pytest.approx([rate for rate in rates.rates for _ in range(2)])
    if schedule is None:
        assert set(rates.rates) == {0.5}
    elif schedule is cosine:
        assert rates.rates == pytest.approx([0.25 * (1 + math.cos(math.pi * step / 40)) for step in range(40)])
    else:
        assert rates.rates.index(max(rates.rates)) == pytest.approx(0.1 * 40, abs=1)
        assert max(rates.rates) == pytest.approx(0.5, rel=0.02)
        assert rates.rates[-1] < 1e-4 < rates.rates[0] < 0.1


def test_test_and_validate_log_means_over_images_of_unequal_batches():
    task = ClassificationTask(network(), label_smoothing=0.1)
    data = [*batches(2, size=16), *batches(1, size=5, seed=3)]
    logged = trainer().test(task, as_loader(data), verbose=False)[0]
    images, labels = (torch.cat([batch[part] for batch in data]) for part in (0, 1))
    with torch.no_grad():
        logits = task.eval().network(images)
    accuracy = float((logits.argmax(1) == labels).double().mean())
    loss = float(nn.functional.cross_entropy(logits, labels, label_smoothing=0.1))
    assert logged == pytest.approx({"test/loss": loss, "test/accuracy": accuracy})
    validated = trainer().validate(task, as_loader(data), verbose=False)[0]
    assert validated == pytest.approx({"val/loss": loss, "val/accuracy": accuracy})
    torch.testing.assert_close(torch.cat(trainer().predict(task, as_loader(data))), logits)


HALF = Normalization([0.5] * 3, [0.5] * 3)


def saved(seed, folder, normalize=None):
    path = folder / (f"{seed}.ckpt" if normalize else f"{seed}.pt")
    if normalize:
        saving = trainer(max_epochs=0)
        saving.strategy.connect(ClassificationTask(network(seed), normalize=normalize))
        saving.save_checkpoint(path)
    else:
        torch.save(network(seed).state_dict(), path)
    return str(path)


def test_initial_weights_are_loaded_before_the_first_loop_and_do_not_overwrite_trained_or_later_ones(tmp_path):
    initial, trained = saved(1, tmp_path), network(seed=1)
    for normalize in (None, HALF):
        task = ClassificationTask(network(seed=2), normalize=normalize, weights=saved(1, tmp_path, normalize))
        inner = task.network.network if normalize else task.network
        assert isinstance(task.network, Normalized) == bool(normalize)  # the classifier takes pixels in [0, 1]
        assert not torch.equal(inner[0].weight, trained[0].weight)  # nothing is read on construction
        trainer().validate(task, loader(1), verbose=False)
        for name, value in trained.state_dict().items():
            torch.testing.assert_close(inner.state_dict()[name], value, rtol=0, atol=0)
    task = ClassificationTask(network(), optimizer=sgd, weights=initial)
    trainer().fit(task, loader(2), loader(1))
    trained = task.network[0].weight.detach().clone()
    assert not torch.equal(trained, network(seed=1)[0].weight)
    trainer().test(task, loader(1), verbose=False)
    assert torch.equal(task.network[0].weight, trained)
    other = ClassificationTask(network(), weights=initial)
    other.load_trained_weights(saved(2, tmp_path))
    trainer().predict(other, loader(1))
    assert torch.equal(other.network[0].weight, network(seed=2)[0].weight)


def test_channels_last_changes_the_layout_of_images_and_weights_and_no_number():
    plain, seen = ClassificationTask(network()), []
    last = ClassificationTask(network(), optimizer=sgd, channels_last=True)
    is_last = partial(torch.Tensor.is_contiguous, memory_format=torch.channels_last)
    last.network[0].register_forward_pre_hook(lambda _, given: seen.append(is_last(given[0])))
    expected, found = (trainer().predict(task, loader(1))[0] for task in (plain, last))
    torch.testing.assert_close(found, expected)
    trainer().fit(last, loader(2), loader(1))
    assert set(seen) == {True}
    assert is_last(last.network[0].weight)
    assert plain.network[0].weight.is_contiguous()


NO_ROWS = "should be logits [N, classes], a row for each image, classes at least 1. Got `output = "
SINGLE = nn.Sequential(nn.Flatten(), nn.Linear(48, 1))
UNFIT = [
    (network(), IMAGES[:, :1], 3, "should accept images of shape [1, 4, 4]. Got: Given groups=1, weight of size"),
    (nn.Identity(), IMAGES, 3, f"{NO_ROWS}[2, 3, 4, 4]`"), (nn.Flatten(0), IMAGES, 3, f"{NO_ROWS}[96]`"),
    (network(), IMAGES, 10, "as the data have classes, 10. Got 3 outputs."),
    (SINGLE, IMAGES, 3, "as the data have classes, 3. Got 1 outputs"),
]  # fmt: skip


def test_a_fitting_network_passes_the_check_and_keeps_its_state_and_another_is_refused_in_one_line():
    fitting = network()
    before = state_of(fitting)
    assert [check_network(fitting, IMAGES, classes) for classes in (3, 2, None)] == [3, 3, 3]
    assert state_of(fitting) == before
    assert check_network(SINGLE, IMAGES, 2) == 1, "a single output tells two classes apart"
    for unfit, images, classes, words in UNFIT:
        with pytest.raises(Refusal, match=re.escape(words)) as refused:
            check_network(unfit, images, classes)
        assert "\n" not in str(refused.value)
