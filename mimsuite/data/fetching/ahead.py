"""Fetches shards ahead of the plan of a run, holds those that it is about to read, and lets go of those behind it."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from mimsuite.data.fetching.limits import Fetching
from mimsuite.data.fetching.locks import Handle
from mimsuite.data.fetching.shard_cache import BusyError, NoRoomError, ShardCache, StoppedError
from mimsuite.data.index import Shard
from mimsuite.data.order import Stretch
from mimsuite.errors import InputError, RunError

log = logging.getLogger("mimsuite")

_AHEAD = 128  # shards that are held beyond those of the step in hand: each is an open file


class Ahead:
    """One thread that fetches shards one after the other, in the order in which the plan needs them.

    It goes on as long as there is room, and then waits for the steps that need what fills it. A shard that it cannot
    fetch is left for the reader that needs it, who tries again and reports.
    """

    def __init__(self, cache: ShardCache, shards: Sequence[Shard], plan: Iterable[Stretch], step: int) -> None:
        """Begins.

        Args:
            cache: of this thread alone.
            shards: those that the plan numbers.
            plan: which are needed when.
            step: the first that will be read.
        """
        self._cache, self._shards, self._plan, self._step = cache, shards, plan, step
        self._held = list[tuple[int, Handle]]()  # each with the first step that no longer needs it
        self._moved = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="shards ahead", daemon=True)
        self._thread.start()

    def passed(self, step: int) -> None:
        """Takes note that what is before this step is read."""
        if step > self._step:
            with self._moved:
                self._step = step
                self._moved.notify_all()

    def close(self) -> None:
        """Ends the thread, and lets go of all shards."""
        self._cache.stop.set()
        with self._moved:
            self._moved.notify_all()
        self._thread.join(1)  # it may be in a request, which ends later

    def _run(self) -> None:
        try:
            for stretch in self._plan:
                self._fetch(stretch)
            self._wait_until(lambda: False)
        except StoppedError:
            pass
        finally:
            for _, handle in self._held:
                handle.close()

    def _fetch(self, stretch: Stretch) -> None:
        """Fetches the shards of a stretch, first those that no other process is fetching."""
        busy = [number for number in stretch.shards if not self._hold(stretch, number, wait=False)]
        for number in busy:
            self._hold(stretch, number, wait=True)

    def _hold(self, stretch: Stretch, number: int, *, wait: bool) -> bool:
        """Holds a shard as soon as there is room; False where another process fetches it and `wait` is not set."""
        self._wait_until(lambda: len(self._held) < _AHEAD or stretch.first <= self._step)
        while (step := self._step) < stretch.stop:
            try:
                self._held.append((stretch.stop, self._cache.hold(self._shards[number], wait=wait)))
                break
            except BusyError:
                return False
            except NoRoomError:
                self._wait_until(lambda: self._step > step)
            except (InputError, RunError) as error:
                log.debug("not fetched ahead: %s", error)
                break
        return True

    def _wait_until(self, ready: Callable[[], bool]) -> None:
        """Waits for steps, and lets go of the shards that these have passed.

        Raises:
            StoppedError: the run has ended.
        """
        with self._moved:
            while True:
                if self._cache.stop.is_set():
                    raise StoppedError
                for stop, handle in self._held:
                    if stop <= self._step:
                        handle.close()
                self._held = [(stop, handle) for stop, handle in self._held if stop > self._step]
                if ready():
                    return
                self._moved.wait()


def fit_window(fetching: Fetching, shards: Sequence[Shard], count: int) -> tuple[Fetching, str | None]:
    """How shards are read where the cache must hold `count` of them at once, and a line where it is too small for them.

    Args:
        fetching: what the user decided.
        shards: those of the run.
        count: those whose samples are mixed, in all lanes of this machine.
    """
    need = sum(sorted(shard.bytes for shard in shards)[-count:])
    if need <= fetching.limit:
        return fetching, None
    return replace(fetching, whole=False), (
        f"loader.cache_gib={fetching.cache_gib:g} is too small for the {min(count, len(shards))} shards whose samples "
        f"are mixed ({need / 2**30:.1f} GiB): each image is a request of its own, which is slower; use "
        f"loader.cache_gib={math.ceil(2 * need / 2**30)}"
    )


FetchesAhead = contextlib.AbstractContextManager[Callable[[int], None]]
"""A block around reading; its function is told how many micro-batches were read."""


def nothing_ahead() -> FetchesAhead:
    """For what needs nothing fetched."""
    return contextlib.nullcontext(lambda count: None)


@contextlib.contextmanager
def fetching_ahead(
    fetching: Fetching, shards: Sequence[Shard], plan: Iterable[Stretch], step: int, batches: int
) -> Iterator[Callable[[int], None]]:
    """While the block runs, shards are fetched ahead of it.

    Args:
        fetching: what the user decided.
        shards: those that the plan numbers.
        plan: which are needed when.
        step: the first that will be read.
        batches: micro-batches of a step.

    Yields:
        A function to be told how many micro-batches were read.
    """
    ahead = Ahead(ShardCache(fetching), shards, plan, step)
    try:
        yield lambda count: ahead.passed(step + count // batches)
    finally:
        ahead.close()
