"""The verb `benchmark`: one miniature of it end to end, going on after a loss, its page, its refusals."""

import base64
import contextlib
import csv
import functools
import io
import json
import re
import shutil
import statistics
from pathlib import Path

import pytest
import tiny
import yaml
from browser import check
from pages import Page
from test_verbs import printed
from tiny import refused, snapshot

import lightning_gradood.detectors as detectors
from lightning_gradood.cli import main
from lightning_gradood.cli.calls import configuration_of, run_verb
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


@pytest.fixture(scope="module")
def benchmarked(tmp_path_factory):
    """A workplace in which the miniature has run once, and what it printed; tests copy it."""
    folder, out = tmp_path_factory.mktemp("benchmarked"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.chdir(folder)
        patch.setattr("sys.argv", ["lightning_gradood", *FILE])
        Path("tiny.yaml").write_text(tiny.CONFIG)
        Path("bench.yaml").write_text(BENCHMARK)
        main(FILE)
    return folder, out.getvalue()


@pytest.fixture
def here(benchmarked, workplace):
    """The finished miniature, copied into the working directory."""
    shutil.copytree(benchmarked[0], workplace, dirs_exist_ok=True)
    return workplace


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


def outcomes(folder):
    return json.loads((folder / "results.json").read_text())["outcomes"]


def values(source, detector, metric):
    """Of both seeds, from their own results."""
    found = [[o for o in outcomes(folder) if (o["source"], o["detector"]) == (source, detector)] for folder in SEEDS]
    return [outcome["metrics"]["test"][metric] for (outcome,) in found]


def test_each_call_is_printed_as_a_user_can_make_it(benchmarked):
    commands = re.findall(r"^\[\d/2\] python -m lightning_gradood (.*)$", benchmarked[1], re.MULTILINE)
    assert [words.split()[0] for words in commands] == ["fit", "detect"]
    assert "--ckpt_path runs/benchmarks/bench/tiny/seed_0/checkpoints/best.ckpt" in commands[1]
    assert "--detection.seed 1 --data.split_seed 1 --run_dir runs/benchmarks/bench/tiny/seed_1" in commands[1]
    assert all("--detection.detectors" in words for words in commands)


def test_seeds_differ_in_splits_and_share_the_classifier(here):
    splits = [(folder / "splits.json").read_text() for folder in SEEDS]
    assert splits[0] != splits[1]
    records = [json.loads((f / "results.json").read_text())["provenance"]["records"] for f in SEEDS]
    assert records[0] == records[1]


def test_tables_hold_the_mean_and_the_standard_deviation_of_the_results(here):
    with open(HERE / "tables.csv") as file:
        lines = list(csv.DictReader(file))
    names = {"Detection accuracy": "detection_accuracy", "AUROC": "auroc", "AUPR (anomalous positive)": "aupr_out"}
    expected = {("table_1", "CIFAR-10 (ResNet) / FGSM", name): ("fgsm", "auroc") for name in DETECTORS} | {
        ("table_2", f"{title} / CIFAR-10 (ResNet) / {source}", name): (source, metric)
        for title, metric in names.items()
        for source in ("nine", "photographs")
        for name in DETECTORS
    }
    assert {(line["table"], line["row"], line["detector"]) for line in lines} == set(expected)
    for line in lines:
        source, metric = expected[line["table"], line["row"], line["detector"]]
        both = values(source, line["detector"], metric)
        assert float(line["mean"]) == pytest.approx(statistics.fmean(both), abs=1e-12)
        assert float(line["spread"]) == pytest.approx(abs(both[0] - both[1]) / 2**0.5, abs=1e-12)
        assert line["seeds"] == "2"
    paper = {line["row"].rpartition("/")[2].strip(): line["paper"] for line in lines if line["detector"] == "mlp"}
    assert (float(paper["FGSM"]), paper["photographs"]) == (0.9345, "")


def test_every_number_stands_in_markdown_latex_and_on_the_page(here, benchmarked):
    with open(HERE / "tables.csv") as file:
        lines = list(csv.DictReader(file))
    page = (HERE / "report.html").read_text()
    for line in lines:
        text = f"{100 * float(line['mean']):.2f} ± {100 * float(line['spread']):.2f}"
        assert text in (HERE / f"{line['table']}.md").read_text()
        assert text.replace("±", r"$\pm$") in (HERE / f"{line['table']}.tex").read_text()
        assert text in page
        assert text in benchmarked[1]


def test_nothing_is_run_again_that_has_results(here, done, capsys):
    before = snapshot(HERE / "tiny")
    main(FILE)
    assert done == []
    assert capsys.readouterr().out.count("done before") == 2
    assert snapshot(HERE / "tiny") == before


def test_a_lost_seed_alone_is_run_again_with_the_same_numbers(here, done):
    tables = (HERE / "tables.csv").read_text()
    shutil.rmtree(SEEDS[1])
    main(FILE)
    assert done == [str(SEEDS[1])]
    assert (HERE / "tables.csv").read_text() == tables


def test_a_lost_classifier_is_trained_again_and_its_numbers_are_kept_where_it_is_the_same(here, done):
    tables = (HERE / "tables.csv").read_text()
    shutil.rmtree(SEEDS[0])
    main(FILE)
    assert "train" in done
    assert [one for one in done if one != "train"] == [str(SEEDS[0])]
    assert (HERE / "tables.csv").read_text() == tables


def test_results_of_another_classifier_are_not_mixed_in(here, done, monkeypatch):
    other = SEEDS[1] / "artifacts.npz"
    shutil.copytree(HERE, "kept")
    step = ClassificationTask.training_step
    monkeypatch.setattr(ClassificationTask, "training_step", lambda *a: 0.5 * step(*a))  # another loss, other weights
    shutil.rmtree(SEEDS[0])
    before = other.read_bytes()
    main(FILE)
    assert [one for one in done if one != "train"] == [str(folder) for folder in SEEDS]
    assert other.read_bytes() != before


def test_another_seed_is_added_and_reads_what_the_first_has_probed(here, done, probed):
    main([*FILE, "--seeds", "[0, 1, 2]"])
    assert done == [str(HERE / "tiny/seed_2")]
    assert not probed
    lines = list(csv.DictReader((HERE / "tables.csv").read_text().splitlines()))
    assert {line["seeds"] for line in lines} == {"3"}


def test_without_training_images_every_seed_detects_with_the_weights_that_are_named(here, done):
    weights = SEEDS[0] / "checkpoints/best.ckpt"
    settings = yaml.safe_load(BENCHMARK)
    settings["experiments"]["tiny"]["flags"] |= {"model.weights": str(weights), "data.train": None}
    Path("trained.yaml").write_text(yaml.safe_dump(settings | {"seeds": [0]}))
    main(["benchmark", "--config", "trained.yaml"])
    assert done == ["runs/benchmarks/trained/tiny/seed_0"]
    assert (Path("runs/benchmarks/trained/report.html")).is_file()


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(here):
    text = (HERE / "report.html").read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert page.references
    assert all(reference.startswith("data:") for reference in page.references)
    assert "url(" not in text
    assert "@import" not in text
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert len(pictures) == page.tags.count("img") == FIGURES
    assert all(base64.b64decode(picture, validate=True).startswith(b"\x89PNG") for picture in pictures)
    sections = ["Table 1: adversarial images", "Table 2: out-of-distribution images", "What attacks did"]
    sections += ["tiny: ROC curves", "tiny: layer by layer (Figure 3)", "tiny: images"]
    sections += ["Time and memory", "Images in each split", "Commands", "Environment"]
    assert set(sections) <= set(page.headings)
    assert 'name="viewport" content="width=device-width' in text


def test_the_page_looks_right_in_a_browser_and_so_does_each_run_s(here, tmp_path_factory):
    headings = {"Table 1: adversarial images", "Table 2: out-of-distribution images", "tiny: ROC curves", "Environment"}
    check(HERE / "report.html", tmp_path_factory.mktemp("benchmark"), headings)
    check(
        SEEDS[0] / "report.html",
        tmp_path_factory.mktemp("seed"),
        {"Results", "Reading the network", "Guard"},
        pictures=False,
    )


def test_a_page_says_why_a_figure_is_not_there(here):
    shutil.rmtree("runs/.records")
    main(FILE)
    assert "3b is not drawn: the records of the network" in (HERE / "report.html").read_text()


@pytest.mark.parametrize(
    ("change", "flags", "words"),
    [
        ({}, ["--config", "nowhere.yaml"], "nowhere.yaml"),
        ({"experiments": {}}, [], "`experiments` should name at least one. Got none."),
        ({"seeds": [1, 1]}, [], "`seeds` should be different numbers, none below 0. Got `seeds = [1, 1]`."),
        ({"seeds": []}, [], "`seeds` should be different numbers"),
        ({"seeds": ["a"]}, [], "seeds"),
        ({"seeds": [2**32]}, [], "`seeds` should be at most 4294967295. Got `seeds = 4294967296`."),
        ({"cache_dir": None}, [], "`cache_dir` should have a value. Got null. Leave it out for its default."),
        ({"tables": None}, [], "`tables` should have a value. Got null."),
        ({"tables": -1}, [], "`tables` should hold settings. Got `tables = -1`. Leave it out for the defaults."),
        ({"tables": {"columns": None}}, [], "`tables.columns` should have a value. Got null."),
        ({"tables": {"accuracy": None}}, [], "`tables.accuracy` should have a value. Got null."),
        ({"sedes": [1]}, [], "should hold only keys that it knows. Got `sedes`. Did you mean `seeds`?"),
        ({"tables": {"neer": "nine"}}, [], "Got `neer`. Did you mean `near`?"),
        ({"zzz": 1}, [], "Got `zzz`. `benchmark --help` lists them."),
        ({}, ["--seeds", "[1]"], "`experiments` should be given. Got none."),
        ({}, [*FILE[1:], "--sedes", "[1]"], "Got `sedes`. Did you mean `seeds`?"),
        (
            {"tables": {"near": "ten"}},
            [],
            "`tables.near` should be a source of `data.anomalies`. Got `tables.near = ten`; there",
        ),
        ({"tables": {"aupr": "aupr"}}, [], "aupr"),
        ({"detectors": ["Baselin"]}, [], "there is no class called Baselin"),
        ({"run_dir": "thesis"}, [], ""),
    ],
)
def test_bad_benchmarks_are_refused_in_a_sentence(change, flags, words, capsys):
    Path("thesis/tiny/seed_1").mkdir(parents=True)
    Path("thesis/tiny/seed_1/chapter.tex").write_text("precious")
    Path("bench.yaml").write_text(yaml.safe_dump(yaml.safe_load(BENCHMARK) | change))
    before = snapshot(Path("."))
    message = refused([*FILE[:1], *(flags or FILE[1:])], capsys)
    assert words in message
    assert change.get("run_dir", "") in message
    assert snapshot(Path(".")) == before


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        (
            {"config": "away.yaml"},
            "tiny",
            "`config` should be an experiment file, or the name of one that comes with the package. Got `config away",
        ),
        (
            {"flags": {"run_dir": "x"}},
            "tiny",
            "Got `flags` with run_dir. Set `seeds`, `run_dir` or `cache_dir` of the benchmark.",
        ),
        (
            {"flags": {"detection.detectors": ["KNN"]}},
            "tiny",
            "`detectors` should be set once. Got them for all and in the flags of tiny.",
        ),
        ({"flags": {"data.batch_sise": 3}}, "tiny", "Did you mean `batch_size`?"),
        ({"dataset": None}, "tiny", "dataset"),
        (
            {"flags": None},
            "tiny",
            "`experiments.tiny.flags` should have a value. Got null. Leave it out for its default.",
        ),
        ({"confg": "x"}, "tiny", "Got `confg`. Did you mean `config`?"),
        ({}, "../away", "`experiments` should have names that can be folders'. Got '../away'."),
    ],
)
def test_bad_experiments_are_refused_in_a_sentence(change, name, words, capsys):
    settings = yaml.safe_load(BENCHMARK)
    settings["experiments"] = {name: settings["experiments"]["tiny"] | change}
    Path("bench.yaml").write_text(yaml.safe_dump(settings))
    before = snapshot(Path("."))
    assert words in refused(FILE, capsys)
    assert snapshot(Path(".")) == before


