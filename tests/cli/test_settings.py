"""`gia.toml`: what it says holds unless something stronger says otherwise; mistakes are named."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from gia_cli.cli import app, settings
from gia_cli.cli import enhance as enhancing
from gia_cli.cli.settings import explained, folder_file, leaves, options_of
from gia_cli.errors import DamagedFileError, DeviceError, UsageError
from gia_cli.runtime import CONFIG_VARIABLE
from tests.networks import DEFAULT

ROOT = typer.main.get_command(app)
COMMANDS = dict(leaves(ROOT))
Write = Callable[[str], Path]


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write the user's own file."""
    monkeypatch.delenv(CONFIG_VARIABLE)
    path = tmp_path / "home" / "gia.toml"
    path.parent.mkdir()
    monkeypatch.setattr(settings, "user_file", lambda: path)
    folder = tmp_path / "work" / "inner"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)

    def write(text: str) -> Path:
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def folders(users: Write, tmp_path: Path) -> Write:
    """Write the file of the folder above the one we are in."""
    path = tmp_path / "work" / "gia.toml"

    def write(text: str) -> Path:
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Run a command whose function only tells what it is given: ``values("enhance", "a.ARW")``."""

    def run(*words: str) -> dict[str, Any]:
        got: dict[str, Any] = {}
        command = COMMANDS[words[:2] if words[:2] in COMMANDS else words[:1]]
        with monkeypatch.context() as patch:
            patch.setattr(command, "callback", got.update)
            ROOT.main(words, standalone_mode=False)
        return got

    return run


def failure_of(*words: str) -> tuple[int, str]:
    """Run a command that fails; returns the exit code and its one line."""
    errors = io.StringIO()
    with redirect_stderr(errors), pytest.raises(SystemExit) as end:
        ROOT.main(words)
    (line,) = errors.getvalue().splitlines()
    return int(str(end.value.code)), line


def error_of(*words: str) -> str:
    code, line = failure_of(*words)
    assert code == 2, line
    return line


# ---------------------------------------------------------------- which value holds


def test_each_source_wins_over_the_weaker_ones(
    users: Write, folders: Write, values: Callable[..., dict[str, Any]]
) -> None:
    def strength(*words: str) -> Any:
        return values("enhance", "a.ARW", *words)["strength"]

    assert strength() == 1.0
    users("[enhance]\nstrength = 0.5\nratio = 100\n")
    assert strength() == 0.5
    folders("[enhance]\nstrength = 0.25\n")
    assert strength() == 0.25
    assert values("enhance", "a.ARW")["ratio"] == "100"
    assert strength("--strength", "0.125") == 0.125
    folders("[enhance]\nstrength = ''\n")
    assert strength() == 1.0


def test_the_environment_wins_over_the_files(
    users: Write, values: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    users('[enhance]\nweights = "mine"\n[eval]\nweights = ["theirs"]\n')
    assert values("enhance", "a.ARW")["weights"] == "mine"
    monkeypatch.setenv("GIA_WEIGHTS", "other")
    assert values("enhance", "a.ARW")["weights"] is None  # and find_weights asks the environment
    evaluated = values("eval", "--data", "d", "--out", "o", "--camera", "sony")
    assert evaluated["weights"] == ["theirs"]  # the variable is not for these


def test_a_flag_of_a_file_can_be_taken_back(
    users: Write, folders: Write, values: Callable[..., dict[str, Any]]
) -> None:
    users("[enhance]\ncompare = true\nrecursive = true\n")
    assert values("enhance", "a.ARW")["compare"] is True
    assert values("enhance", "a.ARW", "--no-compare")["compare"] is False
    folders("[enhance]\ncompare = false\n")
    got = values("enhance", "a.ARW")
    assert (got["compare"], got["recursive"]) == (False, True)
    assert values("enhance", "a.ARW", "--compare")["compare"] is True


def test_every_flag_can_be_taken_back() -> None:
    for words, command in COMMANDS.items():
        context = command.make_context(words[-1], [], resilient_parsing=True)
        known = command.make_parser(context)._long_opt
        for key, option in options_of(command).items():
            if option.is_bool_flag and not key.startswith("no-"):
                assert option.secondary_opts or f"--no-{key}" in known, (words, key)


def test_paths_are_those_of_the_folder_that_names_them(
    users: Write, folders: Write, values: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    users('[enhance]\nout-dir = "out"\n')
    assert values("enhance", "a.ARW")["out_dir"] == Path("out")
    folders('[enhance]\nout-dir = "out"\nweights = "own.safetensors"\nreference = "/r.ARW"\n')
    got = values("enhance", "a.ARW")
    assert got["out_dir"] == tmp_path / "work" / "out"
    assert got["weights"] == str(tmp_path / "work" / "own.safetensors")
    assert got["reference"] == Path("/r.ARW")
    folders('[enhance]\nweights = "gia-sony"\nout-dir = "~/x"\n')
    got = values("enhance", "a.ARW")
    assert got["weights"] == "gia-sony"
    assert got["out_dir"] == Path("~/x").expanduser()


def test_an_option_that_may_be_repeated_takes_a_list(
    users: Write, values: Callable[..., dict[str, Any]]
) -> None:
    users('[train]\nphotos = ["/a", "/b"]\nsteps = 5\n')
    got = values("train", "--run", "r")
    assert got["photos"] == [Path("/a"), Path("/b")]
    assert got["steps"] == 5
    assert values("train", "--run", "r", "--photos", "/c")["photos"] == [Path("/c")]


def test_watch_takes_what_enhance_says_from_its_own_folder(
    users: Write, folders: Write, values: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    users('[enhance]\nformat = "png"\nstrength = 0.5\n[watch]\nstrength = 0.75\nsettle = "5s"\n')
    folders('[watch]\nsettle = "6s"\n')
    card = tmp_path / "card"
    card.mkdir()
    got = values("watch", str(card))
    assert (got["output_format"], got["strength"], got["settle"]) == ("png", 0.75, "5s")
    assert got["on_exists"] == "skip"
    (card / "gia.toml").write_text('[enhance]\nstrength = 0.25\noutput = "x.tif"\n')
    assert values("watch", "--once", str(card))["strength"] == 0.25


def test_a_group_has_a_table_in_a_table(
    users: Write, values: Callable[..., dict[str, Any]]
) -> None:
    users("[weights.list]\njson = true\n")
    assert values("weights", "list")["as_json"] is True


def test_the_nearest_folder_s_file_is_the_one(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    assert folder_file(deep) is None or tmp_path not in folder_file(deep).parents  # type: ignore[union-attr]
    (tmp_path / "gia.toml").touch()
    assert folder_file(deep) == tmp_path / "gia.toml"
    (deep / "gia.toml").mkdir()  # a folder is no file
    assert folder_file(deep) == tmp_path / "gia.toml"
    (tmp_path / "a" / "gia.toml").touch()
    assert folder_file(deep) == tmp_path / "a" / "gia.toml"


def test_a_folder_that_was_removed_has_no_file(
    users: Write, values: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    users("[enhance]\nstrength = 0.5\n")
    (tmp_path / "work" / "inner").rmdir()
    assert values("enhance", "/a.ARW")["strength"] == 0.5


def test_one_file_in_place_of_all_and_none(
    users: Write,
    folders: Write,
    values: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    users("[enhance]\nstrength = 0.5\n")
    folders("[enhance]\ncompare = true\n")
    monkeypatch.setenv(CONFIG_VARIABLE, "")
    got = values("enhance", "a.ARW")
    assert (got["strength"], got["compare"]) == (1.0, False)
    only = tmp_path / "only.toml"
    only.write_text("[enhance]\nstrength = 0.125\n")
    monkeypatch.setenv(CONFIG_VARIABLE, str(only))
    got = values("enhance", "a.ARW")
    assert (got["strength"], got["compare"]) == (0.125, False)
    only.unlink()
    assert "only.toml cannot be read: No such file" in error_of("enhance", "a.ARW")


def test_python_does_not_read_the_files(users: Write, folders: Write) -> None:
    from gia_cli.enhance.enhancer import Enhancer

    users('[enhance]\nweights = "nothing"\n')
    folders("this is no TOML")
    assert (
        Enhancer.from_weights(device="cpu", precision="fp32").weights_for("bayer").name == DEFAULT
    )


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[enhance]\nformt = 'png'", ":2: [enhance] there is no option 'formt'; did you mean 'for"),
        ("[enhance]\nwhite_balance = 1", "did you mean 'white-balance'?"),
        ("[enhance]\noutput-format = 1", "there is no option 'output-format'"),
        ("\n[enhence]", ":2: [enhence] there is no command 'enhence'; did you mean 'enhance'?"),
        ("[config]\njson = true", "there is no command 'config'"),
        ("[weights.lst]", ":1: [weights.lst] there is no command 'weights lst'; did you mean 'wei"),
        ("[weights]\nname = 'x'", ":2: [weights] 'name' stands in no command's table"),
        ("ratio = 5", ":1: 'ratio' stands in no command's table, such as [enhance]."),
        ("enhance = 5", "'enhance' is a command: write [enhance]."),
        ("[[enhance]]\nratio = 5", "'enhance' is a command: write [enhance]."),
        ("[enhance]\nstrength = 'much'", ':2: [enhance] strength = "much": '),
        ("enhance.strength = true", ":1: [enhance] strength takes a text or a number, not true."),
        ("[enhance]\nstrength = [1]", "strength takes a text or a number, not [1]."),
        ("[enhance]\n\ncompare = 'yes'", ':3: [enhance] compare takes true or false, not "yes".'),
        ("[enhance]\ncompare = 1", "compare takes true or false, not 1."),
        ("[enhance]\ndevice = 'abacus'", 'device = "abacus": '),
        ("[enhance]\nratio = 2026-01-01", "ratio takes a text or a number, not 2026-01-01."),
        ("[enhance]\ntile = 0x" + "f" * 5000, "tile takes a text or a number, not "),
        ("[enhance]\ntile = " + "9" * 5000, "gia.toml:2 is not TOML: "),
        ('[enhance]\nout-dir = "a\\u0000b"', "out-dir takes a text or a number, not "),
        ('[enhance]\ndevice = "a\\nb"', "device"),
        ("[enhance]\nratio = " + "[" * 5000 + "]" * 5000, "gia.toml"),
        ("[enhance]\nformat = png", "gia.toml:2 is not TOML: "),
        ("[enhance", "gia.toml:1 is not TOML: "),
        ("[enhance]\nratio = 1\nratio = 2", "gia.toml:3 is not TOML: "),
    ],
)
def test_mistakes_are_named_with_their_place(users: Write, text: str, words: str) -> None:
    path = users(text)
    line = error_of("enhance", "a.ARW")
    assert line.startswith(f"error: {path}")
    assert words in line


def test_a_list_of_what_is_no_text_is_a_mistake(users: Write) -> None:
    users("[train]\nphotos = [true]\n")
    assert "photos takes a text or a number, or a list of them" in error_of("train", "--run", "r")


def test_what_is_no_text_is_a_mistake(users: Write) -> None:
    path = users("")
    path.write_bytes(b"[enhance]\n\xff = 1")
    assert "gia.toml is not TOML: it is not UTF-8 text." in error_of("enhance", "a.ARW")


def test_help_and_completion_read_no_file(users: Write) -> None:
    users("no TOML")
    assert CliRunner().invoke(app, ["enhance", "--help"]).exit_code == 0
    assert CliRunner().invoke(app, ["--version"]).exit_code == 0
    COMMANDS[("enhance",)].make_context("enhance", ["x"], resilient_parsing=True)


def test_a_value_that_the_command_refuses_is_known_to_be_a_file_s(
    users: Write, folders: Write, make_arw: Callable[..., Path]
) -> None:
    path, photo = users('[enhance]\ntile = "big"\nstrength = 0.5\n'), str(make_arw())
    line = error_of("enhance", photo)
    assert line.endswith(f"--tile big is from {path}.")
    assert "--strength" not in line
    typed = error_of("enhance", photo, "--tile", "huge")
    assert "'huge'" in typed and "is from" not in typed
    users('[enhance]\nratio = "100"\n')
    assert "--ratio 100 is from" in error_of("enhance", photo, "--target-exposure", "5")
    assert error_of("enhance", "/nothing/*.ARW").endswith(f"--ratio 100 is from {path}.")
    users('[enhance]\nweights = "nothing"\n')
    code, line = failure_of("enhance", photo)
    assert code == 41
    assert f"--weights nothing is from {path}." in line


def test_errors_that_are_no_option_s_stay_as_they_are(
    users: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = users("[enhance]\n")
    file = settings._read(path, is_users=True)
    one = settings.Setting("--device", "cuda", file, "enhance", 2)
    many = settings.Setting("--photos", ["a", "b"], file, "enhance", 2)
    monkeypatch.setattr(settings, "_in_use", {"device": one, "photos": many})
    assert "is from" not in str(explained(DamagedFileError("cuda.ARW is cut short.")))
    assert "is from" not in str(explained(DeviceError("There is no fp16.")))
    error = explained(DeviceError("There is no cuda here."))
    assert str(explained(error)).count("--device cuda is from") == 1
    assert "--photos a --photos b is from" in explained(UsageError("--photos: none.")).hint


def test_every_option_can_stand_in_a_file(users: Write, tmp_path: Path) -> None:
    """One after the other, with its default or what its kind takes."""
    for words, command in COMMANDS.items():
        context = command.make_context(words[-1], [], resilient_parsing=True)
        for key, option in options_of(command).items():
            value = "true" if option.is_flag else repr(str(option.default or "1"))
            if not option.is_flag and option.type_descriptor.choices:
                value = repr(str(option.type_descriptor.choices[0]))
            file = settings._read(users(f"[{'.'.join(words)}]\n{key} = {value}\n"), is_users=True)
            settings.check_names(file, ROOT)
            found = settings.settings_of(words, command, context, [file])
            assert [setting.option for setting in found.values()] == [f"--{key}"], (words, key)
            assert next(iter(found.values())).line == 2


def test_the_command_line_of_enhance_hands_over_what_it_is_to_do() -> None:
    assert "finish" not in {option.name for option in COMMANDS[("enhance",)].params}
    assert enhancing.enhance.__defaults__ is not None
