"""`mimsuite export`: a model in a format of other programs, loaded back, compared, and described."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from mimsuite import app
from mimsuite.data.storage import move_file, write_text
from mimsuite.errors import RunError
from mimsuite.models.exporting.targets import CARD, PICTURE, PREPROCESSOR, written_names
from mimsuite.models.load import HALF, load_normalizer, preprocessing, warn_of_preprocessing
from mimsuite.runs.console import log_to_console
from mimsuite.runs.secrets import hide
from mimsuite.settings.export import ExportSettings, read_export
from mimsuite.settings.outputs import writing
from mimsuite.settings.read import format_size

if TYPE_CHECKING:
    from mimsuite.models.exporting.check import Comparison
    from mimsuite.models.exporting.exported import Exported

log = logging.getLogger("mimsuite")


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Writes the folder if what it holds computes the same; returns places and comparisons."""
    from mimsuite.models.exporting.exported import load_exported

    log_to_console()
    settings = read_export(cfg)
    exported = load_exported(settings.weights, settings.part, settings.image_size)
    with writing("out", settings.out), staged(settings.out) as folder:
        comparisons = write_checked(settings, exported, folder)
    files = sorted(path.name for path in settings.out.iterdir())
    log.info("written   %s: %s", settings.out, ", ".join(files))
    return {
        "out": str(settings.out),
        "to": settings.target,
        "part": settings.part,
        "files": files,
        "difference": max(c.difference for c in comparisons),
        "pushed": None if settings.push is None else push(settings.out, settings.push),
    }


def write_checked(settings: ExportSettings, exported: Exported, folder: Path) -> list[Comparison]:
    """Writes all files of an export into an empty folder, and compares them with the model.

    Raises:
        RunError: they compute something else.
    """
    from mimsuite.models.exporting.card import CardFacts, RunFacts, make_card, read_run
    from mimsuite.models.exporting.check import ALLOWED, compare, loading_back
    from mimsuite.models.exporting.formats import FORMATS
    from mimsuite.models.exporting.usage import Loading

    warn_of_preprocessing(settings.weights, HALF)
    about = preprocessing(load_normalizer(settings.weights), settings.image_size)
    preprocessor = json.dumps(about, indent=2, sort_keys=True) + "\n"
    form = FORMATS[settings.target]
    any_size = form.write(exported, folder, preprocessor)
    write_text(folder / PREPROCESSOR, preprocessor)
    with loading_back(settings.target):
        opened = form.read(exported, folder, settings.part)
    sizes = "any size" if any_size else f"{format_size(exported.image_size)} px"
    log.info("export    %s of %s to %s, %s", settings.part, settings.weights.init, settings.target, sizes)
    log.info("read by   %s", opened.library)
    log.info("%6s %11s %20s %12s %12s", "batch", "pixels", "largest difference", "file ms", "model ms")
    with loading_back(settings.target):
        comparisons = [report(found) for found in compare(opened, exported, any_size=any_size)]
    if (worst := max(comparisons, key=lambda found: found.difference)).difference > ALLOWED:
        raise RunError(
            f"to={settings.target}: {opened.library} computes something else than the model: a difference of "
            f"{worst.difference:.1e} at a batch of {worst.batch}, allowed is {ALLOWED:g}; nothing was written; use "
            "another to=, and report this"
        )
    facts = RunFacts() if settings.run is None else read_run(settings.run, picture=settings.picture)
    if facts.picture is not None:
        shutil.copyfile(facts.picture, folder / PICTURE)
    title = settings.push or settings.out.resolve().name
    loading = Loading(opened.library, str(about["image_processor_type"]), any_size)
    about_file = CardFacts(title, settings.target, loading, comparisons)
    write_text(folder / CARD, hide(make_card(exported, about_file, facts)))
    return comparisons


def report(found: Comparison) -> Comparison:
    """Prints a row of the table, and gives it back."""
    pixels = f"{found.image_size[0]}x{found.image_size[1]}"
    times = (1000 * found.theirs, 1000 * found.ours)
    log.info("%6d %11s %20.1e %12.1f %12.1f", found.batch, pixels, found.difference, *times)
    return found


@contextlib.contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Gives an empty folder to write to; what is there at the end replaces an earlier export in `out`.

    When the block fails, `out` stays as it was.
    """
    was_there = out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=out, prefix=".export-") as name:
            yield Path(name)
            new = sorted(path.name for path in Path(name).iterdir())
            for old in set(written_names()) - set(new):
                (out / old).unlink(missing_ok=True)
            for one in new:
                move_file(Path(name) / one, out / one)
    except BaseException:
        if not was_there:
            out.rmdir()
        raise


def push(folder: Path, repository: str) -> str:
    """Uploads the folder; returns the address.

    Raises:
        RunError: the hub does not take it.
    """
    from mimsuite.weights.hub import upload

    address = upload(folder, repository)
    log.info("uploaded  %s", address)
    return address


if __name__ == "__main__":
    app.main("export", run)
