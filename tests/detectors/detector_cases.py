"""Made-up records with what each detector reads, and every kind of detector with records for it."""

from collections.abc import Callable

import numpy as np
from made_up_records import PROBE, changed, records

from lightning_gradood.detectors import (
    KNN,
    LID,
    MLP,
    ODIN,
    Baseline,
    Combined,
    Consistency,
    Detector,
    Energy,
    GradientGaussian,
    GradientKNN,
    GradNorm,
    ImageStatistics,
    Mahalanobis,
    MahalanobisPP,
    SyntheticOutliers,
)
from lightning_gradood.gradients import AllOnes, KHot, LabelDesign, Uniform
from lightning_gradood.records import NORMAL, SPLITS, SYNTHETIC, Records
from lightning_gradood.synthetic import Blur, Zoom
from lightning_gradood.tasks import MLPSettings

LAYERS = {"relu": 3, "layer1": 5}
LAYER_CHANNELS = [f"{layer}.{channel}" for layer, width in LAYERS.items() for channel in range(width)]
TEMPERATURES, MAGNITUDES = (1.0, 1000.0), (0.0, 0.01, 0.1)  # of ODIN
STEPS, TAPS = (0.0, 0.01, 0.005), 4  # of Mahalanobis


def built(values: Callable[[int, bool], dict[str, np.ndarray]], counts: dict[str, int] | None = None) -> Records:
    """Return normal and anomalous records, `values(number, anomalous)` giving those of a source."""
    counts = counts or {"train": 60, "val": 60, "test": 30}
    splits = [split for split in SPLITS for _ in range(counts[split])]
    parts, split_of = [], {}
    for source in (NORMAL, "smoke"):
        ids = [f"{source}/{row:05d}" for row in range(len(splits))]
        split_of |= dict(zip(ids, splits, strict=True))
        names = {"features/layers": LAYER_CHANNELS}
        given = values(len(splits), source == "smoke")
        parts.append(Records.build(ids, source=source, values=given, names=names))
    return Records.concatenate(parts).with_splits(split_of)


def feature_records(gap: float = 1.0, counts: dict[str, int] | None = None, width: int = 6) -> Records:
    """Return normal records and anomalous ones, whose values are shifted by `gap` and mostly spread wider.

    Args:
        gap: 0 for none.
        counts: how many of each source are in each split.
        width: of the penultimate features.
    """
    rng = np.random.default_rng(0)

    def values(n: int, anomalous: bool) -> dict[str, np.ndarray]:
        by = gap * anomalous
        return {
            "logits": rng.normal(by, 1 + by, size=(n, 4)) * 3,
            "features/layers": rng.normal(by, 1 + by, size=(n, sum(LAYERS.values()))),
            "features/layers+spread": rng.normal(by, 1 + by, size=(n, 2 * sum(LAYERS.values()))),
            "features/penultimate": rng.normal(2 + by * (-1.0) ** np.arange(width), 1, size=(n, width)),
            "gradnorm": np.exp(-rng.normal(by, 1 + by, size=(n, 1))),
            "image_statistics": np.abs(rng.normal(by, 1 + by, size=(n, 4))) / 10 + [0.5, 0, 0, 0],
            "views/mirror+blur": np.random.default_rng(1).normal(0, 1 + by, size=(n, 10)),
        }

    return built(values, counts or {"train": 60, "val": 50, "test": 40})


def with_outliers(table: Records, *kinds: str) -> Records:
    """Add a synthetic outlier of each kind to each normal `train` image; it looks like the anomalous records of `train`."""
    train = table.where(split="train")
    normal, anomalous = (Records(train.table.filter(train.anomalous == side)) for side in (0, 1))
    parts = [
        Records.build(
            [f"{SYNTHETIC}{kind}/{one}" for one in normal.ids],
            source=NORMAL,
            values={probe: anomalous.probe(probe) for probe in table.probes},
            names={probe: table.names(probe) for probe in table.probes},
            origin_id=normal.ids,
            attack=[f"{SYNTHETIC}{kind}"] * len(normal),
            linf=[0.1] * len(normal),
        )
        for kind in kinds
    ]
    split_of = dict(zip(table.column("origin_id"), table.column("split"), strict=True))
    return Records.concatenate([table, *(part.with_splits(split_of) for part in parts)])


