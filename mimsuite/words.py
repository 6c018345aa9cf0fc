"""Closed lists of words: what a key or a field may say. Tables of objects have exactly these keys."""

from __future__ import annotations

from typing import Literal, get_args

INIT_SCHEMES = ("hf", "simmim", "mae")
POSITIONS = ("learned", "sincos2d")
PATCH_MASK_MODES = ("replace", "drop")  # of an encoder whose patches are tokens
MAP_MASK_MODES = ("replace", "sparse")  # of one whose convolutions make maps
MASK_MODES = ("replace", "drop", "sparse")
TARGETS = ("pixels", "norm_pixels", "hog")
LOSSES = ("l1", "mse", "smooth_l1")
CLASSIFIER_POOLS = ("auto", "cls", "mean", "both")
NEED_LABELS = ("probe/top1", "knn/top1")  # metrics of the online probe, for one class per image
PROBE_METRICS = ("auto", *NEED_LABELS, "quality/rankme", "quality/alpha_req")  # that may select weights
PENALTIES = ("uniformity", "sigreg")  # on features that are alike
PREDICTORS = ("transformer", "conv")  # of features, `objective=latent`
COMBINES = ("mean", "stack")  # how layers of a teacher become one target
MOMENTUM_SCHEDULES = ("linear", "cosine")
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
ATTENTION_IMPLEMENTATIONS = ("auto", "sdpa", "eager")
ACTIVATION_NAMES = (
    "gelu",
    "gelu_10",
    "gelu_accurate",
    "gelu_fast",
    "gelu_new",
    "gelu_python",
    "gelu_python_tanh",
    "gelu_pytorch_tanh",
    "hardswish",
    "laplace",
    "leaky_relu",
    "linear",
    "mish",
    "prelu",
    "quick_gelu",
    "relu",
    "relu2",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "sqrtsoftplus",
    "swish",
    "tanh",
    "xielu",
)
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
Strategy = Literal["auto", "ddp", "fsdp"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)  # `trainer.strategy`: what each of several devices has
FINETUNE_RECIPES = ("finetune_", "scratch")  # how recipes of `finetune` begin in conf/experiment; others pretrain
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true")
MOST_CLASSES = 2**20  # a larger number is hardly meant as a class
PROJECTION_METHODS = ("dw_bn", "avg", "linear")
LAYER_TYPES = ("preactivation", "bottleneck")
PADDINGS = ("SAME", "VALID")
OUTPUT_STRIDES = (4, 8, 16, 32)

WEIGHT_NAMES = ("hf:", "demo:", "kaggle://", "modelscope://")  # how names of weights begin that are no local place
SPLITS = ("train", "val", "test")
LABEL_SOURCES = ("auto", "none", "folder")  # of `mimsuite pack`, beside a CSV file
Alpha = Literal["white", "drop", "channel"]
ALPHAS: tuple[Alpha, ...] = get_args(Alpha)  # what becomes of transparency
ChannelRule = Literal["mean", "repeat", "zero"]
CHANNEL_RULES: tuple[ChannelRule, ...] = get_args(ChannelRule)  # what makes kernels for other channels
PositionRule = Literal["bicubic", "jax", "timm"]
POSITION_RULES: tuple[PositionRule, ...] = get_args(PositionRule)  # how a table of positions is resized
CACHE_PARTS = ("old", "all")  # that `mimsuite doctor clean=` removes
SPLIT_SOURCES = ("auto", "none", "folder")  # of `mimsuite pack`
LABELS_MISSING = ("unlabelled", "skip", "error")  # what `mimsuite pack` does with images that a CSV file does not label
INTERPOLATIONS = ("bicubic", "bilinear")  # of augmentation
CROP_DEVICES = ("cpu", "gpu")  # `augment.device`: where training pictures are resized and mirrored
LabelKind = Literal["classes", "multilabel", "regression"]
LABEL_KINDS: tuple[LabelKind, ...] = get_args(LabelKind)
PROBLEM_TYPE_OF: dict[LabelKind, str] = {
    "classes": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
}

Pool = Literal["mean", "cls", "both", "grid"]
POOLS: tuple[Pool, ...] = get_args(Pool)
Norm = Literal["batchnorm", "layernorm", "none"]
PROBE_NORMS: tuple[Norm, ...] = get_args(Norm)
ProbeOptimizer = Literal["newton", "sgd", "lars"]
PROBE_OPTIMIZERS: tuple[ProbeOptimizer, ...] = get_args(ProbeOptimizer)
DEPTHS = ("last", "middle", "quarters", "all")
RUN_STATUSES = ("running", "done", "interrupted", "diverged", "failed", "damaged")  # as `mimsuite runs` tells them
RUN_TASKS = ("pretrain", "finetune", "probe", "evaluate")  # tasks that write run folders
RUN_ORDERS = ("updated", "name", "task", "model", "status", "steps", "hours")  # `mimsuite runs sort=`
SKIPPED_IN_A_ROW = 3  # steps without update that end a run
LARGER_IS_BETTER = ("top1", "top5", "map", "r2", "psnr", "rankme", "img_per_s", "mfu")  # metrics, without their split
SMALLER_IS_BETTER = ("loss", "mae", "cosine", "data_wait")
EXPORT_TARGETS = ("hf", "timm", "jax", "keras", "flax", "onnx", "pt2")  # formats that `mimsuite export` writes
EXPORT_PARTS = ("encoder", "all")
