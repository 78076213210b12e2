"""Evaluation: the enhancer that users run, on pairs with a ground truth, by every measure.

A row for each photo goes into ``scores.jsonl`` as soon as it is known: what was interrupted goes on
there. ``scores.csv`` and ``report.json`` are made of it at the end.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from gia_cli._version import __version__
from gia_cli.cameras import KINDS, CameraFamily
from gia_cli.data.sid import Protocol as SidProtocol
from gia_cli.data.sid import SidPair, read_list, require_files, select, with_exif_times
from gia_cli.enhance.enhancer import Enhancer, Quality, choose_runtime
from gia_cli.enhance.exposure import ExposureRequest, choose_ratios
from gia_cli.errors import DataError, GiaError, UsageError
from gia_cli.evaluation.classical import (
    ISP_NAMES,
    IspName,
    denoiser_version,
    render_isp,
    require_denoiser,
)
from gia_cli.files import atomic_file, make_folder
from gia_cli.imaging.color import bt709_from_srgb16
from gia_cli.imaging.writer import read_image, unorient
from gia_cli.inference.plan import InferOptions
from gia_cli.inference.select import EngineName
from gia_cli.metrics.bootstrap import bootstrap_interval
from gia_cli.metrics.fidelity import psnr
from gia_cli.metrics.suite import Measures
from gia_cli.progress import SILENT, Progress
from gia_cli.raw.exif import ShotInfo
from gia_cli.raw.reader import RawFrame, read_exposure, read_raw, render_truth
from gia_cli.runtime import DeviceName, Precision
from gia_cli.sid_layout import Split
from gia_cli.weights.manifest import find_quantized, find_weights
from gia_cli.weights.storage import WeightsInfo

RatioMode = Literal["known", "auto", "picture"]

SCORES, TABLE, REPORT = "scores.jsonl", "scores.csv", "report.json"
#: What tells how far an automatic ratio is off, in stops; not a measure of the picture.
EXPOSURE = "ratio_error_stops"

_HELP = "See 'gia eval --help'."
_THUMBNAIL_SIDE = 1280  # pixels
# Raised whenever the same weights are made to give another picture: scores are kept by it.
_STAGES = 3
_WIDEST_BORDER = 16  # pixels that another program may leave out at each side


@dataclass(frozen=True, slots=True)
class EvalConfig:
    """What to evaluate on what."""

    data: Path
    """A tree with SID's names and lists."""
    camera: CameraFamily
    out: Path
    """Folder of the results; the same one resumes."""
    split: Split = "test"
    protocol: SidProtocol = "all"
    weights: tuple[str, ...] = ()
    """Names or paths; ``LABEL=NAME`` gives a row another name."""
    isp: tuple[IspName, ...] = ()
    """Rows without a network."""
    pictures: tuple[str, ...] = ()
    """``LABEL=FOLDER``: a row of pictures that another program made; see `PicturesSystem`."""
    ratios: tuple[RatioMode, ...] = ("known",)
    """How bright: by the pair's own ratio; as ``--ratio auto`` does; as it does for a photo whose
    exposure time is not known, by the picture alone."""
    balance_errors: tuple[float, ...] = (0.0,)
    """How far the photos' as-shot white balance is made wrong, in per cent: red's gain is times 1 +
    so much, and blue's divided by that. Several are rows of their own; they show what a network
    that is given the white balance loses where a camera errs."""
    qualities: tuple[Quality, ...] = ("normal",)
    """Rows of their own: as `Enhancer` renders by default, and as the mean of eight renderings."""
    limit: int | None = None
    """Evaluate only this many pairs, spread evenly over the list."""
    lpips_alex: Path | None = None
    lpips_vgg: Path | None = None
    pieapp: Path | None = None
    versus: str | None = None
    """The row that the others are compared with; None: the first with a network, else the first."""
    device: DeviceName = "auto"
    precision: Precision = "auto"
    engine: EngineName = "auto"

    def __post_init__(self) -> None:
        """Raise `UsageError` for what cannot be evaluated."""
        if not (self.weights or self.isp or self.pictures):
            raise UsageError(
                "There is nothing to evaluate.", hint="Name --weights, --isp or --pictures."
            )
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit must be positive, not {self.limit}.", hint=_HELP)
        wild = [error for error in self.balance_errors if not abs(error) < 100]
        if wild or not self.balance_errors:
            said = f", not {wild[0]:g}" if wild else ""
            raise UsageError(f"--balance-error takes numbers between -100 and 100{said}.")
        if any(self.balance_errors) and not self.weights:
            raise UsageError("--balance-error needs --weights: it is for networks.")
        if not self.ratios:
            raise UsageError("--ratio must be known, auto or picture.", hint=_HELP)


