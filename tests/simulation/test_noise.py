"""The noise model's moments are what its formula and its tables say.

Statistical tests allow six standard errors: a false alarm in 500 million comparisons, should a seed
ever change.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli.sensor_table import iso_settings
from gia_cli.simulation.noise import (
    EldCamera,
    SensorNoise,
    add_noise,
    eld_camera,
    fuji_xt2,
    sony_a7s2,
    tukey_lambda,
    tukey_lambda_variance,
)

SIDE = 400
SIGMAS = 6
QUIET = SensorNoise(gain=1.0, read_scale=1e-9, read_lambda=None, row_sigma=0.0)
SETTINGS = [(sony_a7s2, iso) for iso in iso_settings("ILCE-7SM2")]
SETTINGS += [(fuji_xt2, iso) for iso in iso_settings("X-T2")]

Camera = Callable[[int, np.random.Generator], SensorNoise]


def tukey_cumulants(shape: float) -> tuple[float, float]:
    """Second and fourth cumulant of Tukey's lambda distribution, by a sum over ln(p / (1 - p))."""
    t = np.linspace(-27, 27, 5401)
    p = 1 / (1 + np.exp(-t))
    q, weight = tukey_lambda(p, shape), p * (1 - p) * (t[1] - t[0])
    second = float((q**2 * weight).sum())
    return second, float((q**4 * weight).sum()) - 3 * second**2


def pixel_cumulants(noise: SensorNoise, level: float) -> tuple[float, float]:
    """Second and fourth cumulant of one photosite's noise: Poisson's and the read noise's add."""
    second, fourth = noise.gain * level, noise.gain**3 * level
    if noise.read_lambda is None:
        return second + noise.read_scale**2, fourth
    read2, read4 = tukey_cumulants(noise.read_lambda)
    return second + noise.read_scale**2 * read2, fourth + noise.read_scale**4 * read4


def assert_moments(recorded: NDArray[np.floating], noise: SensorNoise, level: float) -> None:
    """Compare mean, photosite variance and row variance of a flat field with the model's."""
    rows, cols = recorded.shape
    count = rows * (cols - 1)
    variance, fourth = pixel_cumulants(noise, level)
    row_means = recorded.mean(axis=1, dtype=np.float64)
    row_variance = noise.row_sigma**2 + variance / cols
    assert abs(row_means.mean() - level) < SIGMAS * np.sqrt(row_variance / rows)
    # Var(s^2) = (fourth cumulant + 2 variance^2) / n
    found = ((recorded - row_means[:, None]) ** 2).sum(dtype=np.float64) / count
    assert abs(found - variance) < SIGMAS * np.sqrt((fourth + 2 * variance**2) / count)
    spread = SIGMAS * row_variance * np.sqrt(2 / (rows - 1))
    assert abs(row_means.var(ddof=1) - row_variance) < spread


# ---------------------------------------------------------------- recording


@pytest.mark.parametrize("level", [0.0, 5.0, 200.0, 15000.0])
@pytest.mark.parametrize("gain", [0.1, 1.5, 6.0])
def test_mean_and_variance_of_a_flat_field(
    rng: np.random.Generator, level: float, gain: float
) -> None:
    noise = SensorNoise(gain=gain, read_scale=2.0, read_lambda=None, row_sigma=0.5)
    assert_moments(add_noise(np.full((SIDE, SIDE), level), noise, rng), noise, level)


@pytest.mark.slow
@pytest.mark.parametrize(("camera", "iso"), SETTINGS, ids=lambda x: getattr(x, "__name__", x))
def test_flat_fields_of_every_iso_setting(
    rng: np.random.Generator, camera: Camera, iso: int
) -> None:
    """A dark field, where read noise rules, and one of 40 DN, where the light's own does."""
    for level in (0.0, 40.0):
        noise = camera(iso, rng)
        recorded = add_noise(np.full((SIDE, SIDE), level, np.float32), noise, rng)
        assert recorded.dtype == np.float32
        assert_moments(recorded, noise, level)


