"""PerturbedSource of the normal images: their names, ids and limits, and that none leaves its origin's split."""

import re
from collections import Counter

import pytest

from lightning_gradood.attacks import FGSM, Semantic
from lightning_gradood.core import Refusal
from lightning_gradood.corruptions import Corruption
from lightning_gradood.data import DigitsSource, ImageDataModule, PhotoPatches
from lightning_gradood.synthetic import Blur


def data(**settings):
    defaults = {"normal": DigitsSource([0, 1, 2], "test"), "anomalies": {"photographs": PhotoPatches()}, "limit": 50}
    return ImageDataModule(**(defaults | settings))


@pytest.mark.parametrize("name", ["paper", "modern"])
def test_a_preset_s_name_stands_for_its_six_attacks(name):
    sources = data(attacks=name)
    assert sources.anomaly_names == ["photographs", "fgsm", "bim", "pgd", "cw", "iterll", "semantic"]
    assert set(sources.perturbed_sources) == set(sources.anomaly_names) - {"photographs"}


def test_a_severity_stands_for_all_fifteen_corruptions():
    sources = data(corruptions=2, attacks={"mine": Semantic()})
    assert len(sources.perturbed_sources) == 16
    assert {perturbed.attack.severity for name, perturbed in sources.perturbed_sources.items() if name != "mine"} == {2}
    assert [name for name, perturbed in sources.perturbed_sources.items() if perturbed.adversarial] == ["mine"]


def test_each_perturbed_image_has_its_origin_s_key_and_thereby_its_split():
    sources = data(attacks="paper", corruptions={"fog": Corruption("fog")}, limits={"cw": 20})
    split_of = sources.manifest.split_of
    for name, perturbed in sources.perturbed_sources.items():
        assert [key.partition("/")[2] for key in perturbed.ids] == [key.partition("/")[2] for key in perturbed.origins]
        assert [sources.normal_source.ids[row] for row in perturbed.rows] == perturbed.origins
        assert all(key.startswith(f"{name}/") for key in perturbed.ids)
        assert set(perturbed.ids).isdisjoint(split_of)  # no id of its own, so that only its origin can place it
        assert set(perturbed.origins) <= set(split_of)


@pytest.mark.parametrize("limit", [10, 25, 50, 1000])
def test_a_limit_takes_the_same_share_of_each_split_and_class(limit):
    sources = data(attacks="paper", limits={"cw": limit})
    perturbed, split_of = sources.perturbed_sources["cw"], sources.manifest.split_of
    taken = min(limit, 50)
    assert len(perturbed.rows) == taken
    splits = Counter(split_of[name] for name in perturbed.origins)
    assert [splits[split] for split in ("train", "val", "test")] == [0.4 * taken, 0.4 * taken, 0.2 * taken]
    classes = Counter(sources.normal_source.labels[perturbed.rows].tolist())
    assert max(classes.values()) - min(classes.values()) <= 3
    assert perturbed.rows == data(attacks="modern", limits={"cw": limit}).perturbed_sources["cw"].rows
    assert sources.perturbed_sources["fgsm"].rows == list(range(50))


def test_other_splits_attack_the_same_images():
    first = data(attacks="paper", limits={"cw": 20})
    second = data(attacks="paper", limits={"cw": 20}, split_seed=1)
    assert first.manifest.sources["normal"] != second.manifest.sources["normal"]
    assert first.perturbed_sources["cw"].rows == second.perturbed_sources["cw"].rows
    assert (
        first.perturbed_sources["cw"].rows
        != data(attacks="paper", limits={"cw": 20}, limit_seed=1).perturbed_sources["cw"].rows
    )


def test_a_limit_that_leaves_a_split_empty_is_refused_before_anything_is_attacked():
    with pytest.raises(Refusal, match=re.escape("`limits.cw` should leave images in every split. Got `limits.cw = 2`")):
        data(attacks="paper", limits={"cw": 2}).perturbed_sources  # noqa: B018


def test_noise_stands_behind_its_attack_and_is_no_anomaly():
    sources = data(attacks={"small": FGSM(eps=0.01)}, corruptions={"fog": Corruption("fog")}, noise_control=True)
    assert list(sources.perturbed_sources) == ["small", "small.noise", "fog"]
    assert sources.anomaly_names == ["photographs", "small", "fog"]
    assert [sources.noise_of(name) for name in sources.anomaly_names] == [None, "small.noise", None]
    assert data(attacks="paper").noise_of("fgsm") is None


def test_only_attacks_can_succeed():
    sources = data(attacks={"small": FGSM()}, corruptions={"fog": Corruption("fog")}, keep="successful")
    assert [sources.keep_of(name) for name in sources.anomaly_names] == ["all", "successful", "all"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"attacks": "lee2019"},
            "`data.attacks` should be one of paper, modern, pilot. Got `data.attacks = 'lee2019'`",
        ),
        ({"corruptions": 6}, "`severity` should be"),
        ({"attacks": {"photographs": Semantic()}}, "should have different names. Got ['photographs'] more than once"),
        ({"attacks": "paper", "corruptions": {"bim": Corruption("fog")}}, "Got ['bim'] more than once"),
        ({"attacks": {"normal": Semantic()}}, "Got `anomalies` with the name `normal`"),
        ({"attacks": {"a/b": Semantic()}}, "Got `anomalies` with the name `a/b`"),
        ({"attacks": "paper", "limits": {"pdg": 3}}, "Got `limits` with ['pdg']. Choose among ['fgsm', 'bim',"),
        ({"attacks": "paper", "limits": {"pgd": 0}}, "`pgd` should be at least 1. Got `pgd = 0`"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,  # no addresses: processes must agree
)
def test_what_cannot_be_is_refused_before_anything_is_opened(settings, words):
    with pytest.raises(Refusal, match=re.escape(words)):
        data(**settings)


@pytest.mark.parametrize(("limit", "made"), [(50, 50), (400, 200), (4800, 1000)])
def test_synthetic_outliers_are_a_share_of_the_normal_images_and_no_anomalies(limit, made):
    sources = data(
        limit=limit, anomalies={}, normal=PhotoPatches(size=6) if limit > 400 else DigitsSource(list(range(10)), "all")
    )
    sources.make_synthetic({"synthetic_blur": Blur()}, ["logits"])
    (blur,) = [one for one in sources.perturbed_sources.values() if one.name == "synthetic_blur"]
    assert (len(blur.rows), blur.probes, blur.adversarial) == (made, {"logits"}, False)
    assert "synthetic_blur" not in sources.anomaly_names
    splits = Counter(sources.manifest.split_of[origin] for origin in blur.origins)
    assert splits["train"] == pytest.approx(0.4 * made, abs=1)
    sources.make_synthetic({}, [])
    assert "synthetic_blur" not in sources.perturbed_sources
