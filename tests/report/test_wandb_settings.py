"""Refusals of what is about W&B that no command line reaches first."""

import sys

import pytest

from lightning_gradood.core import Refusal
from lightning_gradood.report import LoggingSettings, apply_dashboard


def test_artifacts_are_all_the_guard_or_none():
    with pytest.raises(
        Refusal, match=r"`logging.artifacts` should be one of all, guard, none\. Got `logging.artifacts = some`"
    ):
        LoggingSettings("some")


def test_without_its_package_the_dashboard_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)  # as if it were not installed
    with pytest.raises(Refusal, match=r"needs the package wandb-workspaces\. Got none\. `pip install .*\[dashboard\]"):
        apply_dashboard([], "team", "project")
