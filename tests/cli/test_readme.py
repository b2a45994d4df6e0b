"""The README does what it says: its Python runs, its commands parse."""

import itertools
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from test_verbs import printed

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language):
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands():
    """The words of every call of the program, continued lines joined, as a shell would split them."""
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    calls = [part for line in lines for part in re.split(r"&&|;", line) if "python -m lightning_gradood " in part]
    return [shlex.split(call, comments=True)[3:] for call in calls]


def test_there_are_blocks_to_look_at():
    assert blocks("python")
    assert {words[0] for words in commands()} >= {"fit", "detect", "score", "drift", "compare"}


@pytest.mark.parametrize("code", blocks("python"))
def test_each_python_block_runs(code):
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_each_command_parses(words, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    if words[0] in ("score", "drift", "compare"):
        import_module(f"lightning_gradood.cli.{words[0]}").parser().parse_args(words[1:])
        return
    text = printed([*words, "--print_config"], capsys)
    for name, value in itertools.pairwise(words):
        if name.startswith("--detection.mlp.") or name == "--trainer.max_epochs":
            assert f"{name.rpartition('.')[2]}: {value}" in text


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`?((?:configs|sweeps|docs)/[\w./-]+\w)`?", README))))
def test_each_file_that_is_named_is_there(path):
    assert (ROOT / path).exists()


def test_the_first_command_is_the_one_that_runs_the_main_job():
    first = blocks("bash")[0]
    assert "pip install -e ." in first
    assert "python -m lightning_gradood fit --config configs/digits.yaml" in first
