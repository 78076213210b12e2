"""What cannot be evaluated is refused before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gia_cli.errors import UsageError
from gia_cli.evaluation.config import EvalConfig


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "nothing to evaluate"),
        ({"isp": ("libraw",), "limit": 0}, "--limit must be positive, not 0"),
        ({"isp": ("libraw",), "ratios": ()}, "--ratio must be"),
        ({"weights": ("x",), "balance_errors": (-100.0,)}, "--balance-error takes numbers"),
        ({"weights": ("x",), "balance_errors": ()}, "--balance-error takes numbers"),
        ({"isp": ("libraw",), "balance_errors": (20.0,)}, "--balance-error needs --weights"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        EvalConfig(data=tmp_path, camera="sony", out=tmp_path / "out", **options)
