"""``gia info``: what gia knows about a photo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gia_cli.cli.app import app, exposure_request
from gia_cli.cli.options import Json, MaxRatio, Weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gia_cli.raw.reader import RawFrame


@app.command()
def info(
    photo: Annotated[
        Path,
        typer.Argument(metavar="PHOTO", help="A RAW file.", show_default=False, readable=False),
    ],
    weights: Weights = None,
    max_ratio: MaxRatio = None,
    as_json: Json = False,
) -> None:
    """Show what gia knows about a photo: camera, levels, exposure, weights, the ratio and why."""
    from gia_cli.cli.console import Terminal
    from gia_cli.enhance.enhancer import Enhancer
    from gia_cli.enhance.exposure import choose_ratios, describe_shot
    from gia_cli.enhance.white_balance import photo_light
    from gia_cli.errors import WeightsError
    from gia_cli.raw.calibrated_black import likely_black
    from gia_cli.raw.reader import read_raw

    frame = read_raw(photo)
    shot = frame.shot
    (choice,) = choose_ratios(frame, exposure_request("auto", None, None, None, max_ratio))
    try:
        chosen = Enhancer.from_weights(weights).weights_for(frame.kind).name
    except WeightsError as error:
        if weights is not None:
            raise
        chosen = f"none: {error.message}"
    height, width = frame.mosaic.shape
    light = photo_light(frame.as_shot_wb, frame)
    facts: dict[str, Any] = {
        "file": str(photo),
        "camera": shot.camera,
        "lens": shot.lens,
        "taken": shot.taken,
        "exposure": describe_shot(shot) or None,
        "focal_length_mm": shot.focal_mm,
        "size": [width, height],
        "cfa": frame.kind,
        "phase": list(frame.phase),
        "black_level": _levels(frame.black, frame),
        "likely_black_level": _levels(likely_black(frame), frame),
        "white_level": _levels(frame.white, frame),
        "as_shot_white_balance": [round(float(gain), 4) for gain in frame.as_shot_wb],
        "as_shot_temperature_k": None if light is None else round(light.kelvin),
        "as_shot_tint": None if light is None else round(light.tint, 1),
        "daylight_white_balance": None
        if frame.daylight_wb is None
        else [round(float(gain), 4) for gain in frame.daylight_wb],
        "orientation_flip": frame.flip,
        "pixel_aspect": frame.pixel_aspect,
        "weights": chosen,
        "ratio": round(choice.ratio, 3),
        "rule": choice.rule,
        "reason": choice.reason,
        "notes": list(frame.notes),
    }
    terminal = Terminal()
    if as_json:
        terminal.json(facts)
    else:
        terminal.facts([(name.replace("_", " "), _plain(value)) for name, value in facts.items()])


def _levels(levels: NDArray[np.float32], frame: RawFrame) -> list[float]:
    """List the levels in the file's own DN."""
    return sorted({round(float(level) / frame.dn_scale, 3) for level in levels.flat})


def _plain(value: Any) -> str:
    if value is None:
        return "not known"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
