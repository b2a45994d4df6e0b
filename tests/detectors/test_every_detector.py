"""What holds for every detector, among it that what is saved is what is scored; files that are no detectors are refused."""

import copy
import json
import random
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from asserts import assert_refused, random_states
from detector_cases import cases, feature_records, learnt
from made_up_records import exchanged, records
from programs import run_program
from safetensors import safe_open
from safetensors.torch import save_file

from lightning_gradood import detectors
from lightning_gradood.core import encode
from lightning_gradood.detectors import Detector, FixedDetector, load_detector, save_detector, score_in_blocks
from lightning_gradood.metrics import auroc
from lightning_gradood.records import Records

CASES = cases()
CHOOSING = {"odin", "mahalanobis_p"}  # one column of a grid: other records may choose the same, see their own tests
TORCH = {"mlp", "mlp_more", "synthetic_outliers_mlp"}  # whose last bit depends on the place of a row in its block


@pytest.fixture(scope="module")
def fitted():
    """Every case, fitted."""
    return {name: (learnt(detector, table, seed=3), table) for name, (detector, table) in copy.deepcopy(CASES).items()}


def learnt_by(name, table):
    """What a detector learns from some records."""
    state = learnt(copy.deepcopy(CASES[name][0]), table, seed=3).state_dict()
    return {part: tensor.tolist() for part, tensor in state.items()}


def test_no_kind_is_forgotten():
    ours = {kind for kind in vars(detectors).values() if isinstance(kind, type) and issubclass(kind, Detector)}
    assert {type(detector) for detector, _ in CASES.values()} == ours - {Detector, FixedDetector}


@pytest.mark.parametrize("name", CASES)
def test_a_detector(name, fitted):
    detector, table = copy.deepcopy(CASES[name][0]), CASES[name][1]
    learns = not isinstance(detector, FixedDetector)
    for ask in (lambda: detector.score(table), detector.state_dict) if learns else ():
        with pytest.raises(
            detectors.NotFittedError, match=f"{type(detector).__name__} should be fitted before it scores"
        ):
            ask()

    # the seed fixes everything, whatever the caller's random numbers are, and these stay as they were
    np.random.seed(5), torch.manual_seed(5), random.seed(5)
    before = random_states()
    scores = learnt(detector, table, seed=3).score(table)
    assert random_states() == before
    assert fitted[name][0].score(table).tobytes() == scores.tobytes()
    state = {part: tensor.tolist() for part, tensor in detector.state_dict().items()}

    # scores are finite, anomalous images score higher, and a score belongs to its record: to the last bit in blocks
    assert (scores.dtype, scores.shape) == (np.float64, (len(table),))
    assert np.isfinite(scores).all()
    test = table.column("split") == "test"
    assert auroc(scores[test], table.anomalous[test]) > 0.6
    order, blocks = np.random.default_rng(1).permutation(len(table)), score_in_blocks(detector, table)
    np.testing.assert_allclose(blocks, scores, rtol=1e-6, atol=1e-7)
    for rows in (order, order[:1], order[1:2], order[2:3]):
        np.testing.assert_allclose(detector.score(table.at(rows)), scores[rows], rtol=1e-6, atol=1e-7)
        assert name in TORCH or score_in_blocks(detector, table.at(rows)).tobytes() == blocks[rows].tobytes()

    # nothing is learnt of `test`, all there is of `train` and `val`; and without anomalies where none are needed
    assert learnt_by(name, exchanged(table, "test")) == state
    if learns and name not in CHOOSING:
        assert learnt_by(name, exchanged(exchanged(table, "train"), "val")) != state
    if learns and not detector.needs_anomalies:
        known = (table.column("source") == "normal") & (table.column("split") == "train")
        assert learnt_by(name, Records(table.table.filter(known))) == state


SCORE = """
import json, sys
import numpy as np
import pyarrow.parquet as pq
from lightning_gradood.detectors import load_detector
from lightning_gradood.records import Records
for name, (saved, records, scores) in json.loads(sys.argv[1]).items():
    np.save(scores, load_detector(saved).detector.score(Records(pq.read_table(records))))
"""


@pytest.fixture(scope="module")
def saved(fitted, tmp_path_factory):
    """The files of every fitted case."""
    files = {name: tmp_path_factory.getbasetemp() / f"{name}.safetensors" for name in fitted}
    for name, (detector, table) in fitted.items():
        save_detector(files[name], detector, 0.5, table)
    return files


def test_saved_scores_are_equal_to_the_last_bit_in_a_fresh_process(fitted, saved, tmp_path):
    files = {}
    for name, (_, table) in fitted.items():
        files[name] = (str(saved[name]), str(tmp_path / f"{name}.parquet"), str(tmp_path / f"{name}.npy"))
        pq.write_table(table.table, files[name][1])
    run_program([sys.executable, "-c", SCORE, json.dumps(files)]).check_returncode()
    for name, (detector, table) in fitted.items():
        found, expected, loaded = np.load(files[name][2]), detector.score(table), load_detector(saved[name])
        assert (found.dtype, found.shape) == (np.float64, (len(table),)), name
        assert found.tobytes() == expected.tobytes(), name
        assert type(loaded.detector) is type(detector), name
        assert encode(loaded.detector) == encode(detector), name
        assert (loaded.flag(table) == (expected > 0.5)).all(), name


