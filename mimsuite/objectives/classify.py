"""Supervised training as a Lightning module: normalise, mix, classify, compare."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from mimsuite.data.hashing import mix_hashes
from mimsuite.heads.losses import classification_loss
from mimsuite.masked.normalization import Normalize
from mimsuite.metrics.running import MeanLoss, RunningMetrics
from mimsuite.metrics.scores import METRICS
from mimsuite.models.composed import ForImageClassification
from mimsuite.objectives.clipping import poison_if_not_finite
from mimsuite.objectives.mixing import Mixing, soft_loss
from mimsuite.objectives.objective import Objective
from mimsuite.types import Batch
from mimsuite.words import LabelKind

_MIXING = 0x4D4958  # keeps the draws of mixing apart from those of the model


class ClassifyObjective(Objective):
    """Trains an encoder and its classifier.

    Args:
        model: encoder and linear layer.
        normalize: see `Objective`.
        label_kind: what the labels are.
        mixup: alpha of mixup, 0 for none (Zhang et al. 2018).
        cutmix: alpha of CutMix, 0 for none (Yun et al. 2019); with both, each micro-batch takes one of them.
        smoothing: of the targets (Szegedy et al. 2016).
        class_weights: factors on the loss of each class, or None.
        base: the other arguments of `Objective`.
    """

    model: ForImageClassification

    def __init__(
        self,
        model: ForImageClassification,
        normalize: Normalize,
        *,
        label_kind: LabelKind,
        mixup: float,
        cutmix: float,
        smoothing: float,
        class_weights: list[float] | None,
        **base: Any,
    ) -> None:
        super().__init__(model, normalize, **base)
        self.label_kind: LabelKind = label_kind
        outputs = model.config.num_labels
        self.mixing = Mixing(mixup=mixup, cutmix=cutmix, smoothing=smoothing, outputs=outputs, label_kind=label_kind)
        self.class_weights: Tensor | None
        factors = None if class_weights is None else torch.tensor(class_weights)
        self.register_buffer("class_weights", factors, persistent=False)
        self.val_loss, self.val_scores = MeanLoss(), RunningMetrics(label_kind, outputs)

    @property
    def evaluated_model(self) -> ForImageClassification:
        """See `Objective`."""
        return cast(ForImageClassification, super().evaluated_model)

    @property
    def selection_metric(self) -> str:
        """The first metric of this kind of labels."""
        return f"val/{METRICS[self.label_kind][0]}"

    def train(self, mode: bool = True) -> ClassifyObjective:
        """Switches the mode; BatchNorms whose parameters are frozen keep the statistics that they came with."""
        super().train(mode)
        for module in self.trained_model.modules():
            if isinstance(module, nn.BatchNorm2d) and not any(p.requires_grad for p in module.parameters()):
                module.eval()
        return self

    def on_train_start(self) -> None:
        """Sets the modes, too: Lightning's fit takes and keeps those that it finds."""
        super().on_train_start()
        self.train()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch, a scalar."""
        assert batch.labels is not None
        with self.phase(batch):
            pixels = self.normalize(batch.images)
        pixels, targets = self.mixing(pixels, batch.labels, mix_hashes(self.micro_seed(batch_idx), _MIXING))
        with self.phase(batch):
            logits = self.trained_model(pixels).logits
        return poison_if_not_finite(soft_loss(logits, targets, self.label_kind, self.class_weights))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch to the loss, which is without smoothing and class weights, and to the scores."""
        assert batch.labels is not None
        pixels = self.normalize(batch.images)
        with self.phase(batch):
            logits = self.evaluated_model(pixels).logits.float()
        loss = classification_loss(logits, batch.labels, self.model.config.problem_type)
        self.val_loss.update(loss, weight=len(logits))
        self.val_scores.update(logits, batch.labels)

    def on_validation_epoch_end(self) -> None:
        """Reports the metrics of the pass."""
        metrics = {"val/loss": float(self.val_loss.compute())}
        metrics |= {f"val/{name}": value for name, value in self.val_scores.compute().items()}
        self.val_loss.reset()
        self.val_scores.reset()
        self.report_metrics(metrics)
