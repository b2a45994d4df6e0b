"""Detect adversarial and out-of-distribution images from the gradients of a trained classifier.

Rooms, lowest first: `core`; `gradients`, `networks`, `perturbations`, `metrics`, `records`; `probes`, `data`, `tasks`;
`detectors`; `evaluation`, `extraction`, `guard`; `report`; `trainer`; `cli`. Each room's docstring says what it is for.
"""

__version__ = "0.1.0"
