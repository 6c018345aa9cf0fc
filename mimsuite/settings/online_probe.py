"""What the online probe of a pretraining run looks at. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import DictConfig

from mimsuite.config.instantiate import current_name
from mimsuite.data.index import DataIndex
from mimsuite.data.label_table import has_label
from mimsuite.errors import InputError
from mimsuite.settings.combinations import LATENT
from mimsuite.settings.read import read, read_choice, read_int, read_positive
from mimsuite.words import NEED_LABELS, PROBE_METRICS

HOME, KEEPER = "callbacks.online_probe", "callbacks.best_probe"
UNSELECTING = (LATENT,)  # objectives whose loss does not tell which weights are better
HELD_SHARE = 4  # without a split `val`, at most a fourth of the training images stand for it
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
        keeps: whether the weights of the best round are kept; then there is a round at every validation point.
    """

    images: int
    val_images: int
    share: float
    labels: bool
    keeps: bool

    @property
    def note(self) -> str:
        """The line of the banner."""
        what = f"{self.images} training images; without labels RankMe and alpha-ReQ only"
        if self.labels:
            what = f"{self.images} training and {self.val_images} validation images"
        when = "at every validation" if self.keeps else f"at most {self.share:.0%} of the time"
        return f"online_probe=true ({what}; {when})"

    @property
    def resolved(self) -> dict[str, int | bool]:
        """The keys that were `auto`, with the values chosen."""
        return {
            f"{HOME}.images": self.images,
            f"{HOME}.val_images": self.val_images,
            f"{HOME}.labels": self.labels,
        }


def resolved_probe(cfg: DictConfig, probe: OnlineProbeSettings | None) -> dict[str, int | bool]:
    """The keys of online probe and best probe that were `auto`, with the values chosen; `probe` as it was read."""
    keeps = {} if read(cfg, KEEPER) is None else {f"{KEEPER}.keep": probe is not None and probe.keeps}
    return {"online_probe": probe is not None} | keeps | ({} if probe is None else probe.resolved)


def read_keeps(cfg: DictConfig) -> bool:
    """Whether the weights of the best online probe are kept.

    Args:
        cfg: read are `callbacks.best_probe`, which older runs have not, `online_probe` and `objective._target_`.

    Raises:
        InputError: a value of the wrong kind; `keep=true` without an online probe.
    """
    if read(cfg, KEEPER) is None:
        return False
    keep = read(cfg, f"{KEEPER}.keep")
    if keep != "auto" and not isinstance(keep, bool):
        raise InputError(f"{KEEPER}.keep={keep} is not true, false or auto; give one of them")
    read_choice(cfg, f"{KEEPER}.metric", PROBE_METRICS)
    probes = read(cfg, "online_probe") is not False and read(cfg, HOME) is not None
    if keep is True and not probes:
        raise InputError(f"{KEEPER}.keep=true needs the online probe; use online_probe=true, or {KEEPER}.keep=false")
    return probes and (current_name(str(read(cfg, "objective._target_"))) in UNSELECTING if keep == "auto" else keep)


def read_online_probe(cfg: DictConfig, index: DataIndex, shown: int, rounds: int = 2) -> OnlineProbeSettings | None:
    """Reads what the online probe measures; None without it.

    `auto` takes no more images than let the two rounds that every run has, at its start and its end, or all rounds
    where each may select weights, read `share` of what training reads.

    Args:
        cfg: read are `online_probe`, `callbacks.online_probe` and `best_probe`, `loader.val_limit` and `data`.
        index: the data.
        shown: images that the run trains on, counted each time.
        rounds: validations of the run, with that before the first step.

    Raises:
        InputError: a value of the wrong kind; `labels=true`, or a metric that needs them, where the data has none.
    """
    wanted = read(cfg, "online_probe")
    if wanted != "auto" and not isinstance(wanted, bool):
        raise InputError(f"online_probe={wanted} is not true, false or auto; give one of them")
    keeps = read_keeps(cfg)
    if not (keeps or wanted is True):
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
    held = keeps and "val" not in index.splits  # what selects must not look at `test`
    labels = all(labelled) if given == "auto" else given
    if labels and not all(labelled):
        where = "training images" if not labelled[0] else "validation images"
        raise InputError(f"{HOME}.labels=true, but data={cfg.data} has no labels of {where}; use {HOME}.labels=false")
    metric = read(cfg, f"{KEEPER}.metric") if keeps else "auto"
    if metric in NEED_LABELS and not labels:
        raise InputError(
            f"{KEEPER}.metric={metric} needs labels of training and validation images, and the online probe has "
            f"none; use {KEEPER}.metric=auto"
        )
    counts = labelled if labels else [len(train), len(curve)]
    if held:
        counts = [counts[0] - counts[0] // HELD_SHARE, counts[0] // HELD_SHARE]
    of_the_run = share * shown / (rounds if keeps else 2) / sum(ROUND)
    images, val_images = (
        read_int(cfg, f"{HOME}.{key}", auto=min(count, most, max(least, int(of_the_run * most))))
        for key, count, most, least in zip(("images", "val_images"), counts, ROUND, SMALLEST_ROUND, strict=True)
    )
    return OnlineProbeSettings(images, val_images, share, labels, keeps)
