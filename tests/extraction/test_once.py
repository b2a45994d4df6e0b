"""Before a verb's first step network, probes, sources and settings are looked at, once."""

from collections import Counter

import pytest
from small_experiment import QUIET, task, trained_data

from lightning_gradood import preflight as preflight_module
from lightning_gradood.evaluation import DetectionSettings
from lightning_gradood.extraction import callbacks
from lightning_gradood.trainer import Trainer

LOOKING = QUIET | {"enable_checkpointing": True}  # `fit` keeps the classifier that stage two probes


@pytest.mark.filterwarnings("ignore:NO WEIGHTS")
@pytest.mark.parametrize("verb", ["fit", "detect"])
def test_network_probes_and_sources_are_looked_at_once_for_a_verb(tmp_path, monkeypatch, verb):
    looks = Counter()
    for owner, name in [
        (preflight_module, "check_network"),
        (callbacks, "check_network"),  # where a user's own Trainer probes
        (preflight_module, "try_probes"),
        (DetectionSettings, "check_images"),
    ]:
        whole = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, whole=whole, name=name: (looks.update([name]), whole(*a))[1])
    running, model, sources = Trainer(default_root_dir=tmp_path, devices=1, **LOOKING), task(), trained_data(limit=30)
    settings = DetectionSettings(resamples=20, false_positive_rate=0.2)
    running.preflight(verb, model, sources, settings)  # as the command line does before it claims a folder
    running.detect(model, sources, settings=settings, cache_dir=str(tmp_path / "cache"))
    assert looks == dict.fromkeys(["check_network", "try_probes", "check_images"], 1)
