"""A page of photos and tables: one HTML file with its style, script and pictures inside.

It may hold what strangers wrote: names of files, lenses and cameras. Jinja escapes all of it, and
the page's own policy lets the browser run the one script and the one style that are ours, by their
hashes, and load nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from gia_cli._version import __version__
from gia_cli.files import atomic_file
from gia_cli.text import escape_controls

if TYPE_CHECKING:
    import jinja2

Status = Literal["", "written", "skipped", "failed"]

_CHUNK = 3 << 18  # bytes; a multiple of 3, so that base64 has no padding in its middle


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of a picture, and where it lies."""

    jpeg: bytes = field(repr=False)
    left: int
    top: int
    width: int
    height: int
    """Pixels of the whole picture that it covers; it may have fewer of its own."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A picture of the photo: before, after, by one system or another."""

    caption: str
    thumbnail: bytes = field(repr=False)
    """A JPEG of the whole, for lists and for print."""
    tiles: tuple[Tile, ...]
    """The later ones lie above the earlier ones."""


@dataclass(frozen=True, slots=True)
class View:
    """Pictures of one photo, that cover each other."""

    width: int
    height: int
    """Of the whole picture in pixels: those that "100 %" shows."""
    layers: tuple[Layer, ...]
    """The viewer begins with the first and the `shown_after`-th."""
    shown_after: int = 1


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values under a heading."""

    heading: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds by stage."""

    rows: tuple[tuple[str, float], ...]

    @property
    def bars(self) -> list[tuple[str, float, float]]:
        """Stage, seconds, and length of its bar in per cent of the longest."""
        longest = max((seconds for _, seconds in self.rows), default=0.0) or 1.0
        return [(name, seconds, 100 * seconds / longest) for name, seconds in self.rows]


@dataclass(frozen=True, slots=True)
class Entry:
    """A photo of the page."""

    title: str
    status: Status = ""
    summary: str = ""
    """A line below the title."""
    error: str = ""
    hint: str = ""
    notes: tuple[str, ...] = ()
    facts: tuple[Facts, ...] = ()
    timings: Timings | None = None
    view: View | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table, sortable by each of its columns."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    folded: bool = False
    """Whether it is shown only when asked for: a long one."""


@dataclass(frozen=True, slots=True)
class Page:
    """What a page has beside its photos."""

    title: str
    lead: str = ""
    """A sentence below the title."""
    before: tuple[Table, ...] = ()
    """Tables above the photos."""
    after: tuple[Table, ...] = ()
    """Tables below the photos."""


def write_page(path: Path, page: Page, entries: Iterable[Entry] = ()) -> None:
    """Write a page.

    Parameters
    ----------
    path : Path
        An HTML file.
    page : Page
    entries : iterable of Entry
        Taken and written one at a time, so that their pictures need not fit into memory together.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    from markupsafe import Markup

    environment = _environment()
    style, script = _package_file("page.css"), _package_file("page.js")
    common = {
        "page": page,
        "version": __version__,
        "style": Markup(style),
        "script": Markup(script),
        "style_hash": _source_hash(style),
        "script_hash": _source_hash(script),
    }
    with atomic_file(path) as file:
        file.write(_rendered(environment, "head.html", common))
        for number, entry in enumerate(entries, start=1):
            file.write(_rendered(environment, "entry.html", {"entry": entry, "number": number}))
            _write_tiles(file, number, entry.view)
        file.write(_rendered(environment, "foot.html", common))


def _environment() -> jinja2.Environment:
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: _package_file(f"templates/{name}")),
        autoescape=True,
        finalize=_finalized,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["base64"] = lambda data: Markup(base64.b64encode(data).decode())
    return environment


def _finalized(value: object) -> object:
    """Spell out what could turn the reading direction of the rest of the line, or break it."""
    return escape_controls(value) if type(value) is str else value


def _rendered(environment: jinja2.Environment, name: str, values: dict[str, object]) -> bytes:
    text = environment.get_template(name).render(values)
    return text.encode("utf-8", "backslashreplace")  # a file's name need not be UTF-8


def _write_tiles(file: BinaryIO, number: int, view: View | None) -> None:
    """Write the pictures as text that no browser decodes before the photo is looked at."""
    for layer_number, layer in enumerate(() if view is None else view.layers):
        for tile in layer.tiles:
            place = f"{tile.left} {tile.top} {tile.width} {tile.height}"
            head = f'<script type="image/jpeg" data-entry="{number}" data-layer="{layer_number}"'
            file.write(f'{head} data-place="{place}">'.encode())
            for start in range(0, len(tile.jpeg), _CHUNK):
                file.write(base64.b64encode(tile.jpeg[start : start + _CHUNK]))
            file.write(b"</script>\n")


def _package_file(name: str) -> str:
    return (resources.files("gia_cli.pages") / name).read_text(encoding="utf-8")


def _source_hash(text: str) -> str:
    """Hash a script or a style as a Content-Security-Policy names it."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
