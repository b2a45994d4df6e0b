"""Every place that reads a file is known, and at each a file that would execute code when unpickled executes none."""

import ast
import hashlib
import json
import os
import pickle
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

import lightning_gradood
from benchmarks.fuzz_targets import saved_guard, signed
from lightning_gradood.core import Refusal, hold, read_picture
from lightning_gradood.data import Manifest, Outputs
from lightning_gradood.detectors import load_detector
from lightning_gradood.experiments.artifacts import RunArtifacts
from lightning_gradood.guard import Guard
from lightning_gradood.networks import read_state_dict
from lightning_gradood.records import RecordCache, StateStore, read_columns, read_rows
from lightning_gradood.report import read_results

sys.path.insert(0, str(Path(__file__).parent / "cli"))
from bad_inputs import Malicious
from tiny import refused

PACKAGE = Path(lightning_gradood.__file__).parent
READING = {
    "read_text",
    "read_bytes",
    "read_table",
    "read_schema",
    "read_csv",
    "read_json",
    "safe_open",
    "load_file",
    "fromfile",
    "memmap",
    "memory_map",
    "ParquetFile",
    "loadtxt",
    "genfromtxt",
    "loadmat",
    "read_image",
    "unpack_archive",
    "ZipFile",
    "read_yaml",
    "parse_yaml",
    "parse_json",
}
LOADING = {"json", "yaml", "torch", "np", "numpy", "jit", "export", "package", "toml", "tomllib", "configparser"}


def nodes(path):
    """Every node of a file, with the dotted name of the function or method around it."""

    def walk(node, around):
        for child in ast.iter_child_nodes(node):
            yield ".".join(around) or "<module>", child
            yield from walk(
                child, [*around, child.name] if isinstance(child, ast.FunctionDef | ast.ClassDef) else around
            )

    yield from walk(ast.parse(path.read_text()), [])


def calls(path):
    return ((place, node) for place, node in nodes(path) if isinstance(node, ast.Call))


def reads(call):
    """Whether a call reads a file, or builds objects of bytes."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    of = ast.unparse(function.value).rpartition(".")[2] if isinstance(function, ast.Attribute) else ""
    if name == "open":
        modes = [
            one.value for one in [*call.args, *(word.value for word in call.keywords)] if isinstance(one, ast.Constant)
        ]
        source = of in ("self", "os", "") and not isinstance(function, ast.Name)  # of a data source, or a descriptor
        return not source and not any(isinstance(mode, str) and set(mode) & set("wxa") for mode in modes)
    if name in ("load", "loads", "load_all", "safe_load", "full_load", "unsafe_load"):
        return of in LOADING
    return False


def readers():
    """File and function of whatever reads a file; a reader that is handed on as a value counts as called."""
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        for place, node in nodes(path):
            name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
            if name in READING or (isinstance(node, ast.Call) and reads(node)):
                found.add(f"{path.relative_to(PACKAGE)}:{place}")
    return found


def bomb(path, kind="pickle"):
    """Write a file that makes the folder `executed` where it is unpickled, or parsed as YAML with Python's tags."""
    if kind == "torch":
        torch.save({"state_dict": {"weight": Malicious()}, "pytorch-lightning_version": "2"}, path)
    elif kind == "numpy":
        with open(path, "wb") as file:  # by its name NumPy would add a suffix
            np.savez(file, index=np.array([Malicious()], dtype=object))
    elif kind == "yaml":
        Path(path).write_text("a: !!python/object/apply:os.mkdir [executed]\n")
    else:
        Path(path).write_bytes(pickle.dumps(Malicious()))
    return path


def every(name, read, kinds=("pickle", "yaml", "torch", "numpy")):
    """Refused with each kind of bomb."""
    for kind in kinds:
        bomb(name, kind)
        with pytest.raises(Refusal):
            read()
        assert not Path("executed").exists()


def experiment_file(folders, capsys):
    for kind in ("pickle", "yaml", "torch"):
        bomb("theirs.yaml", kind)
        refused(["fit", "--config", "theirs.yaml"], capsys)
        refused(["benchmark", "--config", "theirs.yaml"], capsys)
        refused(["compare", "."], capsys)


def json_files(folders, capsys):
    every("results.json", lambda: read_results(Path(".")))
    every("splits.json", lambda: Manifest.read("splits.json"))


