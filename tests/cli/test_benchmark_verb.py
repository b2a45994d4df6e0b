"""The verb `benchmark`: one miniature of it end to end, going on after a loss, its page, its refusals."""

import csv
import functools
import inspect
import shutil
import statistics
from pathlib import Path

import pytest
import tiny
import yaml
from browser import check
from pages import whole
from tiny import all_refused, called, refused, snapshot

import lightning_gradood.detectors as detectors
from lightning_gradood.cli import main
from lightning_gradood.cli.program import configuration_of
from lightning_gradood.core import Refusal
from lightning_gradood.evaluation import DetectionSettings
from lightning_gradood.report import Benchmark, Experiment, TableSettings
from lightning_gradood.report.benchmark import calls_of
from lightning_gradood.tasks import ClassificationTask
from lightning_gradood.trainer import Trainer

ROOT = Path(__file__).parents[2]
BENCHMARK = """
experiments:
  tiny:
    config: tiny.yaml
    dataset: CIFAR-10
    network: ResNet
    flags:
      data.perturbations.attacks: {fgsm: FGSM}
      data.anomalies.photographs.scale: 0.2
      data.keep_pixels: uint8
      trainer.max_epochs: 1
seeds: [0, 1]
detectors: [Baseline, {class_path: LID, init_args: {neighbours: [3]}}, Mahalanobis]
tables: {same: {nine: svhn}, near: nine, far: photographs}
"""
FILE = ["benchmark", "--config", "bench.yaml"]
HERE = Path("runs/benchmarks/bench")
SEEDS = [HERE / "tiny/seed_0", HERE / "tiny/seed_1"]
DETECTORS = ["mlp", "baseline", "lid", "mahalanobis_v"]
FIGURES = 3 + 1 + 1 + 2 + 2  # ROC of each source, Figure 1, bars, 3a and 3b, (attacked) samples


@pytest.fixture
def here(tmp_path_factory, workplace):
    """A workplace in which the miniature has run, copied into the working directory."""
    made = tiny.prepared(tmp_path_factory, "benchmarked", FILE, bench=BENCHMARK)
    return Path(shutil.copytree(made, workplace, dirs_exist_ok=True))


@pytest.fixture
def done(monkeypatch):
    """What is done: `train` for each step of training, the run's folder for each detection."""
    seen = []
    step, detect = ClassificationTask.training_step, Trainer.detect

    @functools.wraps(step)
    def training(*arguments):
        seen.append("train")
        return step(*arguments)

    @functools.wraps(detect)  # the parser reads the signature
    def detecting(self, *arguments):
        seen.append(self.default_root_dir)
        return detect(self, *arguments)

    monkeypatch.setattr(ClassificationTask, "training_step", training)
    monkeypatch.setattr(Trainer, "detect", detecting)
    return seen


def lines():
    """The rows of the tables' CSV file."""
    return list(csv.DictReader((HERE / "tables.csv").read_text().splitlines()))


def test_calls_are_printed_as_a_user_makes_them_and_seeds_share_the_classifier_but_no_split(here):
    printed = Path("printed.txt").read_text().splitlines()
    assert [line for line in printed if line.startswith("[")] == [
        f"[{number}/2] {folder}: its output is in {folder}.txt" for number, folder in enumerate(SEEDS, start=1)
    ]
    assert len(printed) < 16
    assert max(map(len, printed)) <= 120
    outputs = [folder.with_suffix(".txt").read_text() for folder in SEEDS]
    assert all("Guard:" in text for text in outputs)
    commands = [text.partition("\n")[0].removeprefix("python -m lightning_gradood ") for text in outputs]
    assert [words.split()[0] for words in commands] == ["fit", "detect"]
    assert "--ckpt_path runs/benchmarks/bench/tiny/seed_0/checkpoints/best.ckpt" in commands[1]
    assert "--detection.seed 1 --data.split.seed 1 --run_dir runs/benchmarks/bench/tiny/seed_1" in commands[1]
    assert all("--detection.detectors" in words for words in commands)
    splits = [(folder / "splits.json").read_text() for folder in SEEDS]
    assert splits[0] != splits[1]
    records = [tiny.results(folder)["provenance"]["records"] for folder in SEEDS]
    assert records[0] == records[1]


