"""Which recipes come into question for some data on a device, and why: rows of the ledger, papers. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mimsuite.runs.planning.evidence import both, percent

PATCHES = 14  # a side, at most: the measured recipes have 8 to 14
FEWEST_PATCHES, MOST_PATCHES = 6, 24  # a side, for which the patch of a model of the user's choice stays
SIDE_ON_GPU, SIDE_ON_CPU = 224, 96  # pixels
CELL = 32  # pixels; sides of convolutional models are multiples of it
LARGE = 300_000  # images from which the published recipes of ViT-B are near
SMALL_BATCH, STEPS_IN_EPOCH, LARGEST_BATCH = 64, 50, 4096
PROVEN_BATCH = 128  # of experiment=small_data, and of its rows
NARROW = 192  # widest encoder of the measured recipes

HE = "He et al. 2022"
NOTHING = "nothing measured here"
ONE_SEED = "few epochs, one seed"
MAE, SIMMIM = "probe_mae_vit_imagenette_seed0", "probe_simmim_vit_imagenette_seed0"
MASKFEAT, CVT = "probe_maskfeat_vit_imagenette_seed0", "probe_simmim_cvt_imagenette_seed0"
SHORT_CVT = "finetune_simmim_cvt_imagenette_10pct_after_300_steps"
BIT, BIT_SCRATCH = "proof_imagenette_bit_simmim", "proof_imagenette_bit_scratch_steps"
BIT_LATENT, VIT_LATENT = "proof_imagenette_bit_latent", "proof_cifar10_latent"
PROVEN, SCRATCH = "proof_cifar10_mae90", "proof_cifar10_scratch_compute"
PROVEN_75, PROVEN_SIMMIM = "proof_cifar10_mae75", "proof_cifar10_simmim"
PROBE, TUNED, RANDOM = "probe/top1", "test/top1", "random/probe/top1"


@dataclass(frozen=True)
class Facts:
    """What a recipe is chosen by.

    Attributes:
        images: for training.
        side: shorter side of the median image, in pixels.
        gpu: whether a GPU trains.
        given: the keys that the user has fixed.
        family: "vit", "cvt", "bit" or "external", where the user has fixed the model; else "".
        width: of its encoder, where it says one.
        objective: that the user has fixed; else "".
        image_side: shorter side of the image size that the user has fixed; 0 for none.
        patch: of the model, or one that the user has fixed; 0 where both are open.
    """

    images: int
    side: int
    gpu: bool
    given: frozenset[str] = frozenset()
    family: str = ""
    width: int = 0
    objective: str = ""
    image_side: int = 0
    patch: int = 0


@dataclass(frozen=True)
class Recipe:
    """Keys of `mimsuite pretrain`, and why these.

    Attributes:
        name: what a table calls it.
        keys: the keys that the user has not fixed.
        why: reasons, by what they are about: model, objective, size, mask, batch, lr.
    """

    name: str
    keys: Mapping[str, Any]
    why: Mapping[str, str] = field(default_factory=dict)

    def without(self, given: frozenset[str]) -> Recipe:
        """The same, but for what the user has fixed: keys, and groups other than the model."""
        closed = given | ({"lr"} if "optim.base_lr" in given else frozenset())
        groups = closed - {"model"}
        keys = {k: v for k, v in self.keys.items() if k not in closed and k.partition(".")[0] not in groups}
        return Recipe(self.name, keys, self.why)


def recipes_for(facts: Facts) -> list[Recipe]:
    """The recipes that come into question, the largest first; with a model or recipe of the user's only one."""
    if "experiment" in facts.given:
        found = [
            Recipe("as given", {}, dict.fromkeys(("model", "objective", "mask", "size", "batch", "lr"), "the recipe's"))
        ]
    elif "init" in facts.given and not facts.family:
        found = [
            Recipe("as given", {}, {"model": "that of the weights", "objective": f"going on from weights: {NOTHING}"})
        ]
    elif facts.family == "external":
        found = [Recipe("as given", {}, {"model": "as given", "objective": f"the default; {NOTHING} for its family"})]
    elif facts.family in ("cvt", "bit"):
        found = [convolution(facts)]
    elif facts.family == "vit":
        found = [given_vit(facts)]
    elif facts.objective == "spark":
        found = [spark(facts)]
    elif facts.objective == "simmim":
        found = [simmim(facts)]
    elif facts.objective == "latent":
        found = [latent(facts)]
    else:
        found = mae_ladder(facts)
    return [recipe.without(facts.given) for recipe in found]


