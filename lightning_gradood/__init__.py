"""Detect adversarial and out-of-distribution images from the gradients of a trained classifier.

The rooms, lowest first: `core`; `gradients`, `networks`, `attacks`, `corruptions`, `synthetic`, `metrics`, `records`; `probes`,
`data`, `tasks`; `detectors`; `evaluation`, `extraction`, `guard`; `report`; `trainer`, `experiments`; `cli`. Each room's front
door (its docstring) says what it is for.
"""

__version__ = "0.1.0"
