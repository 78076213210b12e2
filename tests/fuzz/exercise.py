"""What is done with a mutant, and what gia promises of it.

A photo is read as gia reads it, and what it says is shown; now and then it is enhanced. Weights are
listed, found and loaded. All of it works, or ends in a `GiaError`; `BrokenPromise` is for what
seems to work but must not.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
import json
import random
import struct
import sys
import unicodedata
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gia_cli.cli.info import info
from gia_cli.enhance.enhancer import Enhancer
from gia_cli.enhance.exposure import ExposureRequest, choose_ratios, describe_shot
from gia_cli.enhance.sidecar import read_metadata
from gia_cli.enhance.white_balance import WhiteBalance, photo_light
from gia_cli.errors import GiaError, UsageError
from gia_cli.imaging.writer import read_image
from gia_cli.raw.calibrated_black import likely_black
from gia_cli.raw.exif import MoreExif, read_shot
from gia_cli.raw.packing import prepare
from gia_cli.raw.reader import RawFrame, read_raw, render
from gia_cli.raw.tiff import ifd_bytes
from gia_cli.weights.header import NUMBER_BYTES
from gia_cli.weights.manifest import MANIFEST, find_weights, list_weights
from gia_cli.weights.storage import WeightsInfo, load_arrays, load_network
from tests.fuzz.mutations import mutate, mutate_weights
from tests.fuzz.seeds import KINDS, PHOTO_KINDS, seeds

_WHOLE_SHARE = 0.02  # of the photos that can be read: enhanced, too
_INFO_SHARE = 0.1
_TWICE_SHARE = 0.2
_LONGEST_MESSAGE = 2000
_MOST_EXIF_BYTES, _MOST_XMP_BYTES = 60_000, 65_502
_RENDER_SHARE = 0.05
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


class BrokenPromise(Exception):
    """Something went well that should not, or not as it should."""


def kind_of(index: int) -> str:
    """Say of what kind a campaign's mutant is: they take turns."""
    return KINDS[index % len(KINDS)]


def mutant(campaign: int, index: int) -> dict[str, bytes]:
    """Make a mutant: the contents of its files, by name; the first is the photo or the weights.

    Parameters
    ----------
    campaign : int
        Seed of the whole.
    index : int
    """
    rng = random.Random(f"{campaign}:{index}")
    kind = kind_of(index)
    chosen = rng.choice(seeds(kind))
    if kind == "weights":
        data, manifest = mutate_weights(rng, chosen)
        return {chosen.name: data} | ({} if manifest is None else {MANIFEST: manifest})
    others = [seed for other in PHOTO_KINDS for seed in seeds(other)]
    return {chosen.name: mutate(rng, kind, chosen, others)}


def exercise(campaign: int, index: int, folder: Path) -> None:
    """Make a mutant in an empty folder, and do with it what gia does.

    Raises
    ------
    GiaError
        As gia should for what it cannot use.
    BrokenPromise, or any other exception
        A fault.
    """
    files = mutant(campaign, index)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    path = folder / next(iter(files))
    # Of its own, so that what is done does not depend on how the mutant was made.
    rng = random.Random(f"{campaign}:{index}:exercise")
    try:
        if kind_of(index) == "weights":
            use_weights(path)
        else:
            use_photo(path, rng)
    except GiaError as error:
        promise(len(str(error)) < _LONGEST_MESSAGE, "a message is short")
        # Weights may be called anything, as files may; a terminal gets it spelled out.
        if kind_of(index) != "weights":
            check_text(str(error), "the message")
        raise


# ---------------------------------------------------------------- photos


