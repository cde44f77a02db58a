"""Progress of work in this process: shown to whoever watches, written for whoever reads.

    for batch in (bar := progress(loader, "training")):
        bar.note(loss=step(batch))

A report is made at most every so often, however fast the steps are, and the last one always.
What goes wrong with the display switches the display off: nobody's training ends because a
terminal was closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import Any, Generic, Self, TextIO, TypeVar, overload

from aiinfra_lab.clock import Clock, SystemClock
from aiinfra_lab.observability.displays import Display, Mode, choose_mode, open_display
from aiinfra_lab.observability.progress_line import Progress

T = TypeVar("T")

# A reader of logs that asks more often than once a second learns nothing new.
_LINES_EVERY_S = 1.0


class Reporter(Generic[T]):
    """Counts steps and reports them; made by ``progress``. One thread at a time.

    Iterating yields the items and counts one step after each; as a context manager it is
    moved by ``advance`` and ``update``. Either way the end is reported, also after an error.
    """

    def __init__(
        self,
        items: Iterable[T] | None,
        total: int | None,
        *,
        initial: int,
        display: Display | None,
        lines: TextIO | None,
        clock: Clock,
    ) -> None:
        self._items, self._total, self._initial = items, total, initial
        self._display, self._lines, self._clock = display, lines, clock
        self._step = initial
        self._metrics: dict[str, float] = {}
        self._began = clock.monotonic()
        # The first report waits as long as every other: what ends at once needs one line only.
        self._shown = self._written = self._began
        self._closed = False

    @property
    def state(self) -> Progress:
        """How far the work is now."""
        return Progress(
            step=self._step,
            total=self._total,
            ts=self._clock.now(),
            eta_s=self._eta_s(),
            metrics=self._metrics,
        )

    def advance(self, steps: int = 1, **metrics: float) -> None:
        """Count ``steps`` more; ``metrics`` replace those of the same names."""
        self.update(self._step + steps, **metrics)

    def update(self, step: int, **metrics: float) -> None:
        """Say that ``step`` steps are done in all."""
        self._step = step
        # A length may be an estimate: being wrong about it must not end the work.
        if self._total is not None and step > self._total:
            self._total = step
        self._metrics.update(metrics)
        if self._display is None and self._lines is None:
            return
        now = self._clock.monotonic()
        if self._display is not None and now - self._shown >= self._display.every_s:
            self._shown = now
            self._show()
        if self._lines is not None and now - self._written >= _LINES_EVERY_S:
            self._written = now
            self._write()

    def note(self, **metrics: float) -> None:
        """Set metrics for the next report, in a loop over the items that counts by itself."""
        self._metrics.update(metrics)

    def close(self) -> None:
        """Report the end; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._show(last=True)
        self._write()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[T]:
        if self._items is None:
            raise TypeError("this progress has no items: move it with advance() or update()")
        with self:
            for item in self._items:
                yield item
                self.advance()

    def _eta_s(self) -> float | None:
        done = self._step - self._initial
        if self._total is None or done <= 0:
            return None
        elapsed = self._clock.monotonic() - self._began
        return elapsed / done * (self._total - self._step)

    def _show(self, *, last: bool = False) -> None:
        if self._display is None:
            return
        try:
            self._display.show(self.state, last=last)
        except (OSError, ValueError):  # a closed terminal, pipe or file
            self._display = None

    def _write(self) -> None:
        if self._lines is None:
            return
        try:
            # In one call: workers that share a log must not write into each other's lines.
            self._lines.write(f"{self.state.line()}\n")
            self._lines.flush()
        except (OSError, ValueError):
            self._lines = None


@overload
def progress(
    work: int | None,
    description: str = ...,
    *,
    total: int | None = ...,
    initial: int = ...,
    mode: Mode | None = ...,
    stream: TextIO | None = ...,
    lines: TextIO | None = ...,
    clock: Clock | None = ...,
) -> Reporter[int]: ...
@overload
def progress(
    work: Iterable[T],
    description: str = ...,
    *,
    total: int | None = ...,
    initial: int = ...,
    mode: Mode | None = ...,
    stream: TextIO | None = ...,
    lines: TextIO | None = ...,
    clock: Clock | None = ...,
) -> Reporter[T]: ...
def progress(
    work: Any,
    description: str = "progress",
    *,
    total: int | None = None,
    initial: int = 0,
    mode: Mode | None = None,
    stream: TextIO | None = None,
    lines: TextIO | None = None,
    clock: Clock | None = None,
) -> Reporter[Any]:
    """Report the progress of ``work``.

    Parameters
    ----------
    work : iterable, int or None
        What is to be gone through; or a number of steps, which iterating counts from
        ``initial``; or None for work of unknown length that ``advance`` moves.
    description : str
        Two or three words that stand before the numbers.
    total : int, optional
        The number of items where ``work`` has no length.
    initial : int
        Steps that an earlier run has done; the remaining time is estimated without them.
    mode : {"off", "plain", "rich", "notebook"}, optional
        How to show it; by default what ``AIINFRA_PROGRESS`` says, else what suits the output.
    stream : text file, optional
        Where to show it; standard error by default, because standard output is the result.
    lines : text file, optional
        Gets the machine-readable lines of ``Progress`` too, also where nothing is shown.
    clock : Clock, optional
        For tests.

    Raises
    ------
    ValueError
        A count is negative, or ``initial`` lies beyond the total.
    """
    if isinstance(work, int):
        items, total = range(initial, work), work
    else:
        items = work
        if total is None and isinstance(work, Sized):
            total = len(work) + initial
    if initial < 0 or (total is not None and total < initial):
        raise ValueError(f"the steps must be at least {max(initial, 0)}, found {total}")
    chosen = mode or choose_mode(stream)
    return Reporter(
        items,
        total,
        initial=initial,
        display=open_display(chosen, description, stream),
        lines=lines,
        clock=clock or SystemClock(),
    )
