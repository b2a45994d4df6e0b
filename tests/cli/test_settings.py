"""Wrong keys, classes and values are refused in one sentence where they are parsed, and so is YAML that would explode."""

from pathlib import Path

import lightning.pytorch  # noqa: F401  # its log handler keeps the stream that it first meets
import pytest
from parsed import check, verdict

from lightning_gradood.cli.sentences import one_sentence

NETWORK = "--model.init_args.network.init_args"
OPTIMIZER = ["--model.optimizer", "torch.optim.SGD"]


def test_the_parsers_messages_become_one_sentence():
    known = {"fit": "", "trainer": "", "max_epochs": "", "resnet18": "networks.resnet18", "FGSM": "attacks.FGSM"}
    union = (
        "Parser key \"model\":\n  Does not validate against any of the Union subtypes\n  Subtypes: [<class 'Task'>]\n"
        "  Errors:\n    - {}\n    - Expected a <class 'NoneType'>\n  Given value type: <class 'dict'>\n"
        "  Given value: NestedArg(key='a', val='b')"
    )
    rows = [
        ("unrecognized arguments: --trainer.max_epoch 3", "Got `trainer.max_epoch`. Did you mean `max_epochs`?"),
        ("unrecognized arguments: --nothing.like.it", "Got `nothing.like.it`. See --help."),
        (
            union.format("Option 'max_epoch' is not accepted"),
            "`model` should hold only keys that it knows. Got `max_epoch`. Did",
        ),
        (
            union.format("Expected a dot import path string: FSGM"),
            "`model`: there is no class called FSGM. Did you mean `F",
        ),
        (union.format("Expected a dot import path string: resnet18"), "resnet18. Did you mean `networks.resnet18`?"),
        (union.format("Expected a <class 'int'>. Got value: x"), "`model`: Expected a <class 'int'>. Got value: x."),
        ("argument subcommand: invalid choice: 'detct' (choose from 'fit')", "Got `detct`. Did you mean `detect`?"),
        ('expected "subcommand" to be one of {fit}, but it was not provided.', "A verb should come first, e.g. `fit"),
    ]
    for message, words in rows:
        sentence = one_sentence(message, known)
        assert words in sentence
        assert "\n" not in sentence
        again = one_sentence(union.format(sentence), known)  # an inner parser's, which an outer one quotes
        assert again.startswith("A verb") or sentence.partition("Got")[2] in again


def test_what_is_misspelt_is_named_with_the_nearest_spelling():
    rows = [
        (["--trainer.max_epoch", "3"], "Got `trainer.max_epoch`. Did you mean `max_epochs`?"),
        (
            ["--model.wieghts", "x.pt"],
            "`model` should hold only keys that it knows. Got `wieghts`. Did you mean `weights`?",
        ),
        (
            [f"{NETWORK}.num_class", "4"],
            "`model.network` should hold only keys that it knows. Got `num_class`. Did",
        ),
        (["--data.batch_sise", "3"], "Got `batch_sise`. Did you mean `batch_size`?"),
        (["--detection.mlp.widht", "3"], "Got `mlp.widht`. Did you mean `width`?"),
        (["--detection.mpl.width", "3"], "Got `mpl.width`. Did you mean `mlp`?"),
        (["--run_dri", "x"], "Got `run_dri`. Did you mean `run_dir`?"),
        (
            ["--model", "ClasificationTask"],
            "`model`: there is no class called ClasificationTask. Did you mean `Classif",
        ),
        (
            ["--data.normal", "{class_path: DigitSource}"],
            "`data.normal`: there is no class called DigitSource. Did you",
        ),
        (["--trainer.logger", "WandbLoger"], "there is no class called WandbLoger. Did you mean `WandbLogger`?"),
        (["--trainer.callbacks", "[EarlyStoping]"], "called EarlyStoping. Did you mean `EarlyStopping`?"),
        (
            ["--detection.label_designs", "[AllOne]"],
            "`detection.label_designs`: there is no class called AllOne. Did you",
        ),
        (
            ["--model.optimizer", "torch.optim.SDG"],
            "`model.optimizer`: there is no class called SDG. Did you mean `SGD`?",
        ),
        (["--model.network", "lightning_gradood.networks.resnet81"], "called resnet81. Did you mean `resnet18`?"),
        (["--model.network", "resnet18"], "Did you mean `lightning_gradood.networks.resnet18`?"),
        (["--model.network", "lightning_gradod.resnet18"], "`model.network`: No module named 'lightning_gradod'"),
        (["--data.attacks={a: {class_path: FSGM}}"], "there is no class called FSGM. Did you mean `FGSM`?"),
        (["stray"], "unrecognized arguments: stray."),
    ]
    check(rows)