def test_tables_hold_mean_and_standard_deviation_beside_the_paper_s_and_the_page_is_whole(here):
    names = {"Detection accuracy": "detection_accuracy", "AUROC": "auroc", "AUPR (anomalous positive)": "aupr_out"}
    expected = {("table_1", "CIFAR-10 (ResNet) / fgsm", name): ("fgsm", "auroc") for name in DETECTORS} | {
        ("table_2", f"{title} / CIFAR-10 (ResNet) / {source}", name): (source, metric)
        for title, metric in names.items()
        for source in ("nine", "photographs")
        for name in DETECTORS
    }
    assert {(line["table"], line["row"], line["detector"]) for line in lines()} == set(expected)
    found = {
        (seed, one["source"], one["detector"]): one["metrics"]["test"]
        for seed, folder in enumerate(SEEDS)
        for one in tiny.results(folder)["outcomes"]
    }
    for line in lines():
        source, metric = expected[line["table"], line["row"], line["detector"]]
        both = [found[seed, source, line["detector"]][metric] for seed in (0, 1)]
        assert float(line["mean"]) == pytest.approx(statistics.fmean(both), abs=1e-12)
        assert float(line["spread"]) == pytest.approx(abs(both[0] - both[1]) / 2**0.5, abs=1e-12)
        assert line["seeds"] == "2"
    paper = {line["row"].rpartition("/")[2].strip(): line["paper"] for line in lines() if line["detector"] == "mlp"}
    assert (float(paper["fgsm"]), paper["photographs"]) == (0.9345, "")
    page, pictures = whole(HERE / "report.html")
    assert len(pictures) == FIGURES
    wanted = {"Table 1: Adversarial detection, AUROC.", "tiny: ROC curves", "tiny: Reading the network"}
    assert wanted <= set(page.headings)


@pytest.mark.slow
def test_the_page_looks_right_in_a_browser(here, tmp_path_factory):
    check(HERE / "report.html", tmp_path_factory.mktemp("benchmark"), {"tiny: ROC curves", "tiny: Environment"})


def test_what_has_results_is_not_run_again_and_other_seeds_read_what_was_probed(here, done, probed, capsys):
    before, lost = snapshot(HERE / "tiny"), tiny.numbers(SEEDS[1])
    assert called(FILE, capsys)[1].count("done before") == 2
    assert done == []
    assert snapshot(HERE / "tiny") == before
    shutil.rmtree(SEEDS[1])
    main([*FILE, "--seeds", "[0, 1, 2]"])
    assert done == [str(SEEDS[1]), str(HERE / "tiny/seed_2")]
    assert not probed
    assert tiny.numbers(SEEDS[1]) == lost
    assert {line["seeds"] for line in lines()} == {"3"}


@pytest.mark.slow
def test_a_lost_classifier_is_trained_again_and_results_of_another_are_not_mixed_in(here, done, monkeypatch):
    tables, step = lines(), ClassificationTask.training_step
    shutil.rmtree(SEEDS[0])
    main(FILE)
    assert "train" in done
    assert [one for one in done if one != "train"] == [str(SEEDS[0])]
    assert lines() == tables
    done.clear()
    shutil.rmtree(SEEDS[0])
    monkeypatch.setattr(ClassificationTask, "training_step", lambda *a: 0.5 * step(*a))  # another loss, other weights
    before = tiny.results(SEEDS[1])["provenance"]["network_digest"]
    main(FILE)
    assert [one for one in done if one != "train"] == [str(folder) for folder in SEEDS]
    assert tiny.results(SEEDS[1])["provenance"]["network_digest"] != before


@pytest.mark.slow
def test_without_training_images_every_seed_detects_with_the_weights_that_are_named(here, done):
    settings = yaml.safe_load(BENCHMARK) | {"seeds": [0]}
    flags = {"model.weights": str(SEEDS[0] / "checkpoints/best.ckpt"), "data.train": None}
    settings["experiments"]["tiny"]["flags"] |= flags
    settings["detectors"] = settings["detectors"][:2]  # Mahalanobis needs training images
    Path("trained.yaml").write_text(yaml.safe_dump(settings))
    main(["benchmark", "--config", "trained.yaml"])
    assert done == ["runs/benchmarks/trained/tiny/seed_0"]
    before = (HERE / "report.html").read_bytes()
    shutil.rmtree("runs/.records")
    main(FILE)
    assert (HERE / "report.html").read_bytes() == before  # made of run folders alone


