"""``gia info``: what gia knows about a photo, and about this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gia_cli.cli.app import app, error_report, exposure_request
from gia_cli.cli.options import Json, MaxRatio, Weights
from gia_cli.errors import BatchError, GiaError, UsageError, WeightsError
from gia_cli.text import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gia_cli.cli.console import Terminal
    from gia_cli.enhance.enhancer import Enhancer
    from gia_cli.enhance.exposure import ExposureRequest
    from gia_cli.raw.reader import RawFrame


@app.command()
def info(
    photos: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PHOTO...", help="RAW files.", show_default=False, readable=False),
    ] = None,
    weights: Weights = None,
    max_ratio: MaxRatio = None,
    devices: Annotated[
        bool,
        typer.Option(
            "--devices", help="Show what this machine computes with, and which engine would run."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what gia knows about photos: camera, levels, exposure, weights, the ratio and why.

    gia info night.ARW

    gia info --devices

    With --json, an object for one photo and a list for several.
    """
    from gia_cli.cli.console import Terminal
    from gia_cli.enhance.enhancer import Enhancer

    terminal = Terminal()
    if devices:
        if photos or weights is not None or max_ratio is not None:
            raise UsageError("--devices is about this machine: name no photos, weights or ratio.")
        _show_devices(terminal, as_json=as_json)
        return
    if not photos:
        raise UsageError("Name at least one photo, or give --devices.")
    enhancer = Enhancer.from_weights(weights)
    request = exposure_request("auto", None, None, None, max_ratio)
    known: list[dict[str, Any]] = []
    failed = 0
    for photo in photos:
        try:
            facts = _facts(photo, enhancer, request, insists=weights is not None)
        except GiaError as error:
            if len(photos) == 1:
                raise
            failed += 1
            terminal.error(error, photo)
            known.append({"file": str(photo), "error": error_report(error)})
            continue
        if not as_json:
            if len(known) > failed:
                terminal.line("")
            terminal.facts([(_label(name), _plain(name, value)) for name, value in facts.items()])
        known.append(facts)
    if as_json:
        terminal.json(known if len(photos) > 1 else known[0])
    if failed:
        raise BatchError(f"{failed} of {len(photos)} photos failed.", hint="They are named above.")


def _show_devices(terminal: Terminal, *, as_json: bool) -> None:
    """Print what this machine has, and what runs each sensor's default weights, and why."""
    from gia_cli.inference.devices import describe_machine

    known = describe_machine()
    if as_json:
        terminal.json(known)
        return
    cpu, torch, choices = known["cpu"], known["torch"], known["auto"]
    gpus = [
        f"{gpu['device']} {gpu['name']}, {gpu['memory_bytes'] / 1e9:.1f} GB, {gpu['capability']}"
        + ("" if gpu["has_kernels"] else ", which this build of torch has no kernels for")
        for gpu in torch["gpus"]
    ]
    rows = [
        ("cpu", f"{cpu['name'] or 'not known'}, {counted(cpu['cores'], 'core')}"),
        ("instructions", ", ".join(cpu["instructions"]) or "not known"),
        ("torch", f"{torch['version']}, {torch['cpu_capability']} on the CPU"),
        ("GPUs of torch", "; ".join(gpus) or "none"),
        ("Apple's MPS", "yes" if torch["mps"] else "no"),
    ]
    for name in ("openvino", "onnx"):
        tool = known[name]
        rows.append((name, tool["problem"] or f"{tool['version']}: {'; '.join(tool['devices'])}"))
    for kind, choice in choices.items():
        ran = f"{choice['engine']} on {choice['device']}, {choice['precision']}"
        ran = "nothing" if choice["engine"] == "none" else f"{ran}, {choice['weights']}"
        rows.append((f"auto, {kind}", f"{ran}: {choice['reason']}"))
    terminal.facts(rows)


def _facts(
    photo: Path, enhancer: Enhancer, request: ExposureRequest, *, insists: bool
) -> dict[str, Any]:
    """Read a photo and list what is known of it, by the names that the JSON has.

    That no weights are for its sensor is one of these things, unless somebody insists on some.
    """
    from gia_cli.enhance.exposure import choose_ratios, describe_shot
    from gia_cli.enhance.white_balance import photo_light
    from gia_cli.raw.calibrated_black import likely_black
    from gia_cli.raw.reader import read_raw

    frame = read_raw(photo)
    shot = frame.shot
    (choice,) = choose_ratios(frame, request)
    try:
        chosen = enhancer.weights_for(frame.kind).name
    except WeightsError as error:
        if insists:
            raise
        chosen = f"none: {error.message}"
    height, width = frame.mosaic.shape
    light = photo_light(frame.as_shot_wb, frame)
    return {
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


def _levels(levels: NDArray[np.float32], frame: RawFrame) -> list[float]:
    """List the levels in the file's own DN."""
    return sorted({round(float(level) / frame.dn_scale, 3) for level in levels.flat})


_UNITS = {
    "as_shot_temperature_k": "as shot temperature (K)",
    "focal_length_mm": "focal length (mm)",
}
_TURNS = {0: "as it lies", 3: "half a turn", 5: "a quarter turn left", 6: "a quarter turn right"}


def _label(name: str) -> str:
    return _UNITS.get(name) or name.replace("_", " ")


def _plain(name: str, value: Any) -> str:
    if value is None:
        return "not known"
    if name == "orientation_flip":
        return _TURNS.get(value, str(value))
    if name == "size":
        return " x ".join(map(str, value))
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
