"""How good the features are while a run pretrains: kNN, linear probe, RankMe and alpha-ReQ of whole images."""

from __future__ import annotations

import logging
import time
from typing import Any, Literal, cast

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from mimsuite.callbacks.context import RunContext
from mimsuite.data.collate import join_targets
from mimsuite.data.datamodule import ImageData
from mimsuite.errors import InputError
from mimsuite.evaluation.features.views import evaluation_mode, pool_features
from mimsuite.evaluation.probes.knn import knn_predict
from mimsuite.evaluation.probes.logistic import accuracy, fit_linear
from mimsuite.evaluation.probes.quality import alpha_req, rankme
from mimsuite.objectives.objective import Objective

log = logging.getLogger("mimsuite")

K = 20
STRENGTH = 1e-3  # of the linear probe


class OnlineProbe(Callback):
    """Measures the frozen encoder in rounds, at validation points so far apart that all of them fit `share` of the run.

    A round encodes the same centre crops of training images (the bank) and of the images that curves are drawn from
    (`val`, else `test`, else held out from `train`), in the type of the weights and without autocast, as `mimsuite
    probe` does, and takes the mean of the patch features after the final norm. Logged are `quality/rankme` and
    `quality/alpha_req` of the bank and, with one class per image, `knn/top1` (20 neighbours) and `probe/top1`. The
    probe is one L-BFGS fit on the bank of a fixed strength: choosing it would cost ten fits, and rounds would differ
    in the choice. `mimsuite probe` chooses, and reports on the test split; here nothing is selected.

    The first round, before the first step, is the value at random initialisation and the measure of what a round
    costs. Another follows at a validation point once all rounds, it included, take at most `share` of the time so far,
    and the last one, after the last step, still fits. In several processes each encodes its share of the images; the
    features are then put in the order of the images, each once, and the first process's clock decides for all.

    A round leaves the training as it was: weights, gradients, random state, every module's mode, running statistics,
    and the order of the data. So a run gives the same weights with and without rounds, and repeats and resumes to the
    bit, although the clock chooses the steps that have metrics.

    Where the best of these measurements selects weights (`callbacks.best_probe`), there is a round at every validation
    point, so that no clock decides, and none after the last step but that one. Then nothing looks at `test`: without a
    split `val`, training images are kept out of the bank and stand for it.

    Args:
        images: training images in the bank, at most.
        val_images: validation images that kNN and probe are scored on, at most.
        share: the part of the run's time that rounds may take, between 0 and 1.
        labels: whether kNN and probe run; the data must have labels.
        context: facts of the run.

    Attributes:
        found: the metrics of the last round.
    """

    def __init__(
        self, *, images: int, val_images: int, share: float, labels: bool, context: RunContext | None = None
    ) -> None:
        self.images, self.val_images, self.share, self.labels = images, val_images, share, labels
        self.selects = context is not None and context.keeps_best
        self.found: dict[str, float] = {}
        self._began = time.perf_counter()
        self._spent, self._rounds = 0.0, 0
        self._cost: float | None = None

    @staticmethod
    def is_wanted(context: RunContext) -> bool:
        """Only where the user asked for it (`online_probe=true`)."""
        return context.online_probe

    def state_dict(self) -> dict[str, Any]:
        """What rounds have cost, for a resumed run to go on within the same share."""
        elapsed = time.perf_counter() - self._began
        return {"elapsed": elapsed, "spent": self._spent, "rounds": self._rounds, "cost": self._cost}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where the interrupted run was."""
        self._began = time.perf_counter() - state_dict["elapsed"]
        self._spent, self._rounds, self._cost = (state_dict[name] for name in ("spent", "rounds", "cost"))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Runs a round where one is due; the one after the last step comes when training ends."""
        self.found = {}
        last = trainer.global_step >= trainer.max_steps
        if self.selects or (not last and trainer.strategy.broadcast(self._due(trainer))):
            pl_module.log_dict(self._round(trainer, pl_module), logger=False, sync_dist=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Runs the last round, unless a signal stopped the run, and logs what all of them took."""
        if trainer.global_step < trainer.max_steps or trainer.should_stop:
            return
        if not self.selects:
            self._round(trainer, pl_module)
        part = self._spent / (time.perf_counter() - self._began)
        fewer = max(1, int(self.images * self.share / part))
        fits = f"; callbacks.online_probe.images={fewer} would keep to {100 * self.share:g} %"
        log.info(
            "online probe: %d rounds took %.1f s, %.1f %% of the run%s",
            *(self._rounds, self._spent, 100 * part, fits if part > self.share else ""),
        )

    def _due(self, trainer: Trainer) -> bool:
        if self._cost is None:
            return True
        elapsed, step = time.perf_counter() - self._began, trainer.global_step
        whole = elapsed * trainer.max_steps / max(step, 1)
        return fits_now(self.share, self._cost, spent=self._spent, elapsed=elapsed, whole=whole)

    def _round(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        began = time.perf_counter()
        with torch.inference_mode(False), torch.no_grad():  # the fit needs tensors that autograd takes
            cast(Objective, module).share_model()
            self.found = metrics = self._measure(trainer, module)
        for logger in trainer.loggers:
            logger.log_metrics(metrics, trainer.global_step)
        self._cost = time.perf_counter() - began
        self._spent, self._rounds = self._spent + self._cost, self._rounds + 1
        text = "  ".join(f"{name} {value:.3g}" for name, value in metrics.items())
        log.info("online probe at step %d: %s  (%.1f s)", trainer.global_step, text or "no metrics", self._cost)
        return metrics

    def _measure(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        bank, labels = self._encode(trainer, module, "train", self.images)
        if not bank.isfinite().all():
            log.warning("online probe: features are not finite; no metrics at step %d", trainer.global_step)
            return {}
        metrics = {"quality/rankme": rankme(bank)}
        try:
            metrics["quality/alpha_req"] = alpha_req(bank)
        except InputError as error:  # features may collapse, and a run must not end for it
            log.warning("online probe: %s", error)
        if not self.labels:
            return metrics
        x, truth = self._encode(trainer, module, "val", self.val_images)
        if not (is_classes(labels) and is_classes(truth)):
            log.info("online probe: the labels are not one class per image; RankMe and alpha-ReQ only from here on")
            self.labels = False
            return metrics
        assert labels is not None
        assert truth is not None
        k, classes = min(K, len(bank)), int(max(labels.max(), truth.max())) + 1
        nearest = knn_predict(bank, labels, x, ks=[k], device=module.device)[0]
        linear = fit_linear(bank, labels, classes, STRENGTH, device=module.device)
        return metrics | {
            "knn/top1": float((nearest == truth).double().mean()),
            "probe/top1": accuracy(linear.logits(x), truth),
        }

    def _encode(
        self, trainer: Trainer, module: LightningModule, part: Literal["train", "val"], limit: int
    ) -> tuple[Tensor, Tensor | None]:
        """Returns features `(N, D)` float32 and classes `(N,)` of chosen images of a part, on the CPU, in order.

        The latter are None where the labels are something else than one class per image.
        """
        objective = cast(Objective, module)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, ImageData)
        held = self.val_images if self.selects else 0
        loader, count = data.whole_images(part, limit, labels=self.labels, held=held)
        encoder, xs, labels = objective.encoder, [], []
        with evaluation_mode(module):
            for batch in loader:
                pixels = objective.normalize(batch.images.to(module.device, non_blocking=True))
                xs.append(pool_features(encoder.forward_features(pixels), "mean").cpu())
                if batch.labels is not None:
                    labels.append(batch.labels)
        found = join_targets(labels) if labels else None
        if not trainer.strategy.reduce_boolean_decision(is_classes(found)):  # the processes' shares may differ in form
            return in_order(trainer, torch.cat(xs), count), None
        assert found is not None
        return in_order(trainer, torch.cat(xs), count), in_order(trainer, found, count)


def fits_now(share: float, cost: float, *, spent: float, elapsed: float, whole: float) -> bool:
    """Whether a round fits now: into `share` of the time so far, and with one more, the last, into that of the run.

    Args:
        share: part of the run's time that rounds may take.
        cost: seconds of a round.
        spent: seconds of the rounds before.
        elapsed: seconds of the run so far, rounds included.
        whole: seconds that the run is expected to take.
    """
    return spent + cost <= share * (elapsed + cost) and spent + 2 * cost <= share * whole


def is_classes(labels: Tensor | None) -> bool:
    """Whether labels are one class per image, `(N,)` integers."""
    return labels is not None and labels.ndim == 1 and not labels.is_floating_point()


def in_order(trainer: Trainer, part: Tensor, count: int) -> Tensor:
    """Puts the rows that the processes have into the order of the images, each once; every process gets all.

    Args:
        trainer: knows the processes.
        part: this process's rows, on the CPU: those numbered rank, rank + world, ...; or all of them.
        count: rows of all processes.
    """
    if len(part) == count:
        return part
    most = -(-count // trainer.world_size)
    padded = part.new_zeros(most, *part.shape[1:])
    padded[: len(part)] = part
    every = trainer.strategy.all_gather(padded.to(trainer.strategy.root_device)).cpu()  # (world, most, ...)
    return every.transpose(0, 1).flatten(0, 1)[:count]