@pytest.mark.slow
def test_a_detector_that_fails_ends_in_exit_code_3_and_is_run_again(capsys):
    one = {"config": "tiny.yaml", "dataset": "Digits", "network": "ResNet", "flags": {"trainer.max_epochs": 1}}
    Path("bench.yaml").write_text(yaml.safe_dump({"experiments": {"one": one}, "seeds": [0]}))
    words = [*FILE, "--detectors", "[Energy, Baseline]"]

    def fail(*_):
        raise Refusal("`val` should have more images. Got 1. Add some.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detectors.Energy, "fit", fail)
        code, out, err = called(words, capsys)
    assert code == 3
    assert err.endswith("error: some fits of `energy` failed: their runs say why, and all else is in the tables.\n")
    assert "By source, with the paper's numbers:" in out
    for before in (False, True):
        assert ("done before" in called(words, capsys)[1]) is before


BAD = [
    ({"seeds": [1, 1]}, "`seeds` should be different numbers, none below 0. Got `seeds = [1, 1]`."),
    ({"tables": -1}, "`tables` should hold settings. Got `tables = -1`. Leave it out for the defaults."),
    ({"sedes": [1]}, "should hold only keys that it knows. Got `sedes`. Did you mean `seeds`?"),
    ({"tables": {"near": "ten"}}, "`tables.near` should be a source of `data.anomalies`. Got `tables.near = ten`; there"),
    ({"detectors": ["Baselin"]}, "there is no class called Baselin"),
    ({"run_dir": "thesis"}, "thesis"),
]  # fmt: skip
BAD_EXPERIMENTS = [
    ({"config": "away.yaml"}, "or the name of one that comes with the package. Got `config away"),
    ({"flags": {"run_dir": "x"}}, "Got `flags` with run_dir. Set `seeds`, `run_dir` or `cache_dir` of the benchmark."),
    ({"flags": {"data.batch_sise": 3}}, "Did you mean `batch_size`?"),
]


def test_bad_benchmarks_are_refused_in_a_sentence_before_anything_is_written(capsys):
    Path("thesis/tiny/seed_1").mkdir(parents=True)
    Path("thesis/tiny/seed_1/chapter.tex").write_text("precious")
    whole = yaml.safe_load(BENCHMARK)
    tiny_ = whole["experiments"]["tiny"]
    cases = [*BAD, *(({"experiments": {"tiny": tiny_ | change}}, words) for change, words in BAD_EXPERIMENTS)]
    cases += [({"experiments": {"../away": tiny_}}, "should have names that can be folders'. Got '../away'.")]
    for number, (change, _) in enumerate(cases):
        Path(f"{number}.yaml").write_text(yaml.safe_dump(whole | change))
    all_refused([([*FILE[:2], f"{number}.yaml"], words) for number, (_, words) in enumerate(cases)], capsys)
    for words in (["--config", "nowhere.yaml"], ["--seeds", "[1]"], ["--config", "0.yaml", "--sedes", "[1]"]):
        refused(["benchmark", *words], capsys)


def test_a_folder_of_another_benchmark_is_refused_before_anything_is_run(here, done, capsys):
    all_refused([([*FILE, "--detectors", "[Baseline]"], "differs in detection.detectors")], capsys)
    assert done == []


@pytest.mark.parametrize(
    ("file", "verbs"),
    [
        ("tables_digits", ["fit", "detect", "detect"] * 2),
        pytest.param("tables_folders", ["detect"] * 12, marks=pytest.mark.slow),
    ],
)
def test_the_shipped_benchmarks_ask_for_every_detector_that_no_preset_of_the_field_has(file, verbs, monkeypatch):
    monkeypatch.chdir(ROOT)
    settings = yaml.safe_load(Path(f"configs/{file}.yaml").read_text())
    settings["experiments"] = {name: Experiment(**one) for name, one in settings["experiments"].items()}
    benchmark = Benchmark(**settings | {"tables": TableSettings(**settings["tables"])})
    found = calls_of(benchmark, Path("unused"), configuration_of)
    assert [call.words[0] for call in found] == verbs
    classes = [getattr(detectors, name) for name in detectors.__all__ if isinstance(getattr(detectors, name), type)]
    there = {one.__name__ for one in classes if issubclass(one, detectors.Detector) and not inspect.isabstract(one)}
    field = {
        type(one).__name__ for one in DetectionSettings(preset="post_hoc").build()
    }  # with MLP, which is always there
    field |= {"PytorchOOD", "Tuned", "KnownAnomalies", "Combined"}
    field |= {"WeightedParts", "ViewsSoftmax"}  # of the preset that the files name
    for call in found:
        asked = {one["class_path"].rpartition(".")[2] for one in call.config["detection"]["detectors"]}
        assert there - field <= asked <= there
