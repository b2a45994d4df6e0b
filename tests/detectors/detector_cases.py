"""Made-up records with what each detector reads, and every kind of detector with records for it."""

from functools import partial

import numpy as np
from made_up_records import PROBE, built, changed, records

from lightning_gradood import detectors
from lightning_gradood.gradients import AllOnes, KHot, Uniform
from lightning_gradood.perturbations import Blur, Zoom
from lightning_gradood.records import NORMAL, SYNTHETIC, LinearHead, Records
from lightning_gradood.tasks import MLPSettings

LAYERS = {"relu": 3, "layer1": 5}
LAYER_CHANNELS = [f"{layer}.{channel}" for layer, width in LAYERS.items() for channel in range(width)]
TEMPERATURES, MAGNITUDES = (1.0, 1000.0), (0.0, 0.01, 0.1)  # of ODIN
STEPS, TAPS = (0.0, 0.01, 0.005), 4  # of Mahalanobis


def learnt(detector, table, seed=0):
    return detector.fit(table, seed)


def feature_records(gap=1.0, counts=None, width=6):
    """Records whose anomalous values are shifted by `gap`, mostly spread wider; `width` is of the penultimate features."""
    rng = np.random.default_rng(0)

    def values(n, anomalous):
        by = gap * anomalous
        return {
            "logits": rng.normal(by, 1 + by, size=(n, 4)) * 3,
            "features/layers": rng.normal(by, 1 + by, size=(n, sum(LAYERS.values()))),
            "features/layers+spread": rng.normal(by, 1 + by, size=(n, 2 * sum(LAYERS.values()))),
            "features/penultimate": rng.normal(2 + by * (-1.0) ** np.arange(width), 1, size=(n, width)),
            "image_statistics": np.abs(rng.normal(by, 1 + by, size=(n, 4))) / 10 + [0.5, 0, 0, 0],
            "views/mirror+blur": np.random.default_rng(1).normal(0, 1 + by, size=(n, 10)),
        }

    return built(values, counts or {"train": 60, "val": 50, "test": 40}, {"features/layers": LAYER_CHANNELS})


def head_records(classes=4, width=12, counts=None):
    """Records of a network with a linear head, features at least 0; those of anomalous images are unlike any class."""
    rng = np.random.default_rng(0)
    centres = rng.gamma(0.5, 4, size=(classes, width))
    head = LinearHead(1.2 * (centres - centres.mean(axis=0)) / width, rng.normal(size=classes))

    def values(n, anomalous):
        labels = np.arange(n) % classes
        features = np.maximum(
            (1 - anomalous) * centres[labels] + rng.normal(scale=0.8 + 0.2 * anomalous, size=(n, width)), 0
        )
        moved = features + rng.normal(scale=0.1 + 0.3 * anomalous, size=(n, width))
        penultimate = {"features/penultimate": features, "features/penultimate/perturbed": moved}
        return {"logits": head.logits(features), **penultimate}

    table = built(values, counts or {"train": 60, "val": 40, "test": 40})
    predictions = table.probe("logits").argmax(axis=1)
    normal = table.column("source") == NORMAL
    labels = np.where(normal, np.cumsum(normal) - 1, -classes) % classes
    return changed(table, prediction=predictions, label=labels).with_head(head)


def gradient_method_records(classes=3, width=6):
    """What `NAC`, `GROOD` and `GradPCA` read: anomalous features are nearer to noise, other states and gradients are usual."""
    rng = np.random.default_rng(0)
    centres = rng.normal(scale=4, size=(classes, width))

    def values(n, anomalous):
        return {
            "features/penultimate/from_noise": centres[np.arange(n) % classes] * (1 - 0.6 * anomalous)
            + rng.normal(size=(n, width)),
            "neurons/penultimate": rng.normal(0.03 - 0.04 * anomalous, 0.005 + 0.02 * anomalous, size=(n, width)),
            "neurons/layer1": rng.normal(0.1 - 0.1 * anomalous, 0.05 + 0.1 * anomalous, size=(n, 4)),
            "gradpca": rng.beta(5 - 2 * anomalous, 2, size=(n, 1)),
        }

    table = built(values)
    return changed(table, prediction=np.arange(len(table)) % classes)


def with_outliers(table, *kinds):
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


def odin_records(best=4, counts=None):
    """Probabilities that tell nothing but in one column."""
    rng = np.random.default_rng(0)

    def values(n, anomalous):
        found = rng.uniform(0.1, 1, size=(n, len(TEMPERATURES) * len(MAGNITUDES)))
        found[:, best] = rng.beta(4, 1 + 3 * anomalous, size=n)
        return {"odin": found}

    return built(values, counts)


def mahalanobis_records(best=2, counts=None):
    """Confidences of four layers and three magnitudes; layers 1 and 3 tell something, most at one magnitude."""
    rng = np.random.default_rng(0)

    def values(n, anomalous):
        found = -rng.chisquare(20, size=(n, TAPS, len(STEPS)))
        found[:, [1, 3]] -= 6.0 * anomalous
        found[:, 3, best] -= 20.0 * anomalous
        flat = found.reshape(n, -1)
        return {"mahalanobis/preprocessed": flat, "mahalanobis": flat[:, :: len(STEPS)]}

    return built(values, counts)