def use_photo(path: Path, rng: random.Random) -> None:
    """Read a photo, check what became of it, and now and then show or enhance it."""
    # What this cannot read, LibRaw may; only a RAF makes it raise.
    shot: dict[str, Any] = {}
    with contextlib.suppress(GiaError):
        shot = asdict(replace(read_shot(path), more=None))
    for name, value in shot.items():
        check_text(str(value), name)
    dirty_memory(0x55)
    frame = read_raw(path)
    check_frame(frame)
    if rng.random() < _TWICE_SHARE:
        check_same(path, frame)
    check_metadata(frame)
    (choice,) = choose_ratios(frame, ExposureRequest())
    light = photo_light(frame.as_shot_wb, frame)
    facts = asdict(replace(frame.shot, more=None)) | {
        "words": [describe_shot(frame.shot), choice.reason, *frame.notes, str(light)],
        "camera": frame.shot.camera,
        "balance": WhiteBalance("as-shot").describe(frame),
        "levels": [*frame.black.ravel().tolist(), *frame.white.ravel().tolist()],
        "ratio": choice.ratio,
    }
    check_text(json.dumps(facts, allow_nan=False, ensure_ascii=False), "what is said of it")
    for floor in (0, None):
        planes = prepare(frame, choice.ratio, None, floor).planes
        promise(bool(np.isfinite(planes).all()), "planes are finite")
        promise(float(planes.max()) <= 1, "planes are at most 1")
        promise(floor is None or float(planes.min()) >= 0, "planes are at least 0")
    if rng.random() < _INFO_SHARE:
        show(path)
    if rng.random() < _RENDER_SHARE:
        rendering = render(path, brightness=choice.ratio, half_size=rng.random() < 0.5)
        promise(rendering.ndim == 3 and rendering.shape[2] == 3, "LibRaw's rendering is RGB")
    if rng.random() < _WHOLE_SHARE:
        enhance(path, rng)


def check_frame(frame: RawFrame) -> None:
    """Check what a frame promises of its numbers."""
    try:
        frame.check()
    except UsageError as error:
        raise BrokenPromise(f"not as a frame should be: {error}") from error
    promise(frame.mosaic.ndim == 2 and frame.mosaic.size > 0, "there is a mosaic")
    for name in ("black", "white", "as_shot_wb", "daylight_wb", "xyz_to_camera"):
        values = getattr(frame, name)
        promise(values is None or bool(np.isfinite(values).all()), f"{name} is finite")
    promise(bool((frame.white > frame.black).all()), "white lies above black")
    promise(bool((frame.black >= 0).all()), "black is no negative number")
    promise(bool((frame.as_shot_wb > 0).all()), "gains are positive")
    promise(frame.daylight_wb is None or bool((frame.daylight_wb > 0).all()), "daylight's too")
    promise(bool(np.isfinite(likely_black(frame)).all()), "the likely black level is finite")
    for name, value in asdict(replace(frame.shot, more=None)).items():
        check_text(str(value), name)
        is_number = value is None or isinstance(value, str) or 0 < value < float("inf")
        promise(is_number, f"{name} is a positive number")


def check_metadata(frame: RawFrame) -> None:
    """Check that what is carried over can be written, in a size that any format holds."""
    more = frame.shot.more or MoreExif()
    written = [ifd_bytes(entries, 8) for entries in (more.first, more.exif, more.gps)]
    promise(sum(map(len, written)) < _MOST_EXIF_BYTES, "the EXIF fits into a JPEG")
    metadata = read_metadata(None, frame.xmp, strict=False)
    packet = metadata.packet("gia")
    promise(len(packet) < _MOST_XMP_BYTES, "the XMP fits into a JPEG")
    again = read_metadata(None, packet, strict=False)
    promise(not again.notes, "the XMP that is written can be read")
    metadata.shot(frame.shot)
    metadata.develop_settings()
    for note in metadata.notes:
        check_text(note, "what is said of the XMP")


def check_same(path: Path, frame: RawFrame) -> None:
    """Check that a file gives the same frame, whatever was in memory before."""
    dirty_memory(0x0F)
    again = read_raw(path)
    promise(np.array_equal(frame.mosaic, again.mosaic), "a file gives the same mosaic each time")
    for name in ("black", "white", "as_shot_wb", "daylight_wb", "xyz_to_camera", "shot", "flip"):
        same = np.array_equal(getattr(frame, name), getattr(again, name))
        promise(bool(same), f"a file gives the same {name} each time")


