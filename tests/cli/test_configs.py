"""Every experiment file that we ship: it parses, builds up to the download, says what is missing, and runs."""

import urllib.error
import urllib.request
from pathlib import Path

import pytest
import wandb
import yaml
from parsed import verdict
from report.wandb_reader import read_offline_run
from tiny import only_run, refused, results, table
from tiny_archives import accept_any_checksum, place_cifar10, place_everything, place_odin, place_svhn

from lightning_gradood.cli import main
from lightning_gradood.cli.command import Command
from lightning_gradood.evaluation.protocol import DetectionDatasets

FILES = {path.stem: path for path in sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))}
CONFIGS = {name: path for name, path in FILES.items() if not name.startswith("tables_")}  # of the verb `benchmark`
ATTACKS = ["fgsm", "bim", "pgd", "cw", "iterll", "semantic"]
TINY_NETWORK = ["--model.network", "lightning_gradood.networks.CifarResNet", "--model.network.blocks_per_stage", "1"]
RESNET = CONFIGS["cifar_resnet"]
TINY = [*TINY_NETWORK, "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
        "--trainer.log_every_n_steps=1", "--trainer.max_epochs=1"]  # fmt: skip


@pytest.fixture(autouse=True)
def unreachable(monkeypatch):
    """A machine without network, whatever this one has, on which our miniatures of the archives are taken for the real ones."""

    def refuse(*_, **__):
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    accept_any_checksum(monkeypatch)


def test_each_file_parses_for_every_verb_and_starts_with_the_command_that_runs_it():
    openood = [f"openood_{name}" for name in ("cifar10", "cifar100", "imagenet", "imagenet200")]
    paper = ["cifar_adversarial", "cifar_densenet", "cifar_resnet", "svhn_densenet", "svhn_resnet"]
    assert set(FILES) == {*paper, *openood, "digits", "folders", "imagenet_lite", "tables_digits", "tables_folders"}
    keys = set()  # one set for all verbs: what one verb's run leaves as its configuration is any other's file
    for name, path in CONFIGS.items():
        for verb in Command.subcommands() if path == RESNET else ("fit", "detect"):  # the others read what `fit` reads
            found = verdict(verb=verb, file=str(path))
            assert not isinstance(found, str), f"{verb} {name}: {found}"
            keys.add(frozenset(vars(found)) - {"config"})
            assert set(yaml.safe_load(path.read_text())) <= vars(found).keys()
            assert found.model.init_args.network.class_path.startswith(
                ("lightning_gradood.networks.", "torchvision.models.")
            )
        usual = "detect" if name in ("folders", "imagenet_lite", *openood) else "fit"
        assert f"#   python -m lightning_gradood {usual} --config configs/{path.name}" in path.read_text()
    assert len(keys) == 1


def test_what_is_missing_is_named_before_training_with_where_and_how_to_get_it(
    no_account, capsys, monkeypatch, workplace
):
    command = ["fit", *TINY, "--config"]

    def missing(name, where, how):
        message = refused([*command, str(CONFIGS[name])], capsys)
        assert f"`{workplace / where}" in message
        assert how in message
        return message

    message = missing("cifar_resnet", "data", "Unpack `cifar-10-python.tar.gz` there")
    assert message.startswith("`data.train` should find its files in `")
    assert "Got `data.train = CIFAR10(" in message
    assert "no network here" in message
    assert message.endswith("`configs/digits.yaml` needs no download.")
    missing("svhn_resnet", "data/svhn", "Put `train_32x32.mat` and `test_32x32.mat` there")
    monkeypatch.setenv("DATA_DIR", "mine")
    place_cifar10(Path("mine"))
    place_odin(Path("mine/odin"), "Imagenet_resize")
    place_odin(Path("mine/odin"), "LSUN_resize", unpacked=False)
    missing("cifar_resnet", "mine", "`train_32x32.mat` and `test_32x32.mat`")
    place_svhn(Path("mine/svhn"))
    missing("cifar_resnet", "mine", "Put ODIN's `LSUN_resize.tar.gz` there and unpack it beside itself")
    assert not [path for path in Path("runs").rglob("*") if path.suffix in (".yaml", ".ckpt")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sources"), [("cifar_resnet", 9), ("cifar_adversarial", 6), ("digits", 8)])
def test_they_run_where_the_data_are_in_place_and_keep_attacked_images_with_their_origin(
    name, sources, no_account, capsys, monkeypatch
):
    pools, pooled = [], DetectionDatasets.of  # the records that detectors are fitted and measured on

    def noting(self, *sources):
        pools.append(pooled(self, *sources))
        return pools[-1]

    monkeypatch.setattr(DetectionDatasets, "of", noting)
    place_everything(Path("data"))
    images = "60" if name == "digits" else "12"  # the parts of its guard's detector need 20 in `train`
    main(["fit", "--config", name, *TINY, "--data.limits.images", images, "--detection.mlp.max_epochs", "1"])
    folder, printed = only_run(name), table(capsys.readouterr().out)
    found = list(dict.fromkeys(outcome["source"] for outcome in results(folder)["outcomes"]))
    assert len(found) == sources
    assert found[-6:] == ATTACKS
    assert ("mlp_all_ones" in printed) == (name != "cifar_resnet")
    assert len(pools) >= sources
    for pool in pools:  # a clean image and whatever was made of it are in one split
        pairs = set(zip(pool.column("origin_id"), pool.column("split"), strict=True))
        assert len(pairs) == len({origin for origin, _ in pairs})
        clean = set(pool.column("id")[pool.anomalous == 0])
        assert set(pool.column("origin_id")[pool.column("attack") != ""]) <= clean  # of the images they stand against
    wandb.finish()
    if name == "cifar_resnet":
        assert read_offline_run(folder).summary["detection/svhn/mlp/test/n_normal"] == 2
