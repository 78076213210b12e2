"""Make scenes of real RAW photos: a ground truth that nobody rendered.

    python research/make_real_scenes.py PHOTO.CRW ... OUT
    gia eval --data OUT --weights ...

Each photo, taken in good light, becomes the long exposure of a tree with SID's names. Its own
photosites, darkened by 100, 250 and 300 and given the A7S II's noise at an ISO setting drawn from
SID's training scenes by a fixed seed, become the short ones. What network and ruler see is a
sensor's picture through a lens, with this camera's colours, and no photograph's curve undone.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from gia_cli.raw.cfa import unpack
from gia_cli.raw.packing import prepare
from gia_cli.raw.reader import RawFrame, read_raw
from gia_cli.raw.writer import write_dng
from gia_cli.simulation.sensor import CAMERAS, draw_scene, expose

CAMERA = CAMERAS["ILCE-7SM2"]
LONG_S = 30.0
RATIOS = (100, 250, 300)
SEED = 1003


def share_of_saturation(frame: RawFrame) -> np.ndarray:
    """Return the mosaic between black, 0, and white, 1, in the canonical phase: (H, W) float32."""
    return unpack(prepare(frame, 1.0).planes, frame.kind)


def write(path: Path, dn: np.ndarray, frame: RawFrame, seconds: float, iso: int) -> None:
    """Write a DNG with the photo's own colours."""
    write_dng(
        path,
        dn,
        shot=replace(frame.shot, exposure_s=seconds, iso=iso),
        black=(CAMERA.black,),
        white=CAMERA.white,
        wb=tuple(float(gain) for gain in frame.as_shot_wb),
        matrix=np.asarray(frame.xyz_to_camera)[:3].tolist(),
    )


def main() -> None:
    """Write the tree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(SEED)
    for name in ("short", "long"):
        (options.out / "Sony" / name).mkdir(parents=True, exist_ok=True)
    lines = []
    for number, path in enumerate(options.photos, start=1):
        frame = read_raw(path)
        share = share_of_saturation(frame)
        scene = f"2{number:04d}"
        full = np.rint(share * (CAMERA.white - CAMERA.black) + CAMERA.black).astype(np.uint16)
        long = options.out / "Sony" / "long" / f"{scene}_00_{LONG_S:g}s.DNG"
        write(long, full, frame, LONG_S, frame.shot.iso or 50)
        for ratio in RATIOS:
            iso = draw_scene("ILCE-7SM2", rng).iso
            dark = expose(share, CAMERA, ratio=ratio, iso=iso, rng=rng)
            short = options.out / "Sony" / "short" / f"{scene}_00_{LONG_S / ratio:g}s.DNG"
            write(short, dark, frame, LONG_S / ratio, iso)
            lines.append(f"./Sony/short/{short.name} ./Sony/long/{long.name} ISO{iso} F4")
    (options.out / "Sony_test_list.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
