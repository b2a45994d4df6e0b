"""Attacked and corrupted versions of the normal images in the predict loop: made there, probed there, never twice."""

import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from small_experiment import data, probe, probes, tables, task

from lightning_gradood.core import as_float
from lightning_gradood.data import Budget
from lightning_gradood.extraction import callbacks
from lightning_gradood.gradients import AllOnes, squared_gradient_norms
from lightning_gradood.perturbations import FGSM, Corruption
from lightning_gradood.probes import PixelProbe
from lightning_gradood.records import RecordCache, Records

pytestmark = pytest.mark.filterwarnings("ignore:Total length of .* across ranks is zero")


def up(eps=0.25):
    return FGSM(eps, targeted="random")  # of two classes the target is the other one


def attacked(**settings):
    made = {"attacks": {"up": up()}, "corruptions": {"speckled": Corruption("gaussian_noise")}}
    return data(**(made | settings))


@pytest.fixture
def crafted_ids(monkeypatch):
    seen, craft = [], FGSM._craft
    monkeypatch.setattr(FGSM, "_craft", lambda self, *given: (seen.extend(given[-1]), craft(self, *given))[1])
    return seen


def truth(model, sources, attack, records):
    origins = records.column("origin_id")
    rows = [sources.sources.normal.ids.index(name) for name in origins]
    images = as_float(sources.sources.normal.images(rows))
    labels = torch.from_numpy(sources.sources.normal.labels[rows])
    each = range(len(rows))
    found = [attack.perturb(model.network, images[n : n + 1], labels[n : n + 1], [origins[n]]) for n in each]
    parts = {name: torch.cat([getattr(one, name) for one in found]) for name in ("images", "success", "l2", "linf")}
    return parts | {"labels": labels}


@pytest.mark.parametrize("settings", [{"inference_mode": True}, {"precision": "bf16-mixed"}], ids=str)
def test_records_equal_crafting_and_probing_one_image_at_a_time(tmp_path, settings, probed):
    model, sources = task(), attacked()
    found = tables(probe(tmp_path, model, sources, **settings))
    assert Counter(source for source, _ in probed) == {"normal": 3, "up": 3, "speckled": 3, "nine": 3}, "as batches"
    for name, attack in {"up": up(), "speckled": Corruption("gaussian_noise")}.items():
        records = found[name, "gradients/all_ones"]
        expected = truth(model, sources, attack, records)
        assert records.ids == sorted(f"{name}/{key.removeprefix('normal/')}" for key in sources.sources.normal.ids)
        assert (set(records.column("source")), set(records.column("attack"))) == ({"normal"}, {name})
        assert records.anomalous.tolist() == [1] * 12
        assert records.column("label").tolist() == expected["labels"].tolist()
        assert records.column("success").tolist() == expected["success"].tolist()
        for norm in ("l2", "linf"):
            assert records.column(norm) == pytest.approx(expected[norm].numpy(), rel=1e-6)
        norms = squared_gradient_norms(model.network, expected["images"], AllOnes())
        assert records.probe("gradients/all_ones") == pytest.approx(norms.numpy(), rel=1e-3)
        with torch.no_grad():
            logits = model.network.eval()(expected["images"])
        assert records.column("prediction").tolist() == logits.argmax(1).tolist()
    hit = found["up", "logits"].column("target_hit").tolist()
    assert hit == found["up", "logits"].column("success").tolist()
    assert set(found["speckled", "logits"].column("target_hit")) == {None}
    assert set(found["normal", "logits"].column("success")) == {None}


def test_what_is_recorded_is_not_crafted_again_and_an_interrupted_attack_goes_on(tmp_path, crafted_ids):
    first = probe(tmp_path / "whole", task(), attacked())
    assert Counter(crafted_ids) == Counter(attacked().sources.normal.ids)
    whole, cache = tables(first), RecordCache(tmp_path / "rest")
    crafted_ids.clear()
    assert probe(tmp_path / "whole", task(), attacked()).entries == first.entries
    for entry in first.entries:  # a new probe of clean images alone
        if entry.source == "normal":
            shutil.rmtree(tmp_path / "whole" / entry.key)
    again = tables(probe(tmp_path / "whole", task(), attacked()))
    assert crafted_ids == []
    assert len(again["normal", "logits"]) == 12
    for entry in first.entries:
        cut = 7 if entry.source == "up" else 12
        cache.write_shard(entry.key, Records(whole[entry.source, entry.probe].table.slice(0, cut)))
    found = tables(probe(tmp_path / "rest", task(), attacked()))
    assert sorted(crafted_ids) == sorted(whole["up", "logits"].column("origin_id")[7:])
    for key, records in whole.items():
        assert found[key].ids == records.ids
        assert found[key].probe(key[1]) == pytest.approx(records.probe(key[1]), rel=1e-3)


