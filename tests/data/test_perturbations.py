"""Perturbed sources of the normal images: their names, ids and limits, and that none leaves its origin's split."""

import dataclasses
from collections import Counter

import pytest
from asserts import assert_refused

from lightning_gradood.data import Budget, DigitsSource, Limits, Perturbations, PhotoPatches, Sources, Split
from lightning_gradood.perturbations import FGSM, Blur, Corruption, Semantic

FOG = {"fog": Corruption("fog")}


def data(**settings):
    """Settings of perturbations and limits may stand by themselves."""
    defaults = {"normal": DigitsSource([0, 1, 2], "test"), "anomalies": {"photographs": PhotoPatches()}, "images": 50}
    settings = defaults | settings
    for group, kind in {"perturbations": Perturbations, "limits": Limits}.items():
        names = [field.name for field in dataclasses.fields(kind) if field.name in settings]
        settings[group] = kind(**{name: settings.pop(name) for name in names})
    return Sources(**settings)


def test_each_perturbed_image_has_its_origin_s_key_and_thereby_its_split():
    sources = data(attacks="paper", corruptions=FOG, sources={"cw": 20})
    split_of = sources.manifest.split_of
    for name, perturbed in sources.perturbed.items():
        assert [key.partition("/")[2] for key in perturbed.ids] == [key.partition("/")[2] for key in perturbed.origins]
        assert [sources.normal.ids[row] for row in perturbed.rows] == perturbed.origins
        assert all(key.startswith(f"{name}/") for key in perturbed.ids)
        assert set(perturbed.ids).isdisjoint(split_of)  # no id of its own, so that only its origin can place it
        assert set(perturbed.origins) <= set(split_of)


def test_a_limit_takes_the_same_share_of_each_split_and_class_and_the_same_images_for_other_splits():
    for limit in (10, 25, 50, 1000):
        sources = data(attacks="paper", sources={"cw": limit})
        perturbed, split_of, taken = sources.perturbed["cw"], sources.manifest.split_of, min(limit, 50)
        assert len(perturbed.rows) == taken
        splits = Counter(split_of[name] for name in perturbed.origins)
        assert [splits[split] for split in ("train", "val", "test")] == [0.4 * taken, 0.4 * taken, 0.2 * taken]
        classes = Counter(sources.normal.labels[perturbed.rows].tolist())
        assert max(classes.values()) - min(classes.values()) <= 3
        assert sources.perturbed["fgsm"].rows == list(range(50))
    seeds = ({}, {"split": Split(seed=1)}, {"seed": 1})
    first, second, third = (data(attacks="paper", sources={"cw": 20}, **one) for one in seeds)
    assert first.manifest.sources["normal"] != second.manifest.sources["normal"]
    rows = [one.perturbed["cw"].rows for one in (first, second, third)]
    assert rows[0] == rows[1] != rows[2]


def test_noise_stands_behind_its_attack_and_is_no_anomaly_and_only_attacks_can_succeed():
    sources = data(attacks={"small": FGSM(eps=0.01)}, corruptions=FOG, noise_control=True, keep="successful")
    assert list(sources.perturbed) == ["small", "small.noise", "fog"]
    assert [one.adversarial for one in sources.perturbed.values()] == [True, False, False]
    assert sources.anomaly_names == ["photographs", "small", "fog"]
    assert [sources.noise_of(name) for name in sources.anomaly_names] == [None, "small.noise", None]
    assert [sources.keep_of(name) for name in sources.anomaly_names] == ["all", "successful", "all"]
    made = data(corruptions=2, attacks={"mine": Semantic()}).perturbed
    assert len(made) == 16
    assert {one.attack.severity for name, one in made.items() if name != "mine"} == {2}
    assert [name for name, one in made.items() if one.adversarial] == ["mine"]


def test_limits_of_what_a_flag_has_taken_away_are_ignored_with_a_line(said):
    mine = {"attacks": {"mine": FGSM()}, "sources": {"mine": 20, "snow": 9, "cw": 9}}
    for settings, kept, ignored in [
        ({"attacks": "paper", "sources": {"cw": 20}}, {"cw": 20}, ""),
        ({"attacks": None, "sources": {"cw": 20}}, {}, "cw"),
        ({"attacks": None, "corruptions": FOG, "sources": {"mine": 9, "fog": 20}}, {"fog": 20}, "mine"),
        (mine, {"mine": 20}, "cw, snow"),
    ]:
        said.clear()
        sources = data(**settings)
        assert {name: len(one.rows) for name, one in sources.perturbed.items() if name in kept} == kept
        assert [line.partition(" are ignored")[0] for line in said] == ([f"Limits of {ignored}"] if ignored else [])