def dirty_memory(value: int) -> None:
    """Have the C library fill what it hands out, so that use of it unwritten shows (glibc)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-6, value)  # M_PERTURB of malloc.h


def show(path: Path) -> None:
    """Run ``gia info``, once for programs and once for people."""
    for as_json in (True, False):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            info([path], None, None, as_json)
        if as_json:
            json.loads(out.getvalue(), parse_constant=_refuse_constant)
        else:
            check_text("".join(out.getvalue().split("\n")), "what gia info prints")


def _refuse_constant(name: str) -> None:
    raise BrokenPromise(f"JSON holds {name}")


def enhance(path: Path, rng: random.Random) -> None:
    """Enhance a photo with a tiny network, and look at the picture, or for what a failure left."""
    folder = path.with_name("out")
    folder.mkdir()
    target = folder / rng.choice(("picture.tif", "picture.png"))
    frame = read_raw(path)
    weights = tiny_weights(path.parent, frame)
    enhancer = Enhancer.from_weights(weights, device="cpu", engine="torch")
    try:
        for prepared in enhancer.prepare(path, ExposureRequest()):
            computed = enhancer.compute(prepared)
            promise(bool(np.isfinite(computed.picture).all()), "the picture is finite")
            enhanced = computed.develop()
            enhanced.save(target)
    except GiaError:
        promise(not list(folder.iterdir()), "a failure leaves no file")
        raise
    promise([target] == list(folder.iterdir()), "one file is written")
    if target.suffix == ".tif":
        promise(bool(np.array_equal(read_image(target), enhanced.image)), "the picture is in it")


def tiny_weights(folder: Path, frame: RawFrame) -> Path:
    """Write weights for a photo's colour filter array."""
    name = {"bayer": "small.safetensors", "xtrans": "balanced.safetensors"}[frame.kind]
    (seed,) = (seed for seed in seeds("weights") if seed.name == name)
    path = folder / name
    path.write_bytes(seed.data)
    return path


# ---------------------------------------------------------------- weights


def use_weights(path: Path) -> None:
    """List, find and load weights; check that what is loaded is what the file holds."""
    if (path.parent / MANIFEST).exists():
        with contextlib.suppress(GiaError):
            list_weights(path.parent)
    found = find_weights(path)
    check_digest(found)
    if found.quantized_from is not None:
        load_arrays(found)
        return
    network = load_network(found)
    held = tensors_of(found.path.read_bytes())
    state = network.state_dict()
    promise(state.keys() == held.keys(), "the tensors are those of the file")
    for name, tensor in state.items():
        promise(bool(torch.isfinite(tensor).all()), f"{name} is finite")
        numbers = tensor.numpy()
        same = np.array_equal(numbers, held[name].astype(numbers.dtype))
        promise(bool(same), f"{name} is what the file holds")
    check_digest(found)


def check_digest(found: WeightsInfo) -> None:
    """Check that weights which a manifest vouches for are the ones that it means."""
    if found.sha256 is None:
        return
    load_arrays(found)
    data = found.path.read_bytes()
    promise(hashlib.sha256(data).hexdigest() == found.sha256, "the digest is the manifest's")


def tensors_of(data: bytes) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """Read a safetensors file once more, with nothing but NumPy."""
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        raw = data[8 + length + start : 8 + length + stop]
        letter = {"F": "f", "I": "i", "U": "u", "B": "u"}[entry["dtype"][0]]
        if entry["dtype"] == "BF16":
            wide = np.frombuffer(raw, "<u2").astype("<u4") << 16
            values = wide.view("<f4")
        else:
            values = np.frombuffer(raw, f"<{letter}{NUMBER_BYTES[entry['dtype']]}")
        tensors[name] = values.reshape(entry["shape"]).astype(np.float64)
    return tensors


# ---------------------------------------------------------------- promises


def promise(kept: bool, what: str) -> None:
    """Raise `BrokenPromise` unless a promise is kept."""
    if not kept:
        raise BrokenPromise(f"not so: {what}")


def check_text(text: str, what: str) -> None:
    """Check that a text cannot command a terminal, and can be encoded."""
    found = {character for character in text if unicodedata.category(character) in _UNPRINTABLE}
    promise(not found, f"no control character is in {what}: {sorted(map(ord, found))}")
