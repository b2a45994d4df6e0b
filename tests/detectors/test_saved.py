"""Fitted detectors on disk: what is saved is what is scored, in another process too; files execute nothing."""

import json

import numpy as np
import pytest
import torch
from asserts import assert_saved_scores_are_equal
from detector_cases import cases
from made_up_features import feature_records
from made_up_records import records
from safetensors import safe_open
from safetensors.torch import save_file

from lightning_gradood.core import Refusal
from lightning_gradood.detectors import (
    KNN,
    LID,
    Energy,
    FixedDetector,
    NotFittedError,
    load_detector,
    save_detector,
)
from lightning_gradood.records import Records


def test_saved_scores_are_equal_to_the_last_bit_in_a_fresh_process(tmp_path):
    fitted = cases()
    for detector, table in fitted.values():
        detector.fit(table, seed=3)
    assert_saved_scores_are_equal(fitted, tmp_path)


@pytest.fixture
def energy(tmp_path):
    save_detector(
        tmp_path / "energy.safetensors", Energy(), 0.0, feature_records(), trained_on="smoke", counts={"val": {}}
    )
    return tmp_path / "energy.safetensors"


def test_a_file_says_what_it_is(energy):
    found = load_detector(energy)
    assert (found.threshold, found.trained_on, found.counts, found.reads) == (0.0, "smoke", {"val": {}}, {"logits": []})
    assert found.versions["torch"] == torch.__version__.split("+")[0]


def test_an_unfitted_detector_is_not_saved(tmp_path):
    with pytest.raises(NotFittedError, match=r"KNN should be fitted .* Call KNN.fit or KNN.load_state_dict first"):
        save_detector(tmp_path / "knn.safetensors", KNN(), 0.0, feature_records())
    assert list(tmp_path.iterdir()) == []


def test_records_of_other_columns_are_refused(tmp_path):
    table = feature_records()
    lid = LID(neighbours=[5])
    lid.fit(table, seed=0)
    save_detector(tmp_path / "lid.safetensors", lid, 0.0, table)
    loaded = load_detector(tmp_path / "lid.safetensors")
    with pytest.raises(Refusal, match=r"should hold the probe `features/layers` with the 8 columns .* Got none"):
        loaded.flag(records())
    names = [f"other.{number}" for number in range(8)]
    values = {"features/layers": table.probe("features/layers")}
    other = Records.build(table.ids, source="normal", values=values, names={"features/layers": names})
    with pytest.raises(Refusal, match="Got 8 others"):
        loaded.flag(other)


class Own(FixedDetector):
    """A user's."""

    name = "own"
    probes = ()

    def score(self, table):
        return np.zeros(len(table))


def test_a_class_from_elsewhere_is_filled_but_never_imported(tmp_path):
    path = tmp_path / "own.safetensors"
    save_detector(path, Own(), 0.25, feature_records())
    with pytest.raises(Refusal, match=r"`detector` should be an instance of .*Own, .* not imported by name"):
        load_detector(path)
    assert load_detector(path, detector=Own()).threshold == 0.25
    with pytest.raises(Refusal, match=r"`detector` should be a .*Own, .* Got a KNN"):
        load_detector(path, detector=KNN())


def test_a_class_path_in_a_file_is_not_followed(tmp_path):
    with pytest.raises(Refusal, match=r"instance of subprocess.Popen, .* not imported by name"):
        load_detector(written(tmp_path, **{"class": "subprocess.Popen", "arguments": {"args": ["true"]}}))


def written(folder, state=None, **changed):
    """A file whose metadata is an energy detector's, but for what is changed; None leaves an entry out."""
    about = {
        "format": 1, "class": "lightning_gradood.detectors.energy.Energy", "arguments": {}, "threshold": 0.0,
        "trained_on": "", "counts": {}, "reads": {}, "versions": {},
    }  # fmt: skip
    about = {name: value for name, value in (about | changed).items() if value is not None}
    path = folder / "written.safetensors"
    save_file(state or {"x": torch.zeros(1)}, path, {"lightning_gradood.detector": json.dumps(about)})
    return path


@pytest.mark.parametrize("name", ["format", "class", "threshold", "trained_on", "counts", "reads", "versions"])
@pytest.mark.parametrize("value", [None, [1]])
def test_metadata_that_is_missing_or_of_another_type_is_refused(name, value, tmp_path):
    with pytest.raises(Refusal, match=f"written.safetensors should be a detector .* Got `{name}: "):
        load_detector(written(tmp_path, **{name: value}))


def test_metadata_that_names_no_detector_is_refused(tmp_path):
    with pytest.raises(Refusal, match="not imported by name"):
        load_detector(written(tmp_path, **{"class": "lightning_gradood.detectors.load_detector"}))
    with pytest.raises(Refusal, match=r"Got arguments that `Energy` does not take .*'kelvin'"):
        load_detector(written(tmp_path, arguments={"kelvin": 3}))
    strange = {"settings": {"class": "AllOnes.mro", "fields": {}}}
    with pytest.raises(Refusal, match=r"should be one of lightning_gradood.gradients or .synthetic. Got `AllOnes.mro`"):
        load_detector(written(tmp_path, **{"class": "lightning_gradood.detectors.mlp.MLP", "arguments": strange}))


def test_a_state_without_one_of_its_tensors_is_refused_or_scores_the_same(tmp_path):
    """The settings that ODIN and Mahalanobis chose are for the reader: their column alone is scored from."""
    for name, (detector, table) in cases().items():
        detector.fit(table, seed=3)
        path = tmp_path / f"{name}.safetensors"
        save_detector(path, detector, 0.0, table)
        with safe_open(path, "pt") as file:
            metadata, state = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        for left_out in state:
            save_file({key: value for key, value in state.items() if key != left_out}, path, metadata)
            if left_out in ("temperature", "magnitude"):
                assert np.array_equal(load_detector(path).detector.score(table), detector.score(table))
                continue
            with pytest.raises(Refusal, match=f"{name}.safetensors should be a detector .* Got a state that"):
                load_detector(path)


def test_files_that_are_no_detectors_are_refused(tmp_path, energy):
    with pytest.raises(Refusal, match=r"should be a detector that `detect` has saved"):
        load_detector(tmp_path / "nowhere.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(energy.read_bytes()[:20])
    with pytest.raises(Refusal, match=r"should be a detector that `detect` has saved"):
        load_detector(tmp_path / "cut.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(Refusal, match="something else"):
        load_detector(tmp_path / "x.safetensors")
    with pytest.raises(Refusal, match=r"format 1 or older. Got format 2. Update lightning_gradood"):
        load_detector(written(tmp_path, format=2))
