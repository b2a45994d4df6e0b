"""What the docstrings promise: their examples run, and every public name exists."""

import ast
import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import lightning_gradood

MODULES = ["lightning_gradood"] + [
    module.name
    for module in pkgutil.walk_packages(lightning_gradood.__path__, "lightning_gradood.")
    if not module.name.endswith(".__main__")  # runs the program
]
ROOMS = [name for name in MODULES if name.count(".") == 1 and hasattr(importlib.import_module(name), "__path__")]


def examples_of(name):
    """The docstrings of a module that hold examples, its own first."""
    found = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name))
    return sorted((test for test in found if test.examples), key=lambda test: test.lineno or 0)


EXAMPLES = {test.name: test for name in MODULES for test in examples_of(name)}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    failed, tried = runner.run(EXAMPLES[name], out=words.append)
    assert failed == 0, "".join(words)
    assert tried > 0
    assert list(tmp_path.iterdir()) == []  # an example that is pasted somewhere leaves nothing there


@pytest.mark.parametrize("room", ROOMS)
def test_a_front_door_shows_an_example(room):
    assert room in EXAMPLES


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_exists_and_is_listed_once(name):
    module = importlib.import_module(name)
    listed = getattr(module, "__all__", [])
    assert len(set(listed)) == len(listed)
    for public in listed:
        getattr(module, public)


@pytest.mark.parametrize("room", ROOMS)
def test_a_front_door_lists_all_that_it_imports(room):
    module = importlib.import_module(room)
    tree = ast.parse(Path(module.__file__).read_text())
    imported = [
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    assert sorted(imported) == sorted(module.__all__)


@pytest.mark.parametrize("room", ROOMS)
def test_everything_public_says_what_it_is(room):
    module = importlib.import_module(room)
    for name in module.__all__:
        public = getattr(module, name)
        if callable(public):
            assert public.__doc__, f"{room}.{name} has no docstring"
            assert public.__doc__.strip().splitlines()[0].rstrip().endswith((".", "?", "!")), f"{room}.{name}"
