"""Wrong keys, classes and values are refused in one sentence where they are parsed, and so is YAML that would explode."""

from pathlib import Path

import pytest
from parsed import check, verdict

ONLY_KNOWN = "should hold only keys that it knows."
OUT_OF_RANGE = {
    "PositiveInt": [
        "data.batch_size=0",
        "data.batch_size=many",
        "data.limits.images=1.5",
        "model.network.num_classes=0",
    ],
    "NonNegativeInt": ["data.num_workers=-1"],
    "Seed": ["data.split.seed=-1", f"data.limits.seed={2**32}"],
    "FinitePositive": ["detection.mlp.learning_rate=0"],
    "FiniteNonNegative": ["data.limits.memory_gib=inf"],
    "OpenUnitInterval": ["detection.false_positive_rate=1", "detection.false_positive_rate=.nan"],
    "HalfOpenUnitInterval": ["detection.mlp.dropout=1"],
    "ClosedUnitInterval": ["model.label_smoothing=1.5"],
    "Threads": ["threads=0"],
    "NotEmptyStr": ["cache_dir= "],
}


def test_what_is_misspelt_is_named_with_the_nearest_spelling():
    check([
        (["--trainer.max_epoch", "3"], "Got `trainer.max_epoch`. Did you mean `max_epochs`?"),
        (["--model.wieghts", "x.pt"], f"`model` {ONLY_KNOWN} Got `wieghts`. Did you mean `weights`?"),
        (["--model.network.num_class", "4"], f"`model.network` {ONLY_KNOWN} Got `num_class`. Did"),
        (["--detection.mlp.widht", "3"], "Got `mlp.widht`. Did you mean `width`?"),
        (["--detection.mpl.width", "3"], "Got `mpl.width`. Did you mean `mlp`?"),
        (["--nothing.like.it", "3"], "Got `nothing.like.it`. See --help."),
        (["--model", "ClasificationTask"], "`model`: there is no class called ClasificationTask. Did you mean `Classif"),
        (["--data.normal", "{class_path: DigitSource}"], "`data.normal`: there is no class called DigitSource. Did you"),
        (["--trainer.callbacks", "[EarlyStoping]"], "called EarlyStoping. Did you mean `EarlyStopping`?"),
        (["--model.optimizer", "torch.optim.SDG"], "`model.optimizer`: there is no class called SDG. Did you mean `SGD`?"),
        (["--model.network", "resnet18"], "Did you mean `lightning_gradood.networks.resnet18`?"),
        (["--model.network", "lightning_gradod.resnet18"], "`model.network`: No module named 'lightning_gradod'"),
        (["--data.perturbations.attacks={a: {class_path: FSGM}}"], "there is no class called FSGM. Did you mean `FGSM`?"),
        (["stray"], "unrecognized arguments: stray."),
    ])  # fmt: skip


def test_values_of_the_wrong_type_or_range_are_refused_by_their_flag():
    rows = [
        ([f"--{one}"], f"`{one.partition('=')[0]}`: Not of type {kind}: ")
        for kind, flags in OUT_OF_RANGE.items()
        for one in flags
    ]
    check([
        *rows,
        (["--model.scheduler", "OneCycle", "--model.scheduler.warmup", "2"], "warmup`: Not of type ClosedUnitInterval"),
        (["--trainer.max_epochs", "many"], "`trainer.max_epochs`: Expected a <class 'int'>; Given value: many."),
        (["--data.split.fractions", "[0.5, 0.5]"], "`data.split.fractions`: Expected a tuple with 3 elements."),
        (["--data.perturbations.keep", "some"], "`data.perturbations.keep`: "),
        (["--seed_everything", "-1"], "`seed_everything` should be a seed. Got -1 does not conform to restriction"),
    ])  # fmt: skip


def test_null_takes_a_key_of_a_group_away_that_the_file_or_an_earlier_flag_has_set():
    keys = {
        "perturbations.attacks": "paper",
        "limits.images": "7",
        "limits.sources": "{normal: 9}",
        "detection.guard": "mlp",
    }
    for key, value in keys.items():
        flag = f"--{key}" if key.startswith("detection") else f"--data.{key}"
        found = [verdict(flag, value), verdict(flag, value, flag, "null")]
        values = [one.detection.guard if "guard" in key else one.data.init_args.get(key) for one in found]
        assert values[0] is not None, key
        assert values[1] is None, key


