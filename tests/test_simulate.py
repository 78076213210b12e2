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

from gia_cli.cfa import CANONICAL, CfaKind, pack
from gia_cli.color import bt709_encode, camera_from_srgb, srgb_decode
from gia_cli.errors import DataError, OutputError, OutputExistsError, UsageError
from gia_cli.exposure import ExposureRequest, choose_ratios
from gia_cli.noise import SensorNoise, iso_settings
from gia_cli.photos import read_photo, shrink
from gia_cli.progress import Silent
from gia_cli.raw import read_raw
from gia_cli.simulate import (
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

WB = (2.0, 1.0, 1.8)
ROOT = Path(__file__).parents[1]
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
    notes: list[str] = []

    class Notes(Silent):
        def note(self, message: str) -> None:
            notes.append(message)

    simulate_photo(day, tmp_path / "n.RAF", SimulateOptions(camera="X-T2"), Notes())
    (note,) = notes
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
    assert sorted(found) == sorted(wanted + lists)
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


@pytest.mark.parametrize(("count", "tests", "vals"), [(1, 0, 0), (5, 1, 0), (50, 11, 4)])
def test_shares_are_exact(
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    tests: int,
    vals: int,
) -> None:
    monkeypatch.setattr("gia_cli.simulate._simulate_scene", lambda scene, *_: scene.result)
    photos = []
    for number in range(count):
        photos.append(pictures / f"{number:03}.png")
        photos[-1].touch()
    monkeypatch.setattr("gia_cli.simulate.read_shot", lambda _: pytest.fail("nothing to read"))
    made = simulate_tree(photos, tmp_path / "tree")
    lines = {path.name: path.read_text().splitlines() for path in made.lists}
    longs = {name: {line.split()[1] for line in found} for name, found in lines.items()}
    assert len(longs["Sony_test_list.txt"]) == tests
    assert len(longs["Sony_val_list.txt"]) == vals
    assert len(longs["Sony_train_list.txt"]) == count - tests - vals


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
    lists = "Sony_train_list.txt"
    assert {
        name: data for name, data in whole.items() if "00002_" not in name and name != lists
    } == {name: data for name, data in rest.items() if name != lists}
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


def test_the_list_tells_of_kept_files_what_they_say(day: Path, tmp_path: Path) -> None:
    tree, ratios = tmp_path / "tree", (100.0,)
    old = SimulateOptions(aperture=5.6)
    made = simulate_tree([day], tree, TreeOptions(old, ratios, iso=400, split="train"))
    new = SimulateOptions(on_exists="skip")
    simulate_tree([day], tree, TreeOptions(new, ratios, iso=800, split="train"))
    assert made.lists[0].read_text().endswith("ISO400 F5.6\n")
    made.results[0].long.write_bytes(b"no photo")
    simulate_tree([day], tree, TreeOptions(new, ratios, iso=800, split="train"))
    assert made.lists[0].read_text().endswith("ISO800 F8\n")


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
    monkeypatch.setattr("gia_cli.simulate._MOST_SCENES", 0)
    with pytest.raises(UsageError, match="more than SID's names can number"):
        simulate_tree([day], tmp_path / "tree")


# ---------------------------------------------------------------- samples


def test_the_samples_are_small_and_say_where_they_come_from() -> None:
    for name in ("night.ARW", "night.RAF"):
        assert (ROOT / "samples" / name).stat().st_size < 2_000_000
    text = (ROOT / "samples" / "README.md").read_text(encoding="utf-8")
    assert "CC0" in text
    assert iio.imread(ROOT / "docs" / "before-after.jpg").ndim == 3
