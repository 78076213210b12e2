"""A photograph to a night and back.

Statistical tests allow six standard errors: a false alarm in 500 million comparisons, should a seed
ever change.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import imageio.v3 as iio
import numpy as np
import pytest
import rawpy
from numpy.typing import NDArray

from gia_cli.enhance.exposure import ExposureRequest, choose_ratios
from gia_cli.errors import DataError, OutputError, OutputExistsError, UsageError
from gia_cli.imaging.color import bt709_encode, camera_from_srgb, srgb_decode
from gia_cli.imaging.photos import read_photo, shrink
from gia_cli.raw.cfa import CANONICAL, CfaKind, pack
from gia_cli.raw.reader import read_raw
from gia_cli.simulation.manifest import read_plan
from gia_cli.simulation.noise import SensorNoise, iso_settings
from gia_cli.simulation.photo import (
    CAMERAS,
    ENDINGS,
    CameraName,
    NightScene,
    Simulated,
    SimulateOptions,
    TreeOptions,
    WhiteBalance,
    daylight_gains,
    draw_scene,
    expose,
    median_gains,
    mosaic_from_linear,
    night,
    simulate_photo,
    simulate_tree,
)
from tests.progress_spy import ProgressSpy

WB = (2.0, 1.0, 1.8)
ROOT = Path(__file__).parents[2]
SIGMAS = 6
NAMES: list[CameraName] = list(get_args(CameraName))
SETTINGS = [(name, iso) for name in NAMES for iso in iso_settings(name)]

Photo = NDArray[np.uint8]


@pytest.fixture
def day(tmp_path: Path, scene: Photo) -> Path:
    """The small scene as a picture on disk."""
    return save(tmp_path / "day.png", scene)


def save(path: Path, photo: Photo) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(path, photo)
    return path


def smooth_photo() -> Photo:
    """Gradients of colour, (520, 526): demosaicing has nothing to guess. Its brightest is 180."""
    rows, cols = np.mgrid[:520, :526] / 526
    return np.stack([60 + 120 * rows, 80 + 100 * cols, 150 - 80 * rows], 2).astype(np.uint8)


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


# ---------------------------------------------------------------- mosaics


@pytest.mark.parametrize("name", NAMES)
def test_a_white_surface_records_the_light(name: CameraName) -> None:
    camera = CAMERAS[name]
    mosaic = mosaic_from_linear(np.ones((12, 12, 3)), camera, WB)
    planes = pack(mosaic, camera.kind)
    assert np.allclose(sorted({round(float(plane[0, 0]), 4) for plane in planes}), [0.5, 0.5556, 1])


@pytest.mark.parametrize("name", NAMES)
def test_each_photosite_sees_its_own_filter(name: CameraName, rng: np.random.Generator) -> None:
    """Against the plain way: the whole matrix product, then a choice; for odd sizes too."""
    camera = CAMERAS[name]
    linear = rng.random((13, 17, 3))
    full = linear @ (camera_from_srgb(np.array(camera.matrix)) / np.array(WB)[:, None]).T
    pattern = np.tile(CANONICAL[camera.kind], (9, 9))[:13, :17]
    wanted = np.take_along_axis(full, pattern[..., None].astype(int), 2)[..., 0]
    assert np.allclose(mosaic_from_linear(linear, camera, WB), wanted, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_no_colour_of_srgb_is_negative_to_the_camera(name: CameraName) -> None:
    """So nothing of a picture is lost at 0, as colours outside a camera's gamut would be."""
    assert camera_from_srgb(np.array(CAMERAS[name].matrix)).min() > 0


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


# ---------------------------------------------------------------- exposures


