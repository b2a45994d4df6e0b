"""Small guards of every kind of detector, saved as `detect` saves them."""

from dataclasses import replace

import numpy as np
import torch

from lightning_gradood import detectors as d
from lightning_gradood.gradients import AllOnes, KHot, Predicted, Uniform, parameter_names
from lightning_gradood.guard import Description, Guard, KnownImages, save_guard
from lightning_gradood.metrics import conformal_threshold
from lightning_gradood.networks import CifarResNet, MLPSettings, Normalized
from lightning_gradood.perturbations import Blur, PatchShuffle, SurerSteps
from lightning_gradood.probes import LogitsProbe, linear_head, read_probes
from lightning_gradood.records import SYNTHETIC, Records, normal_records

BATCH = 8
CLASSES = ["ant", "bee", "cat", "dog"]
DESIGNS = [AllOnes(), Predicted(), KHot((0, 2))]
SHORT = MLPSettings(max_epochs=3)
DETECTORS = {
    "mlp": d.MLP(DESIGNS, replace(SHORT, width=8)),
    "mlp_more": d.MLP(DESIGNS, replace(SHORT, width=8, inputs=["norms", "features", "confidence"]), "mlp_more"),
    "synthetic_outliers": d.SyntheticOutliers(outliers=[PatchShuffle(), SurerSteps()]),
    "synthetic_mlp": d.SyntheticOutliers(["norms", "views"], "mlp", DESIGNS, [Blur()], settings=SHORT),
    "baseline": d.Baseline(), "energy": d.Energy(temperature=2.0), "gradnorm": d.GradNorm(), "knn": d.KNN(k=5),
    "lid": d.LID(neighbours=[5, 10]), "image_statistics": d.ImageStatistics(), "mahalanobis_v": d.Mahalanobis(),
    "odin": d.ODIN(temperatures=[1.0, 1000.0], magnitudes=[0.0, 0.01]), "consistency": d.Consistency(),
    "mahalanobis_p_fe": d.Mahalanobis(preprocessing=True, ensemble=True, magnitudes=[0.0, 0.01]),
    "gradient_gaussian": d.GradientGaussian(DESIGNS), "gradient_knn": d.GradientKNN([Uniform()], k=3),
    "mahalanobis_pp": d.MahalanobisPP(), "nac": d.NAC(), "grood": d.GROOD(), "gradpca": d.GradPCA(),
    "maxlogit": d.MaxLogit(), "gen": d.GEN(), "klm": d.KLMatching(), "she": d.SHE(), "react": d.ReAct(), "dice": d.DICE(),
    "ash": d.ASH(), "scale": d.SCALE(), "adascale": d.AdaSCALE(), "tuned": d.Tuned([d.SCALE(60), d.ReAct()]),
    "mahalanobis_pp_paper": d.MahalanobisPPPaper(), "rmds": d.RMDS(), "rmds_pp": d.RMDSPP(), "vim": d.ViM(),
    "fdbd": d.FDBD(), "nnguide": d.NNGuide(k=5), "nci": d.NCI(),
    "pytorch_ood": d.PytorchOOD("pytorch_ood.detector.OpenMax", {"tailsize": 5}),
    "pytorch_ood_gradnorm": d.PytorchOOD("pytorch_ood.detector.GradNorm"),
    "combined": d.Combined([d.Baseline(), d.MahalanobisPP(), d.Consistency(), d.GradientKNN(DESIGNS, k=3)]),
    "views_softmax": d.ViewsSoftmax(),
    "weighted_parts": d.WeightedParts([d.Energy(), d.SyntheticOutliers(outliers=[Blur(), PatchShuffle()])], folds=2),
    "known_anomalies": d.KnownAnomalies(d.Combined([d.Baseline(), d.MahalanobisPP()])),
}  # fmt: skip
NETWORK = {
    "class_path": "lightning_gradood.networks.CifarResNet",
    "init_args": {"blocks_per_stage": 1, "num_classes": 4},
}


def images(number, seed=1):
    return torch.rand(number, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def network():
    torch.manual_seed(0)
    return Normalized(CifarResNet(1, num_classes=4), [0.5] * 3, [0.25] * 3).eval()


def readings(net, probes, pixels, source, **columns):
    probes, parts = list({probe.name: probe for probe in (LogitsProbe(), *probes)}.values()), []
    for start in range(0, len(pixels), BATCH):
        rows = slice(start, start + BATCH)
        found = read_probes(probes, net, pixels[rows])
        more = {"names": found.names, "prediction": found.logits.argmax(dim=1).tolist()}
        more |= {"values": {name: values.detach().numpy() for name, values in found.values.items()}}
        more |= {name: values[rows] for name, values in columns.items()}
        ids = [f"{source}/{row}" for row in range(len(pixels))[rows]]
        parts.append(Records.build(ids, source="normal" if columns else source, **more))
    return Records.concatenate(parts)


def save(folder, name, net=None, **changes):
    """Save a guard, fitted on noise against brighter noise; returns it, what its detector learnt, and its records."""
    net = network() if net is None else net
    detector = DETECTORS[name]
    probes = [probe.prepare(net, [(images(640, seed=5), torch.arange(640) % 4)]) for probe in detector.probes]
    normal, ids = images(60), [f"normal/{row}" for row in range(60)]
    sides = [readings(net, probes, normal, "normal"), readings(net, probes, images(60, seed=2) * 0.5 + 0.5, "bright")]
    for outlier in detector.needed_outliers:
        made = outlier.craft(net, normal, torch.full((len(normal),), -1), ids).images
        kind = f"{SYNTHETIC}{outlier.name}"
        about = {"origin_id": ids, "attack": [kind] * len(made), "linf": [1.0] * len(made)}
        sides.append(readings(net, probes, made, kind, **about))
    records = Records.concatenate(sides)
    origins = enumerate(records.column("origin_id")[:120])
    if detector.needs_head:
        records = records.with_head(linear_head(net, normal))
    records = records.with_splits({one: ("train", "val", "test")[row % 3] for row, one in origins})
    fitted = detector.fit(records, seed=0)
    detector = detector.kept(fitted)
    probes = [probe for probe in probes if probe.name in {one.name for one in detector.probes}]
    held = normal_records(records).where(split="val")
    scores = d.score_in_blocks(fitted, held)
    calibration, order = np.sort(scores), np.argsort(scores, kind="stable")
    about = {
        "experiment": "made_up", "network": NETWORK, "normalize": {"mean": [0.5] * 3, "std": [0.25] * 3},
        "transform": None, "picture": "RGB", "image_shape": [3, 16, 16], "classes": CLASSES,
        "parameters": parameter_names(net),
        "detector_name": detector.name, "trained_on": "normal", "counts": {}, "metrics": {},
        "calibration": calibration.tolist(), "calibration_classes": held.column("prediction")[order].tolist(),
        "threshold": conformal_threshold(calibration, 0.1), "false_positive_rate": 0.1, "batch_size": BATCH,
    }  # fmt: skip
    known = normal_records(records)
    known = Records.concatenate([known.where(split="train"), held])
    shown = normal[[int(name.rpartition("/")[2]) for name in held.ids[-BATCH:]]]
    kept = d.SavedDetector.of(detector, fitted, about["threshold"], held)
    keeps = KnownImages.of(known, [probe.name for probe in probes], {})
    guard = Guard(net, kept, probes, None, Description(**about | changes), keeps)
    return save_guard(guard, folder / "guard", shown), fitted, records