def test_values_of_the_wrong_type_or_range_are_refused_by_their_flag():
    rows = [
        (["--trainer.max_epochs", "many"], "`trainer.max_epochs`: Expected a <class 'int'>; Given value: many."),
        (["--model.channels_last", "maybe"], "`model.channels_last`: Expected a <class 'bool'>. Got value: maybe."),
        (["--data.split", "[0.5, 0.5]"], "`data.split`: Expected a tuple with 3 elements."),
        (["--data.keep", "some"], "`data.keep`: "),
        (
            ["--data.batch_size", "0"],
            "`data.batch_size`: Not of type PositiveInt: 0 does not conform to restriction v>0.",
        ),
        (["--data.batch_size", "many"], "`data.batch_size`: Not of type PositiveInt: "),
        (["--data.batch_size", "1.5"], "`data.batch_size`: Not of type PositiveInt: "),
        (["--data.limit", "0"], "`data.limit`: Not of type PositiveInt: "),
        (["--data.limits", "{a: 0}"], "`data.limits`: Not of type PositiveInt: "),
        (["--data.num_workers", "-1"], "`data.num_workers`: Not of type NonNegativeInt: -1 does not"),
        (["--data.split_seed", "-1"], "`data.split_seed`: Not of type Seed: -1 does not conform"),
        (["--data.limit_seed", str(2**32)], "`data.limit_seed`: Not of type Seed: "),
        (["--data.validation_fraction", "1"], "`data.validation_fraction`: Not of type OpenUnitInterval: "),
        (["--data.memory_limit_gib", "inf"], "`data.memory_limit_gib`: Not of type FiniteNonNegative: inf does not"),
        (["--data.max_megapixels", "0"], "`data.max_megapixels`: Not of type PositiveFloat: 0 does not"),
        (["--data.augment", "RandomCropFlip", "--data.augment.padding", "-1"], "padding`: Not of type NonNegativeInt"),
        (["--model.label_smoothing", "nan"], "`model.label_smoothing`: Not of type ClosedUnitInterval: nan does not"),
        (["--model.label_smoothing", "1.5"], "`model.label_smoothing`: Not of type ClosedUnitInterval: 1.5 does not"),
        (["--model.scheduler", "OneCycle", "--model.scheduler.warmup", "2"], "warmup`: Not of type ClosedUnitInterval"),
        ([f"{NETWORK}.num_classes", "0"], "`model.network.num_classes`: Not of type PositiveInt: 0 does not"),
        ([f"{NETWORK}.blocks_per_stage", "-3"], "`model.network.blocks_per_stage`: Not of type PositiveInt: -3"),
        (
            ["--detection.false_positive_rate", "1.5"],
            "`detection.false_positive_rate`: Not of type OpenUnitInterval: 1.5",
        ),
        (["--detection.false_positive_rate", ".nan"], "`detection.false_positive_rate`: Not of type OpenUnitInterval"),
        (["--detection.resamples", "0"], "`detection.resamples`: Not of type PositiveInt: 0 does not"),
        (["--detection.seed", "-1"], "`detection.seed`: Not of type Seed: -1 does not"),
        (["--detection.mlp.width", "0"], "`detection.mlp.width`: Not of type PositiveInt: 0 does not"),
        (["--detection.mlp.learning_rate", "0"], "`detection.mlp.learning_rate`: Not of type FinitePositive: 0 does"),
        (["--detection.mlp.weight_decay", "-1"], "`detection.mlp.weight_decay`: Not of type FiniteNonNegative: -1"),
        (["--detection.mlp.whitening", "0"], "`detection.mlp.whitening`: Not of type FinitePositive: "),
        (["--detection.mlp.dropout", "1"], "`detection.mlp.dropout`: Not of type HalfOpenUnitInterval: 1 does not"),
        (["--trainer.max_epochs", "0"], "`trainer.max_epochs` should be above 0. Got `trainer.max_epochs = 0`."),
        (["--trainer.accumulate_grad_batches", "0"], "`trainer.accumulate_grad_batches` should be above 0."),
        (["--seed_everything", "-1"], "`seed_everything` should be a seed. Got -1 does not conform to restriction"),
        (["--seed_everything", str(2**32)], "`seed_everything` should be a seed. Got 4294967296 does not conform"),
    ]
    check(rows)