def test_electrons_are_whole_and_poisson(rng: np.random.Generator) -> None:
    """Each probability of Poisson(2.5), from 0 to 8 electrons."""
    recorded = add_noise(np.full((SIDE, SIDE), 5.0), replace(QUIET, gain=2.0), rng)
    electrons = recorded / 2
    assert np.allclose(electrons, np.rint(electrons), atol=1e-6)
    probability = np.exp(-2.5)
    for count in range(9):
        share = float((np.rint(electrons) == count).mean())
        error = np.sqrt(probability * (1 - probability) / electrons.size)
        assert abs(share - probability) < SIGMAS * error
        probability *= 2.5 / (count + 1)


def test_row_noise_is_the_same_along_a_row(rng: np.random.Generator) -> None:
    recorded = add_noise(np.zeros((SIDE, 8)), replace(QUIET, row_sigma=3.0), rng)
    assert np.ptp(recorded, axis=1).max() < 1e-6
    assert abs(recorded[:, 0].std() - 3.0) < SIGMAS * 3.0 / np.sqrt(2 * SIDE)


def test_light_below_nothing_is_none(rng: np.random.Generator) -> None:
    assert np.abs(add_noise(np.full((8, 8), -5.0), QUIET, rng)).max() < 1e-6


def test_noise_is_seeded() -> None:
    def make(seed: int) -> NDArray[np.float32]:
        rng = np.random.default_rng(seed)
        return add_noise(np.full((20, 20), 9.0), sony_a7s2(1600, rng), rng)

    assert np.array_equal(make(3), make(3))
    assert not np.array_equal(make(3), make(4))


# ---------------------------------------------------------------- Tukey's lambda


def test_tukey_lambda_has_the_known_special_cases(rng: np.random.Generator) -> None:
    p = rng.random(1000)
    assert np.allclose(tukey_lambda(p, 0.0), np.log(p / (1 - p)))
    assert np.allclose(tukey_lambda(p, 1.0), 2 * p - 1)
    assert np.allclose(tukey_lambda(p, 1e-6), tukey_lambda(p, 0.0), atol=1e-3)
    assert np.allclose(tukey_lambda(p, 0.14), -tukey_lambda(1 - p, 0.14))


@pytest.mark.parametrize("shape", [-0.143, -0.05, -1e-5, 0.0, 1e-3, 0.05, 0.149, 1.0])
def test_tukey_lambda_variance(shape: float) -> None:
    assert tukey_lambda_variance(shape) == pytest.approx(tukey_cumulants(shape)[0], rel=1e-4)


def test_variance_of_uniform_and_logistic_laws() -> None:
    assert tukey_lambda_variance(1.0) == pytest.approx(1 / 3)  # uniform in -1...1
    assert tukey_lambda_variance(0.0) == pytest.approx(np.pi**2 / 3)
    assert replace(QUIET, read_scale=3.0, read_lambda=1.0).read_variance == pytest.approx(3)
    assert replace(QUIET, read_scale=3.0).read_variance == pytest.approx(9)


@pytest.mark.parametrize("shape", [-0.143, -0.0031, 0.0, 2e-5, 0.0026, 0.149])
def test_read_noise_follows_tukeys_law(rng: np.random.Generator, shape: float) -> None:
    """The share of draws below each of eleven quantiles, out to one in ten thousand."""
    noise = replace(QUIET, read_scale=2.0, read_lambda=shape)
    draws = add_noise(np.zeros((1000, 1000)), noise, rng) / 2
    for p in (1e-4, 1e-3, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999, 0.9999):
        quantile = tukey_lambda(np.array([p]), shape)[0]
        error = np.sqrt(p * (1 - p) / draws.size)
        assert abs(float((draws <= quantile).mean()) - p) < SIGMAS * error
    assert len(np.unique(draws)) > 0.1 * draws.size  # float32 near 1: steps of 6e-8 / lambda


# ---------------------------------------------------------------- cameras