def index_without_hours(recipes: list[Recipe], facts: Facts) -> int:
    """The recipe of choice by the amount of data alone."""
    names = [recipe.name for recipe in recipes]
    if facts.gpu and facts.images >= LARGE and "vit_base" in names:
        return names.index("vit_base")
    if facts.gpu and "vit_small" in names:
        return names.index("vit_small")
    return len(recipes) - 1


def mae_ladder(facts: Facts) -> list[Recipe]:
    """MAE of ViTs, from large to small."""
    sizes, why_size = vit_sizes(facts)
    head = {"head": "dec1"} if facts.objective else {}  # objective=mae would bring its own
    half = Recipe(
        "half vit_tiny",
        {"experiment": "small_data", **head, **sizes, **small_batch(facts, PROVEN_BATCH)},
        {
            "model": "half a ViT-Tiny (6 blocks of width 192): after 60 epochs of this recipe on CIFAR-10 its linear "
            f"probe reached {both(f'{PROVEN}_probe', PROBE)}, random weights {both(f'{PROVEN}_probe', RANDOM)}; "
            f"fine-tuned on a tenth of the labels it reached {both(f'{PROVEN}_finetune', TUNED)}, from scratch at "
            f"equal compute {both(SCRATCH, TUNED)} (ledger: {PROVEN}_probe, {PROVEN}_finetune, {SCRATCH})",
            **proven_reasons(facts),
            **why_size,
        },
    )
    if not facts.gpu:
        whole = {
            "model.num_hidden_layers": 12,
            "head.hidden_size": 192,
            "head.num_attention_heads": 3,
            "head.intermediate_size": 768,
        }
        full = Recipe(
            "vit_tiny",
            {**half.keys, **whole},
            {
                **half.why,
                "model": "ViT-Tiny (12 blocks of width 192) by the recipe that was measured for half of it; by MAE at "
                f"a ratio of 0.75 its linear probe reached {percent(MAE, PROBE)} after 8 epochs on Imagenette, random "
                f"weights {percent(MAE, RANDOM)} (ledger: probe_mae_vit_imagenette; {ONE_SEED})",
            },
        )
        return [full, half]
    paper = {"experiment": "mae_vit_base_800ep", **sizes, "batch": large_batch(facts.images)}
    why = {**mae_reasons(), **why_size, **why_large(facts)}
    base = Recipe(
        "vit_base",
        paper,
        {**why, "model": f"ViT-B/16: 83.6 % on ImageNet-1k after 1,600 epochs of MAE and fine-tuning ({HE}, table 3)"},
    )
    small = Recipe(
        "vit_small",
        {**paper, "model": "vit_small", "head": "dec1"},
        {
            **why,
            "model": "ViT-S/16: a linear probe of 84.1 % on Imagenette after 200 epochs of MAE at 224 px (another "
            "library's table, which RESULTS.md cites under 'Published by others')",
        },
    )
    return [base, small, half]


def given_vit(facts: Facts) -> Recipe:
    """A ViT of the user's choice."""
    sizes, why_size = vit_sizes(facts)
    keys: dict[str, Any] = dict(sizes)
    why = {"model": "as given", **why_size}
    mae = facts.objective in ("", "mae")
    if mae:
        keys |= {"objective": "mae", "head": "dec1"}
        why |= mae_reasons()
    keys |= {"model.position": "sincos2d", "model.init_scheme": "mae"}
    if 0 < facts.width <= NARROW and mae:  # experiment=small_data, but for its model
        keys |= {"head.hidden_size": 128, "head.num_attention_heads": 2, "head.intermediate_size": 512}
        keys |= {"mask.ratio": 0.9, "augment.scale": [0.35, 1.0], "optim.betas": [0.9, 0.95]}
        keys |= {**small_batch(facts, PROVEN_BATCH), "lr": 1.5e-3}
        why |= proven_reasons(facts)
    elif 0 < facts.width <= NARROW:
        keys |= {**small_batch(facts), "lr": 1e-3}
        why |= why_small(facts)
    else:
        keys |= {"batch": large_batch(facts.images), "optim.base_lr": 1.5e-4, "optim.base_batch": 256}
        keys |= {"optim.betas": [0.9, 0.95]}
        why |= why_large(facts)
    return Recipe("as given", keys, why)


