"""Let RawTherapee develop the short exposures of a tree, for a row of `gia eval`.

    python research/render_rawtherapee.py TREE OUT [--camera sony] [--luminance 40]
    gia eval --data TREE --pictures RawTherapee=OUT ...

Needs `rawtherapee-cli` (Debian's package rawtherapee). Each photo is brightened by the ratio that
its file name and its long exposure's tell, with the white balance of the file, the camera's matrix,
sRGB, automatic chrominance noise reduction and a luminance noise reduction of the strength given;
no sharpening, no lens correction, no tone curve. Pictures that are there already stay.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
from pathlib import Path

from gia_cli.data.sid import read_list

PROFILE = """[Version]
AppVersion=5.9
Version=349

[Exposure]
Auto=false
Compensation={stops:.4f}
Brightness=0
Contrast=0
Saturation=0
Black=0
HighlightCompr=0
ShadowCompr=0
CurveMode=Standard
Curve=0;
Curve2=0;

[HLRecovery]
Enabled=false

[White Balance]
Enabled=true
Setting=Camera

[Sharpening]
Enabled=false

[Directional Pyramid Denoising]
Enabled=true
Enhance=false
Median=false
Luma={luminance}
Ldetail=0
Method=Lab
LMethod=SLI
CMethod=AUT
C2Method=AUTO
SMethod=shal
Gamma=1.7

[Color Management]
InputProfile=(camera)
ToneCurve=false
ApplyLookTable=false
ApplyBaselineExposureOffset=false
ApplyHueSatMap=false
WorkingProfile=ProPhoto
OutputProfile=RTv4_sRGB
OutputProfileIntent=Relative
OutputBPC=true

[RAW]
CA=false
HotPixelFilter=false
DeadPixelFilter=false

[RAW Bayer]
Method=amaze

[RAW X-Trans]
Method=3-pass (best)
"""


def render(short: Path, ratio: float, luminance: int, out: Path) -> None:
    """Develop one photo to OUT/<name>.tif, 16 bits."""
    target = out / f"{short.stem}.tif"
    if target.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder) / "develop.pp3"
        profile.write_text(PROFILE.format(stops=math.log2(ratio), luminance=luminance))
        made = Path(folder) / target.name
        words = [
            "rawtherapee-cli",
            "-q",
            "-p",
            profile,
            "-t",
            "-b16",
            "-Y",
            "-o",
            made,
            "-c",
            short,
        ]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode or not made.exists():
            sys.exit(f"{short}: {done.stderr or done.stdout}")
        target.write_bytes(made.read_bytes())


def main() -> None:
    """Render the whole test list."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tree", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--camera", choices=("sony", "fuji"), default="sony")
    parser.add_argument("--luminance", type=int, default=40)
    parser.add_argument("--every", type=int, default=1, help="only each N-th photo")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for pair in read_list(options.tree, options.camera, "test")[:: options.every]:
        render(pair.short, pair.ratio, options.luminance, options.out)


if __name__ == "__main__":
    main()