@pytest.mark.parametrize("iso", iso_settings("ILCE-7SM2"))
def test_the_a7s2_is_drawn_around_its_table(rng: np.random.Generator, iso: int) -> None:
    draws = [sony_a7s2(iso, rng) for _ in range(300)]
    gains = np.array([noise.gain for noise in draws])
    assert np.abs(gains / (0.0009563 * iso) - 1).max() <= 0.01 + 1e-9
    assert len({noise.read_lambda for noise in draws}) == 1
    for name, most in (("read_scale", 0.04), ("row_sigma", 0.12)):
        values = np.array([getattr(noise, name) for noise in draws])
        assert 0 < values.std() < most * values.mean()
    errors = np.array([noise.black_error for noise in draws])
    assert errors.shape == (300, 4)
    assert abs(errors.mean(axis=1).std() - 0.5) < SIGMAS * 0.5 / np.sqrt(2 * 300)
    within = errors - errors.mean(axis=1, keepdims=True)
    assert 0.05 < within.std() < 0.1


def test_the_a7s2_changes_its_conversion_gain_above_iso_1600(rng: np.random.Generator) -> None:
    below, above = sony_a7s2(1600, rng), sony_a7s2(2000, rng)
    assert np.sqrt(below.read_variance) == pytest.approx(6.3, rel=0.15)
    assert np.sqrt(above.read_variance) == pytest.approx(2.7, rel=0.1)
    assert above.gain > below.gain


def test_black_level_errors_are_the_calibrated_ones(rng: np.random.Generator) -> None:
    """Feng's numbers at four settings; 400 bodies around them, 0.5 DN apart."""
    for iso, published in {100: 1.690, 400: -0.441, 1600: 2.428, 6400: -2.254}.items():
        drawn = np.mean([np.mean(sony_a7s2(iso, rng).black_error) for _ in range(400)])
        assert abs(drawn - published) < SIGMAS * 0.51 / np.sqrt(400)


def table_rows(camera: str) -> dict[int, dict[str, float]]:
    """Each ISO setting's row of the shipped table, by column."""
    path = resources.files("gia_cli") / "calibration" / "noise.json"
    table = json.loads(path.read_text(encoding="utf-8"))[camera]
    return {int(row[0]): dict(zip(table["columns"], row, strict=True)) for row in table["rows"]}


@pytest.mark.slow
@pytest.mark.parametrize("iso", [50, 400, 1600, 2000, 25600])
def test_the_a7s2s_means_are_its_tables(rng: np.random.Generator, iso: int) -> None:
    count = 2000
    draws = [sony_a7s2(iso, rng) for _ in range(count)]
    row = table_rows("ILCE-7SM2")[iso]
    assert {noise.read_lambda for noise in draws} == {row["read_lambda"]}
    spreads = {
        "gain": 0.01 / np.sqrt(3) * row["gain"],  # even, to one per cent
        "read_scale": row["read_scale_sd"],
        "row_sigma": row["row_sigma_sd"],
        "black_error": np.hypot(0.5, 0.08 / np.sqrt(4)),  # of a body, and of its four colours
    }
    for name, sigma in spreads.items():
        values = np.array([np.mean(getattr(noise, name)) for noise in draws])
        assert abs(values.mean() - row[name]) < SIGMAS * sigma / np.sqrt(count)
        assert values.std() == pytest.approx(sigma, rel=SIGMAS / np.sqrt(2 * count))


@pytest.mark.parametrize("iso", [200, 1600, 25600])
def test_the_xt2s_medians_are_its_tables(rng: np.random.Generator, iso: int) -> None:
    count = 2000
    draws = [fuji_xt2(iso, rng) for _ in range(count)]
    row = table_rows("X-T2")[iso]
    gains, reads = (
        np.log([getattr(noise, name) for noise in draws]) for name in ("gain", "read_scale")
    )
    assert abs(gains.mean() - np.log(row["gain"])) < SIGMAS * 0.3 / np.sqrt(count)
    assert abs(reads.mean() - np.log(row["read_sigma"])) < SIGMAS * 0.5 / np.sqrt(count)


# Sigma in DN of a normal law fitted to the read noise of Feng's A7S II, by ISO setting: published
# beside Tukey's shape and scale (Feng et al. 2022, their repository), and not in the table.
READ_SIGMAS = {
    50: 1.0165, 100: 1.0067, 200: 1.2926, 400: 2.0596, 800: 3.5476, 1250: 5.1776, 1600: 6.2993,
    2000: 2.6539, 2500: 3.2002, 3200: 3.9194, 6400: 7.1164, 12800: 14.246, 25600: 25.853,
}  # fmt: skip