def test_unknown_keys_null_and_numbers_in_place_of_settings_in_a_file_are_refused():
    rows = [
        (
            "trainer: {max_epoch: 3}",
            "should hold only keys that it knows. Got `trainer.max_epoch`. Did you mean `max_epochs`?",
        ),
        (
            "report: {format: [png]}",
            "should hold only keys that it knows. Got `report.format`. Did you mean `formats`?",
        ),
        ("detection: {mlp: {widht: 3}}", "should hold only keys that it knows. Got `widht`. Did you mean `width`?"),
        ("data: {init_args: {batch_sise: 3}}", "Got `batch_sise`. Did you mean `batch_size`?"),
        ("trane: 3", "should hold only keys that it knows. Got `trane`. Did you mean `trainer`?"),
        ("model: null", "the following arguments are required: fit.model."),
        ("model: 3", "`model`: Not a valid subclass of ClassificationTask; Given value: 3."),
        ("model: {init_args: {optimizer: null}}", "`model.optimizer`: "),
        (
            "model: {init_args: {network: {init_args: {num_classes: null}}}}",
            "`model.network.num_classes`: Not of type Pos",
        ),
        ("data: {init_args: {batch_size: null}}", "`data.batch_size`: Not of type PositiveInt"),
        (
            "data: {init_args: {keep: null}}",
            "`data.keep`: Expected a typing.Literal['all', 'successful']. Got value: None.",
        ),
        ("data: {init_args: {anomalies: {nine: {init_args: {part: null}}}}}", "`data.anomalies.part`: Expected a"),
        ("detection: 3", "`detection`: "),
        ("detection: {preset: null}", "`detection.preset`: Expected a"),
        ("detection: {mlp: null}", "`detection.mlp` should hold settings. Got `detection.mlp = None`."),
        ("detection: {mlp: {dropout: null}}", "`detection.mlp.dropout`: Not of type HalfOpenUnitInterval"),
        ("trainer: null", "`trainer` should hold settings. Got `trainer = None`. Leave it out for the defaults."),
        ("report: 3", "`report` should hold settings. Got `report = 3`."),
        ("cache_dir: null", "`cache_dir`: Expected a <class 'str'>. Got value: None."),
        ("cache_dir: ''", "`cache_dir` should be the path of a folder."),
        ("run_dir: ' '", "`run_dir` should be the path of a folder."),
    ]
    failed = []
    for text, words in rows:
        Path("more.yaml").write_text(text)
        said = str(verdict("--config", "more.yaml"))
        failed += [f"{text}: {said[:300]}"] * (words not in said)
    assert not failed, "\n".join(failed)
    Path("more.yaml").write_text(
        "seed_everything: null\ndetection: null\ndata: {init_args: {limit: null}}\nrun_dir: null"
    )
    found = verdict("--config", "more.yaml")
    assert (found.seed_everything, found.detection, found.data.init_args.limit, found.run_dir) == (None,) * 4


def test_interpolated_values_are_held_to_the_same_ranges(monkeypatch):
    monkeypatch.setenv("SMOOTHING", "1.5")
    check(
        [(["--model.label_smoothing", "${oc.env:SMOOTHING}"], "Not of type ClosedUnitInterval: 1.5 does not conform")]
    )
    monkeypatch.setenv("SMOOTHING", "0.5")
    assert verdict("--model.label_smoothing", "${oc.env:SMOOTHING}").model.init_args.label_smoothing == 0.5
    rows = [
        ("${nowhere.key}", "Interpolation key '.nowhere.key' not found"),
        ("${oc.env:NOT_A_VARIABLE}", "Environment variable 'NOT_A_VARIABLE' not found"),
        ("${dvi:8,255}", "Unsupported interpolation type dvi"),
        ("${div:8,0}", "division by zero"),
        ("${oops", "no viable alternative at input '${oops'"),
    ]
    check([(["--model.label_smoothing", value], words) for value, words in rows])


LAUGHS = "\n".join(
    ["a0: &a0 [lol, lol, lol, lol]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10))]
)
FLOW = f"{{{', '.join(LAUGHS.splitlines())}}}"


@pytest.mark.timeout(120)  # without the limits these take hours
def test_values_that_explode_or_that_yaml_cannot_convert_are_refused():
    values = [
        "--trainer.max_epochs",
        "--trainer.callbacks",
        "--model",
        "--data.anomalies",
        "--model.network",
        "--config",
    ]
    rows = [([flag, FLOW], "its aliases expanded") for flag in values]
    rows += [(["--data.batch_size", f"'{FLOW}'"], "`data.batch_size`: Not of type PositiveInt")]
    rows += [(["--data.anomalies", "[" * 10**5], "nested more than 64 deep")]
    rows += [(["--data.split", "- " * 10**5], "nested more than 64 deep")]
    rows += [(["--data.split", text], "`data.split`") for text in ("nonsense", "[" * 60 + "]" * 60)]
    odd = ["!!int ''", "!!bool x", "!!timestamp x", "1" * 5000, "2001-99-99", "!!python/name:os.system"]
    rows += [(["--data.split", text], "") for text in odd]
    check(rows)
    assert not [text for text in odd if not isinstance(verdict("--data.split", text), str)]


@pytest.mark.timeout(120)
def test_files_that_explode_are_refused_by_their_name():
    with open("huge.yaml", "wb") as file:
        file.truncate(400_000_000)
    texts = {
        "laughs.yaml": LAUGHS,
        "deep.yaml": "[" * 10**5,
        "itself.yaml": "trainer: &a {max_epochs: 2, callbacks: [*a]}\n" + "# long enough to be looked at\n" * 3,
        "merged.yaml": "\n".join(
            ["m0: &m0 {x: 1, y: 2}", *(f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 10)}]}}" for n in range(1, 9))]
        ),
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