def class_lists(folders, capsys):
    every("names.yaml", lambda: Outputs.read("names.yaml"), ["yaml", "torch", "numpy"])


def locks(folders, capsys):
    with hold(Path("run")):
        (path,) = Path("run").iterdir()
        bomb(path)
        with pytest.raises(Refusal), hold(Path("run")):
            pass


def images(folders, capsys):
    every("x.png", lambda: read_picture("x.png"))
    refused(["fit", "--config", str(folders / "fuzz.yaml"), "--data.normal", "."], capsys)


def weights(folders, capsys):
    for suffix in ("pt", "ckpt", "safetensors"):
        every(f"x.{suffix}", lambda suffix=suffix: read_state_dict(f"x.{suffix}"))


def checkpoints(folders, capsys):
    for suffix in ("ckpt", "safetensors"):
        for kind in ("torch", "pickle"):
            words = ["--ckpt_path", str(bomb(Path(f"x.{suffix}"), kind))]
            refused(["fit", "--config", str(folders / "fuzz.yaml"), *words], capsys)


def detectors(folders, capsys):
    every("x.safetensors", lambda: load_detector("x.safetensors"))


def records(folders, capsys):
    shutil.copytree(folders / "cache", "cache")
    (entry, *_) = sorted(path.parent for path in Path("cache").rglob("entry.json"))
    about = json.loads((entry / "entry.json").read_text())
    content = pickle.dumps(Malicious())
    name = f"{hashlib.sha256(content).hexdigest()}.parquet"
    (entry / name).write_bytes(content)
    from lightning_gradood.records import entry_key

    about = {**about, "shards": [name]}
    about.pop("digest")
    (entry / "entry.json").write_text(json.dumps(about | {"digest": entry_key(about)}))
    with pytest.raises(Refusal):
        RecordCache(entry.parent).read(entry.name)
    every(entry / "entry.json", lambda: RecordCache(entry.parent).read(entry.name))


def states(folders, capsys):
    every(f"{'k' * 64}.safetensors", lambda: StateStore(Path(".")).read("k" * 64))


def tables(folders, capsys):
    for suffix in ("parquet", "jsonl"):
        every(f"x.{suffix}", lambda suffix=suffix: read_rows(Path(f"x.{suffix}")))
    every("x.parquet", lambda: read_columns(Path("x.parquet")))
    bomb("x.csv")
    with suppress(Refusal):
        read_rows(Path("x.csv"))  # anything may be one column of text


def arrays(folders, capsys):
    every("artifacts.npz", lambda: RunArtifacts.read(Path(".")))


def guards(folders, capsys):
    """Each file of a guard, under hashes that fit."""
    place = Path(shutil.copytree(folders / "run/guard", "guard"))
    about = json.loads((place / "guard.json").read_text())
    names = sorted(about["files"])
    for name in [*names, "guard.json"]:
        whole = (place / name).read_bytes()
        bomb(place / name)
        if name != "guard.json":
            (place / "guard.json").write_text(json.dumps(signed(about, place, names)))
        with pytest.raises(Refusal):
            Guard.load(place)
        (place / name).write_bytes(whole)


