"""Every class of pytorch-ood: through the adapter it scores as it does called by hand, or is refused in a sentence."""

import numpy as np
import pytest
import torch
from asserts import assert_refused
from detector_cases import head_records
from made_up_records import changed
from pytorch_ood import detector as theirs
from torch import nn

from lightning_gradood.core import Refusal, digest, encode, pack
from lightning_gradood.detectors import PytorchOOD, PytorchOODProbe, SavedDetector, load_detector, save_detector
from lightning_gradood.networks import CifarResNet
from lightning_gradood.records import LinearHead

ROOM = "pytorch_ood.detector."
TABLE = head_records(width=48)
NORMAL = TABLE.where(split="train", source="normal")
HEAD = TABLE.head
WEIGHT, BIAS = (torch.tensor(part, dtype=torch.float32) for part in (HEAD.weight, HEAD.bias))
LAYER = nn.Linear(*reversed(WEIGHT.shape))
LAYER.weight, LAYER.bias = (nn.Parameter(part, requires_grad=False) for part in (WEIGHT, BIAS))
ON_MAPS = (None, nn.Sequential(nn.Flatten(), LAYER))
SETTINGS = {  # by class: what an experiment file gives, and the positional arguments that one gives by hand
    "ASH": ({"variant": "ash-b"}, ON_MAPS), "DICE": ({"p": 0.7}, (None, WEIGHT, BIAS)), "EnergyBased": ({"t": 2.0}, (None,)),
    "Entropy": ({}, (None,)), "fDBD": ({}, (None, LAYER)), "GEN": ({"gamma": 0.5, "M": 3}, (None,)),
    "GMM": ({"reg": 0.1}, (None,)),
    "KLMatching": ({}, (None,)), "KNN": ({"k": 4, "algorithm": "brute"}, (None,)), "LTS": ({"p": 0.5}, (None, LAYER)),
    "MCM": ({"text_embeddings": WEIGHT.tolist()}, (None, WEIGHT)), "Mahalanobis": ({}, (None,)), "MaxLogit": ({}, (None,)),
    "MaxSoftmax": ({}, (None,)), "NCI": ({"alpha": 0.01}, (None, LAYER)), "NNGuide": ({"k": 5}, (None, LAYER)),
    "OpenMax": ({"tailsize": 12, "alpha": 2}, (None,)), "PNML": ({}, (None, LAYER)), "RMD": ({}, (None,)),
    "ReAct": ({"percentile": 0.8}, ON_MAPS), "SCALE": ({}, ON_MAPS), "SHE": ({}, (None, LAYER)),
    "TemperatureScaling": ({}, (None,)), "VRA": ({}, ON_MAPS), "ViM": ({"d": 4}, (None, 4, WEIGHT, BIAS)),
    "WeightedEBO": ({"weights": [1.0, 2.0, 0.5, 1.0]}, (None, torch.tensor([1.0, 2.0, 0.5, 1.0]))),
}  # fmt: skip
ON_NETWORK = {"ODIN": {"temperature": 10.0, "eps": 0.01}, "GradNorm": {}, "GradUncertainty": {}}
REFUSED = {
    "MahalanobisODIN": "Use `Mahalanobis` with `preprocessing`", "MultiMahalanobis": "Use `Mahalanobis` with `ensemble`",
    "NACUE": "Use `NAC`", "MCD": "Use another one", "Gram": "Use another one", "RankFeat": "Use another one",
    "odin_preprocessing": "Use another one",
}  # fmt: skip


def test_every_class_is_in_a_table():
    assert {*SETTINGS, *ON_NETWORK, *REFUSED} == set(theirs.__all__)


def read(kind, table):
    """What a class reads: the name of its methods, and its values in float32."""
    logits = issubclass(kind, theirs.MaxLogit.__bases__)
    maps = issubclass(kind, theirs.ASH.__bases__)
    values = torch.tensor(table.probe("logits" if logits else "features/penultimate"), dtype=torch.float32)
    return "logits" if logits else "feature_maps" if maps else "features", values[:, :, None, None] if maps else values


