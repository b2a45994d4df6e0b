"""YAML and JSON within limits: what is small is read as it was, what is large once expanded is refused before it is built."""

import json
import random

import pytest
import yaml

from lightning_gradood.core import Unparsable, check_yaml, parse_json, parse_yaml, read_json, read_text, read_yaml
from lightning_gradood.core import text_files as module


def laughs(levels=9, form="[{}]"):
    """Nested lists of ten aliases each: 10^levels values in a few hundred bytes."""
    rows = ["a0: &a0 {x: 1, y: lol}"]
    for level in range(1, levels):
        rows.append(f"a{level}: &a{level} {form.format(', '.join([f'*a{level - 1}'] * 10))}")
    return "\n".join(rows)


ALIASES, DEEP, LARGE = "its aliases expanded", "nested more than 64 deep", "million characters"
BOMBS = [
    (laughs(), ALIASES), (laughs(form="{{<<: [{}]}}"), ALIASES), (f"[{'a,' * 900_000}]", ALIASES),
    ("lightning: &a [1, 2, 3, *a]\n" + "# a comment makes it longer than what is looked at\n" * 2, ALIASES),
    *((start * 10**5, DEEP) for start in ("[", "{a: ", "- ", "? ")), ("a" * 10**7, LARGE),
]  # fmt: skip


@pytest.mark.timeout(60)  # each takes less than a second; without the limits minutes, or all memory
def test_what_would_explode_is_refused_before_it_is_built():
    for text, words in BOMBS:
        for read in (check_yaml, parse_yaml):
            with pytest.raises(Unparsable, match=words):
                read(text)


def test_whatever_a_converter_runs_into_is_one_error_of_one_line():
    odd = ["!!int ''", "!!bool x", "!!timestamp x", "2001-99-99", "1" * 5000, "{[a]: 1}", "a\0b", "[", "*a"]
    for text in [*odd, "!!python/name:os.system"]:
        with pytest.raises(Unparsable) as refused:
            parse_yaml(text)
        assert len(str(refused.value).splitlines()) == 1, text


def test_values_are_counted_as_they_are_expanded(monkeypatch):
    """The limit is met exactly by the number of values that a walk through the result meets."""
    random_ = random.Random(0)
    for _ in range(50):
        names, rows = [], []
        for number in range(random_.randrange(2, 6)):
            parts = [random_.choice([f"*{name}" for name in names] + ["1", "[2, x]", "{k: v}"]) for _ in range(3)]
            rows.append(f"n{number}: &n{number} [{', '.join(parts)}]")
            names.append(f"n{number}")
        text = "\n".join(rows) + "\n# longer than what is looked at" * 3
        number = walked(yaml.safe_load(text))
        monkeypatch.setattr(module, "MAX_VALUES", number)
        assert parse_yaml(text) == yaml.safe_load(text)
        monkeypatch.setattr(module, "MAX_VALUES", number - 1)
        with pytest.raises(Unparsable):
            parse_yaml(text)


def walked(value):
    if isinstance(value, dict):
        return 1 + sum(1 + walked(one) for one in value.values())
    return 1 + sum(map(walked, value)) if isinstance(value, list) else 1


def test_what_people_write_is_read_as_it_is():
    text = "base: &base {a: 1, b: [x, y]}\nother: {<<: *base, c: 'R&D * 2'}\n"
    text += f"names: [{', '.join(f'n{i:05d}' for i in range(21_000))}]"
    assert parse_yaml(text) == yaml.safe_load(text)
    for text in ("[" * 60 + "]" * 60, "1", "null", '"x"', "[]", "{}", '"\\ud83d\\ude00"'):
        assert parse_json(text) == parse_json(text.encode()) == json.loads(text)


def test_json_is_refused_in_one_sentence():
    for text in ("[" * 10**5, '{"a":' * 10**5, '"\\ud800"', "1" * 5000, "", "nope"):
        for given in (text, text.encode()):
            with pytest.raises(Unparsable):
                parse_json(given)


def test_files_are_read_up_to_their_limit_only(tmp_path):
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(10**12)  # without taking room
    for read in (read_text, read_yaml, read_json):
        with pytest.raises(Unparsable, match=r"1,000,000\.0 MB, where at most \d+ are read"):
            read(path)
    path.write_bytes(b"\xff\xfe")
    for place, words in ((path, "no text in UTF-8"), (tmp_path, "a folder"), ("/dev/zero", "a pipe, socket or device")):
        with pytest.raises(Unparsable, match=words):
            read_text(place)
    path.write_text("\ufeff[1]")
    assert read_yaml(path) == read_json(path) == [1]
