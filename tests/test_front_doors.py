"""Every public name exists, is listed once in its room's front door, and says what it is."""

import ast
import importlib
import pkgutil
from pathlib import Path

import lightning_gradood

MODULES = {
    module.name: importlib.import_module(module.name)
    for module in pkgutil.walk_packages(lightning_gradood.__path__, "lightning_gradood.")
    if not module.name.endswith(".__main__")  # runs the program
}
ROOMS = {name: module for name, module in MODULES.items() if name.count(".") == 1 and "__path__" in vars(module)}


def test_every_public_name_exists_and_is_listed_once():
    wrong = []
    for name, module in MODULES.items():
        listed = getattr(module, "__all__", [])
        wrong += [f"{name}: {public}" for public in listed if listed.count(public) > 1 or public not in dir(module)]
    assert wrong == []


def test_a_front_door_lists_all_that_it_imports_shows_an_example_and_every_name_says_what_it_is():
    wrong = []
    for room, module in ROOMS.items():
        tree = ast.parse(Path(module.__file__).read_text())
        nodes = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
        imported = {alias.asname or alias.name for node in nodes for alias in node.names}
        wrong += [f"{room}: {name} is imported or listed alone" for name in imported ^ set(module.__all__)]
        wrong += [f"{room} shows no example"] * (">>> " not in module.__doc__)
        for name in module.__all__:
            public = getattr(module, name)
            if callable(public) and public.__module__.startswith("lightning_gradood"):
                said = (public.__doc__ or "").strip().split("\n")[0].rstrip()
                wrong += [f"{room}.{name} does not say what it is"] * (not said.endswith((".", "?", "!")))
    assert wrong == []
