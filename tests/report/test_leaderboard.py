"""OpenOOD's published numbers beside those of a run."""

import csv
import re
from importlib import resources

from lightning_gradood.report.tables import printed_rows

from .examples import outcome


def test_numbers_stand_beside_those_of_groups_with_source_date_and_doubts():
    names = (("near", "baseline"), ("far", "baseline"), ("svhn", "baseline"), ("near", "mlp"))
    found = [outcome(*pair) for pair in names]
    rows, (_, note) = printed_rows(found, leaderboard="cifar10")
    assert [one["OpenOOD"] for one in rows[:4]] == ["88.03 ± 0.25", "90.73 ± 0.43", "-", "-"]
    assert re.search(r"OpenOOD, .* of a ResNet18 \(results/cifar10.csv at 7874c37 of 2025-07-18\)", note)
    rows, (_, _, doubt) = printed_rows([outcome("near", "combood"), outcome("far", "combood")], leaderboard="imagenet")
    assert [one["OpenOOD"] for one in rows[:2]] == ["95.22 (disputed)", "90.24"]
    assert doubt == "Disputed: CombOOD, near: OpenOOD#307."
    assert printed_rows(found[2:], leaderboard="cifar10") == printed_rows(found[2:])


def test_every_published_number_is_a_share_with_its_source_and_date():
    text = (resources.files("lightning_gradood.report") / "openood_leaderboard.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert len({(one["benchmark"], one["detector"]) for one in rows}) == len(rows) > 100
    for one in rows:
        assert all(re.fullmatch(r"\d\d\.\d\d?( ± \d+\.\d\d)?", one[group]) for group in ("near", "far")), one
        assert re.fullmatch(r"results/\w+\.csv at [0-9a-f]{7} 20\d\d-\d\d-\d\d", f"{one['source']} {one['date']}"), one
