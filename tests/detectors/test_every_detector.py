"""What holds for every detector, among it that what is saved is what is scored; files that are no detectors are refused."""

import json
import random
import sys
from inspect import isabstract

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from asserts import assert_refused, random_states
from detector_cases import cases, feature_records, learnt
from made_up_records import exchanged
from programs import run_program
from safetensors.torch import save_file

from lightning_gradood import detectors
from lightning_gradood.core import digest, encode, pack
from lightning_gradood.detectors import (
    Detector,
    FixedDetector,
    SavedDetector,
    TensorFitted,
    TensorReadings,
    load_detector,
    save_detector,
    score_in_blocks,
)
from lightning_gradood.detectors.activations import Shaping
from lightning_gradood.metrics import auroc
from lightning_gradood.records import Records

CASES = cases()
CHOOSING = {"odin", "mahalanobis_p", "tuned"}  # one of a grid: other records may choose the same, see their own tests
TORCH = {"mlp", "mlp_more", "synthetic_outliers_mlp"}  # whose last bit depends on the place of a row in its block


@pytest.fixture(scope="module")
def fitted():
    return {name: learnt(detector, table, seed=3) for name, (detector, table) in CASES.items()}


def test_no_kind_is_forgotten():
    ours = {kind for kind in vars(detectors).values() if isinstance(kind, type) and issubclass(kind, Detector)}
    assert {type(detector) for detector, _ in CASES.values()} == {kind for kind in ours if not isabstract(kind)}


def test_scores_that_are_not_of_tensors_are_refused_where_there_are_tensors_alone(fitted):
    read = TensorReadings({}.__getitem__, torch.zeros(0))
    found = {name for name, one in fitted.items() if not isinstance(one, TensorFitted)}
    assert found == {"lid", "nac", "grood", "gradpca", "openmax", "nn_guide"}
    assert_refused(*(((lambda name=name: read.score(fitted[name])), "operations on tensors") for name in found))


@pytest.mark.parametrize("name", CASES)
def test_a_detector(name, fitted):
    detector, table = CASES[name]

    # the seed fixes everything, whatever the caller's random numbers are, and these stay as they were
    np.random.seed(5), torch.manual_seed(5), random.seed(5)
    before = random_states()
    again = learnt(detector, table, seed=3)
    scores = again.score(table)
    assert random_states() == before
    assert fitted[name].score(table).tobytes() == scores.tobytes()
    known = digest(again)

    # scores are finite, anomalous images score higher, and a score belongs to its record: to the last bit in blocks
    assert (scores.dtype, scores.shape) == (np.float64, (len(table),))
    assert np.isfinite(scores).all()
    test = table.column("split") == "test"
    assert auroc(scores[test], table.anomalous[test]) > 0.6
    order, blocks = np.random.default_rng(1).permutation(len(table)), score_in_blocks(again, table)
    np.testing.assert_allclose(blocks, scores, rtol=1e-6, atol=1e-7)
    for rows in (order, order[:1], order[1:2], order[2:3]):
        np.testing.assert_allclose(again.score(table.at(rows)), scores[rows], rtol=1e-6, atol=1e-7)
        assert name in TORCH or score_in_blocks(again, table.at(rows)).tobytes() == blocks[rows].tobytes()

    # nothing is learnt of `test`, all there is of `train` and `val`; and without anomalies where none are needed
    assert digest(learnt(detector, exchanged(table, "test"), seed=3)) == known
    if name not in CHOOSING and not isinstance(detector, FixedDetector | Shaping):  # which learn nothing of records
        assert digest(learnt(detector, exchanged(exchanged(table, "train"), "val"), seed=3)) != known
    if not detector.needs_anomalies:
        normal = (table.column("source") == "normal") & (table.column("split") == "train")
        assert digest(learnt(detector, Records(table.table.filter(normal)), seed=3)) == known


SCORE = """
import json, sys
import numpy as np
import pyarrow.parquet as pq
from lightning_gradood.detectors import load_detector
from lightning_gradood.records import Records
for name, (saved, records, scores) in json.loads(sys.argv[1]).items():
    np.save(scores, load_detector(saved).fitted.score(Records(pq.read_table(records))))
"""


@pytest.fixture(scope="module")
def saved(fitted, tmp_path_factory):
    files = {name: tmp_path_factory.getbasetemp() / f"{name}.safetensors" for name in fitted}
    for name, (detector, table) in CASES.items():
        save_detector(files[name], SavedDetector.of(detector, fitted[name], 0.5, table))
    return files


def test_saved_scores_are_equal_to_the_last_bit_in_a_fresh_process(fitted, saved, tmp_path):
    files = {}
    for name, (_, table) in CASES.items():
        files[name] = (str(saved[name]), str(tmp_path / f"{name}.parquet"), str(tmp_path / f"{name}.npy"))
        pq.write_table(table.table, files[name][1])
    run_program([sys.executable, "-c", SCORE, json.dumps(files)]).check_returncode()
    for name, (detector, table) in CASES.items():
        found, expected, loaded = np.load(files[name][2]), fitted[name].score(table), load_detector(saved[name])
        assert (found.dtype, found.shape) == (np.float64, (len(table),)), name
        assert found.tobytes() == expected.tobytes(), name
        assert (encode(loaded.detector), digest(loaded.fitted)) == (encode(detector), digest(fitted[name])), name


def test_a_file_says_what_it_is(tmp_path):
    path, table, energy = tmp_path / "energy.safetensors", feature_records(), detectors.Energy()
    save_detector(path, SavedDetector.of(energy, energy, 0.0, table, trained_on="smoke", counts={"val": {}}))
    found = load_detector(path)
    assert (found.threshold, found.trained_on, found.counts, found.reads) == (0.0, "smoke", {"val": {}}, {"logits": []})
    assert found.versions["torch"] == torch.__version__.split("+")[0]


def test_files_that_are_no_detectors_are_refused_and_execute_nothing(tmp_path, saved):
    path, energy = tmp_path / "written.safetensors", detectors.Energy()

    def written(described):
        path.write_bytes(pack(described))
        return load_detector(path)

    def named(class_path, **arguments):
        """A saved detector that names something else as what it has learnt."""
        found = encode(SavedDetector(energy, energy, 0.0, {}))
        found["init_args"]["fitted"] = {"class_path": class_path, "init_args": arguments}
        return found

    table = [
        (named("subprocess.Popen", args=["true"]), "Got `subprocess.Popen`"),
        (named("lightning_gradood.detectors.load_detector", path="x"), "Got `lightning_gradood.detectors.load_detec"),
        (named("lightning_gradood.detectors.Energy", kelvin=3), "written.safetensors cannot be loaded. .*'kelvin'"),
        (named("lightning_gradood.gradients.AllOnes.mro"), "Got `lightning_gradood.gradients.AllOnes.mro`"),
        (encode(energy), "should be a detector .* Got: a file of something else"),
    ]
    assert_refused(*((lambda described=described: written(described), words) for described, words in table))
    whole = saved["knn"].read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:20])
    (tmp_path / "altered.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    for name in ("nowhere", "cut", "altered", "x"):
        words = f"{name}.safetensors should be a detector that `detect` has saved. Got: "
        assert_refused((lambda name=name: load_detector(tmp_path / f"{name}.safetensors"), words))