def convolution(facts: Facts) -> Recipe:
    """A CvT or BiT of the user's choice."""
    side = facts.image_side or min(facts.side, SIDE_ON_GPU if facts.gpu else SIDE_ON_CPU) // CELL * CELL
    keys: dict[str, Any] = {"image_size": side} if side and not facts.image_side else {}
    why = {"model": "as given", "size": size_reason(facts, side)}
    narrow = bool(facts.width) and facts.width <= 2 * NARROW
    if facts.objective in ("", "simmim"):
        unit = side // 4 if side and side < 192 and side % 16 == 0 else 0
        keys |= {"objective": "simmim"} | ({"mask.unit": unit} if unit else {})
        why |= {
            "objective": "SimMIM: MAE needs a ViT"
            + (
                f"; CvT-13 after 3 epochs on Imagenette: probe {percent(CVT, PROBE)}, random weights "
                f"{percent(CVT, RANDOM)} (ledger: probe_simmim_cvt_imagenette; {ONE_SEED})"
                if facts.family == "cvt"
                else "; expect little: after 15 epochs on Imagenette the probe of a small BiT reached "
                f"{percent(f'{BIT}_probe_seed0', PROBE)}, random weights {percent(f'{BIT}_probe_seed0', RANDOM)}; "
                f"fine-tuned on a tenth of the labels it reached {percent(f'{BIT}_finetune_seed0', TUNED)}, from "
                f"scratch with the same steps {percent(f'{BIT_SCRATCH}_seed0', TUNED)} (ledger: {BIT}_probe, "
                f"{BIT}_finetune, {BIT_SCRATCH}; seed 0 of each)"
            ),
            "mask": "a quarter of the side: of 96 px, units of 24 px brought a small CvT to "
            f"{percent(f'{SHORT_CVT}_unit_24_seed0', TUNED)}, of 16 px to {percent(f'{SHORT_CVT}_seed0', TUNED)} "
            f"(ledger: {SHORT_CVT}, {SHORT_CVT}_unit_24; seed 0 of each); ratio 0.6 of Xie et al. 2022"
            if unit
            else "Xie et al. 2022: units of 32 px at 192 to 224 px, 60 % of them hidden",
        }
    elif (facts.family, facts.objective) == ("bit", "latent"):
        keys |= {"head.hidden_size": 128, "head.num_hidden_layers": 2} if narrow else {}  # as in its row
        why |= {"objective": latent_reason("Imagenette", BIT_LATENT, "SimMIM", BIT)}
    else:
        why |= {"objective": f"as given; {NOTHING} yet"}
    keys |= {**small_batch(facts), "lr": 2e-3 if narrow else 1e-3}
    why |= {
        "batch": allowed(facts)
        or f"64 in the ledger's rows of this family (pretrain_simmim_{facts.family}_imagenette)",
        "lr": "as in the rows of the ledger, at a batch of 64: 2e-3 for the smallest networks, else 1e-3",
    }
    return Recipe("as given", keys, why)


def spark(facts: Facts) -> Recipe:
    """SparK, where the model is open."""
    model, width = ("bit_50x1", 2048) if facts.gpu else ("bit_nano", 256)
    made = convolution(Facts(**{**vars(facts), "family": "bit", "width": width}))
    return Recipe(
        model,
        {"model": model, **made.keys},
        {
            **made.why,
            "model": f"SparK pretrains ResNets (Tian et al. 2023), and BiT is one; {NOTHING} yet",
            "mask": "60 % hidden, as in Tian et al. 2023",
        },
    )


