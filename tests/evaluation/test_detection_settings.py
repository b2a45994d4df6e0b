"""Stage two's settings: sensible by default, refused where nothing could come of them."""

import re

import pytest

from lightning_gradood.core import Refusal
from lightning_gradood.detectors import MLP
from lightning_gradood.evaluation import DetectionSettings
from lightning_gradood.gradients import AllOnes, AllZeros, Uniform
from lightning_gradood.tasks import MLPSettings


def test_the_default_is_the_paper_s_detector():
    (detector,) = DetectionSettings().build()
    assert isinstance(detector, MLP)
    assert detector.name == "mlp"
    assert [probe.name for probe in detector.probes] == ["gradients/all_ones"]


def test_settings_reach_the_detector():
    settings = DetectionSettings(label_designs=[AllOnes(), AllZeros()], mlp=MLPSettings(width=7))
    paper, detector = settings.build()
    assert (paper.name, detector.name) == ("mlp_all_ones", "mlp")
    assert [probe.name for probe in paper.probes] == ["gradients/all_ones"]
    assert paper.settings.width == detector.settings.width == 7
    assert [probe.name for probe in detector.probes] == ["gradients/all_ones", "gradients/all_zeros"]


def test_the_paper_s_label_is_not_reported_where_it_was_not_asked_for():
    settings = DetectionSettings(label_designs=[AllZeros(), Uniform()])
    assert [detector.name for detector in settings.build()] == ["mlp"]


def test_each_probe_is_read_once_and_the_logits_always():
    settings = DetectionSettings(label_designs=[AllOnes(), Uniform()])
    assert [probe.name for probe in settings.probes()] == ["gradients/all_ones", "gradients/uniform", "logits"]


def test_two_settings_share_nothing():
    first, second = DetectionSettings(), DetectionSettings()
    first.label_designs.append(AllZeros())
    first.mlp.width = 1
    assert len(second.label_designs) == 1
    assert second.mlp.width == MLPSettings().width


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"label_designs": []}, "`detection.label_designs` should name at least one label design. Got none."),
        (
            {"label_designs": [AllOnes(), AllOnes()]},
            "`detection.label_designs` should have different names. Got ['all_ones', 'all_ones'].",
        ),
        ({"resamples": 0}, "`detection.resamples` should be at least 1. Got `detection.resamples = 0`."),
    ],
)
def test_settings_without_meaning_are_refused(settings, words):
    with pytest.raises(Refusal, match=re.escape(words)):
        DetectionSettings(**settings)


def test_two_detectors_of_one_name_are_refused():
    twin = MLP([AllZeros()], MLPSettings())
    with pytest.raises(Refusal, match=re.escape("should have different names. Got ['mlp', 'mlp']. Remove one.")):
        DetectionSettings(detectors=[twin]).build()