def odin_records(best: int = 4, counts: dict[str, int] | None = None) -> Records:
    """Return probabilities that tell nothing but in one column."""
    rng = np.random.default_rng(0)

    def values(n: int, anomalous: bool) -> dict[str, np.ndarray]:
        found = rng.uniform(0.1, 1, size=(n, len(TEMPERATURES) * len(MAGNITUDES)))
        found[:, best] = rng.beta(4, 1 + 3 * anomalous, size=n)
        return {"odin": found}

    return built(values, counts)


def mahalanobis_records(best: int = 2, counts: dict[str, int] | None = None) -> Records:
    """Return confidences of four layers and three magnitudes; layers 1 and 3 tell something, most at one magnitude."""
    rng = np.random.default_rng(0)

    def values(n: int, anomalous: bool) -> dict[str, np.ndarray]:
        found = -rng.chisquare(20, size=(n, TAPS, len(STEPS)))
        found[:, 1] -= 6.0 * anomalous
        found[:, 3] -= 6.0 * anomalous
        found[:, 3, best] -= 20.0 * anomalous
        flat = found.reshape(n, -1)
        return {"mahalanobis/preprocessed": flat, "mahalanobis": flat[:, :: len(STEPS)]}

    return built(values, counts)


def gradient_records(*designs: LabelDesign) -> Records:
    """Records with the norms of several label designs, and classes."""
    table = records(width=4)
    norms = table.probe(PROBE)
    for number, design in enumerate(designs):
        values = {f"gradients/{design.name}": norms ** (1 + number)}
        if number:
            table = table.join(Records.build(table.ids, source=NORMAL, values=values))
    return changed(table, prediction=np.arange(len(table)) % 3)


def cases() -> dict[str, tuple[Detector, Records]]:
    """Every kind of detector, with other settings than its defaults, and records for it."""
    designs = [AllOnes(), Uniform(temperature=2.0), KHot((0, 2))]
    several = gradient_records(*designs)
    features = feature_records()
    # anomalous images are those of which the classifier is less sure
    less_sure = features.probe("logits") * np.where(features.anomalous, 0.3, 3)[:, None]
    features = changed(features, probes={"logits": less_sure})
    outliers = [Blur(high=0.1), Zoom(seed=3)]
    against = with_outliers(features, "blur", "zoom")
    settings = MLPSettings(max_epochs=10, width=8, learning_rate=1e-2, whitening=0.5)
    more = MLPSettings(max_epochs=4, width=8, inputs=["features", "confidence", "views"])
    members = [Energy(), SyntheticOutliers(["views"], outliers=outliers)]
    mlp = SyntheticOutliers(["features", "confidence"], "mlp", outliers=outliers, settings=settings, name="other")
    mahalanobis = mahalanobis_records()
    return {
        "mlp": (MLP(designs, settings, name="other"), several),
        "mlp_more": (MLP([], more), features),
        "synthetic_outliers": (SyntheticOutliers(outliers=outliers, strength=1.0), against),
        "synthetic_outliers_mlp": (mlp, against),
        "combined_synthetic": (Combined(members, folds=3), against),
        "baseline": (Baseline(), features),
        "energy": (Energy(temperature=3.0), features),
        "gradnorm": (GradNorm(), features),
        "knn": (KNN(k=7), features),
        "lid": (LID(neighbours=[5, 20]), features),
        "image_statistics": (ImageStatistics(), features),
        "odin": (ODIN(TEMPERATURES, MAGNITUDES), odin_records()),
        "mahalanobis_p": (Mahalanobis(preprocessing=True, magnitudes=STEPS), mahalanobis),
        "mahalanobis_p_fe": (Mahalanobis(preprocessing=True, ensemble=True, magnitudes=STEPS), mahalanobis),
        "consistency": (Consistency(), features),
        "mahalanobis_pp": (MahalanobisPP(), features),
        "mahalanobis_pp_layers": (MahalanobisPP(all_layers=True), features),
        "combined": (Combined([Energy(2.0), KNN(k=5), Consistency()], rule="squares", folds=4), features),
        "gaussian": (GradientGaussian(designs, whitening=0.7), several),
        "gradient_knn": (GradientKNN(designs, k=3), several),
    }