def sites(name: CameraName, shape: tuple[int, int]) -> NDArray[np.intp]:
    """Index into `SensorNoise.black_error` of each photosite: Bayer's four places, or a colour."""
    kind: CfaKind = CAMERAS[name].kind
    cell = np.array([[0, 1], [2, 3]]) if kind == "bayer" else CANONICAL[kind].astype(np.intp)
    tiles = [-(-side // len(cell)) for side in shape]
    return np.tile(cell, tiles)[: shape[0], : shape[1]].astype(np.intp)


def assert_flat(dn: NDArray[np.uint16], name: CameraName, noise: SensorNoise, level: float) -> None:
    """Compare a flat field's mean in each place of the cell, and its variance, with the model's."""
    place = sites(name, (dn.shape[0], dn.shape[1]))
    error = np.array(noise.black_error)[place]
    residual = dn - (CAMERAS[name].black + level + error)
    variance = noise.gain * level + noise.read_variance + 1 / 12  # whole DN
    for one in range(len(noise.black_error)):
        chosen = place == one
        rows = int(chosen.any(axis=1).sum())
        standard = np.sqrt(variance / chosen.sum() + noise.row_sigma**2 / rows)
        assert abs(residual[chosen].mean()) < SIGMAS * standard
    within = residual - residual.mean(axis=1, keepdims=True)
    found = (within**2).sum() / (within.size - len(within))
    # Var(s^2) = (fourth moment - variance^2) / n
    standard = np.sqrt(((within**4).mean() - found**2) / within.size)
    assert abs(found - variance) < SIGMAS * standard


@pytest.mark.parametrize(("name", "iso"), SETTINGS)
def test_flat_fields_of_every_iso_setting(
    rng: np.random.Generator, name: CameraName, iso: int
) -> None:
    """Black level errors and rounding included; a dark field, and one of 40 DN."""
    camera = CAMERAS[name]
    for level in (0.0, 40.0):
        noise = camera.noise(iso, rng)
        flat = np.full((300, 300), level * 100 / (camera.white - camera.black))
        dn = expose(flat, camera, ratio=100, iso=iso, rng=rng, noise=noise)
        assert dn.dtype == np.uint16
        assert_flat(dn, name, noise, level)


@pytest.mark.parametrize("name", NAMES)
def test_exposures_without_a_body_draw_one(name: CameraName) -> None:
    camera, flat = CAMERAS[name], np.zeros((120, 120))
    found = expose(flat, camera, ratio=100, iso=1600, rng=np.random.default_rng(4))
    rng = np.random.default_rng(4)
    wanted = expose(flat, camera, ratio=100, iso=1600, rng=rng, noise=camera.noise(1600, rng))
    assert np.array_equal(found, wanted)


def test_noise_without_black_errors_and_single_ones(rng: np.random.Generator) -> None:
    camera, quiet = CAMERAS["ILCE-7SM2"], SensorNoise(1.0, 1e-9, None, 0.0)
    dark = np.zeros((7, 9))
    assert (expose(dark, camera, ratio=1, iso=100, rng=rng, noise=quiet) == 512).all()
    off = replace(quiet, black_error=(3.0,))
    assert (expose(dark, camera, ratio=1, iso=100, rng=rng, noise=off) == 515).all()


def test_the_night_is_as_dark_as_asked_and_seeded(scene: Photo) -> None:
    camera = CAMERAS["ILCE-7SM2"]

    def make(seed: int, ratio: float) -> NDArray[np.uint16]:
        generator = np.random.default_rng(seed)
        return night(scene, "ILCE-7SM2", ratio=ratio, iso=100, wb=WB, rng=generator)

    assert np.array_equal(make(1, 100), make(1, 100))
    assert not np.array_equal(make(1, 100), make(2, 100))
    bright, dark = (make(1, ratio).mean() - camera.black for ratio in (2, 20))
    assert bright / dark == pytest.approx(10, rel=0.05)


def test_exposure_is_clipped_to_the_sensors_range(rng: np.random.Generator) -> None:
    camera = CAMERAS["X-T2"]
    dn = expose(np.full((60, 60), 5.0), camera, ratio=1, iso=12800, rng=rng)
    assert dn.max() == camera.white
    assert dn.dtype == np.uint16
    deep = SensorNoise(1.0, 5000.0, None, 0.0)
    dn = expose(np.zeros((60, 60)), camera, ratio=1, iso=12800, rng=rng, noise=deep)
    assert dn.min() == 0


# ---------------------------------------------------------------- scenes


def test_scenes_are_sids(rng: np.random.Generator) -> None:
    scenes = [draw_scene("ILCE-7SM2", rng) for _ in range(300)]
    assert {scene.ratio for scene in scenes} == {100, 250, 300}
    assert {scene.iso for scene in scenes} <= set(iso_settings("ILCE-7SM2"))
    red, green, blue = np.array([scene.wb for scene in scenes]).T
    assert 1.7 < red.min() < 1.9 < 2.1 < red.max() < 2.5
    assert 1.7 < blue.min() < 2.2 < 2.7 < blue.max() < 3.2
    assert (green == 1).all()


def test_the_xt2_meets_the_same_lights(rng: np.random.Generator) -> None:
    """Its gains for a light differ from the A7S II's as their gains for daylight do."""
    red, green, blue = median_gains("X-T2")
    assert (red, green, blue) == pytest.approx((1.677, 1, 2.780), abs=0.001)
    assert median_gains("ILCE-7SM2") == pytest.approx((2.023, 1, 2.461), abs=0.001)
    assert {draw_scene("X-T2", rng).iso for _ in range(300)} <= set(iso_settings("X-T2"))


@pytest.mark.parametrize("name", NAMES)
def test_daylight_gains_are_those_of_libraw(day: Path, tmp_path: Path, name: CameraName) -> None:
    made = simulate_photo(day, tmp_path / f"x{ENDINGS[name]}", SimulateOptions(camera=name))
    frame = read_raw(made.long)
    assert frame.daylight_wb is not None
    assert np.allclose(frame.daylight_wb, daylight_gains(name), rtol=1e-3)


# ---------------------------------------------------------------- one night


@pytest.mark.parametrize("name", NAMES)
def test_a_night_is_a_photo_that_the_reader_understands(
    day: Path, scene: Photo, tmp_path: Path, name: CameraName
) -> None:
    output = tmp_path / f"n{ENDINGS[name]}"
    options = SimulateOptions(camera=name, ratio=250, iso=6400, wb=(1.9, 1, 2.6), aperture=5.6)
    made = simulate_photo(day, output, options)
    assert made.shorts == (output,)
    assert made.long == tmp_path / f"n_long{ENDINGS[name]}"
    assert made.written == (output, made.long)
    assert made.scene == NightScene(6400, 250, (1.9, 1, 2.6))
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


def test_without_a_name_the_night_lies_beside_the_photo(day: Path) -> None:
    made = simulate_photo(day)
    assert made.shorts == (day.with_name("day_night.ARW"),)
    assert made.long == day.with_name("day_night_long.ARW")
    assert made.scene.wb == median_gains("ILCE-7SM2")


def test_a_night_is_decided_by_its_seed(day: Path, tmp_path: Path) -> None:
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
    with pytest.raises(OutputExistsError, match=r"n_long.ARW exists already"):
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


def test_small_xtrans_nights_are_noted(day: Path, tmp_path: Path) -> None:
    spy = ProgressSpy()
    simulate_photo(day, tmp_path / "n.RAF", SimulateOptions(camera="X-T2"), spy)
    (note,) = spy.notes
    assert "LibRaw cannot render X-Trans photos with a side under 512" in note


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (SimulateOptions(iso=1700), "not known at ISO 1700"),
        (SimulateOptions(camera="X-T2", iso=100), "not known at ISO 100"),
        (SimulateOptions(ratio=0.5), "--ratio must lie between 1 and"),
        (SimulateOptions(ratio=float("nan")), "--ratio must lie"),
        (SimulateOptions(ev=11), "--ev must lie"),
        (SimulateOptions(shrink=0), "--shrink must lie"),
        (SimulateOptions(seed=-1), "--seed must lie"),
        (SimulateOptions(long_exposure_s=0), "--long-exposure must lie"),
        (SimulateOptions(long_exposure_s=0.001, ratio=1000), "short exposure of 1e-06 s"),
        (SimulateOptions(aperture=0), "--aperture must lie"),
        (SimulateOptions(wb=(2, 1, 0)), "--wb must lie"),
        (SimulateOptions(wb=(2, 1, 13)), "--wb must lie"),
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
    with pytest.raises(DataError, match=r"small.png is too small: 22x90 photosites, where 24"):
        simulate_photo(small, output)
    with pytest.raises(DataError, match="too small: 12x18"):
        simulate_photo(day, output, SimulateOptions(shrink=8))
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0junk")
    with pytest.raises(DataError, match=r"broken.jpg cannot be read: it is no picture"):
        simulate_photo(broken, output)
    with pytest.raises(DataError, match=r"gone.png cannot be read: there is no such file"):
        simulate_photo(tmp_path / "gone.png", output)
    raw = simulate_photo(day).shorts[0]
    with pytest.raises(DataError, match="is a RAW photo; a night is made of a finished picture"):
        simulate_photo(raw, output)
    with pytest.raises(OutputError, match="Cannot write"):
        simulate_photo(day, tmp_path / "no" / "n.ARW")
    assert not output.exists()


# ---------------------------------------------------------------- trees


@pytest.fixture
def pictures(tmp_path: Path, scene: Photo) -> Path:
    """Five pictures in a folder and its subfolder."""
    folder = tmp_path / "pictures"
    for number, name in enumerate(["a.png", "b.jpg", "c.png", "sub/d.png", "sub/e.bmp"]):
        save(folder / name, np.roll(scene, 7 * number, axis=0))
    (folder / "notes.txt").write_text("no picture")
    return folder


def files(tree: Path) -> dict[str, bytes]:
    found = sorted(path for path in tree.rglob("*") if path.is_file())
    return {path.relative_to(tree).as_posix(): path.read_bytes() for path in found}


def test_a_tree_has_sids_names_folders_and_lists(pictures: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    options = TreeOptions(ratios=(100, 250, 300), iso=800, burst=2, test_share=0.2, val_share=0.2)
    heard: list[Simulated] = []
    made = simulate_tree([pictures], tree, options, on_result=heard.append)
    assert made.results == heard
    assert [result.source.name for result in heard] == ["a.png", "b.jpg", "c.png", "d.png", "e.bmp"]
    scenes = ["00001", "00002", "00003", "10001", "20001"]
    times = ["0.033s", "0.04s", "0.1s"]
    lists = [f"Sony_{split}_list.txt" for split in ("test", "train", "val")]
    wanted = [f"Sony/long/{scene}_00_10s.ARW" for scene in scenes]
    shots = [(scene, shot, time) for scene in scenes for shot in ("00", "01") for time in times]
    wanted += [f"Sony/short/{scene}_{shot}_{time}.ARW" for scene, shot, time in shots]
    found = files(tree)
    assert sorted(found) == sorted([*wanted, *lists, "Sony_simulation.json"])
    assert [path.name for path in made.lists] == [
        "Sony_train_list.txt",
        "Sony_val_list.txt",
        "Sony_test_list.txt",
    ]
    lines = [
        f"./Sony/short/20001_{shot}_{time}.ARW ./Sony/long/20001_00_10s.ARW ISO800 F8\n"
        for shot in ("00", "01")
        for time in times
    ]
    assert found["Sony_val_list.txt"].decode() == "".join(lines)
    assert len(found["Sony_train_list.txt"].splitlines()) == 18
    assert len(found["Sony_test_list.txt"].splitlines()) == 6


def test_a_tree_of_the_other_camera(tmp_path: Path) -> None:
    photo = save(tmp_path / "day.png", smooth_photo())
    night_options = SimulateOptions(camera="X-T2", long_exposure_s=30, aperture=7.1)
    options = TreeOptions(night=night_options, split="test", ratios=(300,), iso=640)
    made = simulate_tree([photo], tmp_path / "tree", options)
    assert list(files(tmp_path / "tree")) == [
        "Fuji/long/10001_00_30s.RAF",
        "Fuji/short/10001_00_0.1s.RAF",
        "Fuji_simulation.json",
        "Fuji_test_list.txt",
    ]
    assert made.lists[0].read_text() == (
        "./Fuji/short/10001_00_0.1s.RAF ./Fuji/long/10001_00_30s.RAF ISO640 F7.1\n"
    )
    assert read_raw(made.results[0].shorts[0]).shot.exposure_s == pytest.approx(0.1)


def test_nights_of_a_tree_are_drawn_from_sid(pictures: Path, tmp_path: Path) -> None:
    made = simulate_tree([pictures], tmp_path / "tree")
    for result in made.results:
        assert set(result.ratios) <= {100, 250, 300}
        assert result.scene.ratio == result.ratios[0]
        frame = read_raw(result.shorts[0])
        assert frame.shot.iso == result.scene.iso
        assert np.allclose(frame.as_shot_wb, result.scene.wb, atol=0.002)
        long_s = read_raw(result.long).shot.exposure_s
        for short, ratio in zip(result.shorts, result.ratios, strict=True):
            exposure = read_raw(short).shot.exposure_s
            assert (long_s or 0) / (exposure or 1) == pytest.approx(ratio, rel=1e-4)
    assert len({result.scene for result in made.results}) > 1


def test_a_tree_is_decided_by_its_seed(pictures: Path, tmp_path: Path) -> None:
    trees = []
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        options = TreeOptions(SimulateOptions(seed=seed))
        simulate_tree([pictures], tmp_path / name, options)
        trees.append(files(tmp_path / name))
    one, again, other = trees
    assert one == again
    assert one != other


def touch_files(scene: Any, *_: object) -> Simulated:
    """Stand in for `_simulate_scene` where only names count."""
    for path in scene.result.files:
        path.touch()
    made: Simulated = scene.result
    return made


def scenes_by_list(tree: Path) -> dict[str, list[str]]:
    """Scene numbers on each list."""
    return {
        split: sorted(
            {Path(line.split()[1]).name[:5] for line in path.read_text().splitlines()}
            if (path := tree / f"Sony_{split}_list.txt").exists()
            else set()
        )
        for split in ("train", "val", "test")
    }


def pictures_by_scene(tree: Path) -> dict[str, str]:
    """Name of the picture that became each scene, as the plan has it."""
    plan = read_plan(tree / "Sony_simulation.json")
    assert plan is not None
    return {picture.scene: Path(picture.path).name for picture in plan.pictures}


@pytest.mark.parametrize(
    ("count", "tests", "vals"),
    [(1, 0, 0), (2, 0, 0), (3, 1, 1), (4, 1, 1), (5, 1, 1), (6, 1, 1), (50, 11, 4)],
)
def test_shares_are_exact_and_no_list_stays_empty(
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    tests: int,
    vals: int,
) -> None:
    """Of three pictures on: training needs a validation list."""
    monkeypatch.setattr("gia_cli.simulation.photo._simulate_scene", touch_files)
    photos = []
    for number in range(count):
        photos.append(pictures / f"{number:03}.png")
        photos[-1].touch()
    spy = ProgressSpy()
    simulate_tree(photos, tmp_path / "tree", progress=spy)
    lists = scenes_by_list(tmp_path / "tree")
    assert len(lists["test"]) == tests
    assert len(lists["val"]) == vals
    assert len(lists["train"]) == count - tests - vals
    if tests:
        assert spy.notes == []
    else:
        (note,) = spy.notes
        assert note.startswith("The tree has no scene for its lists val and test: ")


@pytest.mark.parametrize(
    ("test_share", "val_share", "wanted"),
    [
        (0.0, 0.0, (0, 0, 3)),
        (0.0, 0.1, (0, 1, 2)),
        (0.9, 0.05, (1, 1, 1)),
        (0.9, 0.1, (2, 1, 0)),
        (0.05, 0.95, (1, 2, 0)),
        (1.0, 0.0, (3, 0, 0)),
    ],
)
def test_only_lists_with_a_share_get_one(
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    test_share: float,
    val_share: float,
    wanted: tuple[int, int, int],
) -> None:
    monkeypatch.setattr("gia_cli.simulation.photo._simulate_scene", touch_files)
    photos = [pictures / name for name in ("a.png", "b.jpg", "c.png")]
    options = TreeOptions(test_share=test_share, val_share=val_share)
    simulate_tree(photos, tmp_path / "tree", options)
    lists = scenes_by_list(tmp_path / "tree")
    assert tuple(len(lists[split]) for split in ("test", "val", "train")) == wanted


def test_a_failed_picture_is_named_and_changes_no_other(pictures: Path, tmp_path: Path) -> None:
    options = TreeOptions(split="train")
    simulate_tree([pictures], tmp_path / "whole", options)
    (pictures / "b.jpg").write_bytes(b"junk")
    made = simulate_tree([pictures], tmp_path / "tree", options)
    assert [result.status for result in made.results].count("failed") == 1
    failed = made.results[1]
    assert failed.written == ()
    assert "b.jpg cannot be read" in str(failed.error)
    whole, rest = files(tmp_path / "whole"), files(tmp_path / "tree")
    lists, plan = "Sony_train_list.txt", "Sony_simulation.json"
    assert {
        name: data
        for name, data in whole.items()
        if "00002_" not in name and name not in (lists, plan)
    } == {name: data for name, data in rest.items() if name not in (lists, plan)}
    assert b"00002_" in whole[lists]
    assert rest[lists].splitlines() == [x for x in whole[lists].splitlines() if b"00002_" not in x]


def test_a_tree_is_resumed(pictures: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    simulate_tree([pictures], tree)
    whole = files(tree)
    with pytest.raises(OutputExistsError):
        simulate_tree([pictures], tree)
    (tree / "Sony_train_list.txt").unlink()
    gone = sorted((tree / "Sony" / "short").glob("00002*"))[0]
    gone.unlink()
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*.ARW")}
    made = simulate_tree([pictures], tree, TreeOptions(SimulateOptions(on_exists="skip")))
    assert sorted(result.status for result in made.results) == ["skipped"] * 4 + ["written"]
    assert [path for result in made.results for path in result.written] == [gone]
    assert files(tree) == whole
    assert {path: path.stat().st_mtime_ns for path in before} == before
    made = simulate_tree([pictures], tree, TreeOptions(SimulateOptions(on_exists="overwrite")))
    assert {result.status for result in made.results} == {"written"}
    assert files(tree) == whole


# ---------------------------------------------------------------- a tree that goes on

SKIP = TreeOptions(SimulateOptions(on_exists="skip"), ratios=(2.0,))
ERROR = replace(SKIP, night=SimulateOptions())
OVERWRITE = replace(SKIP, night=SimulateOptions(on_exists="overwrite"))


def grey_pictures(folder: Path, levels: list[int]) -> list[Path]:
    """Plain pictures, each of its own brightness: a file tells which it was made of."""
    return [
        save(folder / f"p{level:03}.png", np.full((48, 48, 3), level, np.uint8)) for level in levels
    ]


def levels_of(tree: Path) -> dict[str, set[int]]:
    """The pictures that the exposures of each scene were made of, told by their brightness."""
    levels: dict[str, set[int]] = {}
    for path in sorted(tree.glob("Sony/*/*.ARW")):
        frame = read_raw(path)
        ratio = 10 / (frame.shot.exposure_s or 0)
        neutral = (frame.mosaic[::2, 1::2].mean() - 512) * ratio / (16383 - 512)  # green
        candidates = np.arange(40, 256, 20)
        nearest = candidates[np.abs(srgb_decode(candidates / 255) - neutral).argmin()]
        levels.setdefault(path.name[:5], set()).add(int(nearest))
    return levels


def assert_whole(tree: Path, count: int) -> None:
    """Each scene is of one picture, the one that the plan names, and on one list."""
    by_scene = levels_of(tree)
    assert {
        scene: {f"p{level:03}.png" for level in found} for scene, found in by_scene.items()
    } == {scene: {name} for scene, name in pictures_by_scene(tree).items()}
    assert len(by_scene) == count
    lists = scenes_by_list(tree)
    assert sorted(scene for found in lists.values() for scene in found) == sorted(by_scene)
    for split, digit in (("train", "0"), ("test", "1"), ("val", "2")):
        assert {scene[0] for scene in lists[split]} <= {digit}


def test_more_pictures_are_appended_and_none_is_mixed_up(tmp_path: Path) -> None:
    """The first ones keep their scenes, wherever the new ones stand among them."""
    folder, tree = tmp_path / "pictures", tmp_path / "tree"
    grey_pictures(folder, [60, 80, 100, 140, 160, 200])
    simulate_tree([folder], tree, SKIP)
    assert_whole(tree, 6)
    before = files(tree)
    scenes = pictures_by_scene(tree)
    grey_pictures(folder, [40, 120, 180, 220])
    made = simulate_tree([folder], tree, SKIP)
    assert sorted(result.status for result in made.results) == ["skipped"] * 6 + ["written"] * 4
    assert_whole(tree, 10)
    assert scenes.items() <= pictures_by_scene(tree).items()
    after = files(tree)
    assert {name: after[name] for name in before if name.endswith("ARW")}.items() <= before.items()
    lists = scenes_by_list(tree)
    assert {split: len(scenes) for split, scenes in lists.items()} == {
        "train": 7,
        "val": 1,
        "test": 2,
    }
    simulate_tree([folder], tree, SKIP)
    assert files(tree) == after


def test_pictures_one_by_one_get_the_same_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gia_cli.simulation.photo._simulate_scene", touch_files)
    options = replace(SKIP, test_share=0.25, val_share=0.25)
    for level in range(40):
        photo = grey_pictures(tmp_path / str(level), [level])
        simulate_tree(photo, tmp_path / "tree", options)
    lists = scenes_by_list(tmp_path / "tree")
    assert [len(lists[split]) for split in ("train", "val", "test")] == [20, 10, 10]


def test_an_interrupted_tree_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when meanwhile a picture came that sorts before all others."""
    from gia_cli.simulation import photo as simulate

    folder, tree = tmp_path / "pictures", tmp_path / "tree"
    grey_pictures(folder, [60, 100, 160, 200])
    write, calls = simulate._write, []

    def interrupted(path: Path, *args: Any) -> None:
        calls.append(path)
        if len(calls) == 4:  # the second picture's long exposure is there, its short one is not
            raise KeyboardInterrupt
        write(path, *args)

    monkeypatch.setattr(simulate, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        simulate_tree([folder], tree, ERROR)
    assert len(list(tree.rglob("*.ARW"))) == 3
    monkeypatch.setattr(simulate, "_write", write)
    grey_pictures(folder, [40])
    with pytest.raises(OutputExistsError):
        simulate_tree([folder], tree, ERROR)
    simulate_tree([folder], tree, SKIP)
    assert_whole(tree, 5)


def test_an_interrupted_overwriting_mixes_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gia_cli.simulation import photo as simulate

    folder, tree = tmp_path / "pictures", tmp_path / "tree"
    grey_pictures(folder, [60, 100, 160, 200])
    simulate_tree([folder], tree, ERROR)
    grey_pictures(folder, [40])
    once = simulate._simulate_scene

    def second_is_interrupted(*args: Any) -> Simulated:
        if any(tree.rglob("*.ARW")):
            raise KeyboardInterrupt
        return once(*args)

    monkeypatch.setattr(simulate, "_simulate_scene", second_is_interrupted)
    with pytest.raises(KeyboardInterrupt):
        simulate_tree([folder], tree, OVERWRITE)
    monkeypatch.setattr(simulate, "_simulate_scene", once)
    simulate_tree([folder], tree, SKIP)
    assert_whole(tree, 5)


def test_overwriting_makes_the_tree_anew(tmp_path: Path) -> None:
    """Nothing of the old plan is left: its scenes, or lists that would name them."""
    folder, tree = tmp_path / "pictures", tmp_path / "tree"
    photos = grey_pictures(folder, [60, 100, 160, 200])
    simulate_tree([folder], tree, replace(ERROR, burst=2, iso=800))
    (tree / "Sony" / "short" / "mine.txt").write_text("mine")
    spy = ProgressSpy()
    simulate_tree(photos[:3], tree, replace(OVERWRITE, split="train"), progress=spy)
    assert_whole(tree, 3)
    left = [name for name in files(tree) if not name.endswith(".ARW")]
    assert left == ["Sony/short/mine.txt", "Sony_simulation.json", "Sony_train_list.txt"]
    (note,) = spy.notes
    assert "other files of the tree's old plan are removed" in note


def test_pictures_of_other_folders_join_a_list_of_their_own(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    first, second = (grey_pictures(tmp_path / name, [60, 100]) for name in ("one", "two"))
    for path, level in zip(second, (160, 200), strict=True):
        save(path, np.full((48, 48, 3), level, np.uint8))  # other pictures of the same names
    simulate_tree(first, tree, replace(ERROR, split="train"))
    simulate_tree(second, tree, replace(ERROR, split="test"))
    assert scenes_by_list(tree) == {
        "train": ["00001", "00002"],
        "val": [],
        "test": ["10001", "10002"],
    }
    assert levels_of(tree) == {"00001": {60}, "00002": {100}, "10001": {160}, "10002": {200}}
    simulate_tree([tmp_path / "two"], tree, SKIP)  # the lists still name both folders' scenes
    assert len(scenes_by_list(tree)["train"]) == 2
    with pytest.raises(UsageError, match=r"p060\.png is on the tree's train list already"):
        simulate_tree(first, tree, replace(SKIP, split="val"))


def test_moved_and_renamed_pictures_are_known_by_their_content(tmp_path: Path) -> None:
    folder, tree = tmp_path / "pictures", tmp_path / "tree"
    one, two, _ = grey_pictures(folder, [60, 100, 160])
    simulate_tree([folder], tree, ERROR)
    before = levels_of(tree)
    one.rename(folder / "x.png")
    two.rename(one)
    (folder / "x.png").rename(two)  # the two have changed their names
    folder.rename(tmp_path / "moved")
    made = simulate_tree([tmp_path / "moved"], tree, SKIP)
    assert {result.status for result in made.results} == {"skipped"}
    assert levels_of(tree) == before
    assert sorted(pictures_by_scene(tree).values()) == ["p060.png", "p100.png", "p160.png"]


def test_a_picture_that_has_changed_is_refused_while_its_files_are_there(tmp_path: Path) -> None:
    folder, tree = tmp_path / "pictures", tmp_path / "tree"
    photos = grey_pictures(folder, [60, 100, 160])
    photos[1].write_bytes(b"junk")
    simulate_tree([folder], tree, ERROR)
    grey_pictures(folder, [100])  # mended: nothing was made of the junk
    simulate_tree([folder], tree, SKIP)
    assert_whole(tree, 3)
    before = files(tree)
    save(photos[1], np.full((48, 48, 3), 200, np.uint8))
    with pytest.raises(DataError, match=r"made of other pictures of the names .*p100\.png\."):
        simulate_tree([folder], tree, SKIP)
    assert files(tree) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (replace(SKIP, night=replace(SKIP.night, seed=1)), "--seed 0, not 1."),
        (replace(SKIP, night=replace(SKIP.night, ev=-1)), "--ev 0, not -1."),
        (replace(SKIP, night=replace(SKIP.night, shrink=2)), "--shrink 1, not 2."),
        (replace(SKIP, night=replace(SKIP.night, clean_long=True)), "--clean-long off, not on."),
        (replace(SKIP, night=replace(SKIP.night, aperture=4)), "--aperture 8, not 4."),
        (replace(SKIP, ratios=(100, 300)), "--ratios 2, not 100,300."),
        (replace(SKIP, ratios=None), "--ratios 2, not as drawn."),
        (replace(SKIP, iso=800), "--iso as drawn, not 800."),
        (replace(SKIP, wb=(2, 1, 2)), "--wb as drawn, not 2,1,2."),
        (replace(SKIP, burst=2, iso=800), "--iso as drawn, not 800; --burst 1, not 2."),
    ],
)
def test_other_options_than_the_trees_are_refused(
    tmp_path: Path, options: TreeOptions, words: str
) -> None:
    (photo,) = grey_pictures(tmp_path, [100])
    tree = tmp_path / "tree"
    simulate_tree([photo], tree, replace(ERROR, split="train"))
    before = files(tree)
    with pytest.raises(UsageError) as caught:
        simulate_tree([photo], tree, options)
    assert caught.value.message.startswith(f"{tree} was made with other options: {words}")
    assert "--on-exists overwrite to make it anew" in caught.value.hint
    assert files(tree) == before
    anew = replace(options, night=replace(options.night, on_exists="overwrite"))
    assert simulate_tree([photo], tree, anew).results[0].status == "written"


def test_the_cameras_of_a_tree_have_a_plan_each(tmp_path: Path) -> None:
    """As in SID, whose two cameras share one folder."""
    photo = save(tmp_path / "day.png", smooth_photo())
    simulate_tree([photo], tmp_path / "tree", ERROR)
    fuji = TreeOptions(SimulateOptions(camera="X-T2", seed=5), ratios=(300,))
    simulate_tree([photo], tmp_path / "tree", fuji)
    names = [path.name for path in (tmp_path / "tree").glob("*.json")]
    assert sorted(names) == ["Fuji_simulation.json", "Sony_simulation.json"]


def test_a_tree_without_a_plan_is_gone_on_with_if_it_is_the_same(tmp_path: Path) -> None:
    """Trees of earlier versions have none."""
    folder, tree = tmp_path / "pictures", tmp_path / "tree"
    grey_pictures(folder, [60, 100, 160, 200])
    simulate_tree([folder], tree, SKIP)
    whole = files(tree)
    plan = tree / "Sony_simulation.json"
    plan.unlink()
    next(tree.glob("Sony/short/00002*")).unlink()
    made = simulate_tree([folder], tree, SKIP)
    assert sorted(result.status for result in made.results) == ["skipped"] * 3 + ["written"]
    assert files(tree) == whole
    plan.unlink()
    grey_pictures(folder, [40])  # now every number stands for another picture
    before = files(tree)
    with pytest.raises(
        DataError, match=r"\.ARW is there already, and is not what .*\.png"
    ) as caught:
        simulate_tree([folder], tree, SKIP)
    assert "--on-exists overwrite to make it anew" in caught.value.hint
    assert files(tree) == before


def test_files_that_no_plan_knows_are_not_taken_for_a_new_pictures(tmp_path: Path) -> None:
    folder, tree = tmp_path / "pictures", tmp_path / "tree"
    grey_pictures(folder, [60])
    train = replace(SKIP, split="train")
    simulate_tree([folder], tree, train)
    (long,) = tree.glob("Sony/long/*.ARW")
    long.with_name("00002_00_10s.ARW").write_bytes(long.read_bytes())
    grey_pictures(folder, [200])
    with pytest.raises(DataError, match=r"00002_00_10s\.ARW is there already"):
        simulate_tree([folder], tree, train)


def test_a_picture_named_twice_is_one(tmp_path: Path) -> None:
    (photo,) = grey_pictures(tmp_path / "pictures", [60])
    again = tmp_path / "pictures" / ".." / "pictures"
    made = simulate_tree([photo, again], tmp_path / "tree", ERROR)
    assert len(made.results) == 1


def test_xtrans_trees_need_pictures_that_libraw_can_render(day: Path, tmp_path: Path) -> None:
    options = TreeOptions(SimulateOptions(camera="X-T2"))
    (result,) = simulate_tree([day], tmp_path / "tree", options).results
    assert isinstance(result.error, DataError)
    assert "needs 512 X-Trans photosites a side, not 96" in str(result.error)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (TreeOptions(iso=1700), "not known at ISO 1700"),
        (TreeOptions(ratios=(1.0,)), "--ratios must lie"),
        (TreeOptions(ratios=(100, 100)), "cannot be told apart"),
        (TreeOptions(ratios=(30_000,)), "cannot be told apart by the exposure times.* 0s"),
        (TreeOptions(SimulateOptions(long_exposure_s=0.1)), "100, 250, 300 cannot be told apart"),
        (TreeOptions(burst=0), "--burst must lie"),
        (TreeOptions(test_share=1.5), "--test-share must lie"),
        (TreeOptions(val_share=-0.1), "--val-share must lie"),
        (TreeOptions(test_share=0.6, val_share=0.6), "more than 1 together"),
        (TreeOptions(wb=(2, 1, 30)), "--wb must lie"),
    ],
)
def test_impossible_trees_are_refused(
    day: Path, tmp_path: Path, options: TreeOptions, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        simulate_tree([day], tmp_path / "tree", options)
    assert not (tmp_path / "tree").exists()


def test_trees_need_pictures_and_room(
    day: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no photograph in"):
        simulate_tree([tmp_path / "empty"], tmp_path / "tree")
    with pytest.raises(DataError, match="no folder"):
        simulate_tree([tmp_path / "gone"], tmp_path / "tree")
    with pytest.raises(OutputError, match="Cannot make the folder"):
        simulate_tree([day], day)
    monkeypatch.setattr("gia_cli.simulation.photo._MOST_SCENES", 0)
    with pytest.raises(UsageError, match="more than SID's names can number"):
        simulate_tree([day], tmp_path / "tree")


# ---------------------------------------------------------------- samples


def test_the_samples_are_small_and_say_where_they_come_from() -> None:
    for name in ("night.ARW", "night.RAF"):
        assert (ROOT / "samples" / name).stat().st_size < 2_000_000
    text = (ROOT / "samples" / "README.md").read_text(encoding="utf-8")
    assert "CC0" in text
    assert iio.imread(ROOT / "docs" / "before-after.jpg").ndim == 3