def test_a_state_without_one_of_its_tensors_is_refused_or_scores_the_same(fitted, saved, tmp_path):
    """The settings that ODIN and Mahalanobis chose are for the reader: their column alone is scored from."""
    path = tmp_path / "part.safetensors"
    for name, (detector, table) in fitted.items():
        with safe_open(saved[name], "pt") as file:
            metadata, state = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        for left_out in state:
            save_file({key: value for key, value in state.items() if key != left_out}, path, metadata)
            if left_out in ("temperature", "magnitude"):
                assert np.array_equal(load_detector(path).detector.score(table), detector.score(table))
            else:
                words = "part.safetensors should be a detector .* Got a state that"
                assert_refused((lambda: load_detector(path), words))


def test_a_file_says_what_it_is_and_refuses_other_columns(saved, tmp_path):
    path, table = tmp_path / "energy.safetensors", feature_records()
    save_detector(path, detectors.Energy(), 0.0, table, trained_on="smoke", counts={"val": {}})
    found = load_detector(path)
    assert (found.threshold, found.trained_on, found.counts, found.reads) == (0.0, "smoke", {"val": {}}, {"logits": []})
    assert found.versions["torch"] == torch.__version__.split("+")[0]
    with pytest.raises(detectors.NotFittedError, match=r"KNN should be fitted .* Call KNN.fit or KNN.load_state_dict"):
        save_detector(tmp_path / "knn.safetensors", detectors.KNN(), 0.0, table)
    assert list(tmp_path.iterdir()) == [path]
    lid, probe = load_detector(saved["lid"]), "features/layers"
    assert type(lid.detector) is detectors.LID
    names = {probe: [f"other.{number}" for number in range(8)]}
    others = Records.build(table.ids, source="normal", values={probe: table.probe(probe)}, names=names)
    assert_refused(
        (lambda: lid.flag(records()), "should hold the probe `features/layers` with the 8 columns .* Got none"),
        (lambda: lid.flag(others), "Got 8 others"),
    )


class Own(FixedDetector):
    """A user's."""

    name = "own"
    probes = ()

    def score(self, table):
        return np.zeros(len(table))


def test_a_class_from_elsewhere_is_filled_but_never_imported(tmp_path):
    path = tmp_path / "own.safetensors"
    save_detector(path, Own(), 0.25, feature_records())
    assert_refused(
        (lambda: load_detector(path), "`detector` should be an instance of .*Own, .* not imported by name"),
        (lambda: load_detector(path, detector=detectors.KNN()), "`detector` should be a .*Own, .* Got a KNN"),
    )
    assert load_detector(path, detector=Own()).threshold == 0.25


ABOUT = {
    "format": 1, "class": "lightning_gradood.detectors.energy.Energy", "arguments": {}, "threshold": 0.0,
    "trained_on": "", "counts": {}, "reads": {}, "versions": {},
}  # fmt: skip


def test_files_that_are_no_detectors_are_refused_and_execute_nothing(tmp_path, saved):
    path, strange = tmp_path / "written.safetensors", {"settings": {"class": "AllOnes.mro", "fields": {}}}

    def written(**metadata):
        """Load a file whose metadata is an energy detector's, but for what is changed; None leaves an entry out."""
        about = {name: value for name, value in (ABOUT | metadata).items() if value is not None}
        save_file({"x": torch.zeros(1)}, path, {"lightning_gradood.detector": json.dumps(about)})
        return load_detector(path)

    foreign = "instance of .* not imported by name"
    table = [
        ({"class": "subprocess.Popen", "arguments": {"args": ["true"]}}, foreign),
        ({"class": "lightning_gradood.detectors.load_detector"}, foreign),
        ({"arguments": {"kelvin": 3}}, "Got arguments that `Energy` does not take .*'kelvin'"),
        (
            {"class": "lightning_gradood.detectors.mlp.MLP", "arguments": strange},
            "or .perturbations. Got `AllOnes.mro`",
        ),
        ({"format": 2}, "format 1. Got format 2. Update lightning_gradood"),
    ]
    for name in ("format", "class", "threshold", "trained_on", "counts", "reads", "versions"):
        words = f"written.safetensors should be a detector .* Got `{name}: "
        table += [({name: value}, words) for value in (None, [1])]
    assert_refused(*((lambda metadata=metadata: written(**metadata), words) for metadata, words in table))
    (tmp_path / "cut.safetensors").write_bytes(saved["energy"].read_bytes()[:20])
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    no_detectors = {"nowhere": "that `detect` has saved", "cut": "that `detect` has saved", "x": "something else"}
    for name, words in no_detectors.items():
        assert_refused((lambda name=name: load_detector(tmp_path / f"{name}.safetensors"), words))