READERS = {
    "cli/checks.py:check_resumable": checkpoints,
    "cli/command.py:Command.configuration": "text that was dumped in the same call",
    "cli/parsing.py:LogConfig.save_config": "text that was dumped in the same call",
    "cli/functions.py:_in_file": experiment_file,
    "cli/configs.py:_copy": "files are compared byte by byte",
    "cli/configs.py:_first_sentence": "files of the package",
    "core/locks.py:_holder": locks,
    "core/runs.py:_read": experiment_file,
    "core/text_files.py:parse_json": json_files,
    "core/text_files.py:parse_yaml": class_lists,
    "core/text_files.py:read_json": json_files,
    "core/text_files.py:read_text": experiment_file,
    "core/text_files.py:read_yaml": experiment_file,
    "cli/parsing.py:Parser.parse_path": experiment_file,
    "core/pixels.py:read_picture": images,
    "corruptions/digital.py:jpeg_compression": "an image that was written in the same call",
    "data/classes.py:_from_file": class_lists,
    "data/folder.py:FolderListing.fingerprint": images,
    "data/folder.py:Opening.load": images,
    "data/splits.py:Manifest.read": json_files,
    "detectors/saved.py:_read": detectors,
    "detectors/lid.py:LID.load_state_dict": detectors,
    "experiments/artifacts.py:RunArtifacts.read": arrays,
    "guard/folder.py:_content": guards,
    "guard/folder.py:_file_digest": guards,
    "guard/folder.py:_write_json": "text that was dumped in the same call",
    "guard/folder.py:read_tensors": guards,
    "networks/checkpoints.py:_read": weights,
    "networks/checkpoints.py:_with_shared_tensors": weights,
    "probes/gradients.py:GradientProbe._settings": "text that was dumped in the same call",
    "records/cache.py:RecordCache._entry": records,
    "records/cache.py:read_columns": tables,
    "records/rows.py:_read_csv": tables,
    "records/rows.py:_read_parquet": tables,
    "records/rows.py:read_rows": tables,
    "records/shards.py:_about": records,
    "records/shards.py:check_shard": records,
    "records/shards.py:read_shard": records,
    "records/shards.py:read_table": records,
    "records/table.py:Records.names": records,
    "records/states.py:StateStore.read": states,
    "report/figures.py:as_pngs": "figures that the same run has drawn, as bytes",
    "report/finished_runs.py:_config": experiment_file,
    "report/finished_runs.py:read_results": json_files,
}  # fmt: skip
CASES = {one.__name__: one for one in READERS.values() if callable(one)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A run with its records and its guard."""
    folder, before = tmp_path_factory.mktemp("whole"), Path.cwd()
    os.chdir(folder)
    try:
        saved_guard(folder)
    finally:
        os.chdir(before)
    return folder


def test_every_reader_is_known_and_has_a_case():
    found = readers()
    assert set(found) - set(READERS) == set(), f"give it a row here: {set(found) - set(READERS)}"
    assert set(READERS) - set(found) == set(), "a row without a reader"


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_nothing_is_executed(case, folders, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lightning_gradood"])
    case(folders, capsys)
    assert not Path("executed").exists()
    pickle.loads(pickle.dumps(Malicious()))
    assert Path("executed").exists(), "the bomb is live"


def test_nothing_that_executes_is_called():
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                if names == ["cpu_count", "joblib"]:
                    continue
                forbidden = {"pickle", "dill", "joblib", "cloudpickle", "marshal", "shelve"}
                assert not {name.split(".")[0] for name in names} & forbidden, path
        for place, call in calls(path):
            name, words = ast.unparse(call.func), {word.arg: ast.unparse(word.value) for word in call.keywords}
            assert name not in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"), f"{path}: {place}"
            if name == "torch.load":
                assert words.get("weights_only") == "True", f"{path}: {place}"
            if name in ("np.load", "numpy.load"):
                assert words.get("allow_pickle") == "False", f"{path}: {place}"
            if name == "yaml.load":
                assert words.get("Loader") == "_Loader", f"{path}: {place}"
            assert name not in (
                "yaml.full_load",
                "yaml.unsafe_load",
                "torch.jit.load",
                "torch.hub.load",
                "pd.read_pickle",
            ), path
            assert not ("subprocess" in name and words.get("shell") == "True"), path


IMPORTING = {  # what imports a module by name, and why it may
    "attacks/advertorch_compatibility.py:_as_before_torch_1_9": "a module of advertorch",
    "attacks/advertorch_compatibility.py:advertorch_class": "looks whether it is trusted",
    "attacks/function_attack.py:FunctionAttack.__init__": "looks whether it is trusted",
    "cli/functions.py:_function": "looks whether it is trusted",
    "cli/main.py:run_alone": "modules of the package",
    "core/image_files.py:image_formats": "plugins of Pillow, by fixed names",
    "guard/components.py:_found": "looks whether it is trusted",
}


def test_modules_are_imported_by_name_only_where_trust_is_asked():
    found = {
        f"{path.relative_to(PACKAGE)}:{place}"
        for path in PACKAGE.rglob("*.py")
        for place, call in calls(path)
        if ast.unparse(call.func).rpartition(".")[2]
        in ("import_module", "resolve_name", "__import__", "spec_from_file_location", "run_path")
    }
    assert found == set(IMPORTING)
