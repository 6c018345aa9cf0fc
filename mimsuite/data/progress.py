"""How far a long task is: a bar on a terminal, else a line every ten seconds."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from mimsuite.data.terminal import has_terminal

log = logging.getLogger("mimsuite")

SECONDS = 10.0  # between lines


@contextlib.contextmanager
def report_progress(name: str, things: str = "images") -> Iterator[Callable[[int, int], None]]:
    """Gives a function to call with (images done, images in all), or other things; `name` is what is done to them."""
    if has_terminal():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        pace = "{task.fields[pace]:.0f} a second"
        with Progress(f"{name}", BarColumn(), MofNCompleteColumn(), things, pace, TimeRemainingColumn()) as bar:
            task = bar.add_task(name, total=None, pace=0)

            def move(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total, pace=bar.tasks[0].speed or 0)

            yield move
        return
    began = printed = time.monotonic()
    first: int | None = None

    def line(done: int, total: int) -> None:
        nonlocal printed, first
        first = done if first is None else first  # what an earlier call of the task did, plus one
        now = time.monotonic()
        if now - printed >= SECONDS and done > first:
            printed = now
            pace = (done - first) / (now - began)
            log.info("%s: %d of %d %s, %.*f a second", name, done, total, things, 0 if pace >= 1 else 2, pace)

    yield line
