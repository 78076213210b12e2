"""A photograph to a scene and back.

Statistical tests allow six standard errors: a false alarm in 500 million comparisons, should a seed
ever change.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import rawpy
from numpy.typing import NDArray

from gia_cli.cameras import ENDINGS, CameraName, WhiteBalance
from gia_cli.enhance.exposure import ExposureRequest, choose_ratios
from gia_cli.errors import DataError, OutputError, OutputExistsError, UsageError
from gia_cli.imaging.color import bt709_encode, srgb_decode
from gia_cli.imaging.photos import read_photo, shrink
from gia_cli.raw.reader import read_raw
from gia_cli.simulation.options import SimulateOptions
from gia_cli.simulation.photo import simulate_photo
from gia_cli.simulation.sensor import CAMERAS, SceneSettings, median_gains, mosaic_from_linear
from tests.progress_spy import ProgressSpy
from tests.simulation.pictures import (
    NAMES,
    SIGMAS,
    WB,
    Photo,
    assert_flat,
    save,
    smooth_photo,
)

ROOT = Path(__file__).parents[2]


def natural_photo(brightest: int = 255) -> Photo:
    """A picture with natural ones' 1/f spectrum, softened by a lens, more varied in brightness
    than in colour."""
    rng = np.random.default_rng(3)
    side = 540
    rows, cols = np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij")
    frequency = np.maximum(np.hypot(rows, cols), 1 / side)
    layers = []
    for _ in range(4):
        lens = np.exp(-((frequency / 0.25) ** 2))
        spectrum = np.fft.rfft2(rng.standard_normal((side, side))) * lens / frequency**1.2
        layer = np.fft.irfft2(spectrum, s=(side, side))
        layers.append((layer - layer.mean()) / layer.std())
    photo = np.stack([layers[0] + 0.35 * layer for layer in layers[1:]], 2)
    unit = np.clip(0.42 + 0.2 * photo, 0, 1)
    return np.asarray(np.rint(unit * brightest), np.uint8)


# ---------------------------------------------------------------- there and back


def rendering_errors(
    tmp_path: Path, photo: Photo, name: CameraName, **postprocess: Any
) -> NDArray[np.float64]:
    """Simulate a noiseless long exposure, let LibRaw render it; error in 8-bit levels (H, W, 3)."""
    options = SimulateOptions(camera=name, clean_long=True)
    made = simulate_photo(
        save(tmp_path / "day.png", photo), tmp_path / f"x{ENDINGS[name]}", options
    )
    with rawpy.imread(str(made.long)) as raw:
        rendered = raw.postprocess(
            use_camera_wb=True,
            no_auto_bright=True,
            gamma=(2.222, 4.5),
            output_bps=16,
            **postprocess,
        )
    wanted = bt709_encode(srgb_decode(photo / 255)) * 255
    height, width, _ = rendered.shape
    assert height > photo.shape[0] - 6
    assert width > photo.shape[1] - 6
    difference = rendered / 257.0 - wanted[:height, :width]
    return np.asarray(difference[8:-8, 8:-8], np.float64)  # LibRaw guesses at the frame's edge


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("color", [(180, 90, 60), (18, 9, 6), (255, 255, 255), (20, 60, 200)])
def test_libraw_renders_plain_colours_back(
    tmp_path: Path, name: CameraName, color: tuple[int, int, int]
) -> None:
    """Within an eighth of a level: black, white, matrix and white balance are all LibRaw's.

    What is left are 14 bits (half a DN is 0.04 levels in the dark) and the file's gains, which are
    whole numbers of 1/1024 (Sony) or 1/302 (Fuji).
    """
    errors = rendering_errors(tmp_path, np.full((520, 526, 3), color, np.uint8), name)
    assert np.abs(errors).max() < 0.13


@pytest.mark.parametrize("name", NAMES)
def test_libraw_renders_a_smooth_photograph_back(tmp_path: Path, name: CameraName) -> None:
    """Within a fifth of a level: demosaicing sees the picture's own steps of 8 bits as edges."""
    errors = np.abs(rendering_errors(tmp_path, smooth_photo(), name))
    assert errors.mean() < 0.2
    assert np.percentile(errors, 99) < 1.1


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_libraw_renders_a_natural_photograph_back(tmp_path: Path, name: CameraName) -> None:
    """Two levels on the average, not less, because demosaicing guesses two of three colours.

    It guesses wrong where detail is as fine as the filters, to either side: means of 12x12 pixels
    agree within 0.4 of a level. The few large errors stand where one colour clips at white.
    """
    errors = rendering_errors(tmp_path, natural_photo(), name)
    assert np.abs(errors).mean() < 2.4
    assert np.percentile(np.abs(errors), 95) < 7
    height, width = (side // 12 for side in errors.shape[:2])
    blocks = errors[: 12 * height, : 12 * width].reshape(height, 12, width, 12, 3)
    assert np.abs(blocks.mean(axis=(1, 3))).mean() < 0.4


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_photograph_without_white_is_not_rendered_too_bright(
    tmp_path: Path, name: CameraName
) -> None:
    """LibRaw takes a brightest photosite above 75 % for white; a stuck one keeps it from that."""
    photo = natural_photo(brightest=235)  # 83 % of white
    assert np.abs(rendering_errors(tmp_path, photo, name)).mean() < 2.4
    made = tmp_path / f"x_long{ENDINGS[name]}"
    mosaic = read_raw(made).mosaic
    assert mosaic[-1, -1] == CAMERAS[name].white
    assert (mosaic == CAMERAS[name].white).sum() == 1
    assert np.abs(rendering_errors(tmp_path / "dim", photo // 2, name)).mean() < 2.4
    assert read_raw(tmp_path / "dim" / made.name).mosaic.max() < CAMERAS[name].white  # none needed


# ---------------------------------------------------------------- one exposure


@pytest.mark.parametrize("name", NAMES)
def test_a_simulated_exposure_is_a_photo_that_the_reader_understands(
    day: Path, scene: Photo, tmp_path: Path, name: CameraName
) -> None:
    output = tmp_path / f"n{ENDINGS[name]}"
    options = SimulateOptions(camera=name, ratio=250, iso=6400, wb=(1.9, 1, 2.6), aperture=5.6)
    made = simulate_photo(day, output, options)
    assert made.shorts == (output,)
    assert made.long == tmp_path / f"n_long{ENDINGS[name]}"
    assert made.written == (output, made.long)
    assert made.scene == SceneSettings(6400, 250, (1.9, 1, 2.6))
    camera = CAMERAS[name]
    for path, exposure in ((output, 0.04), (made.long, 10)):
        frame = read_raw(path)
        assert frame.mosaic.shape == scene.shape[:2]
        assert (frame.kind, frame.phase) == (camera.kind, (0, 0))
        assert set(frame.black.flat) == {camera.black}
        assert set(frame.white.flat) == {camera.white}
        assert np.allclose(frame.as_shot_wb, (1.9, 1, 2.6), atol=0.002)
        assert frame.xyz_to_camera == pytest.approx(np.array(camera.matrix), abs=1e-4)
        assert (frame.shot.iso, frame.shot.aperture) == (6400, 5.6)
        assert frame.shot.exposure_s == pytest.approx(exposure, rel=1e-4)
        assert (frame.shot.model, frame.shot.lens) == (name, "simulated by gia")
    black = camera.black + np.mean(camera.noise(6400, np.random.default_rng(0)).black_error)
    short, long = (read_raw(path).mosaic.mean() - black for path in made.written)
    assert long / short == pytest.approx(250, rel=0.03)
    (choice,) = choose_ratios(read_raw(output), ExposureRequest())
    assert choice.ratio == pytest.approx(250, rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_black_level_errors_and_row_noise_are_in_the_files(
    tmp_path: Path, name: CameraName
) -> None:
    """Those of one body in both exposures; the lens cap on, so that only they are there."""
    photo = save(tmp_path / "black.png", np.zeros((300, 300, 3), np.uint8))
    options = SimulateOptions(camera=name, iso=1600, seed=9)
    made = simulate_photo(photo, tmp_path / f"n{ENDINGS[name]}", options)
    body = CAMERAS[name].noise(1600, np.random.default_rng(9))
    frames = [read_raw(path).mosaic for path in made.written]
    for dn in frames:
        assert_flat(dn, name, body, 0)
        rows = dn.astype(float).mean(axis=1)
        variance = body.row_sigma**2 + body.read_variance / dn.shape[1]
        spread = variance * np.sqrt(2 / (len(rows) - 1))
        # Two rows apart: odd and even rows of a Bayer mosaic have different black errors.
        assert abs((rows[6:] - rows[:-6]).var() / 2 - variance) < SIGMAS * 1.5 * spread
        assert variance > 1.3 * body.read_variance / dn.shape[1]
    assert not np.array_equal(frames[0], frames[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_clean_long_exposure_is_exact(
    day: Path, scene: Photo, tmp_path: Path, name: CameraName
) -> None:
    """Also where the short one is no shorter: that one is noisy."""
    options = SimulateOptions(camera=name, wb=WB, clean_long=True, ratio=1)
    made = simulate_photo(day, tmp_path / f"n{ENDINGS[name]}", options)
    camera = CAMERAS[name]
    mosaic = mosaic_from_linear(srgb_decode(scene / 255), camera, WB)
    exact = camera.black + mosaic * (camera.white - camera.black)
    short, long = (read_raw(path).mosaic for path in made.written)
    assert np.abs(long - exact).max() < 0.51
    assert np.abs(short - exact).max() > 5


def test_shrinking_and_brightening(day: Path, tmp_path: Path) -> None:
    plain = SimulateOptions(wb=WB, clean_long=True, shrink=2)
    light = {
        ev: read_raw(simulate_photo(day, tmp_path / f"{ev}.ARW", replace(plain, ev=ev)).long)
        for ev in (-1.0, 0.0)
    }
    assert light[0.0].mosaic.shape == (48, 72)
    wanted = mosaic_from_linear(shrink(read_photo(day), 2), CAMERAS["ILCE-7SM2"], WB)
    signal = {ev: frame.mosaic - 512.0 for ev, frame in light.items()}
    assert np.allclose(signal[0.0], wanted * 15871, atol=0.51)
    assert np.allclose(signal[0.0], 2 * signal[-1.0], atol=1.6)


def test_bands_make_no_seams(tmp_path: Path) -> None:
    """A picture of more rows than a band, of a size that is no whole number of cells."""
    photo = np.random.default_rng(1).integers(0, 256, (787, 51, 3), np.uint8)
    save(tmp_path / "tall.png", photo)
    for name in NAMES:
        options = SimulateOptions(camera=name, wb=WB, clean_long=True)
        made = simulate_photo(tmp_path / "tall.png", tmp_path / f"n{ENDINGS[name]}", options)
        long = read_raw(made.long).mosaic
        height, width = long.shape
        assert (height, width) == ((786, 50) if name == "ILCE-7SM2" else (786, 48))
        camera = CAMERAS[name]
        mosaic = mosaic_from_linear(srgb_decode(photo[:height, :width] / 255), camera, WB)
        exact = camera.black + mosaic * (camera.white - camera.black)
        assert (np.abs(long - exact) > 0.51).sum() <= 1  # the stuck photosite


@pytest.mark.parametrize(
    ("gains", "scaled"),
    [((2.0, 1.0, 3.0), (2, 1, 3)), ((4.0, 2.0, 6.0), (2, 1, 3)), ((0.8, 1.0, 3.2), (1, 1.25, 4))],
)
def test_only_the_quotients_of_gains_matter(
    day: Path, tmp_path: Path, gains: WhiteBalance, scaled: WhiteBalance
) -> None:
    """No gain is below 1: white must not saturate in one colour alone."""
    made = simulate_photo(day, tmp_path / "n.ARW", SimulateOptions(wb=gains))
    assert made.scene.wb == pytest.approx(scaled)
    wanted = np.array(scaled) / scaled[1]
    assert np.allclose(read_raw(made.long).as_shot_wb, wanted, atol=0.002)


def test_the_embedded_picture_is_as_dark_as_the_exposure(day: Path, tmp_path: Path) -> None:
    for name in NAMES:
        options = SimulateOptions(camera=name, ratio=10)
        made = simulate_photo(day, tmp_path / f"n{ENDINGS[name]}", options)
        with rawpy.imread(str(made.shorts[0])) as short, rawpy.imread(str(made.long)) as long:
            dark, bright = (iio.imread(bytes(raw.extract_thumb().data)) for raw in (short, long))
        assert 4 < dark.mean() < 0.5 * bright.mean()


def test_without_a_name_the_exposure_lies_beside_the_photo(day: Path) -> None:
    made = simulate_photo(day)
    assert made.shorts == (day.with_name("day_night.ARW"),)
    assert made.long == day.with_name("day_night_long.ARW")
    assert made.scene.wb == median_gains("ILCE-7SM2")


def test_a_simulated_exposure_is_decided_by_its_seed(day: Path, tmp_path: Path) -> None:
    data = [
        simulate_photo(day, tmp_path / f"{n}.ARW", SimulateOptions(seed=seed)).written
        for n, seed in enumerate((5, 5, 6))
    ]
    first, again, other = ([path.read_bytes() for path in paths] for paths in data)
    assert first == again
    assert first[0] != other[0]
    assert first[1] != other[1]


def test_what_is_there_is_an_error_kept_or_replaced(day: Path, tmp_path: Path) -> None:
    output, long = tmp_path / "n.ARW", tmp_path / "n_long.ARW"
    long.write_bytes(b"mine")
    with pytest.raises(OutputExistsError, match=r"n_long.ARW already exists"):
        simulate_photo(day, output)
    assert not output.exists()
    made = simulate_photo(day, output, SimulateOptions(on_exists="skip"))
    assert (made.status, made.kept, made.written) == ("written", (long,), (output,))
    assert long.read_bytes() == b"mine"
    short = output.read_bytes()
    made = simulate_photo(day, output, SimulateOptions(on_exists="skip"))
    assert (made.status, made.written) == ("skipped", ())
    made = simulate_photo(day, output, SimulateOptions(on_exists="overwrite"))
    assert made.written == (output, long)
    assert long.read_bytes() != b"mine"
    assert output.read_bytes() == short  # its noise does not hang on what else is written


def test_small_xtrans_exposures_are_noted(day: Path, tmp_path: Path) -> None:
    spy = ProgressSpy()
    simulate_photo(day, tmp_path / "n.RAF", SimulateOptions(camera="X-T2"), spy)
    (note,) = spy.notes
    assert "LibRaw cannot render X-Trans photos with fewer than 512 photosites a side" in note


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (SimulateOptions(iso=1700), "not known at ISO 1700"),
        (SimulateOptions(camera="X-T2", iso=100), "not known at ISO 100"),
        (SimulateOptions(ratio=0.5), "--ratio must be between 1 and"),
        (SimulateOptions(ratio=float("nan")), "--ratio must be"),
        (SimulateOptions(ev=11), "--ev must be"),
        (SimulateOptions(shrink=0), "--shrink must be"),
        (SimulateOptions(seed=-1), "--seed must be"),
        (SimulateOptions(long_exposure_s=0), "--long-exposure must be"),
        (SimulateOptions(long_exposure_s=0.001, ratio=1000), "short exposure of 1e-06 s"),
        (SimulateOptions(aperture=0), "--aperture must be"),
        (SimulateOptions(wb=(2, 1, 0)), "--wb must be"),
        (SimulateOptions(wb=(2, 1, 13)), "--wb must be"),
        (SimulateOptions(camera="X-T2"), "X-T2 ends in .RAF"),
    ],
)
def test_impossible_options_are_refused(
    day: Path, tmp_path: Path, options: SimulateOptions, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        simulate_photo(day, tmp_path / "n.ARW", options)
    assert list(tmp_path.iterdir()) == [day]


def test_bad_pictures_are_refused(day: Path, tmp_path: Path) -> None:
    output = tmp_path / "n.ARW"
    small = save(tmp_path / "small.png", np.zeros((23, 90, 3), np.uint8))
    with pytest.raises(
        DataError,
        match=r"small.png is too small: it gives 22x90 photosites, "
        "but 24",
    ):
        simulate_photo(small, output)
    with pytest.raises(DataError, match="too small: it gives 12x18"):
        simulate_photo(day, output, SimulateOptions(shrink=8))
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0junk")
    with pytest.raises(DataError, match=r"broken.jpg cannot be read: it is not a picture"):
        simulate_photo(broken, output)
    with pytest.raises(DataError, match=r"gone.png cannot be read: there is no such file"):
        simulate_photo(tmp_path / "gone.png", output)
    raw = simulate_photo(day).shorts[0]
    with pytest.raises(
        DataError, match="is a RAW photo; a short exposure is simulated from a finished picture"
    ):
        simulate_photo(raw, output)
    with pytest.raises(OutputError, match="Cannot write"):
        simulate_photo(day, tmp_path / "no" / "n.ARW")
    assert not output.exists()


# ---------------------------------------------------------------- samples


def test_the_samples_are_small_and_say_where_they_come_from() -> None:
    for name in ("night.ARW", "night.RAF"):
        assert (ROOT / "samples" / name).stat().st_size < 2_000_000
    text = (ROOT / "samples" / "README.md").read_text(encoding="utf-8")
    assert "CC0" in text
    assert iio.imread(ROOT / "docs" / "before-after.jpg").ndim == 3
