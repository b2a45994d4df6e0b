"""The house stands: imports go down only, files stay small, and plain torch users never meet Lightning."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_gradood

PACKAGE = Path(lightning_gradood.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(PACKAGE)) for path in FILES]

# Rooms by level, lowest first: a room imports rooms of lower levels only.
LEVELS = [
    {"core"},
    {"gradients", "networks", "attacks", "corruptions", "synthetic", "metrics", "records"},
    {"probes", "data", "tasks"},
    {"detectors"},
    {"evaluation", "extraction", "guard"},
    {"report"},
    {"trainer", "experiments"},
    {"cli"},
    {"__main__"},
]
LEVEL = {room: number for number, level in enumerate(LEVELS) for room in level}
# An arrow between rooms of one level: `benchmark` runs experiments with our Trainer.
SAME_LEVEL = {("experiments", "trainer")}
# Packages that one room keeps from the others, so that they can be exchanged or left out.
OUTSIDE = {
    "wandb": {"report"},
    "matplotlib": {"report"},
    "pyarrow": {"records"},
    "jsonargparse": {"cli", "core"},  # core: ranges for annotations
    "omegaconf": {"cli"},
    "torchmetrics": {"tasks"},
    "pytorch_ood": {"data"},
    "advertorch": {"attacks"},
}


def room_of(path):
    """The room of a file: the folder or module below the package; the package's own front door has none."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def may_import(room, other):
    """Whether one room may import another."""
    return room == other or LEVEL[other] < LEVEL[room] or (room, other) in SAME_LEVEL


def imports_of(path):
    """Full dotted names of all modules that a file imports, wherever in the file, also for type checkers alone."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found += (
                [node.module] if node.module != "lightning_gradood" else [f"{node.module}.{a.name}" for a in node.names]
            )
    return found


def test_every_room_has_a_level():
    assert {room_of(path) for path in FILES} - {"__init__"} == set(LEVEL)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_imports_go_down_only_and_through_front_doors(path):
    room = room_of(path)
    for module in imports_of(path):
        if not module.startswith("lightning_gradood."):
            continue
        _, other, *inner = module.split(".")
        if room == "__init__" or other == "__version__":
            continue
        assert may_import(room, other), f"{room} (level {LEVEL[room]}) imports {other} (level {LEVEL[other]})"
        assert other == room or not inner, f"{room} enters {other} by {'.'.join(inner)}, not by its front door"


def test_data_and_tasks_never_import_each_other():
    assert LEVEL["data"] == LEVEL["tasks"]
    assert not may_import("data", "tasks")
    assert not may_import("tasks", "data")


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_packages_that_belong_to_one_room_stay_there(path):
    for module in imports_of(path):
        package = module.split(".")[0]
        assert room_of(path) in OUTSIDE.get(package, {room_of(path)}), f"{path.name} imports {package}"
        if package in ("lightning", "pytorch_lightning"):
            assert LEVEL[room_of(path)] > 1, f"{path.name} is of the lowest two levels and imports Lightning"


def test_rooms_for_plain_torch_do_not_bring_lightning_along():
    rooms = sorted(LEVELS[0] | LEVELS[1] | {"probes", "detectors", "guard"})
    script = f"import sys\nfor room in {rooms}: __import__('lightning_gradood.' + room)\n" + (
        "heavy = {'lightning', 'pytorch_lightning', 'torchmetrics', 'wandb'}\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & heavy))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_file_is_one_idea(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 350
    assert path.stem not in ("utils", "helpers", "common")
    if path.name != "__main__.py":  # two lines, which say why
        docstring = ast.get_docstring(ast.parse(text))
        assert docstring
        assert docstring.splitlines()[0].endswith((".", "?", ":")), "the first line is a sentence"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_bodies_are_short_and_parameters_few(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        body = node.body[1:] if ast.get_docstring(node) else node.body
        lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
        assert lines <= 40, f"{node.name} has {lines} lines"
        names = [argument.arg for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]
        if node.name != "__init__":
            assert len([name for name in names if name not in ("self", "cls")]) <= 7, f"{node.name} takes {names}"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_nothing_is_asserted_printed_or_swallowed(path):
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.Assert), f"assert in line {node.lineno}: users' input is refused, not asserted"
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"bare except in line {node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "hasattr"), f"{node.func.id} in line {node.lineno}"
