"""The shape of the package: imports go down only, rooms keep to a budget of lines, front doors list what there is."""

import ast
import importlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import lightning_gradood

PACKAGE = Path(lightning_gradood.__file__).parent
FILES = {path: path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {path: ast.parse(text) for path, text in FILES.items()}

# Rooms by level, lowest first: a room imports rooms of lower levels only.
LEVELS = [
    {"core"},
    {"gradients", "networks", "perturbations", "metrics", "records"},
    {"probes", "data", "tasks"},
    {"detectors"},
    {"audit"},
    {"evaluation", "extraction", "guard"},
    {"report", "preflight"},
    {"trainer"},
    {"fitting"},
    {"cli"},
    {"__main__"},
]
LEVEL = {room: number for number, level in enumerate(LEVELS) for room in level}
# Packages that one room keeps from the others, so that they can be exchanged or left out.
OUTSIDE = {
    "wandb": {"report"}, "matplotlib": {"report"}, "pyarrow": {"records"}, "omegaconf": {"cli"}, "torchmetrics": {"tasks"},
    "pytorch_ood": {"detectors"}, "advertorch": {"perturbations"},
    "onnx": {"guard"}, "onnxruntime": {"guard"}, "onnxscript": {"guard"},
    "jsonargparse": {"cli", "core"},  # core: ranges for annotations
}  # fmt: skip
# Calls that write a file, unless it is an open one: a process may be killed meanwhile.
WRITING = {
    "write_text", "write_bytes", "savefig", "to_parquet", "to_csv", "save_file", "savez", "savez_compressed", "tofile",
}  # fmt: skip
# Lines of a room. A commit that needs more raises the number here, and says why.
BUDGET = {
    "__init__": 27, "__main__": 3, "audit": 794, "cli": 2444, "core": 1709, "data": 2119, "detectors": 4022,
    "evaluation": 1093, "extraction": 909, "fitting": 237, "gradients": 3124, "guard": 1806, "metrics": 843,
    "networks": 1351, "perturbations": 1708, "preflight": 71, "probes": 762, "records": 569, "report": 3303,
    "tasks": 647, "trainer": 287,
}  # fmt: skip


def room_of(path):
    """The room of a file: the folder or module below the package; the package's own front door has none."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def may_import(room, other):
    """Whether one room may import another."""
    return room == other or LEVEL[other] < LEVEL[room]


def imports_of(tree):
    """Full dotted names of all modules that a file imports, wherever in the file, also for type checkers alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from names if node.module == "lightning_gradood" else [f"{'.' * node.level}{node.module or ''}"]


def offenders(check):
    """What a check of a file's path and tree finds wrong in any file, each with the file's name."""
    return [f"{path.relative_to(PACKAGE)} {wrong}" for path, tree in TREES.items() for wrong in check(path, tree)]


def test_every_room_has_a_level_and_keeps_to_its_budget_of_lines():
    lines = Counter()
    for path, text in FILES.items():
        lines[room_of(path)] += len(text.splitlines())
    assert lines.keys() == LEVEL.keys() | {"__init__"}
    assert {room: f"{lines[room]} lines" for room in lines if lines[room] > BUDGET[room]} == {}


def test_imports_go_down_only_through_front_doors_and_packages_of_one_room_stay_there():
    def wrong(path, tree):
        room = room_of(path)
        for module in imports_of(tree):
            package, other, *inner = f"{module}..".split(".")[:4]
            if module.startswith("."):
                yield "imports relatively"
            elif module.startswith("lightning_gradood.") and room != "__init__" and other != "__version__":
                if not may_import(room, other):
                    yield f"(level {LEVEL[room]}) imports {module} (level {LEVEL[other]})"
                if room != other and any(inner):
                    yield f"enters {other} by {module}, not by its front door"
            if room not in OUTSIDE.get(package, {room}):
                yield f"imports {package}"
            if package in ("lightning", "pytorch_lightning") and LEVEL.get(room, 0) <= 1:
                yield "is of the lowest two levels and imports Lightning"

    assert offenders(wrong) == []
    assert not may_import("data", "tasks")
    assert not may_import("tasks", "data")


def test_rooms_for_plain_torch_do_not_bring_lightning_along():
    rooms = sorted(LEVELS[0] | LEVELS[1] | {"probes", "detectors", "guard"})
    script = f"import sys\nfor room in {rooms}: __import__('lightning_gradood.' + room)\n" + (
        "heavy = {'lightning', 'pytorch_lightning', 'torchmetrics', 'torchvision', 'wandb'}\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & heavy))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_a_front_door_lists_all_that_it_imports_shows_an_example_and_every_name_says_what_it_is():
    wrong = []
    for room in set().union(*LEVELS) - {"preflight", "trainer", "fitting", "__main__"}:
        module = importlib.import_module(f"lightning_gradood.{room}")
        nodes = [one for one in ast.walk(TREES[PACKAGE / room / "__init__.py"]) if isinstance(one, ast.ImportFrom)]
        nodes = [node for node in nodes if node.module.startswith("lightning_gradood")]
        imported = sorted(alias.asname or alias.name for node in nodes for alias in node.names)
        listed = [sorted(module.__all__), ["*"] * len(imported)]
        wrong += [f"{room} imports {imported} and lists {module.__all__}"] * (imported not in listed)
        wrong += [f"{room} shows no example"] * (">>> " not in module.__doc__)
        for name in module.__all__:
            public = getattr(module, name)
            if callable(public) and public.__module__.startswith("lightning_gradood"):
                said = (public.__doc__ or "").strip().split("\n")[0].rstrip()
                wrong += [f"{room}.{name} does not say what it is"] * (not said.endswith((".", "?", "!")))
    assert wrong == []


def test_files_are_one_idea_bodies_short_parameters_few_and_nothing_is_asserted_printed_or_swallowed():
    def wrong(path, tree):
        if (lines := len(FILES[path].splitlines())) > 400:
            yield f"has {lines} lines"
        if path.stem in ("utils", "helpers", "common", "misc"):
            yield "has a name that says nothing"
        first = (ast.get_docstring(tree) or "").partition("\n")[0]
        if path.name != "__main__.py" and not first.endswith((".", "?", ":")):  # two lines, which say why
            yield f"starts with no sentence: {first!r}"
        for node in ast.walk(tree):
            match node:
                case ast.Assert():
                    yield f"asserts in line {node.lineno}: users' input is refused"
                case ast.ExceptHandler(type=None):
                    yield f"has a bare except in line {node.lineno}"
                case ast.Call(func=ast.Name(id="print" | "hasattr" as name)):
                    yield f"calls {name} in line {node.lineno}"
                case ast.Call(func=ast.Attribute(attr=name)) if name in WRITING and path.name not in (
                    "files.py",
                    "runs.py",
                ):
                    if not (node.args and ast.unparse(node.args[0]) in ("file", "buffer")):
                        yield f"writes without `core.atomic_write` in line {node.lineno}"
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    body = node.body[1:] if ast.get_docstring(node) else node.body
                    if body and (lines := body[-1].end_lineno - body[0].lineno + 1) > 60:
                        yield f"{node.name} has {lines} lines"
                    names = {one.arg for one in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]}
                    is_settings = node.name in ("__init__", path.stem)  # a verb's parameters are its flags
                    if not is_settings and len(names - {"self", "cls"}) > 7:
                        yield f"{node.name} takes {sorted(names)}"

    assert offenders(wrong) == []