@pytest.mark.parametrize("name", SETTINGS)
def test_scores_are_those_of_the_class_and_stay_so_when_saved(name, tmp_path):
    settings, by_hand = SETTINGS[name]
    detector, kind = PytorchOOD(ROOM + name, settings), getattr(theirs, name)
    one = kind(
        *by_hand, **{key: value for key, value in settings.items() if not isinstance(value, list) and key != "d"}
    )
    what, values = read(kind, NORMAL)
    getattr(one, f"fit_{what}")(values, torch.tensor(NORMAL.column("label")))
    size = 1 if name == "OpenMax" else len(TABLE)  # whose scores depend on the classes of the batch
    parts = [getattr(one, f"predict_{what}")(some).detach().double() for some in read(kind, TABLE)[1].split(size)]
    expected = torch.cat(parts).numpy()
    fitted = detector.fit(TABLE, seed=0)
    np.testing.assert_allclose(fitted.score(TABLE), expected, rtol=1e-6, atol=1e-6)
    rows = [7, 200, 3]
    np.testing.assert_allclose(fitted.score(TABLE.at(rows)), expected[rows], rtol=1e-4, atol=1e-5)
    saved = SavedDetector.of(detector, fitted, 0.5, TABLE)
    save_detector(tmp_path / "one.safetensors", saved)
    loaded = load_detector(tmp_path / "one.safetensors")
    assert loaded.fitted.score(TABLE).tobytes() == fitted.score(TABLE).tobytes()
    assert digest(loaded) == digest(saved)


@pytest.mark.parametrize("name", ON_NETWORK)
def test_what_reads_the_network_is_a_probe(name):
    network, images = CifarResNet(1, num_classes=4).eval(), torch.rand(10, 3, 8, 8)
    expected = getattr(theirs, name)(network, **ON_NETWORK[name]).predict(images)
    detector = PytorchOOD(ROOM + name, ON_NETWORK[name])
    (probe,) = detector.probes
    assert isinstance(probe, PytorchOODProbe)
    torch.testing.assert_close(probe(network, images)[:, 0].float(), expected, rtol=1e-4, atol=1e-6)


def test_openmax_takes_images_far_from_all_classes_without_a_warning():
    far = changed(NORMAL, probes={"logits": NORMAL.probe("logits") + np.array([2000, 0, 0, 0])})
    assert np.isfinite(PytorchOOD(ROOM + "OpenMax", {"tailsize": 12}).fit(NORMAL, 0).score(far)).all()


def test_refusals(tmp_path):
    def with_object(path):
        found = encode(
            SavedDetector.of(PytorchOOD(ROOM + "MaxLogit"), PytorchOOD(ROOM + "MaxLogit").fit(TABLE, 0), 0, TABLE)
        )
        found["init_args"]["fitted"]["init_args"]["attributes"] = [["model", ["object", path, []]]]
        (tmp_path / "written.safetensors").write_bytes(pack(found))
        load_detector(tmp_path / "written.safetensors").fitted.score(TABLE)

    rows = NORMAL.column("label") < 2
    two = type(NORMAL)(NORMAL.table.filter(~rows))
    assert_refused(
        *((lambda name=name: PytorchOOD(ROOM + name), words) for name, words in REFUSED.items()),
        (lambda: PytorchOOD("os.system"), "should be a class of pytorch_ood.detector .* Got `detector = 'os.system'`"),
        (lambda: PytorchOOD(ROOM + "KNN", {"encoder": 3}), "plain data that it takes"),
        (lambda: PytorchOOD(ROOM + "OpenMax", {"tail": 3}), "Got: it takes ['tailsize', 'alpha', 'euclid_weight']"),
        (lambda: PytorchOOD(ROOM + "ASH", {"percentile": 3}), "percentile"),
        (lambda: PytorchOOD(ROOM + "SHE").fit(two, 0), "`pytorch_ood_she` should be able to fit the 30 normal records"),
        (
            lambda: PytorchOODProbe(ROOM + "ODIN", {"norm_std": [1.0]})(nn.Linear(3, 2), torch.rand(2, 2)),
            "read the network",
        ),
        (lambda: with_object("subprocess:Popen"), "Got `subprocess:Popen`"),
    )
    assert isinstance(HEAD, LinearHead)
    with pytest.raises(Refusal, match="should know the network's last layer"):
        PytorchOOD(ROOM + "SHE").fit(type(TABLE)(TABLE.table.replace_schema_metadata({})), 0)
