"""The verb `benchmark`: one miniature of it end to end, going on after a loss, its page, its refusals."""

import csv
import functools
import re
import shutil
import statistics
from pathlib import Path

import pytest
import tiny
import yaml
from browser import check
from pages import whole
from tiny import refused, snapshot

import lightning_gradood.detectors as detectors
from lightning_gradood.cli import main
from lightning_gradood.cli.calls import configuration_of, run_verb
from lightning_gradood.core import Refusal
from lightning_gradood.evaluation import DetectionSettings
from lightning_gradood.experiments.jobs import Program, calls_of, refuse_unknown_images
from lightning_gradood.experiments.settings import Benchmark, Experiment, TableSettings
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
      data.attacks: {fgsm: FGSM}
      data.anomalies.photographs.scale: 0.2
      data.keep_pixels: uint8
      trainer.max_epochs: 1
seeds: [0, 1]
detectors: [Baseline, {class_path: LID, init_args: {neighbours: [3]}}, ImageStatistics]
tables: {same: {nine: SVHN}, near: nine, far: photographs}
"""
FILE = ["benchmark", "--config", "bench.yaml"]
HERE = Path("runs/benchmarks/bench")
SEEDS = [HERE / "tiny/seed_0", HERE / "tiny/seed_1"]
DETECTORS = ["mlp", "baseline", "lid", "image_statistics"]
FIGURES = 3 + 2 + 1 + 4 + 1  # a ROC for each source, 3a and 3b, samples, extremes of each detector, Figure 1


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
    commands = re.findall(r"^\[\d/2\] python -m lightning_gradood (.*)$", Path("printed.txt").read_text(), re.MULTILINE)
    assert [words.split()[0] for words in commands] == ["fit", "detect"]
    assert "--ckpt_path runs/benchmarks/bench/tiny/seed_0/checkpoints/best.ckpt" in commands[1]
    assert "--detection.seed 1 --data.split_seed 1 --run_dir runs/benchmarks/bench/tiny/seed_1" in commands[1]
    assert all("--detection.detectors" in words for words in commands)
    splits = [(folder / "splits.json").read_text() for folder in SEEDS]
    assert splits[0] != splits[1]
    records = [tiny.results(folder)["provenance"]["records"] for folder in SEEDS]
    assert records[0] == records[1]


def test_tables_hold_mean_and_standard_deviation_in_all_formats_beside_the_paper_s_numbers(here):
    names = {"Detection accuracy": "detection_accuracy", "AUROC": "auroc", "AUPR (anomalous positive)": "aupr_out"}
    expected = {("table_1", "CIFAR-10 (ResNet) / FGSM", name): ("fgsm", "auroc") for name in DETECTORS} | {
        ("table_2", f"{title} / CIFAR-10 (ResNet) / {source}", name): (source, metric)
        for title, metric in names.items()
        for source in ("nine", "photographs")
        for name in DETECTORS
    }
    assert {(line["table"], line["row"], line["detector"]) for line in lines()} == set(expected)
    page, said = (HERE / "report.html").read_text(), Path("printed.txt").read_text()
    found = [one for folder in SEEDS for one in tiny.results(folder)["outcomes"]]
    for line in lines():
        source, metric = expected[line["table"], line["row"], line["detector"]]
        both = [
            one["metrics"]["test"][metric]
            for one in found
            if (one["source"], one["detector"]) == (source, line["detector"])
        ]
        assert float(line["mean"]) == pytest.approx(statistics.fmean(both), abs=1e-12)
        assert float(line["spread"]) == pytest.approx(abs(both[0] - both[1]) / 2**0.5, abs=1e-12)
        assert line["seeds"] == "2"
        text = f"{100 * float(line['mean']):.2f} ± {100 * float(line['spread']):.2f}"
        assert text in (HERE / f"{line['table']}.md").read_text()
        assert text.replace("±", r"$\pm$") in (HERE / f"{line['table']}.tex").read_text()
        assert text in page
        assert text in said
    paper = {line["row"].rpartition("/")[2].strip(): line["paper"] for line in lines() if line["detector"] == "mlp"}
    assert (float(paper["FGSM"]), paper["photographs"]) == (0.9345, "")


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(here):
    page, pictures = whole(HERE / "report.html")
    assert len(pictures) == FIGURES
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    sections = ["Table 1: adversarial images", "Table 2: out-of-distribution images", "What attacks did"]
    sections += ["tiny: ROC curves", "tiny: layer by layer (Figure 3)", "tiny: images"]
    sections += ["Time and memory", "Images in each split", "Commands", "Environment"]
    assert set(sections) <= set(page.headings)


@pytest.mark.slow
def test_the_page_looks_right_in_a_browser_and_so_does_each_run_s(here, tmp_path_factory):
    headings = {"Table 1: adversarial images", "Table 2: out-of-distribution images", "tiny: ROC curves", "Environment"}
    check(HERE / "report.html", tmp_path_factory.mktemp("benchmark"), headings)
    headings = {"Results", "Reading the network", "Guard"}
    check(SEEDS[0] / "report.html", tmp_path_factory.mktemp("seed"), headings, pictures=False)


def test_what_has_results_is_not_run_again_and_other_seeds_read_what_was_probed(here, done, probed, capsys):
    before, lost = snapshot(HERE / "tiny"), tiny.numbers(SEEDS[1])
    main(FILE)
    assert done == []
    assert capsys.readouterr().out.count("done before") == 2
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
    before = (SEEDS[1] / "artifacts.npz").read_bytes()
    main(FILE)
    assert [one for one in done if one != "train"] == [str(folder) for folder in SEEDS]
    assert (SEEDS[1] / "artifacts.npz").read_bytes() != before


@pytest.mark.slow
def test_without_training_images_every_seed_detects_with_the_weights_that_are_named(here, done):
    settings = yaml.safe_load(BENCHMARK) | {"seeds": [0]}
    flags = {"model.weights": str(SEEDS[0] / "checkpoints/best.ckpt"), "data.train": None}
    settings["experiments"]["tiny"]["flags"] |= flags
    Path("trained.yaml").write_text(yaml.safe_dump(settings))
    main(["benchmark", "--config", "trained.yaml"])
    assert done == ["runs/benchmarks/trained/tiny/seed_0"]
    assert Path("runs/benchmarks/trained/report.html").is_file()
    shutil.rmtree("runs/.records")
    main(FILE)
    assert "3b is not drawn: the records of the network" in (HERE / "report.html").read_text()


@pytest.mark.slow
def test_a_detector_that_fails_ends_in_exit_code_3_and_is_run_again(capsys):
    Path("bench.yaml").write_text(
        "experiments: {one: {config: tiny.yaml, dataset: Digits, network: ResNet, flags: {trainer.max_epochs: 1}}}\nseeds: [0]\n"
    )
    words = [*FILE, "--detectors", "[Energy, Baseline]"]

    def fail(*_):
        raise Refusal("`val` should have more images. Got 1. Add some.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detectors.Energy, "fit", fail)
        with pytest.raises(SystemExit) as ended:
            main(words)
    assert ended.value.code == 3
    said = capsys.readouterr()
    sentence = "error: some fits of `energy` failed: their runs say why, and all else is in the tables.\n"
    assert said.err.endswith(sentence)
    assert "Tables and page:" in said.out
    for before in (False, True):
        main(words)
        assert ("done before" in capsys.readouterr().out) is before


BAD = [
    ({"experiments": {}}, "`experiments` should name at least one. Got none."),
    ({"seeds": [1, 1]}, "`seeds` should be different numbers, none below 0. Got `seeds = [1, 1]`."),
    ({"seeds": [2**32]}, "`seeds`: Not of type Seed"),
    ({"cache_dir": None}, "`cache_dir`: Expected a <class 'str'>. Got value: None."),
    ({"tables": None}, "`tables` should hold settings. Got `tables = None`."),
    ({"tables": -1}, "`tables` should hold settings. Got `tables = -1`. Leave it out for the defaults."),
    ({"sedes": [1]}, "should hold only keys that it knows. Got `sedes`. Did you mean `seeds`?"),
    (
        {"tables": {"near": "ten"}},
        "`tables.near` should be a source of `data.anomalies`. Got `tables.near = ten`; there",
    ),
    ({"detectors": ["Baselin"]}, "there is no class called Baselin"),
    ({"run_dir": "thesis"}, "thesis"),
]
BAD_EXPERIMENTS = [
    ({"config": "away.yaml"}, "or the name of one that comes with the package. Got `config away"),
    ({"flags": {"run_dir": "x"}}, "Got `flags` with run_dir. Set `seeds`, `run_dir` or `cache_dir` of the benchmark."),
    ({"flags": {"detection.detectors": ["KNN"]}}, "should be set once. Got them for all and in the flags of tiny."),
    ({"flags": {"data.batch_sise": 3}}, "Did you mean `batch_size`?"),
    ({"flags": None}, "`experiments.flags`: Expected a <class 'dict'>"),
]


def test_bad_benchmarks_are_refused_in_a_sentence_before_anything_is_written(capsys):
    Path("thesis/tiny/seed_1").mkdir(parents=True)
    Path("thesis/tiny/seed_1/chapter.tex").write_text("precious")
    whole, cases = yaml.safe_load(BENCHMARK), list(BAD)
    tiny_ = whole["experiments"]["tiny"]
    cases += [({"experiments": {"tiny": tiny_ | change}}, words) for change, words in BAD_EXPERIMENTS]
    cases += [({"experiments": {"../away": tiny_}}, "should have names that can be folders'. Got '../away'.")]
    wrong = []
    for change, words in cases:
        Path("bench.yaml").write_text(yaml.safe_dump(whole | change))
        before = snapshot(Path("."))
        wrong += [(words, message) for message in [refused(FILE, capsys)] if words not in message]
        assert snapshot(Path(".")) == before
    assert wrong == []
    for words in (["--config", "nowhere.yaml"], ["--seeds", "[1]"], [*FILE[1:], "--sedes", "[1]"]):
        refused(["benchmark", *words], capsys)


def test_a_folder_of_another_benchmark_is_refused_before_anything_is_run(here, done, capsys):
    before = snapshot(Path("."))
    message = refused([*FILE, "--detectors", "[Baseline]"], capsys)
    assert "differs in detection.detectors" in message
    assert done == []
    assert snapshot(Path(".")) == before


def calls(file):
    """The calls that a shipped benchmark consists of."""
    settings = yaml.safe_load(Path(f"configs/{file}.yaml").read_text())
    experiments = {name: Experiment(**one) for name, one in settings["experiments"].items()}
    tables = TableSettings(**settings["tables"])
    benchmark = Benchmark(experiments, settings["seeds"], settings["detectors"], tables=tables)
    found = calls_of(benchmark, Path("unused"), Program(configuration_of, run_verb))
    refuse_unknown_images(benchmark, found)
    return found


@pytest.mark.parametrize(
    ("file", "verbs"),
    [
        ("tables_digits", ["fit", "detect", "detect"] * 2),
        pytest.param("tables_folders", ["detect"] * 12, marks=pytest.mark.slow),
    ],
)
def test_the_shipped_benchmarks_ask_for_every_detector_there_is(file, verbs, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = calls(file)
    assert [call.words[0] for call in found] == verbs
    classes = [getattr(detectors, name) for name in detectors.__all__ if isinstance(getattr(detectors, name), type)]
    there = {one.__name__ for one in classes if issubclass(one, detectors.Detector)} - {
        "Detector",
        "FixedDetector",
        "MLP",
    }
    assert DetectionSettings().build()[0].name == "mlp"  # which is always there
    for call in found:
        assert {one["class_path"].rpartition(".")[2] for one in call.config["detection"]["detectors"]} == there
    for call in found if file == "tables_folders" else []:
        data, model = call.config["data"]["init_args"], call.config["model"]["init_args"]
        network, _, kind = call.experiment.partition("_")
        assert model["network"]["class_path"].endswith(f".{network}")
        assert (model["weights"], data["train"]) == (f"cifar10_{network}.pt", "data/cifar10/train")
        assert model["normalize"]["mean"] == [0.485, 0.456, 0.406]
        if kind == "attacks":
            assert (data["attacks"], data["limit"], data["limits"]) == ("paper", 2000, {"cw": 1000})
        else:
            assert (data["attacks"], data["limit"]) == (None, {"resnet20": None, "resnet18": 5000}[network])
            assert sorted(data["anomalies"]) == ["places", "svhn_digits", "tiny_imagenet"]