def simmim(facts: Facts) -> Recipe:
    """SimMIM of a ViT, where the model is open."""
    sizes, why_size = vit_sizes(facts)
    side = facts.image_side or sizes["image_size"]
    if facts.gpu:
        keys = {"experiment": "simmim_vit_base_800ep", "batch": large_batch(facts.images), **sizes, "mask.unit": "auto"}
        reasons = {
            "model": "ViT-B/16: 83.8 % on ImageNet-1k after 800 epochs and fine-tuning (Xie et al. 2022, table 6)",
            "mask": "Xie et al. 2022: units of about a seventh of the side, 60 % of them hidden",
            "batch": batch_reason(facts),
            "lr": "scaled from that of Xie et al. 2022 with the batch",
        }
    else:
        name = "simmim_vit_tiny_32" if side <= 40 else "simmim_vit_tiny_96"
        keys = {"experiment": name, **sizes, "mask.unit": "auto", **small_batch(facts)}
        reasons = {
            "model": f"that of experiment={name}, which is measured (RESULTS.md)",
            "mask": "units of about a seventh of the side, 60 % of them hidden (Xie et al. 2022)",
            **why_small(facts),
        }
    row = "probe_simmim_vit_cifar10_seed0"
    why = (
        f"as given; on CIFAR-10 its probe reached {percent(row, PROBE)} after 8 epochs, random weights "
        f"{percent(row, RANDOM)} (ledger: probe_simmim_vit_cifar10); on Imagenette MAE was better "
        f"({percent(MAE, PROBE)} against {percent(SIMMIM, PROBE)}; ledger: probe_mae_vit_imagenette, "
        f"probe_simmim_vit_imagenette; {ONE_SEED})"
    )
    return Recipe("vit", keys, {**reasons, **why_size, "objective": why})


def latent(facts: Facts) -> Recipe:
    """Latent targets, where the model is open."""
    sizes, why_size = vit_sizes(facts)
    model = {"model": "vit_base" if facts.gpu and facts.images >= LARGE else "vit_small" if facts.gpu else "vit_tiny"}
    keys = {**model, "model.position": "sincos2d", "model.init_scheme": "mae", **sizes}
    keys |= {"batch": large_batch(facts.images)} if facts.gpu else {**small_batch(facts), "lr": 1e-3}
    return Recipe(
        model["model"],
        keys,
        {
            "model": "data2vec 2.0 pretrains ViT-B (Baevski et al. 2023); smaller ones for less data or a CPU",
            "objective": latent_reason("CIFAR-10", VIT_LATENT, "MAE", PROVEN),
            "mask": "65 % hidden: all but one rectangle (Darcet et al. 2025)",
            **why_size,
            **(why_large(facts) if facts.gpu else why_small(facts)),
        },
    )


def latent_reason(data: str, row: str, name: str, other: str) -> str:
    """What latent targets reached in a row of the ledger, and the objective `name` in another at equal compute."""
    return (
        f"as given; on {data} its linear probe reached {percent(f'{row}_probe_seed0', PROBE)}, that of {name} at equal "
        f"compute {percent(f'{other}_probe_seed0', PROBE)}, random weights {percent(f'{other}_probe_seed0', RANDOM)} "
        f"(ledger: {row}_probe, {other}_probe; seed 0 of each)"
    )


