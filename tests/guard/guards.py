"""Small guards of every kind of detector, saved as `detect` saves them."""

import numpy as np
import torch

from lightning_gradood.detectors import (
    KNN,
    LID,
    MLP,
    ODIN,
    Baseline,
    Combined,
    Consistency,
    Energy,
    GradientForest,
    GradientGaussian,
    GradientKNN,
    GradNorm,
    ImageStatistics,
    Mahalanobis,
    MahalanobisPP,
    SyntheticOutliers,
    score_in_blocks,
)
from lightning_gradood.gradients import AllOnes, KHot, Predicted, Uniform, parameter_names
from lightning_gradood.guard import Component, Description, component_of, mean_readings, save_guard
from lightning_gradood.metrics import conformal_threshold
from lightning_gradood.networks import CifarResNet, MLPSettings, Normalized
from lightning_gradood.probes import LogitsProbe, read_probes
from lightning_gradood.records import SYNTHETIC, Records, normal_records
from lightning_gradood.synthetic import Blur, PatchShuffle, SurerSteps

BATCH = 8
CLASSES = ["ant", "bee", "cat", "dog"]
DESIGNS = [AllOnes(), Predicted(), KHot((0, 2))]
DETECTORS = {
    "mlp": MLP(DESIGNS, MLPSettings(max_epochs=3, width=8)),
    "mlp_raw": MLP([AllOnes()], MLPSettings(max_epochs=3, width=8, log_values=False, whitening=None), name="mlp_raw"),
    "mlp_more": MLP(
        DESIGNS, MLPSettings(max_epochs=3, width=8, inputs=["norms", "features", "confidence"]), "mlp_more"
    ),
    "synthetic_outliers": SyntheticOutliers(outliers=[PatchShuffle(), SurerSteps()]),
    "synthetic_mlp": SyntheticOutliers(
        ["norms", "views"], "mlp", DESIGNS, [Blur()], settings=MLPSettings(max_epochs=3)
    ),
    "baseline": Baseline(),
    "energy": Energy(temperature=2.0),
    "gradnorm": GradNorm(),
    "knn": KNN(k=5),
    "lid": LID(neighbours=[5, 10]),
    "image_statistics": ImageStatistics(),
    "odin": ODIN(temperatures=[1.0, 1000.0], magnitudes=[0.0, 0.01]),
    "mahalanobis_v": Mahalanobis(),
    "mahalanobis_p_fe": Mahalanobis(preprocessing=True, ensemble=True, magnitudes=[0.0, 0.01]),
    "gradient_gaussian": GradientGaussian(DESIGNS),
    "gradient_knn": GradientKNN([Uniform()], k=3),
    "gradient_forest": GradientForest(DESIGNS, trees=20),
    "consistency": Consistency(),
    "mahalanobis_pp": MahalanobisPP(),
    "mahalanobis_pp_layers": MahalanobisPP(all_layers=True),
    "combined": Combined([Baseline(), MahalanobisPP(), Consistency(), GradientKNN(DESIGNS, k=3)]),
}
NETWORK = Component("lightning_gradood.networks.CifarResNet", {"blocks_per_stage": 1, "num_classes": 4})


def images(number, seed=1):
    return torch.rand(number, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def network():
    torch.manual_seed(0)
    return Normalized(CifarResNet(1, num_classes=4), [0.5] * 3, [0.25] * 3).eval()


def readings(net, detector, pixels, source, batch=BATCH, **columns):
    """Records as extraction writes them: several probes together, batch by batch."""
    probes = list(detector.probes)
    if all(probe.name != LogitsProbe().name for probe in probes):
        probes.append(LogitsProbe())
    parts = []
    for start in range(0, len(pixels), batch):
        found = read_probes(probes, net, pixels[start : start + batch])
        parts.append(
            Records.build(
                [f"{source}/{row}" for row in range(start, start + len(found.logits))],
                source="normal" if columns else source,
                values={name: values.detach().numpy() for name, values in found.values.items()},
                names={probe.name: probe.names(net) for probe in probes},
                prediction=found.logits.argmax(dim=1).tolist(),
                **{name: values[start : start + len(found.logits)] for name, values in columns.items()},
            )
        )
    return Records.concatenate(parts)


def fitted(name, net=None):
    """A detector of each kind, fitted on noise against brighter noise; its records, and what its probes have learnt."""
    net = network() if net is None else net
    detector, states = DETECTORS[name], {}
    for probe in detector.probes:
        if probe.needs_preparation:
            states[probe.name] = probe.prepare(net, [(images(640, seed=5), torch.arange(640) % 4)])
            probe.load(states[probe.name])
    normal, anomalous = images(60), (images(60, seed=2) * 0.5 + 0.5)
    sides = [readings(net, detector, pixels, source) for source, pixels in (("normal", normal), ("bright", anomalous))]
    for outlier in detector.outliers:
        names = [f"normal/{row}" for row in range(len(normal))]
        made, kind = (
            outlier.craft(net, normal, torch.full((len(normal),), -1), names).images,
            f"{SYNTHETIC}{outlier.name}",
        )
        about = {"origin_id": names, "attack": [kind] * len(made), "linf": [1.0] * len(made)}
        sides.append(readings(net, detector, made, kind, **about))
    records = Records.concatenate(sides)
    records = records.with_splits(
        {one: ("train", "val", "test")[row % 3] for row, one in enumerate(records.column("origin_id")[:120])}
    )
    detector.fit(records, seed=0)
    return net, detector, records, states


def save(folder, name, net=None, **changes):
    """Save a guard; returns it as it was loaded, its records, and the images of its first records."""
    net, detector, records, states = fitted(name, net)
    normal = normal_records(records)
    calibration = np.sort(score_in_blocks(detector, normal.where(split="val")))
    about = {
        "experiment": "made_up",
        "network": NETWORK.encoded(),
        "normalize": {"mean": [0.5] * 3, "std": [0.25] * 3},
        "transform": None,
        "picture": "RGB",
        "image_shape": [3, 16, 16],
        "classes": CLASSES,
        "parameters": parameter_names(net),
        "detector": component_of(detector).encoded(),
        "detector_name": detector.name,
        "label_designs": [],
        "trained_on": "normal",
        "counts": {},
        "calibration": calibration.tolist(),
        "baseline": mean_readings(normal.where(split="train"), detector.probes),
        "false_positive_rate": 0.1,
        "threshold": conformal_threshold(calibration, 0.1),
        "metrics": {},
        "batch_size": BATCH,
    } | changes
    held = normal.where(split="val")
    shown = images(60)[[int(name.rpartition("/")[2]) for name in held.ids[:BATCH]]]
    guard = save_guard(folder / "guard", Description(**about), net, detector, states, held, shown)
    return guard, detector, records
