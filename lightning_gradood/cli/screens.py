"""Help of the verbs with an experiment, one screen each, and flags that none of them has; nothing heavy is imported."""

import re
from collections.abc import Iterable
from pathlib import Path

from lightning_gradood.cli.plain import key_hint
from lightning_gradood.cli.verbs import VERBS

_OTHERS = {"help", "logging", "report"}  # first parts of further flags


def _flags(verb: str) -> str:
    name = "benchmark" if verb == "benchmark" else "experiment"
    return Path(__file__).with_name("help").joinpath(f"{name}.txt").read_text("utf-8")


def screen(verb: str) -> str:
    """Help of a verb with an experiment: flags that people use, by section."""
    return (
        f"usage: python -m lightning_gradood {verb} --config FILE [--key value ...]\n\n{VERBS[verb]}\n\n{_flags(verb)}"
    )


def keys_of(verb: str) -> list[str]:
    """Keys of the flags on a verb's screen."""
    return re.findall(r"^  --(\S+)", _flags(verb), re.MULTILINE)


def wrong_flag(verb: str, words: Iterable[str]) -> str:
    """Say which flag has no value behind it, or a first part that a verb with an experiment does not know."""
    keys = keys_of(verb)
    known, waiting = {key.partition(".")[0] for key in keys} | _OTHERS, ""
    for word in (*words, "--help"):
        if not word.startswith("--") or word == "--":
            waiting = ""
            continue
        if waiting:
            return f"`{waiting}` should be given with a value. Got none. Write it behind, or remove the flag."
        key, sign, _ = word[2:].partition("=")
        if key.partition(".")[0].rstrip("+") not in known:
            return f"The configuration should hold only keys that it knows. Got `{key}`. {key_hint(key, keys)}"
        waiting = "" if sign or key.split(".")[-1] in ("help", "print_config", "trust") else key
    return ""