@pytest.mark.parametrize("iso", READ_SIGMAS)
def test_the_a7s2s_read_noise_is_the_published_normal_ones(iso: int) -> None:
    """Shape and scale of Tukey's law give a variance; another fit to the same frames found it."""
    row = table_rows("ILCE-7SM2")[iso]
    noise = SensorNoise(row["gain"], row["read_scale"], row["read_lambda"], 0.0)
    assert np.sqrt(noise.read_variance) == pytest.approx(READ_SIGMAS[iso], rel=0.015)


def test_the_a7s2s_gain_is_the_published_line() -> None:
    """Of ISO, K = 0.0009546 ISO - 0.00193 (Feng et al.); ELD's body has 0.0939 DN at ISO 100."""
    rows = table_rows("ILCE-7SM2")
    for iso, row in rows.items():
        assert row["gain"] == pytest.approx(0.0009546 * iso - 0.00193, rel=0.05)
        assert row["gain"] / iso == pytest.approx(rows[100]["gain"] / 100, rel=1e-3)
    assert rows[100]["gain"] == pytest.approx(0.0939, rel=0.02)


def test_the_a7s2s_regimes_are_the_published_regressions() -> None:
    """ln(scale) over ln(gain), one line below ISO 1600 and one above (Feng et al.).

    The lines are straight and the camera is not: at the ends of the range its noise leaves them.
    """
    lines = {  # slope and intercept of read scale, of row sigma
        range(640, 1601): ((0.74043, 0.86182), (0.78782, -0.34227)),
        range(2000, 6401): ((0.74901, -0.12348), (0.62945, -1.51040)),
    }
    for isos, (read, rows) in lines.items():
        for iso, row in table_rows("ILCE-7SM2").items():
            if iso in isos:
                for name, (slope, intercept) in (("read_scale", read), ("row_sigma", rows)):
                    wanted = np.exp(slope * np.log(row["gain"]) + intercept)
                    assert row[name] == pytest.approx(wanted, rel=0.05)


def test_in_electrons_only_the_change_of_conversion_gain_is_a_jump() -> None:
    """Read noise over gain: from setting to setting it falls a little, but there to a third."""
    found: dict[int, float] = {}
    for iso, row in table_rows("ILCE-7SM2").items():
        noise = SensorNoise(row["gain"], row["read_scale"], row["read_lambda"], 0.0)
        found[iso] = float(np.sqrt(noise.read_variance)) / row["gain"]
    steps = {high: found[high] / found[low] for low, high in pairwise(found)}
    assert min(steps, key=steps.__getitem__) == 2000
    assert steps.pop(2000) == pytest.approx(1 / 3, rel=0.05)
    assert all(0.65 < step < 1.02 for step in steps.values())
    assert found[1600] == pytest.approx(4.1, abs=0.1)
    assert found[2000] == pytest.approx(1.4, abs=0.1)


def test_the_xt2s_gain_follows_iso_and_changes_its_regime_at_800() -> None:
    rows = table_rows("X-T2")
    for iso, row in rows.items():
        assert row["gain"] / iso == pytest.approx(0.00227, rel=0.07)
    falling = [
        high for low, high in pairwise(rows) if rows[high]["read_sigma"] < rows[low]["read_sigma"]
    ]
    assert falling == [800]


@pytest.mark.parametrize("iso", iso_settings("X-T2"))
def test_the_xt2_is_an_estimate_with_its_jitter(rng: np.random.Generator, iso: int) -> None:
    draws = [fuji_xt2(iso, rng) for _ in range(400)]
    for name, sigma in (("gain", 0.3), ("read_scale", 0.5)):
        logs = np.log([getattr(noise, name) for noise in draws])
        assert abs(logs.std() - sigma) < SIGMAS * sigma / np.sqrt(2 * 400)
    assert abs(np.log(draws[0].read_scale / draws[0].row_sigma) - np.log(6)) < 1e-9
    medians = np.median([noise.gain for noise in draws])
    assert medians / (0.00223 * iso) == pytest.approx(1, rel=0.25)
    assert {len(noise.black_error) for noise in draws} == {3}


