"""Stage two's settings: sensible by default, refused where nothing could come of them."""

from asserts import assert_refused

from lightning_gradood.detectors import MLP, Energy, Mahalanobis
from lightning_gradood.evaluation import DetectionSettings
from lightning_gradood.gradients import AllOnes, AllZeros, Uniform
from lightning_gradood.tasks import MLPSettings


def names(things):
    return [one.name for one in things]


def test_the_default_is_the_paper_s_detector_and_settings_reach_it():
    (detector,) = DetectionSettings().build()
    assert (type(detector), detector.name, names(detector.probes)) == (MLP, "mlp", ["gradients/all_ones"])
    paper, detector = DetectionSettings(label_designs=[AllOnes(), AllZeros()], mlp=MLPSettings(width=7)).build()
    assert (paper.name, detector.name) == ("mlp_all_ones", "mlp")
    assert names(paper.probes) == ["gradients/all_ones"]
    assert names(detector.probes) == ["gradients/all_ones", "gradients/all_zeros"]
    assert paper.settings.width == detector.settings.width == 7
    assert names(DetectionSettings(label_designs=[AllZeros(), Uniform()]).build()) == ["mlp"]  # not asked for
    first, second = DetectionSettings(), DetectionSettings()
    first.label_designs.append(AllZeros())
    first.mlp.width = 1
    assert (len(second.label_designs), second.mlp.width) == (1, MLPSettings().width)


def test_each_probe_is_read_once_and_the_logits_always():
    settings = DetectionSettings(label_designs=[AllOnes(), Uniform()])
    assert names(settings.probes()) == ["gradients/all_ones", "gradients/uniform", "logits"]
    variants = [Mahalanobis(preprocessing=p, ensemble=e) for p in (False, True) for e in (False, True)]
    expected = ["gradients/all_ones", "mahalanobis", "mahalanobis/preprocessed", "logits"]
    assert names(DetectionSettings(detectors=variants).probes()) == expected


def test_presets_and_detectors_add_up():
    for preset, own in (
        ("paper", []),
        ("no_anomalies", ["no_anomalies"]),
        ("one_pass", ["one_pass", "mlp_on_synthetic"]),
    ):
        assert names(DetectionSettings(preset=preset, detectors=[Energy()]).build()) == ["mlp", *own, "energy"]
    settings = DetectionSettings(label_designs=[AllOnes(), Uniform()], preset="one_pass")
    (one,) = [one for one in settings.build() if one.name == "one_pass"]
    assert names(one.probes) == [
        "logits", "features/penultimate", "features/layers+spread", "gradients/all_ones", "gradients/uniform",
    ]  # fmt: skip


def test_settings_without_meaning_are_refused():
    other = [Mahalanobis(preprocessing=True), Mahalanobis(preprocessing=True, ensemble=True, magnitudes=[0, 0.5])]
    cases = [
        (lambda: DetectionSettings(label_designs=[]), "should name at least one label design. Got none."),
        (lambda: DetectionSettings(label_designs=[AllOnes()] * 2), "different names. Got ['all_ones', 'all_ones']."),
        (lambda: DetectionSettings(detectors=[MLP([AllZeros()], MLPSettings())]).build(), "Got ['mlp', 'mlp']."),
        (lambda: DetectionSettings(detectors=[Energy(name="a/b")]).build(), "names that can be files', without a"),
        (lambda: DetectionSettings(detectors=other).probes(), "Got two settings of `mahalanobis/preprocessed`. Give"),
    ]
    assert_refused(*cases)