@dataclass(frozen=True, slots=True)
class Score:
    """One photo by one system."""

    system: str
    network: str | None
    width: int | None
    key: str
    """What the score depends on; a row of another key is not reused."""
    ratio_mode: RatioMode
    scene: str
    short: str
    """File name of the short exposure."""
    known_ratio: float
    ratio: float
    """The amplification used."""
    seconds: float
    values: dict[str, float | None]
    """By measure; None where it has no value, as `Measures.take` tells."""
    taken_with: dict[str, str]
    """By measure: `Measures.keys`."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A photo that could not be scored, or not by one of the systems."""

    path: Path
    error: GiaError


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % bootstrap interval over scenes."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Summary:
    """A row of the table: one system in one mode."""

    system: str
    network: str | None
    """Name in `nets.NETWORKS`; None for a system without one."""
    width: int | None
    """Channels of its first level."""
    ratio_mode: RatioMode
    count: int
    """Photos scored."""
    means: dict[str, Estimate]
    """By measure, and `EXPOSURE`: mean absolute error in stops."""
    differences: dict[str, Estimate]
    """Mean difference to the row that all are compared with, over the photos that both have."""
    within_half_a_stop: float
    """Share of the photos whose ratio is within half a stop of the known one."""
    seconds: float
    """Median seconds for a photo, reading and measuring excluded."""


@dataclass(frozen=True, slots=True)
class Report:
    """What `evaluate` found."""

    config: EvalConfig
    pairs: int
    summaries: list[Summary]
    versus: str | None
    """The row that the others are compared with."""
    unavailable: dict[str, str]
    """Measures that were not taken, and why."""
    scores: list[Score] = field(repr=False)
    failures: list[Failure]


def evaluate(
    config: EvalConfig,
    progress: Progress = SILENT,
    on_failure: Callable[[Failure], None] = lambda failure: None,
) -> Report:
    """Score every system on every pair; go on where an earlier run stopped.

    Parameters
    ----------
    config : EvalConfig
    progress : Progress
        Hears of a stage "evaluating" with a step for each pair and system.
    on_failure : function, optional
        Told at once of a pair that cannot be scored; the others go on.

    Raises
    ------
    DataError
        A list that cannot be used, or files that are missing: all are named.
    WeightsError, DeviceError, UsageError, OutputError
    """
    pairs = open_pairs(config, progress)
    systems = open_systems(config)
    measures = Measures.load(config.lpips_alex, config.lpips_vgg, config.pieapp)
    for name, reason in measures.unavailable.items():
        progress.note(f"{name} is not taken: {reason}")
    _check_versus(config, systems)
    book = ScoreBook(config.out, measures.keys)
    truths = Truths()
    failures: list[Failure] = []
    progress.stage("evaluating", len(pairs) * len(systems))
    for pair in pairs:
        left = [system for system in systems if book.find(system, pair) is None]
        progress.advance(len(systems) - len(left))
        for outcome in _score_pair(pair, left, measures, truths, progress):
            if isinstance(outcome, Score):
                book.add(outcome, pair)
                progress.advance()
            else:
                failures.append(outcome)
                on_failure(outcome)
    found = (book.find(system, pair) for system in systems for pair in pairs)
    scores = [score for score in found if score is not None]
    versus = config.versus or _first_network(systems)
    report = Report(
        config=config,
        pairs=len(pairs),
        summaries=summarise(scores, versus),
        versus=versus,
        unavailable=measures.unavailable,
        scores=scores,
        failures=failures,
    )
    _write_results(report)
    return report


