"""What the online probe of a pretraining run looks at. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import DictConfig

from mimsuite.data.index import DataIndex
from mimsuite.data.label_table import has_label
from mimsuite.errors import InputError
from mimsuite.settings.read import read, read_flag, read_int, read_positive

HOME = "callbacks.online_probe"
ROUND = (5_000, 2_000)  # images that a round learns from and is scored on
SMALLEST_ROUND = (100, 40)


@dataclass(frozen=True)
class OnlineProbeSettings:
    """What the online probe looks at.

    Attributes:
        images: training images of a round.
        val_images: validation images that it is scored on.
        share: part of the run's time that its rounds may take.
        labels: whether kNN and linear probe run.
    """

    images: int
    val_images: int
    share: float
    labels: bool

    @property
    def note(self) -> str:
        """The line of the banner."""
        what = f"{self.images} training images; without labels RankMe and alpha-ReQ only"
        if self.labels:
            what = f"{self.images} training and {self.val_images} validation images"
        return f"online_probe=true ({what}; at most {self.share:.0%} of the time)"

    @property
    def resolved(self) -> dict[str, int | bool]:
        """The keys that were `auto`, with the values chosen."""
        return {
            f"{HOME}.images": self.images,
            f"{HOME}.val_images": self.val_images,
            f"{HOME}.labels": self.labels,
        }


def read_online_probe(cfg: DictConfig, index: DataIndex, shown: int) -> OnlineProbeSettings | None:
    """Reads what `online_probe=true` measures; None without it.

    `auto` takes no more images than let the two rounds that every run has, at its start and its end, read `share` of
    what training reads.

    Args:
        cfg: read are `online_probe`, `callbacks.online_probe`, `loader.val_limit` and `data`.
        index: the data.
        shown: images that the run trains on, counted each time.

    Raises:
        InputError: a value of the wrong kind; `labels=true` where the data has none.
    """
    if not read_flag(cfg, "online_probe"):
        return None
    if read(cfg, HOME) is None:
        raise InputError(f"online_probe=true, but {HOME} is removed; remove one of them")
    share = read_positive(cfg, f"{HOME}.share")
    if share > 1:
        raise InputError(f"{HOME}.share={share:g} is above 1; it is a part of the run's time, such as 0.05")
    given = read(cfg, f"{HOME}.labels")
    if given != "auto" and not isinstance(given, bool):
        raise InputError(f"{HOME}.labels={given} is not true, false or auto; give one of them")
    train, curve = (index.records(index.select(role)) for role in ("train", "curve"))
    curve = curve.of_curves(read_int(cfg, "loader.val_limit"))
    labelled = [int(has_label(index, samples).sum()) for samples in (train, curve)]
    labels = all(labelled) if given == "auto" else given
    if labels and not all(labelled):
        where = "training images" if not labelled[0] else "validation images"
        raise InputError(f"{HOME}.labels=true, but data={cfg.data} has no labels of {where}; use {HOME}.labels=false")
    counts = labelled if labels else (len(train), len(curve))
    of_the_run = share * shown / 2 / sum(ROUND)
    images, val_images = (
        read_int(cfg, f"{HOME}.{key}", auto=min(count, most, max(least, int(of_the_run * most))))
        for key, count, most, least in zip(("images", "val_images"), counts, ROUND, SMALLEST_ROUND, strict=True)
    )
    return OnlineProbeSettings(images, val_images, share, labels)
