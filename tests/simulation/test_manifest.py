"""Plans of simulated trees: what is known of a picture, and what a file may not say."""

from __future__ import annotations

from pathlib import Path

import pytest

from gia_cli.errors import DataError
from gia_cli.simulation.manifest import Picture, TreePlan, fingerprint, read_plan, write_plan

A, B, C = (Picture(f"{name}.png", f"{name}{name}", f"0000{name}") for name in "123")


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    options = {"seed": 3, "ratios": [100.0, 300.0], "iso": None, "clean-long": True}
    odd = Picture('sub/\u00e4 "q"\udc80.png', None, "20001")
    plan = TreePlan(options, (A, B, odd))
    write_plan(tmp_path / "plan.json", plan)
    assert read_plan(tmp_path / "plan.json") == plan
    assert len((tmp_path / "plan.json").read_text("ascii").splitlines()) == 4 + 3 + 1
    empty = TreePlan()
    write_plan(tmp_path / "plan.json", empty)
    assert read_plan(tmp_path / "plan.json") == empty


def test_no_plan_is_none(tmp_path: Path) -> None:
    assert read_plan(tmp_path / "plan.json") is None
    assert read_plan(tmp_path / "none" / "plan.json") is None
    (tmp_path / "file").touch()
    assert read_plan(tmp_path / "file" / "plan.json") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 2, "options": {}, "pictures": []}',
        '{"format": 1, "options": {}}',
        '{"format": 1, "options": {}, "pictures": [3]}',
        '{"format": 1, "options": {}, "pictures": [{"path": "a", "digest": "b"}]}',
        '{"format": 1, "options": {}, "pictures": [{"path": "a", "digest": "b", "scene": 1}]}',
        '{"format": 1, "options": {}, "pictures": [{"path": "a", "digest": "b", "scene": "*"}]}',
        '{"format": 1, "options": {}, "pictures": [{"path": "a", "digest": "b", "scene": "300"}]}',
    ],
)
def test_what_is_no_plan_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"plan\.json is not a plan of gia simulate") as caught:
        read_plan(path)
    assert "--on-exists overwrite" in caught.value.hint


def test_a_plan_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        read_plan(tmp_path / "plan.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        read_plan(tmp_path / "binary.json")


def test_a_picture_is_looked_at(tmp_path: Path) -> None:
    photo = tmp_path / "pictures" / "a.png"
    photo.parent.mkdir()
    photo.write_bytes(b"one")
    look = fingerprint(photo, tmp_path / "tree")
    assert (look.path, look.scene) == ("../pictures/a.png", "")
    assert (
        fingerprint(tmp_path / "pictures" / ".." / "pictures" / "a.png", tmp_path / "tree") == look
    )
    photo.write_bytes(b"two")
    assert fingerprint(photo, tmp_path / "tree").digest != look.digest
    assert fingerprint(tmp_path / "gone.png", tmp_path) == Picture("gone.png", None)


def moved(picture: Picture, path: str) -> Picture:
    return Picture(path, picture.digest)


@pytest.mark.parametrize(
    ("found", "places"),
    [
        ([A, B, C], [0, 1, 2]),
        ([C, A], [2, 0]),
        ([Picture("4.png", "44"), B], [None, 1]),
        ([moved(A, "x.png"), moved(C, "y.png")], [0, 2]),
        ([moved(A, B.path), moved(B, A.path)], [0, 1]),  # content counts more than names
        ([Picture(A.path, "other"), B], [0, 1]),  # changed
        ([Picture(A.path, "other"), moved(A, "x.png")], [None, 0]),  # moved, another in its stead
        ([A, moved(A, "copy.png")], [0, None]),
        ([moved(A, "copy.png"), A], [None, 0]),
        ([Picture(A.path, None)], [0]),
        ([Picture("x.png", None)], [None]),
    ],
)
def test_pictures_are_found_on_the_plan(found: list[Picture], places: list[int | None]) -> None:
    assert TreePlan({}, (A, B, C)).places(found) == places


def test_copies_are_distinguished_by_their_paths() -> None:
    copies = TreePlan({}, (A, moved(A, "copy.png")))
    assert copies.places([moved(A, "copy.png"), A]) == [1, 0]
    assert copies.places([moved(A, "p"), moved(A, "q"), moved(A, "r")]) == [0, 1, None]


def test_unreadable_pictures_are_no_copies_of_each_other() -> None:
    plan = TreePlan({}, (Picture("a.png", None, "00001"),))
    assert plan.places([Picture("b.png", None), Picture("a.png", None)]) == [None, 0]
