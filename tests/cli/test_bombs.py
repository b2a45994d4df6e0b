"""Files and values that explode, nest without end or fill the memory: one sentence and exit code 2, wherever they are read."""

import json
from pathlib import Path

import lightning.pytorch  # noqa: F401  # its log handler keeps the stream that it first meets
import pytest
import tiny
from tiny import FILE, refused

LAUGHS = "\n".join(
    ["a0: &a0 [lol, lol, lol, lol]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10))]
)
FLOW = f"{{{', '.join(LAUGHS.splitlines())}}}"
QUOTED = "'" + FLOW + "'"
TEXTS = {
    "laughs.yaml": LAUGHS,
    "deep.yaml": "[" * 10**5,
    "dashes.yaml": "- " * 10**5,
    "itself.yaml": "trainer: &a {max_epochs: 2, callbacks: [*a]}\n" + "# long enough to be looked at\n" * 3,
    "inside.yaml": tiny.CONFIG + LAUGHS.replace("a9:", "logging:"),
    "quoted.yaml": tiny.CONFIG.replace("max_epochs: 2", f"max_epochs: {QUOTED}"),
    "merged.yaml": tiny.CONFIG + "\n".join(
        ["m0: &m0 {x: 1, y: 2}", *(f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 10)}]}}" for n in range(1, 9))]
    ),
}  # fmt: skip
pytestmark = pytest.mark.timeout(120)  # a start of the program takes some seconds; without the limits these take hours


@pytest.fixture(autouse=True)
def here(workplace):
    for name, text in TEXTS.items():
        Path(name).write_text(text)
    with open("huge.yaml", "wb") as file:
        file.truncate(400_000_000)


@pytest.mark.parametrize("name", [*TEXTS, "huge.yaml"])
@pytest.mark.parametrize("verb", ["fit", "benchmark"])
def test_experiment_and_benchmark_files(name, verb, capsys):
    message = refused([verb, "--config", name], capsys)
    assert message.startswith(f"`config` should be a YAML file. Got `config = {name}`, ")
    assert len(message) < 300


@pytest.mark.parametrize(
    "flags",
    [
        ["--trainer.max_epochs", FLOW],
        ["--trainer.callbacks", FLOW],
        [f"--model={FLOW}"],
        ["--data.anomalies", "[" * 10**5],
        ["--data.split", "- " * 10**5],
        ["--data.batch_size", QUOTED],
        ["--model.network", FLOW],
        ["--config", FLOW],
    ],
    ids=lambda flags: flags[0].partition("=")[0],
)
def test_values_of_the_command_line(flags, capsys):
    message = refused(["fit", *FILE, *flags], capsys)
    assert "its aliases expanded" in message or "nested more than 64 deep" in message
    assert len(message) < 300


@pytest.mark.parametrize(
    "text", ["!!int ''", "!!bool x", "!!timestamp x", "1" * 5000, "2001-99-99T", "!!python/name:os.system"]
)
@pytest.mark.parametrize("flag", ["--trainer.max_epochs", "--data.split", "--data.anomalies", "--run_dir", "--model"])
def test_values_that_yaml_cannot_convert(flag, text, capsys):
    words = ["fit", *FILE, flag, text, "--detection.resamples", "0"]  # a folder may have any name
    assert len(refused(words, capsys)) < 7000
    in_file = {
        "--trainer.max_epochs": ("max_epochs: 2", f"max_epochs: {text}"),
        "--model": ("batch_size: 64", f"batch_size: {text}"),
    }
    if flag in in_file:
        Path("tiny.yaml").write_text(tiny.CONFIG.replace(*in_file[flag]))
        refused(["fit", *FILE], capsys)


@pytest.mark.parametrize("flag", ["--detection", "--data", "--trainer.callbacks", "--model"])
@pytest.mark.parametrize("name", ["laughs.yaml", "deep.yaml", "huge.yaml"])
def test_files_for_a_part_of_an_experiment(flag, name, capsys):
    message = refused(["fit", *FILE, flag, name], capsys)
    assert len(message) < 400


def test_what_is_just_not_too_deep_for_the_limits_is_refused_by_the_parser(capsys):
    refused(["fit", *FILE, "--trainer.callbacks", "[" * 60 + "]" * 60], capsys)


@pytest.mark.parametrize("name", ["laughs.yaml", "deep.yaml", "huge.yaml", "/dev/zero"])
def test_lists_of_classes(name, capsys):
    assert f"Got `data.classes = {name}`" in refused(["fit", *FILE, "--data.classes", name], capsys)


@pytest.mark.parametrize("name", ["laughs.yaml", "deep.yaml", "huge.yaml"])
def test_the_configuration_of_a_run_folder(name, capsys):
    Path("old").mkdir()
    Path(name).rename("old/config.yaml")
    assert "differs in" in refused(["fit", *FILE, "--run_dir", "old"], capsys)


RESULTS = {
    "experiment": "x",
    "provenance": {},
    "outcomes": [
        {
            "source": "a",
            "detector": "mlp",
            "trained_on": "",
            "metrics": {"test": {"auroc": 0.9}},
            "auroc_interval": {"low": 0.8, "high": 1.0},
        }
    ],
}


@pytest.mark.parametrize("name", ["laughs.yaml", "deep.yaml", "huge.yaml"])
def test_runs_that_are_compared_or_shown(name, capsys):
    Path("old").mkdir()
    Path("old/results.json").write_text(json.dumps(RESULTS))
    Path("old/config.yaml").write_bytes(Path(name).read_bytes()[:10_000_000])
    assert "`old/config.yaml` should be as `detect` has written it" in refused(["compare", "old"], capsys)
    Path(name).rename("old/results.json")
    for words in (["compare", "old"], ["dashboard", "old", "--entity", "team"]):
        assert "`old/results.json` should be as `detect` has written it" in refused(words, capsys)


@pytest.mark.parametrize("content", ["{}", '{"outcomes": [], "provenance": {}}', '{"outcomes": [1], "provenance": {}}'])
def test_results_of_something_else_give_no_dashboard(content, capsys):
    Path("old").mkdir()
    Path("old/results.json").write_text(content)
    assert "`old/results.json` should be as" in refused(["dashboard", "old", "--entity", "team"], capsys)


@pytest.mark.parametrize("name", ["laughs.yaml", "deep.yaml", "huge.yaml"])
def test_a_guard(name, capsys):
    Path("guard").mkdir()
    Path(name).rename("guard/guard.json")
    message = refused(["score", "--guard", "guard", "tiny.yaml"], capsys)
    assert message.startswith("guard/guard.json should be part of a guard")