def vit_sizes(facts: Facts) -> tuple[dict[str, Any], dict[str, str]]:
    """Image and patch size of a ViT, and why."""
    side, patch = facts.image_side or min(facts.side, SIDE_ON_GPU if facts.gpu else SIDE_ON_CPU), facts.patch
    if not (patch and (FEWEST_PATCHES <= side / patch <= MOST_PATCHES or "model.patch_size" in facts.given)):
        patch = 2
        while side / patch > PATCHES:
            patch *= 2
    side = max(patch, side // patch * patch)
    return {"image_size": side, "model.patch_size": patch}, {
        "size": f"{size_reason(facts, side)}; {patch} px give {side // patch} x {side // patch} patches, and the "
        "measured recipes have 8 x 8 to 14 x 14"
    }


def size_reason(facts: Facts, side: int) -> str:
    """Why images are so large."""
    if facts.image_side:
        return "as given"
    if side == SIDE_ON_CPU and not facts.gpu:
        return (
            "96 px: a CPU trains this many times faster than 224 px, and the ledger's rows of Imagenette are of 96 px"
        )
    if side == SIDE_ON_GPU:
        return "224 px, as in the papers"
    return "as large as the images are, rounded down to what the model divides"


def mae_reasons() -> dict[str, str]:
    """Why MAE, and its mask."""
    return {
        "objective": "MAE computes visible patches alone. After 23 to 36 minutes of training each, its ViT was "
        f"the only one of three that beat random weights on Imagenette: probe {percent(MAE, PROBE)}, SimMIM "
        f"{percent(SIMMIM, PROBE)}, MaskFeat {percent(MASKFEAT, PROBE)}, random {percent(MAE, RANDOM)} "
        f"(ledger: probe_mae_vit_imagenette, probe_simmim_vit_imagenette, probe_maskfeat_vit_imagenette; {ONE_SEED})",
        "mask": f"single patches, 75 % hidden: best for the linear probe in {HE}, figure 5; ratios have not been "
        "compared here",
    }


def proven_reasons(facts: Facts) -> dict[str, str]:
    """Why the keys of experiment=small_data."""
    return {
        "objective": "MAE computes visible patches alone: at equal compute on CIFAR-10 its linear probe reached "
        f"{percent(f'{PROVEN}_probe_seed0', PROBE)}, SimMIM's {percent(f'{PROVEN_SIMMIM}_probe_seed0', PROBE)} "
        f"(ledger: {PROVEN}_probe, {PROVEN_SIMMIM}_probe; seed 0 of each)",
        "mask": "single patches, 90 % hidden: at equal compute on CIFAR-10 "
        f"{percent(f'{PROVEN}_probe_seed0', PROBE)} by a linear probe, of 75 % "
        f"{percent(f'{PROVEN_75}_probe_seed0', PROBE)} (ledger: {PROVEN}_probe, {PROVEN_75}_probe; seed 0 of each)",
        "batch": allowed(facts, PROVEN_BATCH) or f"{PROVEN_BATCH} in the rows of experiment=small_data",
        "lr": f"1.5e-3 in the rows of experiment=small_data, at a batch of {PROVEN_BATCH}",
    }


def small_batch(facts: Facts, most: int = SMALL_BATCH) -> dict[str, Any]:
    """The batch of the measured recipes, or what fewer images allow."""
    return {"batch": 2 ** int(math.log2(max(1, min(most, facts.images))))}


def why_small(facts: Facts) -> dict[str, str]:
    """Reasons for batch and rate of the measured recipes."""
    batch = "64 in all rows of the ledger that are cited here"
    return {"batch": allowed(facts) or batch, "lr": f"1e-3 in the rows cited here, all at a batch of {SMALL_BATCH}"}


def allowed(facts: Facts, most: int = SMALL_BATCH) -> str:
    """Why a batch is smaller than the measured ones; "" where it is not."""
    if facts.images >= most:
        return ""
    return f"a power of two that {facts.images:,} images allow; the rows of the ledger have {most}: {NOTHING} below"


def large_batch(images: int) -> int:
    """A power of two that leaves enough steps in an epoch, and exists."""
    wanted = min(LARGEST_BATCH, max(SMALL_BATCH, images // STEPS_IN_EPOCH))
    return int(2 ** int(math.log2(max(1, min(wanted, images)))))


def batch_reason(facts: Facts) -> str:
    """Why `large_batch`."""
    batch = large_batch(facts.images)
    if batch == LARGEST_BATCH:
        return f"4,096, as in {HE}, table 8"
    if facts.images // batch >= STEPS_IN_EPOCH:
        return f"4,096 in {HE}, less here so that an epoch has at least {STEPS_IN_EPOCH} steps; {NOTHING}"
    return allowed(facts) or f"4,096 in {HE}; {batch} for so few images, as in the rows of the ledger"


def why_large(facts: Facts) -> dict[str, str]:
    """Reasons for batch and rate of the published recipes."""
    return {
        "batch": batch_reason(facts),
        "lr": f"1.5e-4 x batch / 256 ({HE}, table 8)",
    }
