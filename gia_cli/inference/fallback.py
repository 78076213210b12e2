"""A network on the engine that works: where one fails, the next takes its place for good.

A graphics card fails in four ways: its memory is too little for the smallest tile, it raises an
error (some of CUDA's stick: every later call fails too), it makes NaN (fp16 on GTX 16xx), or it
computes something else than the network. Each way ends on an engine that makes the picture, with
one line that says so, and further photos begin there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gia_cli.errors import DeviceError, GiaError, OutOfMemoryError, WeightsError
from gia_cli.inference.engine import Engine, NotFiniteError
from gia_cli.inference.plan import Plan
from gia_cli.inference.self_check import measured_difference, sample_picture, tolerance
from gia_cli.progress import SILENT, Progress
from gia_cli.runtime import turn_on
from gia_cli.text import first_line
from gia_cli.weights.storage import WeightsInfo

#: An engine, and the weights that it runs where that is known.
Opened = tuple[Engine, WeightsInfo | None]
#: Opens the next engine; None where that one cannot be.
Step = Callable[[Progress], Opened | None]


@dataclass(frozen=True, slots=True)
class Failure:
    """What an engine did instead of a picture."""

    last: GiaError
    """What to raise where no other engine is left."""
    words: str
    """What follows "The cuda:1 ..."."""
    is_of_memory: bool = False
    """Smaller tiles may help."""
    is_of_numbers: bool = False
    """Another number format on the same device may help."""


def failure_of(error: BaseException, engine: Engine) -> Failure:
    """Put an engine's error into words."""
    numbers = engine.runtime.dtype
    if isinstance(error, NotFiniteError):
        is_exact = numbers == "float32"
        last = WeightsError(
            f"The network ({engine.config.network}) makes no finite picture of this photo: on the "
            f"{engine.runtime.place} in {numbers}.",
            hint="Use other weights." if is_exact else "Use --precision fp32, or other weights.",
        )
        return Failure(last, f"makes no finite numbers in {numbers}", is_of_numbers=True)
    if engine.is_out_of_memory(error):
        smallest = OutOfMemoryError("Not even the smallest tile fits into memory.")
        return Failure(smallest, "has too little memory", is_of_memory=True)
    words = first_line(error)
    return _broken(engine, f"failed in {numbers} ({words})")


def _refuse_broken_network(engine: Engine) -> None:
    """Raise `WeightsError` if the network makes no numbers on the CPU either: no card is to blame.

    What else goes wrong there is no matter of this engine's.
    """
    on_cpu = engine.on_cpu()
    if on_cpu is None:
        return
    try:
        sample_picture(on_cpu)
    except NotFiniteError as error:
        raise failure_of(error, on_cpu).last from None
    except (MemoryError, RuntimeError):
        return


def _broken(engine: Engine, words: str, *, is_of_numbers: bool = False) -> Failure:
    last = DeviceError(f"The {engine.runtime.place} {words}.")
    return Failure(last, words, is_of_numbers=is_of_numbers)


class Running:
    """A network on its engine, and what follows where that one fails.

    Parameters
    ----------
    engine : Engine
    weights : WeightsInfo, optional
        What it runs.
    later : sequence of Step, optional
        What to open next, in this order; by default the same engine on the CPU.
    is_checked : bool
        Whether engines that are not the CPU's must first make a test picture; see `check`.
    """

    def __init__(
        self,
        engine: Engine,
        weights: WeightsInfo | None = None,
        later: Sequence[Step] | None = None,
        *,
        is_checked: bool = False,
    ) -> None:
        self.engine = engine
        """The one that runs now."""
        self.weights = weights
        """What it runs, where that is known."""
        if later is None:
            later = [self._same_on_cpu] if engine.device != "cpu" else []
        self._later = list(later)
        self._is_checked = is_checked
        self._largest: int | None = None

    @property
    def has_another(self) -> bool:
        """Whether another engine may follow."""
        return bool(self._later)

    def _same_on_cpu(self, progress: Progress) -> Opened | None:
        engine = self.engine.on_cpu()
        return None if engine is None else (engine, self.weights)

    # ------------------------------------------------------------ tiles

    def limited(self, plan: Plan) -> Plan:
        """Cut a plan down to tiles that have fitted after larger ones did not."""
        side = self._largest
        if side is None or max(plan.core) <= side:
            return plan
        rows, cols = plan.core
        return replace(plan, core=(min(rows, side), min(cols, side)), split=None)

    def remember(self, plan: Plan) -> None:
        """Note that a plan fitted after a larger one did not; on a CPU others' memory decides."""
        if self.engine.device != "cpu":
            self._largest = max(plan.core)

    # ------------------------------------------------------------ engines

    def check(self, progress: Progress = SILENT) -> None:
        """Go on to an engine that makes the test picture, unless this one does; see `self_check`.

        Raises
        ------
        WeightsError
            Neither the engine nor the CPU makes finite numbers of it.
        GiaError
            Of an engine that cannot be opened.
        """
        if not self._is_checked:
            return
        failure = self._checked_failure()
        if failure is not None:
            self.engine.release()
            self.fall_back(failure, progress)  # and checks that one

    def _checked_failure(self) -> Failure | None:
        """Say what is wrong with the engine's test picture; None for nothing."""
        engine = self.engine
        if engine.device == "cpu":
            return None
        try:
            with turn_on(engine.runtime):
                found = measured_difference(engine)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, NotFiniteError):
                _refuse_broken_network(engine)
            return failure_of(error, engine)
        numbers = engine.runtime.dtype
        if found <= tolerance(numbers):
            return None
        words = f"computes wrongly in {numbers} (a test picture differs by {found:.0%})"
        return _broken(engine, words, is_of_numbers=True)

    def fall_back(self, failure: Failure, progress: Progress = SILENT) -> None:
        """Take the next engine in place of this one, for good, and say so in a line.

        Half precision that makes no numbers, or wrong ones, goes on in fp32 on the same device;
        all else on the CPU.

        Raises
        ------
        GiaError
            There is none, or it cannot be opened.
        """
        failed = self.engine
        if not (failure.is_of_memory or failure.is_of_numbers):
            failed.abandon()
        same = failed.in_fp32() if failure.is_of_numbers else None
        is_hopeless = failure.is_of_memory and failed.device == "cpu"  # the next one takes no less
        if is_hopeless or (same is None and not self.has_another):
            raise failure.last
        where = "in float32" if same is not None or failed.device == "cpu" else "on the CPU"
        progress.note(f"The {failed.runtime.place} {failure.words}; continuing {where}.")
        opened: Opened | None = None if same is None else (same, self.weights)
        while opened is None and self._later:
            opened = self._later.pop(0)(progress)
        if opened is None:
            raise failure.last
        self.engine, self.weights = opened
        self._largest = None
        self.check(progress)