def test_the_key_names_what_makes_the_images(tmp_path, monkeypatch):
    def keys(**settings):
        return {(entry.source, entry.key) for entry in probe(tmp_path, task(), attacked(**settings)).entries}

    before = keys()
    for settings, expected in [
        ({"attacks": {"up": up(0.2)}}, {"up"}),
        ({"corruptions": {"speckled": Corruption("gaussian_noise", seed=1)}}, {"speckled"}),
        ({"eight_bit": True}, {"up", "speckled"}),
        ({"limits": {"up": 9, "speckled": 9}}, set()),
    ]:
        assert {source for source, _ in before - keys(**settings)} == expected, settings
    monkeypatch.setattr(FGSM, "version", 2)
    assert {source for source, _ in before - keys()} == {"up"}


def test_slow_attacks_are_kept_as_they_come(tmp_path, monkeypatch):
    monkeypatch.setattr(callbacks, "_SECONDS", 0.0)
    found = tables(probe(tmp_path, task(), attacked()))
    assert len(list(tmp_path.glob("*/*.parquet"))) == 3 * len(found)  # a shard for each batch
    assert all(len(records) == 12 for records in found.values())


def test_the_noise_control_is_normal_and_as_large_as_the_attack_and_limits_hold(tmp_path):
    sources = attacked(limit=30, limits={"up": 10}, noise_control=True)
    found, split_of = tables(probe(tmp_path, task(), sources)), sources.sources.manifest.split_of
    noise, attack = found["up.noise", "logits"], found["up", "logits"]
    assert noise.anomalous.tolist() == [0] * 10
    assert noise.column("origin_id").tolist() == attack.column("origin_id").tolist()
    assert noise.column("l2") == pytest.approx(attack.column("l2"), rel=1e-4)
    assert Counter(split_of[name] for name in attack.column("origin_id")) == {"train": 4, "val": 4, "test": 2}
    assert len(found["speckled", "logits"]) == 30
    assert ("speckled.noise", "logits") not in found


def test_pixels_are_kept_as_the_network_got_them(tmp_path):
    model, sources = task(), attacked(eight_bit=True)
    found = tables(probe(tmp_path, model, sources, [*probes(), PixelProbe("uint8")]))
    records = found["up", "pixels/uint8"]
    expected = truth(model, sources, up(), records)["images"].flatten(1).numpy()
    assert records.probe("pixels/uint8").dtype == np.uint8
    assert (records.probe("pixels/uint8") == np.round(expected * 255)).all()
    linf = found["up", "logits"].column("linf") * 255
    assert linf == pytest.approx(np.round(linf), abs=1e-4)  # rounded before they are measured


def test_images_that_were_kept_exactly_and_no_others_are_not_crafted_again(tmp_path, crafted_ids):
    settings = {"noise_control": True, "eight_bit": True}
    fresh = tables(probe(tmp_path / "fresh", task(), attacked(**settings)))
    probe(tmp_path / "kept", task(), attacked(**settings), [PixelProbe("float32")])
    crafted_ids.clear()
    found = tables(probe(tmp_path / "kept", task(), attacked(**settings)))
    assert crafted_ids == []
    assert found.keys() == fresh.keys()
    for key, records in fresh.items():
        assert found[key].probe(key[1]) == pytest.approx(records.probe(key[1]), rel=1e-6)
        for name in ("id", "origin_id", "source", "attack", "label", "prediction", "success", "target_hit"):
            assert found[key].column(name).tolist() == records.column(name).tolist()
        for name in ("linf", "l2"):
            assert found[key].column(name) == pytest.approx(records.column(name), rel=1e-6)
    probe(tmp_path / "others", task(), attacked(), [PixelProbe("uint8")])
    probe(tmp_path / "others", task(), attacked(attacks={"up": up(0.2)}), [PixelProbe("float32")])
    crafted_ids.clear()
    probe(tmp_path / "others", task(), attacked())
    assert len(crafted_ids) == 12


def test_what_a_smaller_budget_has_read_is_used_again_and_never_more_than_one_allows(tmp_path, probed):
    def read(folder, *most):
        probed.clear()
        sources = attacked(limit=30)
        sources.sources.take(Budget(most, most))
        found = probe(folder, task(), sources, only_missing=True)
        return Counter(source for source, ids in probed for _ in ids), {
            name: found.records(name).by_id() for name in ("normal", "nine", "up", "speckled")
        }

    few, small = read(tmp_path / "cache", 4, 3, 2)
    more, large = read(tmp_path / "cache", None, None, None)
    assert few == dict.fromkeys(small, 9)
    assert more == dict.fromkeys(small, 21)
    none, again = read(tmp_path / "cache", 4, 3, 2)
    assert none == {}
    _, alone = read(tmp_path / "other", None, None, None)
    for name in small:
        assert (len(small[name]), len(large[name])) == (9, 30)
        assert again[name].table.equals(small[name].table)
        assert alone[name].ids == large[name].ids
        assert alone[name].probe("logits") == pytest.approx(large[name].probe("logits"), rel=1e-5)
