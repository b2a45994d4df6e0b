"""Ranges of numbers for annotations, which the command line's parser checks; to a type checker they are plain numbers.

>>> PositiveInt(3), Seed("7")
(3, 7)
>>> Seed(-1)
Traceback (most recent call last):
ValueError: -1 does not conform to restriction v>=0 and v<4294967296
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    NonNegativeInt = int
    PositiveInt = int
    Seed = int
    ClosedUnitInterval = float
    FiniteNonNegative = float
    FinitePositive = float
    HalfOpenUnitInterval = float
    OpenUnitInterval = float
    Percentile = float
    PositiveFloat = float
else:
    import yaml
    from jsonargparse.typing import (
        ClosedUnitInterval,
        NonNegativeInt,
        OpenUnitInterval,
        PositiveFloat,
        PositiveInt,
        restricted_number_type,
    )

    _INFINITY = float("inf")
    Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])  # NumPy and scikit-learn take 32 bits
    FinitePositive = restricted_number_type("FinitePositive", float, [(">", 0), ("<", _INFINITY)])
    FiniteNonNegative = restricted_number_type("FiniteNonNegative", float, [(">=", 0), ("<", _INFINITY)])
    HalfOpenUnitInterval = restricted_number_type("HalfOpenUnitInterval", float, [(">=", 0), ("<", 1)])
    Percentile = restricted_number_type("Percentile", float, [(">", 0), ("<", 100)])
    _KINDS = (NonNegativeInt, PositiveInt, Seed, ClosedUnitInterval, OpenUnitInterval, PositiveFloat)
    for _kind in (*_KINDS, FinitePositive, FiniteNonNegative, HalfOpenUnitInterval, Percentile):
        # the parser leaves them as they are for a class that takes any keyword, and YAML knows plain numbers alone
        yaml.SafeDumper.add_representer(
            _kind, lambda dumper, value: dumper.represent_data(int(value) if isinstance(value, int) else float(value))
        )
