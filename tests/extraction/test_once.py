"""Before a verb's first step network, probes, sources and settings are looked at, once."""

from collections import Counter

import pytest
import torch
from small_experiment import QUIET, data, task, trained_data

from lightning_gradood import trainer as trainer_module
from lightning_gradood.core import Refusal
from lightning_gradood.data import DigitsSource, ImageDataModule, Limits
from lightning_gradood.evaluation import DetectionSettings
from lightning_gradood.extraction import reader as reader_module
from lightning_gradood.trainer import Trainer


def trainer(folder):
    return Trainer(default_root_dir=folder, devices=1, callbacks=[], **QUIET)


@pytest.mark.filterwarnings("ignore:NO WEIGHTS")
@pytest.mark.parametrize("training", [True, False])
def test_network_probes_and_sources_are_looked_at_once_for_a_verb(tmp_path, monkeypatch, training):
    looks = Counter()
    for owner, name in [
        (trainer_module, "check_network"),
        (reader_module, "check_network"),  # where a user's own Trainer probes
        (trainer_module, "try_probes"),
        (DetectionSettings, "check_train_images"),
        (DetectionSettings, "check_normal_images"),
    ]:
        whole = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, whole=whole, name=name: (looks.update([name]), whole(*a))[1])
    running, model, sources = trainer(tmp_path), task(), trained_data(limit=30)
    settings = DetectionSettings(resamples=20, false_positive_rate=0.2)
    running.check(model, sources, settings, training=training)  # as the command line does before it claims a folder
    running.check_stage_two(sources, settings)
    running.extract(model, sources, settings=settings, cache_dir=str(tmp_path / "cache"))
    running.check_stage_two(sources, settings)
    assert set(looks.values()) == {1}
    assert len(looks) == 4


def test_a_network_that_does_not_fit_is_refused_again_with_other_images(tmp_path):
    running, model = trainer(tmp_path), task()
    running.check(model, data())
    small = ImageDataModule(DigitsSource([0, 1, 2], "test"), limits=Limits(images=12))
    for _ in range(2):
        with pytest.raises(Refusal, match=r"as the data have classes, 3\. Got 2 outputs"):
            running.check(model, small)
    assert torch.equal(model.network[1].running_mean, torch.zeros(4))