def test_other_isos_are_taken_for_the_nearest_setting(rng: np.random.Generator) -> None:
    assert sony_a7s2(1, rng).gain == pytest.approx(0.0009563 * 50, rel=0.011)


@pytest.mark.parametrize("camera", [sony_a7s2, fuji_xt2])
def test_noise_grows_with_iso(camera: Camera, rng: np.random.Generator) -> None:
    draws = {iso: [camera(iso, rng) for _ in range(200)] for iso in (200, 1600, 25600)}
    for name in ("gain", "read_scale", "row_sigma"):
        medians = [np.median([getattr(noise, name) for noise in draws[iso]]) for iso in draws]
        assert medians == sorted(medians)
        assert medians[2] > 2 * medians[0]


# Gain at ISO 100; slope, intercept and sigma of ln(read scale) over ln(gain); of ln(row sigma).
REGRESSIONS: dict[EldCamera, tuple[float, ...]] = {
    "CanonEOS5D4": (0.2182, 0.6559, 1.0927, 0.2860, 0.4713, -0.8079, 0.2436),
    "CanonEOS70D": (0.4075, 0.4868, 1.4643, 0.3820, 0.7292, -0.9371, 0.2502),
    "CanonEOS700D": (0.4476, 0.5982, 1.5370, 0.3888, 0.6221, -0.7756, 0.2485),
    "NikonD850": (0.4150, 0.4774, -0.0904, 0.2392, 0.4483, -1.7977, 0.2322),
    "SonyA7S2": (0.0939, 0.4621, 0.5657, 0.2634, 0.5275, -0.5917, 0.2943),
}


@pytest.mark.parametrize("name", get_args(EldCamera))
@pytest.mark.parametrize("iso", [100, 800, 6400])
def test_elds_cameras_follow_their_regressions(
    rng: np.random.Generator, name: EldCamera, iso: int
) -> None:
    draws = [eld_camera(name, iso, rng) for _ in range(500)]
    gain, *lines = REGRESSIONS[name]
    gain *= iso / 100
    assert draws[0].gain == pytest.approx(gain, rel=1e-3)
    for field, (slope, intercept, sigma) in (("read_scale", lines[:3]), ("row_sigma", lines[3:])):
        logs = np.log([getattr(noise, field) for noise in draws])
        error = sigma / np.sqrt(len(draws))
        assert abs(logs.mean() - (slope * np.log(gain) + intercept)) < SIGMAS * error + 1e-3
        assert abs(logs.std() - sigma) < SIGMAS * error / np.sqrt(2) + 1e-3
    assert 1 <= len({noise.read_lambda for noise in draws}) <= 2
    assert len({noise.black_error for noise in draws}) == 2


def test_elds_lists_are_read_by_iso(rng: np.random.Generator) -> None:
    lambdas = {iso: eld_camera("SonyA7S2", iso, rng).read_lambda or 0 for iso in (1, 800, 10**6)}
    assert lambdas[1] == pytest.approx(0.12, abs=0.01)
    assert lambdas[800] == pytest.approx(-0.05, abs=0.01)
    assert lambdas[10**6] == pytest.approx(-0.143, abs=0.001)
    red, green1, green2, blue = eld_camera("SonyA7S2", 1600, rng).black_error
    assert (green1, green2) == pytest.approx((2.01, 2.25), abs=0.02)
    assert (red, blue) == pytest.approx((2.08, 2.31), abs=0.02)


def test_elds_a7s2_and_fengs_are_alike(rng: np.random.Generator) -> None:
    """Two bodies of one model, calibrated by two groups: gains within 3 %, read noise within 2x."""
    for iso in (100, 400, 1600, 6400, 25600):
        other, own = eld_camera("SonyA7S2", iso, rng), sony_a7s2(iso, rng)
        assert other.gain == pytest.approx(own.gain, rel=0.03)
        assert 0.3 < np.sqrt(other.read_variance / own.read_variance) < 3
        assert np.mean(other.black_error) == pytest.approx(np.mean(own.black_error), abs=3.5)
