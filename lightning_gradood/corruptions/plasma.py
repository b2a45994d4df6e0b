"""Plasma: a random field of clouds at all scales."""

import math

import numpy as np

from lightning_gradood.corruptions.noise import Image


def plasma(height: int, width: int, generator: np.random.Generator, decay: float) -> Image:
    """Draw a plasma fractal by the diamond-square algorithm on a torus.

    Args:
        height: Of the field.
        width: Of the field.
        generator: Draws one number for each point of the smallest power-of-two square that holds the field.
        decay: From one scale to the next, half as large, displacements shrink by `decay`². Around 1 is grain, 3 is smooth.

    Returns:
        [height, width]; the square it is cut from spans exactly [0, 1].

    Reference:
        Fournier, Fussell and Carpenter, Computer Rendering of Stochastic Models, CACM 25(6), 1982.
    """
    side = 2 ** max(1, math.ceil(math.log2(max(height, width))))
    field = np.zeros((1, 1))
    swing = 1.0
    while len(field) < side:
        field = _refined(field, generator, swing)
        swing /= decay**2
    field -= field.min()
    return field[:height, :width] / float(field.max())


def _refined(coarse: Image, generator: np.random.Generator, swing: float) -> Image:
    """Put a point between all neighbours, [n, n] to [2n, 2n]: their mean, displaced by up to ± `swing`."""
    size = len(coarse)
    shifts = generator.uniform(-swing, swing, size=(3, size, size))
    across = coarse + np.roll(coarse, -1, axis=0)
    centres = (across + np.roll(across, -1, axis=1)) / 4 + shifts[0]
    fine = np.empty((2 * size, 2 * size))
    fine[::2, ::2] = coarse
    fine[1::2, 1::2] = centres
    fine[::2, 1::2] = (coarse + np.roll(coarse, -1, axis=1) + centres + np.roll(centres, 1, axis=0)) / 4 + shifts[1]
    fine[1::2, ::2] = (coarse + np.roll(coarse, -1, axis=0) + centres + np.roll(centres, 1, axis=1)) / 4 + shifts[2]
    return fine
