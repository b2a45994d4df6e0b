"""Detect adversarial and out-of-distribution images from the gradients of a trained classifier.

The rooms, lowest first: `gradients`, `networks`, `metrics`, `records`; `probes`, `data`, `tasks`, `detectors`;
`callbacks`, `report`; `trainer`; `cli`. Each room's front door (its docstring) says what it is for.
"""

__version__ = "0.1.0"
