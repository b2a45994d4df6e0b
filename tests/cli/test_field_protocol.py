"""The field's protocol from the command line: named splits, statistics of training images, one source for validation, groups."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import detecting, printed, refused, results, table

import lightning_gradood.detectors as detectors
from lightning_gradood.networks import CifarResNet
from lightning_gradood.records import read_rows


def digits(numbers, part="all"):
    return {"class_path": "DigitsSource", "init_args": {"digits": numbers, "part": part}}


NORMAL = {"fit+val": digits([0, 1], "test"), "test": digits([2], "test")}
SOURCES = {"nine": {"test": digits([9])}, "eight": {"test": digits([8])}, "seven": {"test": digits([7])}}
WORDS = [
    "--data.anomalies",
    json.dumps({"six": {"fit+val": digits([6])}, **SOURCES}),
    "--data.normal",
    json.dumps(NORMAL),
    "--data.groups",
    "{near: [nine, eight], far: [seven]}",
    "--detection.protocol",
    "openood",
    "--detection.detectors",
    "[KNN, Energy, {class_path: ODIN, init_args: {temperatures: [1, 1000], magnitudes: [0]}}]",
]


def test_tuned_detectors_know_the_source_for_validation_alone_and_groups_have_means(run, capsys):
    words = [*WORDS, "--detection.validation", "six", "--detection.fit_on", "train", "--detection.limit_per_class", "5"]
    out = printed([*detecting(run), "--run_dir", "field", *words, "--trainer.callbacks", "null"], capsys)
    outcomes = results("field")["outcomes"]
    names = {"mlp": "validation", "knn": "normal", "energy": "normal", "odin": "validation"}
    assert [(one["source"], one["detector"], one["trained_on"]) for one in outcomes] == [
        (source, name, known) for source in SOURCES for name, known in names.items()
    ]
    train = {one["detector"]: one["counts"]["train"] for one in outcomes}
    assert train["knn"] == {"normal": 15, "anomalous": 0}, "five training images of each class"
    assert train["mlp"] == train["odin"] == {"normal": 7, "anomalous": 10}
    assert {path.relative_to("field/detectors").as_posix() for path in Path("field/detectors").glob("*/*")} == {
        *(f"six/{name}.safetensors" for name in ("mlp", "odin")),
        *(f"normal/{name}.safetensors" for name in ("knn", "energy")),
    }
    assert detectors.load_detector("field/detectors/normal/knn.safetensors").counts["train"]["normal"] == 15
    rows = [line.split() for line in table(out).splitlines()[2:]]
    aurocs = {(row[0], row[1]): float(row[3]) for row in rows if row[0] in SOURCES}
    found = {(row[0], row[1]): row for row in rows if row[0] in ("near", "far", "mean")}
    assert len(found) == 3 * len(names)
    for name in names:
        near = sum(aurocs[source, name] for source in ("nine", "eight")) / 2
        assert float(found["near", name][3]) == pytest.approx(near, abs=0.011), name
    assert json.loads(Path("field/provenance.json").read_text())["groups"] == {
        "near": ["nine", "eight"],
        "far": ["seven"],
    }
    assert ">near<" in Path("field/report.html").read_text()
    splits = json.loads(Path("field/splits.json").read_text())["sources"]
    assert {name: [len(ids) for ids in parts.values()] for name, parts in splits.items()} == {
        "normal": [7, 6, 7], "six": [10, 10, 0], **{name: [0, 0, 20] for name in SOURCES},
    }  # fmt: skip
    again = [*detecting(run), "--run_dir", "again", *words, "--data.split.manifest", "field/splits.json"]
    printed([*again, "--data.split.seed", "9"], capsys)
    assert json.loads(Path("again/splits.json").read_text())["sources"] == splits
    assert read_rows(Path("again/scores.parquet"))["score"] == read_rows(Path("field/scores.parquet"))["score"]
    (named, *_) = [line for line in out.splitlines() if line.startswith("Guard: `")]
    assert " on the anomalies of `val`" in named


def test_without_a_source_for_validation_what_needs_anomalies_is_left_out_and_other_splits_are_refused(run, capsys):
    zero = [*WORDS, "--data.anomalies", json.dumps(SOURCES)]
    out = printed([*detecting(run), "--run_dir", "zero", *zero], capsys)
    assert "Left out, as no `detection.validation` is named and they need anomalies: mlp, odin.\n" in out
    assert "the first that was named, as no anomalies are in `val`" in out
    assert {one["detector"] for one in results("zero")["outcomes"]} == {"knn", "energy"}
    for words, sentence in [
        (["--detection.protocol", "known"], "`data.anomalies.nine` should have images in `train` for `mlp` under"),
        (
            ["--detection.fit_on", "train", "--data.train", "null"],
            "training images for `detection.fit_on = train`",
        ),
        (["--data.groups", "{near: [nin]}"], "`data.groups.near` should list anomalous sources. Got 'nin'"),
        (["--data.groups", "{nine: [eight]}"], "`data.groups` should have names that no source has"),
    ]:
        assert sentence in refused([*detecting(run), "--run_dir", "none", *zero, *words], capsys)


BENCH = """
experiments:
  tiny:
    {config: tiny.yaml, dataset: digits, network: ResNet, weights: [a.pt, b.pt],
     flags: {data.groups: {both: [nine, photographs]}}}
seeds: [0]
detectors: [Energy]
"""


def test_several_checkpoints_of_one_experiment_have_a_mean_and_a_deviation_over_weights(capsys):
    for seed, name in enumerate(("a.pt", "b.pt")):
        torch.manual_seed(seed)
        torch.save(CifarResNet(1, 3).state_dict(), name)
    Path("bench.yaml").write_text(BENCH)
    printed(["benchmark", "--config", "bench.yaml", "--run_dir", "bench"], capsys)
    runs = [results(f"bench/tiny/weights_{number}_seed_0") for number in range(2)]
    assert len({run["provenance"]["network_digest"] for run in runs}) == 2
    found = [
        [one["metrics"]["test"]["auroc"] for one in run["outcomes"] if one["detector"] == "energy"] for run in runs
    ]
    rows = list(csv.DictReader(Path("bench/tables.csv").read_text().splitlines()))
    both = [row for row in rows if row["row"] == "AUROC / digits (ResNet) / both" and row["detector"] == "energy"]
    assert [(float(row["mean"]), float(row["spread"]), row["seeds"]) for row in both] == [
        (pytest.approx(np.mean(found)), pytest.approx(np.std(np.mean(found, axis=1), ddof=1)), "2")
    ]
    assert "done before" in printed(["benchmark", "--config", "bench.yaml", "--run_dir", "bench"], capsys)
    Path("bench.yaml").write_text(BENCH.replace("flags: {", "flags: {ckpt_path: a.pt, "))
    assert "should leave the classifier to `weights`" in refused(["benchmark", "--config", "bench.yaml"], capsys)
