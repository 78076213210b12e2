"""Print figures of the module graph: how many modules, where, how long, and who imports whom.

    python scripts/house.py

``tests/test_house.py`` asserts the rules; this shows how far the layout has come.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests import test_house as house  # noqa: E402

_LONGEST = 12


def main() -> None:
    """Print the figures."""
    lines = {name: len(path.read_text("utf-8").splitlines()) for name, path in modules()}
    wings = Counter(house.room(name) if is_in_a_wing(name) else "(ground)" for name in lines)
    length: Counter[str] = Counter()
    for name, count in lines.items():
        length[house.room(name) if is_in_a_wing(name) else "(ground)"] += count
    print(f"{len(lines)} modules, {sum(lines.values())} lines, {len(house.FLOORS)} floors")
    for wing, count in sorted(wings.items()):
        print(f"  {wing:<14}{count:>4} modules {length[wing]:>6} lines")
    print("longest files")
    for name, count in sorted(lines.items(), key=lambda item: -item[1])[:_LONGEST]:
        print(f"  {name:<28}{count:>6} lines")
    arrows = [(name, other) for name in lines for other in house.own_imports(name)]
    up = house.upward_imports()
    circles = house.circles()
    print(f"{len(arrows)} imports between modules")
    print(f"{len(up)} imports that climb up", *(f"  {a} -> {b}" for a, b in up), sep="\n")
    print(f"{len(circles)} circles", *("  " + ", ".join(sorted(c)) for c in circles), sep="\n")


def modules() -> list[tuple[str, Path]]:
    """List the package's modules that hold any code, by name."""
    return [(name, path) for name, path in house.MODULES.items() if path.stat().st_size]


def is_in_a_wing(module: str) -> bool:
    """Tell whether a module lies in a folder."""
    return house.MODULES[module].parent != house.PACKAGE


if __name__ == "__main__":
    main()
