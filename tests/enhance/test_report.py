"""The page of a batch holds what was done, and why the rest was not."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gia_cli.enhance import showing
from gia_cli.enhance.batch import BatchOptions, FileResult, plan_jobs, run_jobs
from gia_cli.enhance.enhancer import Enhancer
from gia_cli.enhance.exposure import ExposureRequest
from gia_cli.enhance.report import BatchPage
from gia_cli.errors import Interrupted, OutputError, OutputExistsError, UsageError
from gia_cli.imaging.preview import pil_image
from gia_cli.pages.spool import Spool
from gia_cli.progress import SILENT

MakePhoto = Callable[..., Path]


def pictures_of(page: Path) -> list[tuple[str, Image.Image]]:
    """All pictures at full size, with the place of each."""
    found = re.findall(r'data-place="([^"]*)">([^<]*)</script>', page.read_text("utf-8"))
    return [(place, Image.open(io.BytesIO(base64.b64decode(text)))) for place, text in found]


@pytest.mark.slow
def test_a_batch_with_brackets_and_a_failure(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path
) -> None:
    photo, path = make_arw(orientation=6), tmp_path / "page.html"
    (tmp_path / "z.ARW").write_bytes(b"")
    options = BatchOptions(request=ExposureRequest(brackets=(50, 100)))
    jobs = plan_jobs([photo, tmp_path / "z.ARW"], options)
    with BatchPage(path, jobs, options) as page:
        results = run_jobs(jobs, enhancer, page.watching(options), progress=SILENT)
        page.write(results)
    text = path.read_text("utf-8")
    titles = re.findall(r'data-title="([^"]*)"', text)
    assert titles == ["night.ARW, \xd750", "night.ARW, \xd7100", "z.ARW"]
    assert "Copy it from the card again." in text and "1/10 s, ISO 1600" in text
    pictures = pictures_of(path)
    assert [(place, image.size) for place, image in pictures] == [("0 0 96 144", (96, 144))] * 4
    before, after = (np.asarray(image).mean(2).ravel() for _, image in pictures[2:])
    assert np.corrcoef(before, after)[0, 1] > 0.5
    assert not [each for each in tmp_path.iterdir() if each.name.startswith(".")]


def test_notes_of_a_photo_are_its_own(make_raf: MakePhoto, enhancer: Enhancer) -> None:
    from tests.progress_spy import ProgressSpy

    photo = make_raf()
    frame_notes = ["told once"]

    class Telling(Enhancer):
        def prepare(self, photo, request, *, progress=SILENT):  # type: ignore[no-untyped-def]
            progress.note(frame_notes[0])
            return enhancer.prepare(photo, request, progress=progress)

    telling = Telling.from_weights(device="cpu")
    options, spy = BatchOptions(request=ExposureRequest(ratio=10)), ProgressSpy()
    jobs = plan_jobs([photo.with_name("none.ARW"), photo], options)
    missing, done = run_jobs(jobs, telling, options, progress=spy)
    assert "told once" in done.notes and missing.notes == []


def test_a_photo_that_has_gone_is_shown_alone(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path
) -> None:
    photo = make_arw()
    result = enhancer.enhance(photo, ratio=100)
    photo.unlink()
    with Spool(tmp_path / "p.html") as spool:
        (layer,) = showing.keep_picture(result, spool, 1).view(spool).layers
    assert layer.caption.startswith("gia")


@pytest.mark.slow
@pytest.mark.parametrize(("pictures", "tiles"), [(1, 1), (30, 2), (300, 1), (3000, 0)])
def test_pages_of_many_photos_stay_openable(pictures: int, tiles: int) -> None:
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (2000, 3000, 3)).astype(np.uint8)
    image = pil_image(noise)
    share = min(showing._PHOTO_BYTES, showing.PAGE_BYTES / pictures) / showing._BASE64
    parts, words = showing._parts([("a", image)], share, (2900, 1000))
    assert len(parts[0]) == tiles and words
    assert sum(len(jpeg) for jpeg, _ in parts[0]) <= 1.1 * share
    for _, (left, top, width, height) in parts[0]:
        assert min(left, top) >= 0 and left + width <= 3000 and top + height <= 2000


def test_the_spot_is_where_the_detail_is() -> None:
    image = np.full((640, 960, 3), 9000, np.uint16)
    assert showing.detailed_spot(image) == (480, 320)
    image[500:600, 100:260] = np.random.default_rng(1).integers(0, 60000, (100, 160, 1))
    x, y = showing.detailed_spot(image)
    assert 100 <= x <= 260 and 480 <= y <= 620


def test_names_that_cannot_be_are_refused_before_the_work(tmp_path: Path) -> None:
    photo = tmp_path / "night.html"
    photo.write_bytes(b"x")
    options = BatchOptions()
    jobs = plan_jobs([photo], options)
    (tmp_path / "old.html").write_bytes(b"x")
    for name, error in (
        ("page.tif", UsageError),
        ("night.html", UsageError),
        ("old.html", OutputExistsError),
        ("none/page.html", OutputError),
    ):
        with pytest.raises(error):
            BatchPage(tmp_path / name, jobs, options)


def test_after_ctrl_c_the_page_has_what_was_done(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path
) -> None:
    options = BatchOptions(request=ExposureRequest(ratio=100))
    jobs = plan_jobs([make_arw("a.ARW"), make_arw("b.ARW")], options)
    results: list[FileResult] = []

    def stop(result: FileResult) -> None:
        results.append(result)
        raise KeyboardInterrupt

    with BatchPage(tmp_path / "page.html", jobs, options) as page:
        with pytest.raises(Interrupted):
            run_jobs(jobs, enhancer, page.watching(options), progress=SILENT, on_result=stop)
        page.write(results)
    assert 'data-title="a.ARW"' in (tmp_path / "page.html").read_text("utf-8")
