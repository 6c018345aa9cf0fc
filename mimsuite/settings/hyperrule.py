"""BiT-HyperRule: length, learning rate, mixup and sizes of a fine-tuning, from the data alone; needs no torch.

Kolesnikov et al. 2020, section 3.3, with the numbers of the published code.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HyperRule:
    """What the rule sets, for SGD with momentum 0.9, no weight decay, and a batch of 512.

    Attributes:
        marks: steps: end of the warm-up, those after which the learning rate falls to a tenth, and end of the run.
        lr: peak learning rate at a batch of 512.
        mixup: alpha of mixup; 0 for none.
        resize: side in pixels to which images are resized.
        crop: side in pixels of the random crop for training.
    """

    marks: tuple[int, ...]
    lr: float
    mixup: float
    resize: int
    crop: int

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return self.marks[-1]

    @property
    def warmup(self) -> float:
        """The warm-up as a fraction of the run."""
        return self.marks[0] / self.steps

    @property
    def milestones(self) -> tuple[float, ...]:
        """The marks between warm-up and end, as fractions of the run (`marks` of `WarmupSteps`)."""
        return tuple(mark / self.steps for mark in self.marks[1:-1])

    @property
    def share(self) -> float:
        """Side of the crop as a part of the resized image's."""
        return self.crop / self.resize


def hyper_rule(images: int, image_size: tuple[int, int]) -> HyperRule:
    """Applies the rule.

    Args:
        images: of the training set.
        image_size: `(H, W)` of the images as they are stored, in pixels.
    """
    if images < 20_000:
        marks = (100, 200, 300, 400, 500)
    elif images < 500_000:
        marks = (500, 3_000, 6_000, 9_000, 10_000)
    else:
        marks = (500, 6_000, 12_000, 18_000, 20_000)
    small = image_size[0] * image_size[1] < 96 * 96
    resize, crop = (160, 128) if small else (512, 480)
    return HyperRule(marks, lr=0.003, mixup=0.0 if images < 20_000 else 0.1, resize=resize, crop=crop)
