"""What a training run leaves to look at: a log, its curves, and validation crops as they improve.

``log.jsonl`` holds one JSON object a line and is what the other two are drawn from; TensorBoard's
event files appear where tensorboardX is installed, the curves where matplotlib is (the extra
``train`` brings both).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gia_cli.data.augment import Pair
from gia_cli.errors import RunError
from gia_cli.files import append_line, atomic_file, read_plain
from gia_cli.imaging.color import bt709_encode, srgb8_from_bt709
from gia_cli.raw.cfa import PACK_FACTOR, PLANE_COLORS, CfaKind

LOG = "log.jsonl"
CURVES = "curves.png"
_SMOOTHING = 0.05  # share of a run's log lines that the thick curve averages
_GAP = 4


class TrainLog:
    """Writes a run's log; a resumed run continues after the step it starts from.

    Parameters
    ----------
    run : Path
        The run's folder.
    step : int
        Where the run starts or resumes: what an interrupted one wrote beyond is dropped.
    """

    def __init__(self, run: Path, step: int) -> None:
        self.run = run
        self.rows = [row for row in read_log(run) if row["step"] <= step]
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        with atomic_file(run / LOG) as file:
            file.write(text.encode())
        self._tensorboard = _tensorboard(run / "tensorboard", step)

    @property
    def missing(self) -> str | None:
        """What is not written for want of a package; None if all is there."""
        lacking = [] if self._tensorboard is not None else ["tensorboardX (TensorBoard's log)"]
        lacking += [] if _has_matplotlib() else ["matplotlib (the curves' picture)"]
        return ", ".join(lacking) or None

    def add(self, step: int, **values: float) -> None:
        """Write one line."""
        row = {"step": step, **{name: float(f"{value:.6g}") for name, value in values.items()}}
        self.rows.append(row)
        append_line(self.run / LOG, json.dumps(row) + "\n")
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)

    def draw(self) -> None:
        """Draw the curves again."""
        if _has_matplotlib():
            draw_curves(self.rows, self.run / CURVES)

    def close(self) -> None:
        """Flush TensorBoard's log."""
        if self._tensorboard is not None:
            self._tensorboard.close()


def read_log(run: Path) -> list[dict[str, Any]]:
    """Read a run's log; empty if there is none. A last line cut short by a crash is dropped."""
    try:
        lines = read_plain(run / LOG).decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"{run / LOG} cannot be read: {error.strerror or error}.") from error
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def _tensorboard(folder: Path, step: int) -> Any | None:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step)


def _has_matplotlib() -> bool:
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def draw_curves(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw loss and validation PSNR over the steps as a PNG.

    Parameters
    ----------
    rows : sequence of dict
        From `read_log`.
    path : Path
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 1, sharex=True)
    steps, losses = _series(rows, "loss")
    if len(steps):
        axes[0].semilogy(steps, losses, lw=0.6, alpha=0.4, color="tab:blue")
        axes[0].semilogy(steps, _smooth(losses), lw=1.8, color="tab:blue")
    axes[0].set_ylabel("training loss")
    steps, scores = _series(rows, "validation_psnr")
    axes[1].plot(steps, scores, "o-", ms=3, color="tab:orange")
    axes[1].set(xlabel="step", ylabel="validation PSNR in dB")
    for axis in axes:
        axis.grid(alpha=0.3)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)


def _series(
    rows: Sequence[dict[str, Any]], name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    found = [(row["step"], row[name]) for row in rows if name in row]
    steps, values = (np.array([pair[i] for pair in found], np.float64) for i in (0, 1))
    return steps, values


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over the past, shorter at the beginning."""
    width = max(int(len(values) * _SMOOTHING), 1)
    total = np.concatenate([[0.0], np.cumsum(values)])
    stops = np.arange(1, len(values) + 1)
    starts = np.maximum(stops - width, 0)
    mean: NDArray[np.float64] = (total[stops] - total[starts]) / (stops - starts)
    return mean


# ---------------------------------------------------------------- validation crops


def write_panel(
    path: Path, pairs: Sequence[Pair], pictures: Sequence[NDArray[np.float32]], kind: CfaKind
) -> None:
    """Write a picture of validation crops: a row each, input | network | target.

    Parameters
    ----------
    path : Path
        An 8-bit sRGB PNG.
    pairs : sequence of Pair
    pictures : sequence of (3, H, W) float32
        What the network made of them, BT.709-encoded.
    kind : "bayer" or "xtrans"
    """
    rows = [
        np.concatenate(
            [
                _with_gap(srgb8_from_bt709(x).transpose(1, 2, 0))
                for x in (preview(pair.planes, kind), picture, pair.target)
            ],
            axis=1,
        )
        for pair, picture in zip(pairs, pictures, strict=True)
    ]
    with atomic_file(path) as file:
        Image.fromarray(np.concatenate(rows)).save(file, "PNG")


def preview(planes: NDArray[np.float32], kind: CfaKind) -> NDArray[np.float32]:
    """Show a network's input as it is, unbalanced: planes of a colour averaged, pixels repeated.

    Returns
    -------
    (3, s*h, s*w) float32
        BT.709-encoded.
    """
    colors = np.array(PLANE_COLORS[kind])
    factor = PACK_FACTOR[kind]
    mean = np.stack([planes[colors == color].mean(0) for color in range(3)])
    return bt709_encode(mean.repeat(factor, 1).repeat(factor, 2))


def _with_gap(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    padded: NDArray[np.uint8] = np.pad(image, ((0, _GAP), (0, _GAP), (0, 0)))
    return padded