def test_unknown_keys_null_and_numbers_in_place_of_settings_in_a_file_are_refused():
    rows = [
        ("trainer: {max_epoch: 3}", f"{ONLY_KNOWN} Got `trainer.max_epoch`. Did you mean `max_epochs`?"),
        ("detection: {mlp: {widht: 3}}", f"{ONLY_KNOWN} Got `widht`. Did you mean `width`?"),
        ("model: null", "the following arguments are required: fit.model."),
        ("model: 3", "`model`: Not a valid subclass of ClassificationTask; Given value: 3."),
        ("model: {init_args: {network: {init_args: {num_classes: null}}}}", "`model.network.num_classes`: Not of type Pos"),
        ("data: {init_args: {anomalies: {nine: {init_args: {part: null}}}}}", "`data.anomalies.part`: Expected a"),
        ("detection: 3", "`detection`: "),
        ("detection: {mlp: null}", "`detection.mlp` should hold settings. Got `detection.mlp = None`."),
        ("trainer: null", "`trainer` should hold settings. Got `trainer = None`. Leave it out for the defaults."),
        ("cache_dir: null", "`cache_dir`: Not of type NotEmptyStr: "),
        ("run_dir: ' '", "`run_dir`: Not of type NotEmptyStr: "),
    ]  # fmt: skip
    for number, (text, _) in enumerate(rows):
        Path(f"{number}.yaml").write_text(text)
    check([(["--config", f"{number}.yaml"], words) for number, (_, words) in enumerate(rows)])
    Path("more.yaml").write_text(
        "seed_everything: null\ndetection: null\ndata: {init_args: {limits: {images: null}}}\nrun_dir: null"
    )
    found = verdict("--config", "more.yaml")
    assert (found.seed_everything, found.detection, found.data.init_args.limits.images, found.run_dir) == (None,) * 4


def test_interpolated_values_are_held_to_the_same_ranges(monkeypatch):
    monkeypatch.setenv("SMOOTHING", "1.5")
    rows = [
        ("${oc.env:SMOOTHING}", "Not of type ClosedUnitInterval: 1.5 does not conform"),
        ("${nowhere.key}", "Interpolation key '.nowhere.key' not found"),
        ("${oc.env:NOT_A_VARIABLE}", "Environment variable 'NOT_A_VARIABLE' not found"),
        ("${dvi:8,255}", "Unsupported interpolation type dvi"),
        ("${div:8,0}", "division by zero"),
        ("${oops", "no viable alternative at input '${oops'"),
    ]
    check([(["--model.label_smoothing", value], words) for value, words in rows])
    monkeypatch.setenv("SMOOTHING", "0.5")
    assert verdict("--model.label_smoothing", "${oc.env:SMOOTHING}").model.init_args.label_smoothing == 0.5


LAUGHS = "\n".join(
    ["a0: &a0 [lol, lol, lol, lol]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10))]
)
FLOW = f"{{{', '.join(LAUGHS.splitlines())}}}"


@pytest.mark.timeout(120)  # without the limits these take hours
def test_values_that_explode_or_that_yaml_cannot_convert_are_refused():
    values = ["trainer.max_epochs", "trainer.callbacks", "model", "data.anomalies", "model.network", "config"]
    rows = [([f"--{flag}", FLOW], "its aliases expanded") for flag in values]
    rows += [(["--data.batch_size", f"'{FLOW}'"], "`data.batch_size`: Not of type PositiveInt")]
    rows += [(["--data.anomalies", "[" * 10**5], "nested more than 64 deep")]
    rows += [(["--data.split.fractions", "- " * 10**5], "nested more than 64 deep")]
    rows += [(["--data.split.fractions", text], "`data.split.fractions`") for text in ("nonsense", "[" * 60 + "]" * 60)]
    odd = ["!!int ''", "!!bool x", "!!timestamp x", "1" * 5000, "2001-99-99", "!!python/name:os.system"]
    rows += [(["--data.split.fractions", text], "") for text in odd]
    check(rows)
    assert not [text for text in odd if not isinstance(verdict("--data.split.fractions", text), str)]


@pytest.mark.timeout(120)
def test_files_that_explode_are_refused_by_their_name():
    with open("huge.yaml", "wb") as file:
        file.truncate(400_000_000)
    merged = [f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 10)}]}}" for n in range(1, 9)]
    texts = {
        "laughs.yaml": LAUGHS,
        "deep.yaml": "[" * 10**5,
        "itself.yaml": "trainer: &a {max_epochs: 2, callbacks: [*a]}\n" + "# long enough to be looked at\n" * 3,
        "merged.yaml": "\n".join(["m0: &m0 {x: 1, y: 2}", *merged]),
        "text.yaml": "\ud8ff".encode("utf-16", "surrogatepass").decode("latin-1"),
    }
    for name, text in texts.items():
        Path(name).write_text(text, encoding="latin-1")
    for name in [*texts, "huge.yaml"]:
        message = verdict("--config", name)
        assert message.startswith(f"`config` should be a YAML file. Got `config = {name}`, "), message
        assert len(message) < 300
    for flag in ("--detection", "--data", "--trainer.callbacks", "--model"):
        for name in ("laughs.yaml", "deep.yaml", "huge.yaml"):
            assert len(verdict(flag, name)) < 400, (flag, name)
