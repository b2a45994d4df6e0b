"""Refitting a guard with marked images: what is learnt, what is calibrated, and that the old guard stays as it was."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from asserts import assert_refused
from guards import BATCH, images, save
from PIL import Image

from lightning_gradood.detectors import Energy, KnownAnomalies, SavedDetector, readings, score_in_blocks
from lightning_gradood.guard import MARKED, Guard, KnownImages, Marks, read_marked, refit
from lightning_gradood.metrics import auroc, conformal_threshold
from lightning_gradood.probes import LogitsProbe


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A guard in a folder, and files of noise that it knows, bright noise and dark noise, by kind."""
    folder = tmp_path_factory.mktemp("refitted")
    guard, _, _ = save(folder, "combined")
    files = {}
    for kind, pixels in {
        "usual": images(40, 7),
        "bright": 0.9 * images(30, 8) + 0.1,
        "dark": 0.8 * images(30, 9),
    }.items():
        scans = (pixels * 255).round().byte().permute(0, 2, 3, 1).numpy()
        files[kind] = [str(folder / f"{kind}_{row}.png") for row in range(len(scans))]
        for path, scan in zip(files[kind], scans, strict=True):
            Image.fromarray(scan).save(path)
    return guard, files


def marked(guard, kinds, **more):
    return read_marked(guard, Marks({path: mark for mark, paths in kinds.items() for path in paths}, **more))