def gradient_records(*designs):
    table = records(width=4)
    for number, design in enumerate(designs[1:], start=2):
        values = {f"gradients/{design.name}": table.probe(PROBE) ** number}
        table = table.join(Records.build(table.ids, source=NORMAL, values=values))
    return changed(table, prediction=np.arange(len(table)) % 3)


def cases():
    """Every kind of detector, with other settings than its defaults, and records for it."""
    designs = [AllOnes(), Uniform(temperature=2.0), KHot((0, 2))]
    features, outliers = feature_records(), [Blur(high=0.1), Zoom(seed=3)]
    # anomalous images are those of which the classifier is less sure
    less_sure = features.probe("logits") * np.where(features.anomalous, 0.3, 3)[:, None]
    features = changed(features, probes={"logits": less_sure})
    settings = MLPSettings(max_epochs=10, width=8, learning_rate=1e-2, whitening=0.5)
    more = MLPSettings(max_epochs=8, width=8, learning_rate=1e-2, inputs=["features", "confidence", "views"])
    against = partial(detectors.SyntheticOutliers, outliers=outliers)
    members = [detectors.Energy(2.0), detectors.KNN(k=5), detectors.Consistency()]
    groups = [
        (gradient_records(*designs), {
            "mlp": detectors.MLP(designs, settings, name="other"),
            "gaussian": detectors.GradientGaussian(designs, whitening=0.7),
            "gradient_knn": detectors.GradientKNN(designs, k=3),
        }),
        (features, {
            "mlp_more": detectors.MLP([], more), "combined": detectors.Combined(members, rule="squares", folds=4),
            "known_anomalies": detectors.KnownAnomalies(detectors.Combined(members)),
            "baseline": detectors.Baseline(), "energy": detectors.Energy(temperature=3.0),
            "image_statistics": detectors.ImageStatistics(),
            "knn": detectors.KNN(k=7), "lid": detectors.LID(neighbours=[5, 20]),
            "consistency": detectors.Consistency(), "mahalanobis_pp": detectors.MahalanobisPP(),
            "views_softmax": detectors.ViewsSoftmax(),
        }),
        (head_records(), {
            "maxlogit": detectors.MaxLogit(), "gen": detectors.GEN(gamma=0.5, largest=3), "klm": detectors.KLMatching(),
            "she": detectors.SHE(), "gradnorm": detectors.GradNorm(), "react": detectors.ReAct(80), "dice": detectors.DICE(70),
            "ash_s": detectors.ASH(50, "s"), "ash_b": detectors.ASH(60), "ash_p": detectors.ASH(50, "p"),
            "scale": detectors.SCALE(50), "adascale": detectors.AdaSCALE((50.0, 70.0), k1=20, k2=10, weight=1),
            "tuned": detectors.Tuned([detectors.SCALE(60), detectors.KNN(3), detectors.ReAct()]),
            "vim": detectors.ViM(dim=3), "fdbd": detectors.FDBD(), "nci": detectors.NCI(alpha=0.01),
            "nnguide": detectors.NNGuide(k=3, share=0.5), "rmds": detectors.RMDS(), "rmds_pp": detectors.RMDSPP(),
            "mahalanobis_pp_paper": detectors.MahalanobisPPPaper(),
            "combined_head": detectors.Combined([detectors.ReAct(), detectors.SHE()], folds=3),
        }),
        (with_outliers(features, "blur", "zoom"), {
            "synthetic_outliers": against(strength=1.0), "deviations": against(model="deviations", name="deviations"),
            "synthetic_outliers_mlp": against(["features", "confidence"], "mlp", settings=settings, name="other"),
            "combined_synthetic": detectors.Combined([detectors.Energy(), against(["views"])], folds=3),
            "weighted_parts": detectors.WeightedParts([detectors.Energy(), detectors.KNN(k=3), against(["features"])], folds=3),
        }),
        (head_records(width=48), {
            "openmax": detectors.PytorchOOD("pytorch_ood.detector.OpenMax", {"tailsize": 5, "alpha": 2}),
            "nn_guide": detectors.PytorchOOD("pytorch_ood.detector.NNGuide", {"k": 5}, name="theirs"),
        }),
        (gradient_method_records(), {
            "nac": detectors.NAC([detectors.NeuronLayer(bins=20, enough=9), detectors.NeuronLayer("layer1", 5, 8, 20)]),
            "grood": detectors.GROOD(), "gradpca": detectors.GradPCA(),
        }),
        (odin_records(), {"odin": detectors.ODIN(TEMPERATURES, MAGNITUDES)}),
        (mahalanobis_records(), {
            "mahalanobis_p": detectors.Mahalanobis(preprocessing=True, magnitudes=STEPS),
            "mahalanobis_p_fe": detectors.Mahalanobis(preprocessing=True, ensemble=True, magnitudes=STEPS),
        }),
    ]  # fmt: skip
    return {name: (detector, table) for table, kinds in groups for name, detector in kinds.items()}