# ---------------------------------------------------------------- pairs


def open_pairs(config: EvalConfig, progress: Progress = SILENT) -> list[SidPair]:
    """Read the list and choose the pairs; all their files must be there.

    Raises
    ------
    DataError
    """
    pairs = select(read_list(config.data, config.camera, config.split), config.protocol)
    if not pairs:
        raise DataError(f"The list of {config.data} has no photo of '{config.protocol}'.")
    if config.limit is not None and config.limit < len(pairs):
        chosen = np.linspace(0, len(pairs) - 1, config.limit).round().astype(int)
        progress.note(f"Only {config.limit} of {len(pairs)} pairs: no score of the whole list.")
        pairs = [pairs[index] for index in chosen]
    require_files(pairs, progress)
    return pairs


class Truths:
    """Ground truths; the last one is kept, for a scene has many short exposures."""

    def __init__(self) -> None:
        self._last: tuple[Path, NDArray[np.float32], ShotInfo] | None = None

    def read(self, path: Path) -> tuple[NDArray[np.float32], ShotInfo]:
        """Render a long exposure: (H, W, 3) float32, BT.709-encoded."""
        if self._last is None or self._last[0] != path:
            levels = render_truth(path)
            shot = read_exposure(path)
            self._last = path, np.multiply(levels, 1 / 65535, dtype=np.float32), shot
        return self._last[1:]


def read_pair(pair: SidPair, truths: Truths) -> tuple[RawFrame, NDArray[np.float32], float]:
    """Read a short exposure, its ground truth (H, W, 3), and the ratio by the files' EXIF.

    Raises
    ------
    RawError
        A file that cannot be read.
    DataError
        Files that are not what their names say, or of different sizes.
    """
    frame = read_raw(pair.short)
    truth, long = truths.read(pair.long)
    ratio = with_exif_times(pair, frame.shot, long).ratio
    if truth.shape[:2] != frame.mosaic.shape:
        raise DataError(f"{pair.short} and {pair.long} are of different sizes.")
    return frame, truth, ratio


# ---------------------------------------------------------------- systems


class System(Protocol):
    """A way from a short exposure to a picture."""

    @property
    def name(self) -> str:
        """As the table shows it."""

    @property
    def network(self) -> str | None:
        """Its network's name in `nets.NETWORKS`; None without one."""

    @property
    def width(self) -> int | None:
        """Channels of the network's first level."""

    @property
    def key(self) -> str:
        """What its pictures depend on, such as the digest of its weights."""

    @property
    def ratio_mode(self) -> RatioMode:
        """Where the ratio comes from."""

    def render(self, frame: RawFrame, ratio: float) -> tuple[NDArray[np.float32], float]:
        """Make the picture, (H, W, 3) float32 BT.709-encoded, unrotated; and tell the ratio."""


class NetworkSystem:
    """The enhancer with one set of weights, as users run it; in fp32 unless int8 is asked for."""

    def __init__(
        self,
        label: str,
        info: WeightsInfo,
        mode: RatioMode,
        enhancer: Enhancer,
        balance_error: float = 0.0,
    ) -> None:
        error = f"balance off by {balance_error:+g} %" if balance_error else ""
        best = "quality best" if enhancer.quality == "best" else ""
        self.name = ", ".join(part for part in (label, error, best) if part)
        self.network = info.config.network
        self.width = info.config.width
        self.ratio_mode = mode
        self.info = info
        self._enhancer = enhancer
        digest = info.sha256 or str(info.path.stat().st_mtime_ns)
        # Engines differ by rounding alone: which one "auto" takes is no reason to score anew.
        engine = "" if enhancer.engine == "auto" else f" {enhancer.engine}"
        changes = "".join(f" {part}" for part in (error, best) if part)
        self.key = f"{__version__} {_STAGES} {digest[:16]} {enhancer.runtime}{engine}{changes}"
        factor = 1 + balance_error / 100
        self._wrong = np.array([factor, 1, 1 / factor], np.float32)

    def render(self, frame: RawFrame, ratio: float) -> tuple[NDArray[np.float32], float]:
        """Enhance the photo; the 16-bit levels of the result are what is measured."""
        request = ExposureRequest(ratio=ratio if self.ratio_mode == "known" else None)
        if self.ratio_mode == "picture":
            frame = replace(frame, shot=replace(frame.shot, exposure_s=None))
        # Before the white balance is made wrong, which must not change how bright.
        (choice,) = choose_ratios(frame, request)
        frame = replace(frame, as_shot_wb=frame.as_shot_wb * self._wrong)
        result = self._enhancer.enhance(frame, ratio=choice.ratio)
        levels = unorient(result.image, frame.flip)
        return bt709_from_srgb16(levels), result.choice.ratio