UNFIT = [
    ({"attacks": {"photographs": Semantic()}}, "should have different names. Got `photographs` more than once"),
    ({"attacks": "paper", "corruptions": {"bim": Corruption("fog")}}, "Got `bim` more than once"),
    ({"attacks": None, "sources": {"pdg": 3}}, "Got `limits.sources` with ['pdg']. Did you mean `pgd`?"),
    ({"attacks": {"a": FGSM()}, "sources": {"zzz": 3}}, "with ['zzz']. Choose among ['a', 'normal', 'photographs']."),
]


def test_what_cannot_be_is_refused_before_anything_is_opened_or_attacked():
    assert_refused(*((lambda settings=settings: data(**settings), words) for settings, words in UNFIT))
    few = data(attacks="paper", sources={"cw": 2})
    assert_refused((lambda: few.perturbed, "should leave images in every split. Got `limits.sources.cw = 2`"))


def test_synthetic_outliers_are_of_a_share_of_the_normal_train_images_and_no_anomalies():
    for limit, made in ((50, 20), (400, 80), (2500, 250), (4800, 240)):  # of 4,800, as of 1,000 of each split
        normal = PhotoPatches(size=6) if limit > 400 else DigitsSource(list(range(10)), "all")
        sources = data(images=limit, anomalies={}, normal=normal)
        sources.make_synthetic({"synthetic_blur": Blur()}, ["logits"])
        (blur,) = [one for one in sources.perturbed.values() if one.name == "synthetic_blur"]
        assert (len(blur.rows), blur.probes, blur.adversarial) == (pytest.approx(made, abs=20), {"logits"}, False)
        assert {sources.manifest.split_of[origin] for origin in blur.origins} == {"train"}
        sources.make_synthetic({}, [])
        assert "synthetic_blur" not in sources.perturbed


def test_a_budget_takes_of_each_split_and_class_its_share_and_a_larger_one_the_same_images_and_more():
    sources, before = data(images=180, corruptions=FOG, attacks={"mine": FGSM()}), []
    whole = sources.manifest
    for normal, attacked, outliers in ((12, 3, 2), (12, 12, 8), (30, 20, 20), (None, None, None)):
        sources.take(Budget((normal, normal, normal), (attacked, attacked, attacked), outliers))
        sources.make_synthetic({"synthetic_blur": Blur()}, ["logits"])
        split_of, labels = sources.manifest.split_of, dict(zip(sources.normal.ids, sources.normal.labels, strict=True))
        for name, parts in sources.manifest.sources.items():
            there = whole.counts[name]
            assert sources.manifest.counts[name] == {split: min(there[split], normal or 999) for split in parts}
            assert [sources.loaded[name].ids[row] for row in sources.rows_of(name)] == sorted(
                (one for ids in parts.values() for one in ids), key=sources.loaded[name].ids.index
            )
        classes = Counter(labels[one] for one in sources.manifest.sources["normal"]["val"])
        assert max(classes.values()) - min(classes.values()) <= 2
        made = {name: Counter(split_of[one] for one in spec.origins) for name, spec in sources.perturbed.items()}
        assert (
            made["mine"]
            == made["fog"]
            == {split: min(attacked or 999, normal or 999, n) for split, n in whole.counts["normal"].items()}
        )
        assert (set(made["synthetic_blur"]), made["synthetic_blur"]["train"]) == (
            {"train"},
            min(outliers or 99, normal or 99, 72),
        )
        taken = [set(split_of), *(set(one.ids) for one in sources.perturbed.values())]
        assert all(less <= more for less, more in zip(before, taken, strict=False)), (
            "a larger budget's are the same and more"
        )
        before = taken
        assert ("normal images fit" in sources.left_out) is (normal is not None)


def test_built_in_anomalies_are_made_of_no_train_image_unless_noise_makes_those_normal():
    for noise, splits in ((False, {"val", "test"}), (True, {"train", "val", "test"})):
        sources = data(anomalies={}, noise_control=noise)
        sources.try_built_in_anomalies()
        made = {
            name: {sources.manifest.split_of[one] for one in spec.origins} for name, spec in sources.perturbed.items()
        }
        assert (made["builtin_fgsm"], made["builtin_fog"]) == (splits, {"val", "test"})
