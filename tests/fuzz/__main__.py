"""Run a campaign: ``python -m tests.fuzz --count 20000``."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import time
from pathlib import Path

from tests.fuzz.campaign import Outcome, Plan, Tally, run
from tests.fuzz.exercise import kind_of, mutant
from tests.fuzz.seeds import KINDS

_STATUS_SECONDS = 30.0


def main(arguments: list[str] | None = None) -> int:
    """Run a campaign, or one mutant again; 1 if there was a fault."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description="Read mutants of small photos and weights, each within limits.",
    )
    parser.add_argument("--count", type=int, default=1000, help="mutants (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the campaign (default 0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--kind", default=",".join(KINDS), help="some of %(default)s")
    parser.add_argument("--start", type=int, default=0, help="index of the first mutant")
    parser.add_argument("--seconds", type=float, default=math.inf, help="end after so long")
    parser.add_argument("--replay", metavar="SEED:INDEX", help="one mutant, again")
    parser.add_argument(
        "--keep", type=Path, default=Path("fuzz-faults"), help="folder for mutants at fault"
    )
    options = parser.parse_args(arguments)
    kinds = tuple(options.kind.split(","))
    if not set(kinds) <= set(KINDS):
        parser.error(f"--kind is some of {','.join(KINDS)}")
    if options.replay is not None:
        seed, index = map(int, options.replay.split(":"))
        return replay(seed, index, options.keep)
    plan = Plan(options.seed, options.count, kinds, options.jobs, options.start)
    return campaign(plan, options.keep, options.seconds)


def campaign(plan: Plan, folder: Path, seconds: float = math.inf) -> int:
    """Run a campaign, say what happens, and keep the mutants at fault."""
    tally = Tally()
    begun = next_status = time.monotonic()
    outcomes = run(plan)
    with contextlib.suppress(KeyboardInterrupt):  # what is done counts
        for number, outcome in enumerate(outcomes, start=1):
            tally.add(outcome)
            if outcome.is_fault:
                keep(plan.seed, outcome, folder)
                say(f"{plan.seed}:{outcome.index} {kind_of(outcome.index)}: {outcome.verdict}")
                say(outcome.detail)
            if time.monotonic() >= next_status:
                say(f"{number} of {plan.count}, {time.monotonic() - begun:.0f} s")
                next_status = time.monotonic() + _STATUS_SECONDS
            if time.monotonic() - begun > seconds:
                break
    outcomes.close()
    say(tally.table(plan.seed))
    return int(bool(tally.faults))


def replay(seed: int, index: int, folder: Path) -> int:
    """Run one mutant again, say all of its outcome, and keep it."""
    (outcome,) = run(Plan(seed, 1, (kind_of(index),), start=index))
    keep(seed, outcome, folder)
    say(f"{outcome}\n{outcome.detail}")
    return int(outcome.is_fault)


def keep(seed: int, outcome: Outcome, folder: Path) -> None:
    """Write a mutant's files into a folder of its own."""
    place = folder / f"{seed}-{outcome.index}"
    place.mkdir(parents=True, exist_ok=True)
    for name, data in mutant(seed, outcome.index).items():
        (place / name).write_bytes(data)


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