def test_normal_images_calibrate_and_flagged_ones_alone_raise_the_threshold(saved):
    guard, files = saved
    every = files["usual"] + files["dark"]
    scores = guard(every).scores
    flagged = [path for path, score in zip(every, scores, strict=True) if score > guard.threshold]
    new, _ = refit(guard, marked(guard, {"normal": flagged}))
    expected = np.sort([*guard.calibration, *guard(flagged).scores])
    np.testing.assert_allclose(new.calibration, expected, rtol=1e-6)
    assert new.threshold == conformal_threshold(new.calibration, 0.1) > guard.threshold
    classes = dict(zip(new.about.calibration, new.about.calibration_classes, strict=True))
    assert [classes[one] for one in guard.calibration] == guard.about.calibration_classes
    again, _ = refit(new, marked(guard, {"normal": flagged}))  # the same images are not counted twice
    assert again.about.calibration == new.about.calibration

    # with the others beside them they are a sample of normal images; of more others, fewer flagged ones calibrate
    others = [path for path in every if path not in flagged]
    both, changes = refit(guard, marked(guard, {"normal": flagged}, usual=others, number=len(others)))
    np.testing.assert_allclose(both.calibration, np.sort([*guard.calibration, *scores]), rtol=1e-6)
    assert both.threshold < new.threshold
    expected = {"normal": len(flagged), "normal, not marked": len(guard.calibration) + len(others)}
    assert {one.mark: one.images for one in changes} == expected
    parts = marked(guard, {"normal": flagged}, usual=others, number=4 * len(others)).parts
    assert parts.count(MARKED) == -(-len(flagged) // 4) < parts.count(MARKED) + parts.count("train") == len(flagged)


def test_anomalies_become_known_and_unknown_ones_stay_found(saved, tmp_path):
    guard, files = saved
    before = guard.calibration.tolist(), guard.threshold, len(guard.known)
    new, changes = refit(guard, marked(guard, {"bright": files["bright"][:15], "normal": files["usual"][:5]}))
    assert (guard.calibration.tolist(), guard.threshold, len(guard.known)) == before
    assert (new.about.trained_on, new.about.detector_name) == ("bright", "combined_and_known")
    assert new.about.counts["train"] == {"normal": guard.known.parts.count("train") + 5, "anomalous": 15}
    assert len(new.calibration) == guard.known.parts.count("val") + 5
    fresh = {kind: guard(paths[15:]).scores for kind, paths in files.items()}
    now = {kind: new(paths[15:]).scores for kind, paths in files.items()}

    def found(scores, kind):
        values = np.concatenate([scores["usual"], scores[kind]])
        return auroc(values, np.repeat([0, 1], [len(scores["usual"]), len(scores[kind])]))

    assert found(now, "bright") > found(fresh, "bright") + 0.05
    assert found(now, "dark") > found(fresh, "dark") - 0.1
    (told,) = [one for one in changes if one.auroc]
    assert told.auroc[1] > told.auroc[0]
    read = new.records(torch.stack([new.read(path) for path in files["dark"][15:]]))
    parts = new.saved.detector.parts(new.fitted, read)
    assert list(parts) == ["combined", "bright"]
    np.testing.assert_allclose(np.maximum(*parts.values()), new.fitted.score(read))
    whole = guard.saved.detector.parts(guard.fitted, read)
    np.testing.assert_allclose(sum(whole.values()), guard.fitted.score(read))

    # the same scores from its folder, and further marks are learnt beside the first
    new.save(tmp_path / "new")
    loaded = Guard.load(tmp_path / "new")
    np.testing.assert_allclose(loaded(files["dark"][15:]).scores, now["dark"])
    more, _ = refit(loaded, marked(loaded, {"dark": files["dark"][:15], "bright": files["bright"][:2]}))
    assert more.about.trained_on == "bright+dark"
    assert more.about.counts["train"]["anomalous"] == 30  # those that were marked again are counted once
    assert not isinstance(more.saved.detector.earlier, KnownAnomalies)


def test_false_alarms_keep_to_the_rate_in_the_mean_over_calibration_sets(saved):
    guard, rng, flagged = saved[0], np.random.default_rng(0), []
    energy = SavedDetector(Energy(), Energy(), 0.0, {"logits": []})
    for _ in range(30):
        logits = rng.normal(size=(99, 3)) * 2
        names, anomalies = [str(row) for row in range(99)], rng.normal(1, 1, size=(8, 3))
        scores = np.sort(Energy().score(known(names, logits).records)[60:])
        about = replace(guard.about, calibration=scores.tolist(), calibration_classes=[0] * 39)
        old = Guard(guard.network, energy, [LogitsProbe()], None, about, known(names, logits))
        new, _ = refit(old, known([f"a{row}" for row in range(8)], anomalies, "smoke"))
        fresh = known([str(row) for row in range(1000)], rng.normal(size=(1000, 3)) * 2).records
        flagged.append(np.mean(new.fitted.score(fresh) > new.threshold))
    assert 0.05 < np.mean(flagged) < 0.1 + 2 * np.std(flagged) / np.sqrt(len(flagged))


def known(names, logits, mark="normal"):
    """Images of which logits are known: marked anomalies, or normal ones, 60 to fit on and the others to calibrate on."""
    parts = ["train" if row < 60 else "val" for row in range(len(names))] if mark == "normal" else [MARKED] * len(names)
    return KnownImages(names, [mark] * len(names), parts, logits.argmax(axis=1), {"logits": logits})


def test_what_cannot_be_learnt_from_is_refused(saved, tmp_path):
    guard, files = saved
    (tmp_path / "broken.png").write_text("no image")
    assert_refused(
        (
            lambda: marked(guard, {"normal": ["gone.png", *files["dark"]]}),
            "1 of 31 that are gone, the first `gone.png`",
        ),
        (lambda: marked(guard, {"normal": [str(tmp_path / "broken.png")]}), "broken.png` should be a readable image"),
        (lambda: refit(guard, marked(guard, {"smoke": files["dark"][:1]})), "Got 1 of smoke. Give more of them"),
    )


def test_readings_of_a_guard_are_kept_as_they_were_calibrated(saved):
    guard, _ = saved
    kept = guard.known.at(np.array(guard.known.parts) == "val")
    assert np.sort(score_in_blocks(guard.fitted, kept.records)).tolist() == guard.calibration.tolist()
    assert readings(kept.records, guard.probes).shape[0] == len(kept) > BATCH
