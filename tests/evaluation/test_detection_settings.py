"""Stage two's settings: sensible by default, refused where nothing could come of them."""

import re
from dataclasses import dataclass
from typing import ClassVar

import torch
from asserts import assert_refused, random_states
from torch import nn

import lightning_gradood.evaluation.settings as chosen
from lightning_gradood.data import Budget
from lightning_gradood.detectors import (
    MLP,
    ODIN,
    Baseline,
    Combined,
    Energy,
    Mahalanobis,
    ReAct,
    SyntheticOutliers,
    Tuned,
)
from lightning_gradood.evaluation import DetectionSettings
from lightning_gradood.gradients import AllOnes, AllZeros, Uniform
from lightning_gradood.tasks import MLPSettings


@dataclass(frozen=True)
class NeedsMany(Baseline):
    fewest: ClassVar[int] = 700


def names(things):
    return [one.name for one in things]


def test_the_default_is_the_paper_s_detector_and_settings_reach_it():
    assert names(DetectionSettings().build()) == ["mlp"]
    paper, detector = DetectionSettings(label_designs=[AllOnes(), AllZeros()], mlp=MLPSettings(width=7)).build()
    assert (paper.name, detector.name) == ("mlp_all_ones", "mlp")
    assert (names(paper.probes), len(detector.probes)) == (["gradients/all_ones"], 2)
    assert paper.settings.width == detector.settings.width == 7
    assert names(DetectionSettings(label_designs=[AllZeros(), Uniform()]).build()) == ["mlp"]  # not asked for


def test_each_probe_is_read_once_and_the_logits_always_and_presets_and_detectors_add_up():
    designs = [AllOnes(), Uniform()]
    norms = ["gradients/all_ones", "gradients/uniform"]
    assert names(DetectionSettings(label_designs=designs).probes()) == [*norms, "logits"]
    four = [Mahalanobis(preprocessing=p, ensemble=e) for p in (False, True) for e in (False, True)]
    expected = ["gradients/all_ones", "mahalanobis", "mahalanobis/preprocessed", "logits"]
    assert names(DetectionSettings(detectors=four).probes()) == expected
    assert names(four) == ["mahalanobis_v", "mahalanobis_fe", "mahalanobis_p", "mahalanobis_p_fe"]
    presets = {"paper": [], "no_anomalies": ["weighted_parts"], "one_pass": ["one_pass", "mlp_on_synthetic"]}
    for preset, own in presets.items():
        assert names(DetectionSettings(preset=preset, detectors=[Energy()]).build()) == ["mlp", *own, "energy"]
    *_, one = DetectionSettings(designs, detectors=[Combined([Energy(), SyntheticOutliers(["norms"])])]).build()
    assert names(one.probes) == ["logits", *norms]  # detectors without label designs read those of the experiment


def test_settings_without_meaning_are_refused():
    other = [Mahalanobis(preprocessing=True), Mahalanobis(preprocessing=True, ensemble=True, magnitudes=[0, 0.5])]
    assert_refused(
        (lambda: DetectionSettings(label_designs=[]), "one or more with different names. Got []"),
        (lambda: DetectionSettings(label_designs=[AllOnes()] * 2), "Got ['all_ones', 'all_ones']."),
        (lambda: DetectionSettings(detectors=[MLP([AllZeros()], MLPSettings())]).build(), "Got `name = 'mlp'`."),
        (DetectionSettings(detectors=[ODIN(magnitudes=[])]).build, "`magnitudes` of ODIN should have at least one"),
        (DetectionSettings(mlp=MLPSettings(inputs=[])).build, "`inputs` of MLPSettings should have at least one"),
        (lambda: DetectionSettings(detectors=[Energy(name="a/b")]).build(), "names that can be files'"),
        (lambda: DetectionSettings(detectors=other).probes(), "Got two settings of `mahalanobis/preprocessed`. Give"),
    )


def test_post_hoc_leaves_out_what_does_not_apply_to_the_network_and_what_the_user_names_is_refused(capsys, monkeypatch):
    body, images = [nn.Flatten(), nn.Linear(27, 8), nn.ReLU(), nn.Linear(8, 4)], torch.rand(2, 3, 3, 3)
    linear, other = nn.Sequential(*body), nn.Sequential(*body, nn.LogSoftmax(dim=1))
    before, settings = random_states(), DetectionSettings(preset="post_hoc", detectors=[ODIN()])
    assert names(settings.for_network(linear, images).build()) == names(settings.build())
    assert "Left out" not in capsys.readouterr().err
    found = settings.for_network(other, images)
    left_out = [one for one in settings.build() if one.needs_head]
    assert set(names(settings.build())) - set(names(found.build())) == set(names(left_out))
    assert {"react", "dice", "adascale", "gradnorm"} <= set(names(left_out))
    assert random_states() == before
    said = re.findall(r"^Left out of --detection.preset post_hoc: ([^.]+)\. (.*)", capsys.readouterr().err, re.M)
    assert sorted(", ".join(line for line, _ in said).split(", ")) == sorted(names(left_out))
    ((together, reason),) = [one for one in said if "react" in one[0]]  # one line for all that fail for one reason
    assert "react, ash, scale" in together
    assert "The network should end in one linear layer" in reason
    without = settings.for_network(linear, images, has_train=False)
    assert set(names(settings.build())) - set(names(without.build())) == {"grood", "gradpca"}
    assert "post_hoc: grood, gradpca. They learn from the class" in capsys.readouterr().err
    tuned = DetectionSettings(detectors=[Tuned([Energy(), ReAct()])])
    assert_refused(
        (lambda: tuned.for_network(other, images), "`tuned` of --detection.detectors cannot be .* one linear layer")
    )
    assert tuned.for_network(linear, images) is tuned
    looked = []
    monkeypatch.setattr(chosen, "try_probes", lambda probes, *_: looked.extend(names(probes)))
    settings.for_network(linear, images)
    assert sorted(looked) == sorted(names(settings.probes()))


def test_a_budget_takes_fewer_images_but_as_many_as_the_false_positive_rate_and_the_detectors_need():
    for settings, known, expected in (
        ({}, True, Budget()),
        ({}, False, Budget((1000, 1000, 1000), (0, 400, 400))),
        ({"false_positive_rate": 0.001}, False, Budget((1000, 10_000, 1000), (0, 400, 400))),
        ({"budget": "thorough"}, False, Budget()),
        ({"budget": "quick"}, True, Budget((400, 200, 100), (100, 100, 100), 40)),
        ({"budget": "quick", "false_positive_rate": 0.01}, False, Budget((400, 1000, 100), (0, 20, 30), 40)),
    ):
        assert DetectionSettings(**settings).sizes(known) == expected
    needy = DetectionSettings(budget="quick", detectors=[NeedsMany()])
    assert needy.sizes(False).images[0] == 700
    assert "gradient_knn" in names(DetectionSettings().detectors_for(False))
    assert names(DetectionSettings(budget="quick").detectors_for(False)) == ["weighted_parts", "energy"]
