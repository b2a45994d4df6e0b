"""Attackers who know classifier and detector, and what they reach: an audit of a guard.

A detector of adversarial images is to be believed as far as such attacks fail (Carlini and Wagner 2017; Tramèr et al.
2020). `Target` makes logits and score functions of the image, `ATTACKS` look for images within a ball, and an `Audit`
judges what they find by the guard itself and asks whether they were strong enough. `Guard.audit` is the usual way in:

    >>> from lightning_gradood import Guard
    >>> guard = Guard.load("runs/digits/2026-11-22_14-05-09/guard")  # doctest: +SKIP
    >>> print(guard.audit(images, labels).sentence)  # doctest: +SKIP
"""

from lightning_gradood.audit.attacks import (
    ATTACKS,
    Attack,
    Ball,
    Best,
    Goal,
    Joint,
    Norm,
    Orthogonal,
    Queries,
    Selective,
)
from lightning_gradood.audit.auditing import CARD, RADII, RATES, Audit, Check, Judged, Reached, Robustness
from lightning_gradood.audit.target import Judgement, Target, margins

__all__ = [
    "ATTACKS", "CARD", "RADII", "RATES", "Attack", "Audit", "Ball", "Best", "Check", "Goal", "Joint", "Judged", "Judgement",
    "Norm", "Orthogonal", "Queries", "Reached", "Robustness", "Selective", "Target", "margins",
]  # fmt: skip
