"""`mimsuite bench`: how fast `pretrain` with the same keys would train on this machine, and with how much memory."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from mimsuite import app
from mimsuite.data.storage import write_json
from mimsuite.runs.console import log_to_console
from mimsuite.runs.life import heavy_imports, one_at_a_time
from mimsuite.runs.speed import measure_speed
from mimsuite.settings.bench import read_bench
from mimsuite.settings.objects import NO_OBJECTS, Objects
from mimsuite.settings.outputs import writing
from mimsuite.tasks.pretrain import make_objects

log = logging.getLogger("mimsuite")


def run(cfg: DictConfig, overrides: Sequence[str] = (), objects: Objects = NO_OBJECTS) -> dict[str, Any]:
    """Measures, prints and returns it; writes nothing but `out`."""
    log_to_console()
    settings = read_bench(cfg, overrides, objects)
    with one_at_a_time(), heavy_imports({}):
        found = measure_speed(settings.run, make_objects, settings.seconds)
    if settings.out is not None:
        with writing("out", settings.out):
            write_json(settings.out, found)
        log.info("written   %s", settings.out)
    return found


if __name__ == "__main__":
    app.main("bench", run)
