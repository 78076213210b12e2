"""Does a graphics card compute what the CPU does? A small picture tells, before the first photo.

Drivers, kernels and half precision go wrong on some cards without any error: pictures come out
black or smeared with colours. So an engine that is not the CPU's first makes a test picture, which
is compared with the one that the same network makes on the CPU in fp32.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gia_cli.inference.engine import Engine
from gia_cli.runtime import NumberFormat

#: Rows and columns of the test picture in packed pixels: several strides and bands of the CPU's,
#: and more rows than a band elsewhere has, so that both ways through a stage are gone.
SAMPLE_SIDES = _HEIGHT, _WIDTH = 272, 64
# Pixels a side of the areas that errors are averaged over: a smear is seen where it is, and single
# values that were rounded badly are not.
_AREA = 16
# Relative rounding error of one number. Engines that say fp32 may multiply with TF32's 10 bits, or
# with Core ML's fp16, and are not wrong for it.
_ROUNDING: dict[NumberFormat, float] = {"bfloat16": 2**-8}
_LEAST_ROUNDING = 2**-11
# So many roundings are an honest card's: what the networks' 9 to 60 layers leave if all of them
# round the same way. Measured on a CPU, over all networks, shipped and random weights, fp16 and
# bf16: 1.3 to 29. A card that leaves out or repeats something differs by hundreds.
_ROUNDINGS = 64
# Of a picture that hardly varies, in code values.
_LEAST_SPREAD = 0.01


def sample_planes(channels: int) -> NDArray[np.float32]:
    """Make what the check is run on: a brightness that rises both ways, with noise.

    Parameters
    ----------
    channels : int
        Planes of a packed mosaic.

    Returns
    -------
    (channels, 272, 64) float32
        In [0, 1]; always the same.
    """
    rise = np.linspace(0, 1, _HEIGHT)[:, None] * np.linspace(0.2, 1, _WIDTH)
    noise = np.random.default_rng(0).random((channels, _HEIGHT, _WIDTH))
    return (0.7 * rise + 0.3 * noise).astype(np.float32)


def tolerance(number_format: NumberFormat) -> float:
    """Return the largest difference that rounding explains; see `difference`.

    Examples
    --------
    >>> tolerance("float16"), tolerance("bfloat16")
    (0.03125, 0.25)
    """
    return _ROUNDINGS * _ROUNDING.get(number_format, _LEAST_ROUNDING)


def difference(picture: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Compare two pictures where they differ most.

    Parameters
    ----------
    picture, expected : (3, H, W) float32

    Returns
    -------
    float
        The largest root mean square over an area of 16 x 16 pixels, in units of the standard
        deviation of `expected`.
    """
    squares = np.square(picture - expected, dtype=np.float64).mean(axis=0)
    rows, cols = (side // _AREA for side in squares.shape)
    areas = squares[: rows * _AREA, : cols * _AREA].reshape(rows, _AREA, cols, _AREA)
    worst = float(np.sqrt(areas.mean(axis=(1, 3)).max()))
    return worst / max(float(expected.std()), _LEAST_SPREAD)


def measured_difference(engine: Engine) -> float:
    """Compare an engine's test picture with the one of the same engine on the CPU, in fp32.

    Parameters
    ----------
    engine : Engine

    Returns
    -------
    float
        See `difference`; 0 for an engine that is on the CPU.

    Raises
    ------
    NotFiniteError, RuntimeError
        What the engine raises.
    """
    on_cpu = engine.on_cpu()
    if on_cpu is None:
        return 0.0
    picture = sample_picture(engine)  # first: it may raise
    try:
        return difference(picture, sample_picture(on_cpu))
    finally:
        engine.end_photo()


def sample_picture(engine: Engine) -> NDArray[np.float32]:
    """Run an engine on the test planes.

    Parameters
    ----------
    engine : Engine

    Raises
    ------
    NotFiniteError, RuntimeError
        What the engine raises.
    """
    return engine.run(sample_planes(engine.config.in_channels), lambda share: None)