class IspSystem:
    """LibRaw, with a classical denoiser or without."""

    ratio_mode: RatioMode = "known"
    network = None
    width = None

    def __init__(self, name: IspName) -> None:
        self.key = f"{__version__} {name} {denoiser_version(name)}"
        self.name = ISP_NAMES[name]
        self._isp = name

    def render(self, frame: RawFrame, ratio: float) -> tuple[NDArray[np.float32], float]:
        """Amplify by the known ratio and render."""
        return render_isp(frame, ratio, self._isp), ratio


class PicturesSystem:
    """Another program's pictures of the short exposures, in a folder.

    Each is named like the short exposure, but for the ending: a TIFF, sRGB-encoded, upright, of the
    same size or smaller by a border of the same width all around, as demosaicing leaves.

    Parameters
    ----------
    label : str
    folder : Path

    Raises
    ------
    DataError
        There is no such folder, or no TIFF in it.
    """

    ratio_mode: RatioMode = "known"
    network = None
    width = None

    def __init__(self, label: str, folder: Path) -> None:
        self.name = label
        self._files = {
            path.stem: path
            for path in sorted(folder.glob("*"))
            if path.suffix.lower() in (".tif", ".tiff")
        }
        if not self._files:
            raise DataError(f"There is no TIFF in {folder}.", hint="See 'gia eval --help'.")
        stamps = [f"{path.name} {_file_stamp(path)}" for path in self._files.values()]
        self.key = f"{__version__} {hashlib.sha256(' '.join(stamps).encode()).hexdigest()[:16]}"

    def render(self, frame: RawFrame, ratio: float) -> tuple[NDArray[np.float32], float]:
        """Read the picture; it may be smaller than the frame.

        Raises
        ------
        DataError
            It is missing or no RGB TIFF.
        """
        if frame.path.stem not in self._files:
            raise DataError(f"{self.name} has no picture of {frame.path.name}.")
        return bt709_from_srgb16(
            unorient(read_image(self._files[frame.path.stem]), frame.flip)
        ), ratio


