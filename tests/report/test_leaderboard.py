"""OpenOOD's published numbers beside those of a run."""

import csv
import re
from importlib import resources

from lightning_gradood.report.tables import beside_leaderboard


def row(source, detector):
    return {"source": source, "detector": detector, "AUROC": "80.00", "FPR95": "50.00"}


def test_numbers_stand_beside_those_of_groups_with_source_date_and_doubts():
    rows = [row(*pair) for pair in (("near", "baseline"), ("far", "baseline"), ("svhn", "baseline"), ("near", "mlp"))]
    shown, (note,) = beside_leaderboard(rows, "cifar10")
    assert [one["OpenOOD"] for one in shown] == ["88.03 ± 0.25", "90.73 ± 0.43", "-", "-"]
    assert list(shown[0]) == ["source", "detector", "AUROC", "OpenOOD", "FPR95"]
    assert re.search(
        r"of a ResNet18 \(github.com/zjysteven/OpenOOD, .*results/cifar10.csv at 7874c37 of 2025-07-18\)", note
    )
    shown, notes = beside_leaderboard([row("near", "combood"), row("far", "combood")], "imagenet")
    assert [one["OpenOOD"] for one in shown] == ["95.22 (disputed)", "90.24"]
    assert notes[1] == "Disputed: CombOOD, near: OpenOOD#307."
    assert beside_leaderboard(rows[2:], "cifar10") == (rows[2:], [])


def test_every_published_number_is_a_share_with_its_source_and_date():
    text = (resources.files("lightning_gradood.report") / "openood_leaderboard.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert len({(one["benchmark"], one["detector"]) for one in rows}) == len(rows) > 100
    for one in rows:
        assert all(re.fullmatch(r"\d\d\.\d\d?( ± \d+\.\d\d)?", one[group]) for group in ("near", "far")), one
        assert re.fullmatch(r"results/\w+\.csv at [0-9a-f]{7} 20\d\d-\d\d-\d\d", f"{one['source']} {one['date']}"), one
