import os
import pty
import subprocess
import sys

import pytest
import wandb

from lightning_gradood.report import offline_without_account

RUN = """
import sys
from lightning_gradood.report import offline_without_account
print("wandb imported:", "wandb" in sys.modules)
from lightning.pytorch.loggers import WandbLogger
print(offline_without_account(sys.argv[1]))
logger = WandbLogger(project="test", save_dir=sys.argv[1])
logger.log_metrics({"x": 1.0})
logger.experiment.finish()
"""

KEY = "0" * 40  # nobody's


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home, without any W&B setting, and W&B as if just started: it reads its settings once."""
    for name in os.environ:
        if name.startswith("WANDB_") or name == "NETRC":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    # Registered so that what the function itself sets is undone too.
    monkeypatch.setenv("WANDB_MODE", "")
    monkeypatch.delenv("WANDB_MODE")
    # A network that is touched fails at once: nothing listens on port 9 (discard).
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    wandb.teardown()
    yield tmp_path
    wandb.teardown()


def test_without_account_the_run_goes_offline_and_the_user_reads_one_line(home):
    said = offline_without_account()
    assert os.environ["WANDB_MODE"] == "offline"
    for words in ("no account is configured", "offline", "wandb/offline-run-*", "`wandb login`", "`wandb sync "):
        assert words in said
    assert "\n" not in said
    assert offline_without_account() is None  # said once


def test_the_line_names_the_folder(home, monkeypatch):
    assert f"in {home}/elsewhere/wandb/offline-run-*" in offline_without_account(home / "elsewhere")
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_DIR", "here")
    assert "wandb sync here/wandb/offline-run-*" in offline_without_account()


@pytest.mark.parametrize(
    "variables",
    [
        {"WANDB_API_KEY": KEY},
        {"WANDB_API_KEY": "not a key"},
        {"WANDB_IDENTITY_TOKEN_FILE": "token.jwt"},
    ],
    ids=["key", "malformed key", "identity token"],
)
def test_an_account_in_the_environment_is_used(home, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert offline_without_account() is None
    assert "WANDB_MODE" not in os.environ


@pytest.mark.parametrize("mode", ["online", "offline", "disabled"])
def test_a_chosen_mode_is_kept(home, monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    assert offline_without_account() is None
    assert os.environ["WANDB_MODE"] == mode


@pytest.mark.parametrize(("asked", "offline"), [("wandb.example.com", False), ("other.example.com", True)])
def test_an_account_in_netrc_is_used_for_its_own_host(home, monkeypatch, asked, offline):
    netrc = home / ".netrc"
    netrc.write_text(f"machine wandb.example.com\n  login user\n  password {KEY}\n")
    netrc.chmod(0o600)  # Python refuses a netrc that others can read
    monkeypatch.setenv("WANDB_BASE_URL", f"https://{asked}")
    assert (offline_without_account() is not None) == offline


def test_a_mode_in_the_settings_file_is_kept(home):
    settings = home / ".config" / "wandb" / "settings"
    settings.parent.mkdir(parents=True)
    settings.write_text("[default]\nmode = offline\n")
    assert offline_without_account() is None


def test_a_run_on_a_terminal_is_offline_and_asks_nothing(home):
    ours, theirs = pty.openpty()  # a terminal is where W&B would ask
    try:
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(home)],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0, done.stdout
    assert len(list(home.glob("wandb/offline-run-*/run-*.wandb"))) == 1
    assert "wandb imported: False" in done.stdout  # importing the room is free of it
    assert f"wandb sync {home}/wandb/offline-run-*" in done.stdout
    assert "environment variables will be ignored" not in done.stdout