def centre_of(truth: NDArray[np.float32], picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut off the truth's border that a picture has not.

    Raises
    ------
    DataError
        The picture is larger, or its border not the same all around.
    """
    missing = [full - part for full, part in zip(truth.shape[:2], picture.shape[:2], strict=True)]
    border = missing[0] // 2
    if missing != [2 * border] * 2 or not 0 <= border <= _WIDEST_BORDER:
        sizes = ["x".join(map(str, x.shape[1::-1])) for x in (picture, truth)]
        raise DataError(f"The picture is {sizes[0]}, the ground truth {sizes[1]}.")
    height, width = picture.shape[:2]
    return truth[border : border + height, border : border + width]


def open_systems(config: EvalConfig) -> list[System]:
    """Load what is to be evaluated: a system for each row of the table.

    Raises
    ------
    WeightsError
        Weights that are not there or do not fit the camera.
    UsageError
        Two rows of one name.
    """
    kind = KINDS[config.camera]
    for isp in config.isp:
        require_denoiser(isp)
    systems: list[System] = [IspSystem(name) for name in config.isp]
    systems += [PicturesSystem(*_label_and_folder(text)) for text in config.pictures]
    for text in config.weights:
        label, name = split_label(text)
        info = find_weights(name, kind)
        if config.precision == "int8":
            info = find_quantized(info)
        # Not `from_weights`: whether int8 weights ship beside these must not decide their score.
        runtime = choose_runtime(config.device, config.precision, config.engine)
        enhancers = [
            Enhancer(info.path, runtime, InferOptions(), engine=config.engine, quality=quality)
            for quality in config.qualities
        ]
        systems += [
            NetworkSystem(label or info.name, info, mode, enhancer, error)
            for enhancer in enhancers
            for error in config.balance_errors
            for mode in config.ratios
        ]
    rows = [(system.name, system.ratio_mode) for system in systems]
    twice = {name for name, mode in rows if rows.count((name, mode)) > 1}
    if twice:
        raise UsageError(
            f"Two rows would be named {', '.join(sorted(twice))}.",
            hint="Name them: --weights LABEL=FILE.",
        )
    return systems


def _label_and_folder(text: str) -> tuple[str, Path]:
    label, equals, folder = text.partition("=")
    if not (label and equals and folder):
        raise UsageError(f"--pictures takes LABEL=FOLDER, not '{text}'.", hint=_HELP)
    return label, Path(folder)


def split_label(text: str) -> tuple[str | None, str]:
    """Split ``LABEL=NAME``; a file whose name has a ``=`` in it is no label."""
    label, equals, name = text.partition("=")
    if not equals or Path(text).exists():
        return None, text
    return label, name


# ---------------------------------------------------------------- scores


def _score_pair(
    pair: SidPair,
    systems: Sequence[System],
    measures: Measures,
    truths: Truths,
    progress: Progress,
) -> Iterator[Score | Failure]:
    """Read a pair once and score it by several systems; one that fails stops no other."""
    if not systems:
        return
    try:
        frame, truth, known_ratio = read_pair(pair, truths)
    except GiaError as error:
        yield Failure(pair.short, error)
        return
    for system in systems:
        progress.status(f"{system.name}: {pair.short.name}")
        start = time.perf_counter()
        try:
            picture, ratio = system.render(frame, known_ratio)
            same_part = centre_of(truth, picture)
        except GiaError as error:
            yield Failure(pair.short, error)
            continue
        seconds = time.perf_counter() - start
        yield Score(
            system=system.name,
            network=system.network,
            width=system.width,
            key=system.key,
            ratio_mode=system.ratio_mode,
            scene=pair.scene,
            short=pair.short.name,
            known_ratio=known_ratio,
            ratio=ratio,
            seconds=round(seconds, 3),
            values=measures.take(picture, same_part),
            taken_with=measures.keys,
        )


class ScoreBook:
    """The scores of a folder, on disk as soon as they are known.

    Parameters
    ----------
    folder : Path
    wanted : dict
        `Measures.keys`, which a score must have been taken with to count as done.
    """

    def __init__(self, folder: Path, wanted: dict[str, str]) -> None:
        self._path = folder / SCORES
        self._wanted = wanted
        self._scores: dict[tuple[str, ...], Score] = {}
        for stamp, score in _read_scores(self._path):
            self._scores[_identity(stamp, score)] = score
        # Written whole at once: of a line that a crash cut short nothing is left.
        with atomic_file(self._path) as file:
            for identity, score in self._scores.items():
                file.write(_line(identity[0], score).encode())

    def find(self, system: System, pair: SidPair) -> Score | None:
        """Find the score of a pair; None if it has none, or one that lacks a measure."""
        identity = (_stamp(pair), system.key, system.ratio_mode, pair.short.name)
        score = self._scores.get(identity)
        if score is None or not self._wanted.items() <= score.taken_with.items():
            return None
        # The row's name may have changed, and a measure may not be at hand any more.
        values = {name: score.values[name] for name in self._wanted}
        return replace(score, system=system.name, values=values, taken_with=self._wanted)

    def add(self, score: Score, pair: SidPair) -> None:
        """Remember a score, and write its line."""
        stamp = _stamp(pair)
        self._scores[_identity(stamp, score)] = score
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(stamp, score))


def _identity(stamp: str, score: Score) -> tuple[str, ...]:
    return stamp, score.key, score.ratio_mode, score.short


def _line(stamp: str, score: Score) -> str:
    return json.dumps({"pair": stamp, **asdict(score)}) + "\n"


def _stamp(pair: SidPair) -> str:
    """Tell a pair from another of the same name: sizes and times of its files."""
    return " ".join(map(_file_stamp, (pair.short, pair.long)))


def _file_stamp(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def _read_scores(path: Path) -> Iterator[tuple[str, Score]]:
    """Read what an earlier run wrote; a last line cut short is left out."""
    make_folder(path.parent, "--out")
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            yield row.pop("pair"), Score(**row)
        except (ValueError, KeyError, TypeError):
            continue


# ---------------------------------------------------------------- summary


def _check_versus(config: EvalConfig, systems: Sequence[System]) -> None:
    names = [system.name for system in systems]
    if config.versus is not None and config.versus not in names:
        raise UsageError(
            f"There is no row '{config.versus}' to compare with.",
            hint="Rows: " + ", ".join(dict.fromkeys(names)),
        )


def _first_network(systems: Sequence[System]) -> str | None:
    named = [system.name for system in systems if system.network is not None]
    return (named or [system.name for system in systems] or [None])[0]  # type: ignore[list-item]


def summarise(scores: Sequence[Score], versus: str | None = None) -> list[Summary]:
    """Average the scores of each system and mode, in the order they come in.

    Parameters
    ----------
    scores : sequence of Score
    versus : str, optional
        The system whose first row the others are compared with; by default that of the first score.
    """
    rows: dict[tuple[str, RatioMode], list[Score]] = {}
    for score in scores:
        rows.setdefault((score.system, score.ratio_mode), []).append(score)
    first = next((row for (name, _), row in rows.items() if versus in (None, name)), [])
    return [
        Summary(
            system=system,
            network=row[0].network,
            width=row[0].width,
            ratio_mode=mode,
            count=len(row),
            means=_means([(score.scene, _values(score)) for score in row]),
            differences={} if row is first else _means(_differences(row, first)),
            within_half_a_stop=float(np.mean([_values(s)[EXPOSURE] <= 0.5 for s in row])),
            seconds=float(np.median([score.seconds for score in row])),
        )
        for (system, mode), row in rows.items()
    ]


def _values(score: Score) -> dict[str, float]:
    taken = {name: value for name, value in score.values.items() if value is not None}
    return {**taken, EXPOSURE: abs(float(np.log2(score.ratio / score.known_ratio)))}


def _differences(row: list[Score], other: list[Score]) -> list[tuple[str, dict[str, float]]]:
    """Subtract the other row's values, photo by photo."""
    others = {score.short: _values(score) for score in other}
    found = []
    for score in row:
        theirs = others.get(score.short, {})
        differences = {n: x - theirs[n] for n, x in _values(score).items() if n in theirs}
        found.append((score.scene, differences))
    return found


def _means(rows: list[tuple[str, dict[str, float]]]) -> dict[str, Estimate]:
    """Average each measure; the interval resamples scenes, whose photos are much alike."""
    names = dict.fromkeys(name for _, values in rows for name in values)
    means = {}
    for name in names:
        found = [(scene, values[name]) for scene, values in rows if name in values]
        scenes, numbers = [scene for scene, _ in found], np.array([x for _, x in found])
        low, high = bootstrap_interval(numbers, groups=scenes)
        means[name] = Estimate(float(numbers.mean()), low, high)
    return means


def _write_results(report: Report) -> None:
    with atomic_file(report.config.out / TABLE) as file:
        file.write(_csv(report.scores).encode())
    with atomic_file(report.config.out / REPORT) as file:
        file.write((json.dumps(report_json(report), indent=2) + "\n").encode())


def _csv(scores: Sequence[Score]) -> str:
    measures = list(dict.fromkeys(name for score in scores for name in score.values))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["system", "ratio_mode", "scene", "short", "known_ratio", "ratio", "seconds"]
    writer.writerow([*head, *measures])
    for score in scores:
        row = [getattr(score, name) for name in head]
        writer.writerow([*row, *(score.values.get(name) for name in measures)])
    return text.getvalue()


def report_json(report: Report) -> dict[str, Any]:
    """Turn a report into what JSON can hold: the averages, how they came about, every score."""
    config = report.config
    return {
        "gia": __version__,
        "data": config.data.name,
        "camera": config.camera,
        "split": config.split,
        "protocol": config.protocol,
        "pairs": report.pairs,
        "limit": config.limit,
        "balance_errors_percent": config.balance_errors,
        "ssim_window": "Gaussian, 11 px, sigma 1.5",
        "interval": "95 %, percentile bootstrap over scenes",
        "versus": report.versus,
        "unavailable": report.unavailable,
        "systems": [asdict(summary) for summary in report.summaries],
        "failures": [
            {"path": str(failure.path), "error": str(failure.error)} for failure in report.failures
        ],
        "scores": [asdict(score) for score in report.scores],
    }


# ---------------------------------------------------------------- pictures to look at


@dataclass(frozen=True, slots=True)
class PanelRow:
    """One photo as every system sees it."""

    title: str
    pictures: list[tuple[str, NDArray[np.float32]]] = field(repr=False)
    """Captions and pictures, (H, W, 3) BT.709-encoded, shrunk to what a figure shows: amplified
    input, systems, ground truth."""


def choose_for_panel(
    report: Report, count: int, order: Literal["worst", "spread"] = "spread"
) -> list[str]:
    """Choose photos to look at, by the PSNR of the table's last row.

    Returns
    -------
    list of str
        Names of short exposures: the worst ones, or from the worst to the best in even steps.
    """
    if not report.summaries:
        return []
    last = report.summaries[-1]
    ranked = sorted(
        (s for s in report.scores if (s.system, s.ratio_mode) == (last.system, last.ratio_mode)),
        key=lambda score: math.inf if score.values["psnr"] is None else score.values["psnr"],
    )
    count = min(count, len(ranked))
    places = range(count)
    if order == "spread":
        places = np.linspace(0, len(ranked) - 1, count).round().astype(int).tolist()
    return [ranked[place].short for place in places]


def panel_rows(
    config: EvalConfig, shorts: Sequence[str], progress: Progress = SILENT
) -> Iterator[PanelRow]:
    """Make the pictures of some photos again, each with its PSNR: the paper's Figs 5 and 6.

    Parameters
    ----------
    config : EvalConfig
    shorts : sequence of str
        From `choose_for_panel`.
    progress : Progress
    """
    pairs = {pair.short.name: pair for pair in open_pairs(config)}
    systems = [s for s in open_systems(config) if s.name != ISP_NAMES["libraw"]]
    truths = Truths()
    progress.stage("panel", len(shorts))
    for name in shorts:
        pair = pairs[name]
        frame, truth, ratio = read_pair(pair, truths)
        pictures = []
        for system in (IspSystem("libraw"), *systems):
            try:
                picture, used = system.render(frame, ratio)
            except GiaError:  # told of when it was scored
                pictures.append((f"{system.name}: failed", np.zeros_like(_thumbnail(truth))))
                continue
            score = psnr(picture, centre_of(truth, picture))
            mode = "" if system.ratio_mode == "known" else f", {system.ratio_mode} x{used:.3g}"
            pictures.append((f"{system.name}{mode}: {score:.2f} dB", _thumbnail(picture)))
        pictures.append(("ground truth", _thumbnail(truth)))
        yield PanelRow(f"{pair.scene}, x{ratio:.3g}", pictures)
        progress.advance()


def _thumbnail(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average blocks until the longer side is one that figures can use: a few MB, not hundreds."""
    factor = -(-max(picture.shape[:2]) // _THUMBNAIL_SIDE)
    height, width = (side // factor * factor for side in picture.shape[:2])
    blocks = picture[:height, :width].reshape(height // factor, factor, width // factor, factor, 3)
    mean: NDArray[np.float32] = blocks.mean(axis=(1, 3))
    return mean
