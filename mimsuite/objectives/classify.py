"""Supervised training as a Lightning module: normalise, mix, classify, compare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchmetrics import MeanMetric

from mimsuite.data.hashing import mix
from mimsuite.heads.losses import classification_loss
from mimsuite.masked.normalization import Normalize
from mimsuite.metrics.running import Figures
from mimsuite.metrics.scores import LabelKind
from mimsuite.models.composed import ForImageClassification
from mimsuite.objectives.mixing import Mixing, soft_loss
from mimsuite.objectives.objective import Objective
from mimsuite.objectives.optim import poison
from mimsuite.types import Batch

_MIXING = 0x4D4958

Tensors = tuple[Tensor, ...] | list[Tensor]


class ClassifyObjective(Objective):
    """Trains an encoder and its classifier; validation judges the averaged weights where there are some.

    Args:
        model: encoder and linear layer.
        normalize: see `Objective`.
        kind: of the labels.
        mixup: alpha of mixup, 0 for none (Zhang et al. 2018).
        cutmix: alpha of CutMix, 0 for none (Yun et al. 2019); with both, each micro-batch takes one of them.
        smoothing: of the targets (Szegedy et al. 2016).
        class_weights: factors on the loss of each class, or None.
        ema: decay per step of an exponential moving average of the weights, less in the first steps; None for none.
        around: the other arguments of `Objective`.
    """

    model: ForImageClassification

    def __init__(
        self,
        model: ForImageClassification,
        normalize: Normalize,
        *,
        kind: LabelKind,
        mixup: float,
        cutmix: float,
        smoothing: float,
        class_weights: list[float] | None,
        ema: float | None,
        **around: Any,
    ) -> None:
        super().__init__(model, normalize, **around)
        self.kind = kind
        outputs = model.config.num_labels
        self.mixing = Mixing(mixup=mixup, cutmix=cutmix, smoothing=smoothing, outputs=outputs, kind=kind)
        self.weights: Tensor | None
        self.register_buffer(
            "weights", None if class_weights is None else torch.tensor(class_weights), persistent=False
        )
        self.averaged = None if ema is None else averaged(model, ema)
        self.val_loss, self.figures = MeanMetric(), Figures(kind, outputs)

    @property
    def judged(self) -> ForImageClassification:
        """The model that validation looks at and that is saved: the averaged one where there is one."""
        return self.model if self.averaged is None else cast(ForImageClassification, self.averaged.module)

    def train(self, mode: bool = True) -> ClassifyObjective:
        """Switches the mode; BatchNorms whose parameters are frozen keep the statistics that they came with."""
        super().train(mode)
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d) and not any(p.requires_grad for p in module.parameters()):
                module.eval()
        return self

    def on_train_start(self) -> None:
        """Sets the modes: Lightning's fit takes and keeps those that it finds."""
        self.train()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch, a scalar."""
        assert batch.labels is not None
        pixels = self.normalize(batch.images)
        pixels, targets = self.mixing(pixels, batch.labels, mix(self.micro_seed(batch_idx), _MIXING))
        return poison(soft_loss(self.model(pixels).logits, targets, self.kind, self.weights))

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: torch.optim.Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Takes the step and, unless it was skipped, moves the averaged weights: before callbacks may save them."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.averaged is not None and not self.skipped:
            self.averaged.update_parameters(self.model)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch to the loss, which knows no smoothing and no weights, and to the figures."""
        assert batch.labels is not None
        logits = self.judged(self.normalize(batch.images)).logits.float()
        loss = classification_loss(logits, batch.labels, self.model.config.problem_type)
        self.val_loss.update(loss, weight=len(logits))
        self.figures.update(logits, batch.labels)

    def on_validation_epoch_end(self) -> None:
        """Publishes the figures of the pass."""
        figures = {"val/loss": float(self.val_loss.compute())}
        figures |= {f"val/{name}": value for name, value in self.figures.compute().items()}
        self.val_loss.reset()
        self.figures.reset()
        self.publish(figures)


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """A moving average of a model's weights; after n steps it keeps `min(decay, (1 + n) / (10 + n))` of itself.

    Buffers are copied: running statistics are averages already.
    """

    @torch.no_grad()
    def move(means: Tensors, now: Tensors, steps: Tensor | int) -> None:
        done = int(steps)  # once for all parameters: on a GPU it waits for the device
        torch._foreach_lerp_(means, now, 1 - min(decay, (1 + done) / (10 + done)))

    made = AveragedModel(model, multi_avg_fn=move)
    made.requires_grad_(False)
    return made
