"""Plans that another process made: used for the same network alone, and never instead of checks on the caller's images."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from lightning_gradood.gradients import adopt_proofs, proof, proofs_of, squared_gradient_norms, warm_up

from . import truth
from .toys import SLOW, TOYS, make, pictures
from .treacherous import Between, SequenceFirst
from .treacherous import pictures as larger


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Networks that were proved."""
    found: list[nn.Module] = []
    made = proof._made

    def counted(network: nn.Module, *rest: object) -> proof.Plan:
        found.append(network)
        return made(network, *rest)

    monkeypatch.setattr(proof, "_made", counted)
    return found


@pytest.mark.parametrize("name", sorted(set(TOYS) - SLOW))
def test_adopted_proof_saves_the_proof_and_changes_nothing(name: str, proofs: list[nn.Module]) -> None:
    network, other = make(name), make(name)
    expected = squared_gradient_norms(network, pictures(4))
    text = proofs_of(network)
    assert text is not None
    assert adopt_proofs(other, text) == 1
    assert torch.equal(squared_gradient_norms(other, pictures(4)), expected)
    assert proofs == [network]


def test_another_process_makes_the_same_trace() -> None:
    code = (
        "from tests.gradients.toys import make\nfrom lightning_gradood.gradients import proofs_of, warm_up\nimport torch\n"
        "torch.set_default_dtype(torch.float64)\nnetwork = make('transformer')\n"
        "warm_up(network, (4, 3, 8, 8))\nprint(proofs_of(network))"
    )
    texts = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in "ab"
    }
    assert len(texts) == 1
    assert json.loads(texts.pop())["plans"]["[3, 8, 8] torch.float64 cpu"]["trace"]


def test_proof_of_another_network_is_left_aside(proofs: list[nn.Module]) -> None:
    network, other = make("residual"), make("grouped")
    squared_gradient_norms(network, pictures(4))
    adopt_proofs(other, proofs_of(network) or "")
    truth.assert_exact(squared_gradient_norms(other, pictures(4)), truth.true_norms(other, pictures(4)))
    assert proofs == [network, other]


def test_adopted_proof_does_not_replace_the_checks() -> None:
    """A wrong proof, of a network without the layer scale's block, is found out by the first images."""
    network = SequenceFirst(0.0).double()
    squared_gradient_norms(network, larger(5))
    stored = {"version": 1, "torch": torch.__version__, "plans": {}}
    assert proofs_of(network) is None  # sequence-first tokens take the loop
    forged = SequenceFirst(0.5).double()
    plain = proof.Plan(None, 8)
    stored["plans"] = {
        "[3, 12, 12] torch.float64 cpu": {
            "trace": "0" * 64, "micro_batch": plain.micro_batch, "single": False, "slots": [],
            "reorders": False, "columns": [],
        }
    }  # fmt: skip
    assert adopt_proofs(forged, json.dumps(stored)) == 1
    truth.assert_exact(squared_gradient_norms(forged, larger(4)), truth.pair_norms(forged, larger(4)))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"version": 1}', '{"version": 2, "torch": "", "plans": {}}', '{"plans": 3}']
)
def test_damaged_text_is_left_aside(text: str) -> None:
    network = make("linear")
    assert adopt_proofs(network, text) == 0
    truth.assert_exact(squared_gradient_norms(network, pictures(4)), truth.true_norms(network, pictures(4)))


def test_damaged_plan_is_left_aside() -> None:
    network, other = make("linear"), make("linear")
    squared_gradient_norms(network, pictures(4))
    whole = json.loads(proofs_of(network) or "")
    (key,) = whole["plans"]
    for name in whole["plans"][key]:
        broken = copy.deepcopy(whole)
        broken["plans"][key][name] = "?"
        adopt_proofs(other, json.dumps(broken))
        truth.assert_exact(squared_gradient_norms(other, pictures(4)), truth.true_norms(other, pictures(4)))


def test_warm_up_says_which_way_is_taken(proofs: list[nn.Module]) -> None:
    network = make("residual", torch.float32)
    assert warm_up(network, (4, 3, 8, 8)) == "closed forms"
    squared_gradient_norms(network, pictures(4, torch.float32))
    assert proofs == [network]
    slow = make("sequence_first", torch.float32)
    assert warm_up(slow, (4, 3, 8, 8)).startswith("one image at a time: ")
    assert warm_up(Between(lambda x: x if len(x) < 9 else 1 * x), (16, 3, 12, 12)).startswith("one image at a time: ")
