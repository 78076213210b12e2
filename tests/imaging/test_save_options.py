from __future__ import annotations

from typing import Any, get_args

import pytest

from gia_cli.errors import UsageError
from gia_cli.files import OutputFormat
from gia_cli.imaging.save_options import BIT_DEPTHS, DEFAULT_SAVE, SaveOptions

KINDS: tuple[OutputFormat, ...] = get_args(OutputFormat)
#: An option of a format alone, and the format.
OWN: list[tuple[str, Any, OutputFormat]] = [
    ("jpeg_quality", 80, "jpg"),
    ("jpeg_subsampling", "4:2:0", "jpg"),
    ("jxl_distance", 0.0, "jxl"),
    ("jxl_effort", 3, "jxl"),
    ("exr_compression", "piz", "exr"),
]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"color_space": "adobe"}, "--color-space is one of srgb, display-p3"),
        ({"bit_depth": 12}, "--bit-depth is 8, 16 or 32, not 12"),
        ({"bit_depth": "16"}, "--bit-depth"),
        ({"jpeg_quality": 0}, "--jpeg-quality is from 1 to 100, not 0"),
        ({"jpeg_quality": 90.5}, "--jpeg-quality"),
        ({"jpeg_subsampling": "4:1:1"}, "--jpeg-subsampling is one of"),
        ({"jxl_distance": -0.1}, "--jxl-distance is from 0 to 25"),
        ({"jxl_distance": float("nan")}, "--jxl-distance is from 0 to 25"),
        ({"jxl_effort": 10}, "--jxl-effort is from 1 to 9, not 10"),
        ({"exr_compression": "lzw"}, "--exr-compression is one of none, rle"),
    ],
)
def test_values_that_no_format_has_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        SaveOptions(**options)


@pytest.mark.parametrize(("name", "value", "owner"), OWN)
@pytest.mark.parametrize("kind", KINDS)
def test_an_option_belongs_to_one_format(
    name: str, value: Any, owner: OutputFormat, kind: OutputFormat
) -> None:
    options = SaveOptions(**{name: value})
    if kind == owner:
        options.check(kind)
        assert options.chosen_for(kind) == {name.partition("_")[2]: value}
        return
    with pytest.raises(UsageError, match="--" + name.replace("_", "-")) as caught:
        options.check(kind)
    assert f"--format {owner}" in caught.value.hint
    assert options.chosen_for(kind) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_format_has_its_bit_depths_and_no_others(kind: OutputFormat) -> None:
    for bits in (8, 16, 32):
        options = SaveOptions(bit_depth=bits)
        if bits in BIT_DEPTHS[kind]:
            options.check(kind)
            assert options.depth(kind) == bits
            continue
        with pytest.raises(UsageError, match=f"--bit-depth {bits}") as caught:
            options.check(kind)
        for other in BIT_DEPTHS:  # what the hint names is so
            assert (f".{other}" in caught.value.hint) == (bits in BIT_DEPTHS[other])


def test_a_dng_has_no_colour_space() -> None:
    with pytest.raises(UsageError, match="camera's own colours"):
        SaveOptions(color_space="rec2020").check("dng")
    DEFAULT_SAVE.check("dng")


def test_what_needs_the_networks_picture() -> None:
    assert [kind for kind in KINDS if DEFAULT_SAVE.needs_picture(kind)] == ["dng", "exr"]
    assert [kind for kind in KINDS if DEFAULT_SAVE.is_linear(kind)] == ["exr"]
    assert SaveOptions(bit_depth=32).needs_picture("tif")
    assert SaveOptions(bit_depth=32).is_linear("tif")
    assert all(SaveOptions(color_space="display-p3").needs_picture(kind) for kind in KINDS)
