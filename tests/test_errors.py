from __future__ import annotations

import pytest

from gia_cli import errors
from gia_cli.errors import GiaError


def _descendants(cls: type[GiaError]) -> list[type[GiaError]]:
    children = [c for c in cls.__subclasses__() if c.__module__.startswith("gia_cli")]
    return children + [grandchild for child in children for grandchild in _descendants(child)]


ALL: list[type[GiaError]] = [GiaError, *_descendants(GiaError)]


def test_the_walk_reaches_every_exception_of_the_module() -> None:
    named = {v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, Exception)}
    assert named <= set(ALL)
    assert len(named) > 20


def test_no_two_errors_share_an_exit_code() -> None:
    codes = [cls.exit_code for cls in ALL]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_exit_code_is_its_own_and_fits_a_process(cls: type[GiaError]) -> None:
    assert "exit_code" in vars(cls)
    assert 1 <= cls.exit_code <= 255


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_str_holds_the_message_then_the_class_hint(cls: type[GiaError]) -> None:
    error = cls("Something is wrong.")
    assert str(error) == f"Something is wrong. {cls.hint}".rstrip()
    assert error.message == "Something is wrong."
    assert error.args == ("Something is wrong.",)


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_own_hint_overrides_the_class_hint_for_that_one_error(cls: type[GiaError]) -> None:
    before = cls.hint
    error = cls("Wrong.", hint="Turn it round.")
    assert str(error) == "Wrong. Turn it round."
    assert error.hint == "Turn it round."
    assert cls.hint == before
    assert cls("Wrong.").hint == before


def test_an_empty_hint_silences_the_class_hint() -> None:
    assert errors.UsageError.hint
    assert str(errors.UsageError("Wrong.", hint="")) == "Wrong."


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_hints_are_sentences(cls: type[GiaError]) -> None:
    assert not cls.hint or cls.hint.endswith((".", ")"))
    assert cls.hint == cls.hint.strip()
    assert (cls.__doc__ and cls.__doc__ != GiaError.__doc__) or cls is GiaError
