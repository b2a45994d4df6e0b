"""The verb `attack` audits a run's guard and leaves a card, or says in a sentence why not."""

from pathlib import Path

import pytest
from tiny import all_refused, called, write_digits

from lightning_gradood.audit import Robustness
from lightning_gradood.guard import Guard

pytestmark = pytest.mark.slow


def test_an_audit_leaves_a_card_beside_the_guard(run, capsys):
    for digit in (0, 1):
        write_digits(Path("photos") / str(digit), [digit])
    write_digits(Path("others"), [9], "all")
    folder = run / "guard"
    attack = ["attack", "--guard", str(folder), "--steps", "4", "--limit", "12"]
    code, out, err = called([*attack, "photos", "--eps", "0.02", "0.2"], capsys)
    assert code == 0, err
    assert "predictions stand for labels" not in err
    card = Robustness.load(folder)
    assert (card.images, card.labelled, card.norm) == (12, True, "linf")
    assert card.share(0.2) >= card.share(0.02)
    rows = [line.split()[:2] for line in out.splitlines()]
    assert rows[rows.index(["none", "-"]) + 1] == ["joint", "0.0200"]
    assert card.sentence in out
    Guard.load(folder)  # which a card does not damage
    code, _, err = called(["compare", str(run), "--output", "page.html"], capsys)
    assert code == 0, err
    page = Path("page.html").read_text()
    assert "An attacker who knows the guard" in page
    assert card.sentence in page

    Path("five").mkdir()
    for name, file in zip("abcde", sorted(Path("photos").rglob("*.png")), strict=False):
        Path("five", f"{name}.png").write_bytes(b"" if name == "d" else file.read_bytes())
    rows = [
        ([*attack, "five", "--overwrite", "--limit", "3"], "five/d.png"),  # a, b and d, not the first three
        ([*attack, "photos"], f"without a card of an earlier audit. Got {folder}/robustness.json. Add --overwrite."),
        ([*attack, "photos", "--overwrite", "--eps", "8"], "If 8 of 255 grey levels are meant, write 0.03137."),
        ([*attack, "photos", "--overwrite", "--attacks", "pgd"], "`--attacks` should be some of joint, selective,"),
        ([*attack, "nowhere", "--overwrite"], "`nowhere` should be an image file"),
    ]
    all_refused(rows, capsys)
    code, out, err = called([*attack, "others", "--goal", "hide", "--overwrite", "--eps", "0.2"], capsys)
    assert code == 0, err
    assert "predictions stand for labels" in err
    assert Robustness.load(folder).goal == "hide"