def test_a_folder_of_another_benchmark_is_refused_before_anything_is_run(here, done, capsys):
    before = snapshot(Path("."))
    message = refused([*FILE, "--detectors", "[Baseline]"], capsys)
    assert "differs in detection.detectors" in message
    assert done == []
    assert snapshot(Path(".")) == before


def test_help_names_every_key(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert re.search(r"^    benchmark +[A-Z].*\.$", printed(["--help"], capsys), re.MULTILINE)
    text = printed(["benchmark", "--help"], capsys)
    assert text.startswith("usage: python -m lightning_gradood benchmark ")
    for key in ("--config", "--experiments", "--seeds", "--detectors", "--run_dir", "--cache_dir", "--tables.near"):
        assert f"{key}" in text, key


@pytest.mark.parametrize(
    ("file", "verbs"),
    [("tables_digits", ["fit", "detect", "detect"] * 2), ("tables_folders", ["detect"] * 12)],
)
def test_the_shipped_benchmarks_ask_for_every_detector_there_is(file, verbs):
    calls = _calls(file)
    assert [call.words[0] for call in calls] == verbs
    abstract = {"Detector", "FixedDetector"}
    classes = {name for name in detectors.__all__ if isinstance(getattr(detectors, name), type)}
    there = {name for name in classes if issubclass(getattr(detectors, name), detectors.Detector)} - abstract
    for call in calls:
        asked = {one["class_path"].rpartition(".")[2] for one in call.config["detection"]["detectors"]}
        assert asked == there - {"MLP"}  # which is always there
    assert DetectionSettings().build()[0].name == "mlp"


def test_the_benchmark_of_folders_has_attacks_and_unknown_images_for_both_networks():
    for call in _calls("tables_folders"):
        data, model = call.config["data"]["init_args"], call.config["model"]["init_args"]
        network, _, kind = call.experiment.partition("_")
        assert model["network"]["class_path"].endswith(f".{network}")
        assert model["weights"] == f"cifar10_{network}.pt"
        assert model["normalize"]["mean"] == [0.485, 0.456, 0.406]
        assert data["train"] == "data/cifar10/train"
        if kind == "attacks":
            assert (data["attacks"], data["limit"], data["limits"]) == ("paper", 2000, {"cw": 1000})
        else:
            assert (data["attacks"], data["limit"]) == (None, {"resnet20": None, "resnet18": 5000}[network])
            assert sorted(data["anomalies"]) == ["places", "svhn_digits", "tiny_imagenet"]


@functools.cache  # each call is parsed
def _calls(file):
    """The calls that a shipped benchmark consists of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return _parsed(file)


def _parsed(file):
    settings = yaml.safe_load(Path(f"configs/{file}.yaml").read_text())
    experiments = {name: Experiment(**one) for name, one in settings["experiments"].items()}
    benchmark = Benchmark(
        experiments, settings["seeds"], settings["detectors"], tables=TableSettings(**settings["tables"])
    )
    calls = calls_of(benchmark, Path("unused"), Program(configuration_of, run_verb))
    refuse_unknown_images(benchmark, calls)
    return calls
