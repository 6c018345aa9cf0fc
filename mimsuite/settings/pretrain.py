"""What `pretrain` reads. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from mimsuite.settings.budget import read_budget
from mimsuite.settings.combinations import UNET_HEAD, check_combination, check_compared, hidden_range, mask_cell
from mimsuite.settings.geometry import read_masked_geometry
from mimsuite.settings.latent import OF_LATENT, LatentSettings, is_latent, read_latent, with_mask_mode
from mimsuite.settings.model import found_out, hiding_fields, masked_config, read_model
from mimsuite.settings.objects import NO_OBJECTS, Objects
from mimsuite.settings.online_probe import OnlineProbeSettings, read_online_probe, resolved_probe
from mimsuite.settings.read import read
from mimsuite.settings.resolve import plain_values, with_values
from mimsuite.settings.resume import key_of
from mimsuite.settings.training import TrainingSettings, groups_of, read_inputs, without_keys, written_back

OF_THE_MODEL = ("target", "mask_mode", "mask_layer")  # keys of the objective that the model's config holds

FOR_EVERY_MODEL = (
    "objective=simmim (the default, since every model can do it; at equal compute, in one seed, MAE gave a ViT better "
    "features: experiment=small_data)"
)


@dataclass(frozen=True)
class PretrainSettings(TrainingSettings):
    """A pretraining run, read and checked.

    Attributes:
        objective: the group without what the model's config holds.
        loss: name of the error of hidden places.
        target: name of what is predicted.
        mask: the group of the mask.
        latent: what a latent objective asks for; None for another.
        hidden: mask units that a mask hides by `mask.ratio`, at least and at most; 0 and 0 for a mask without a ratio.
        online_probe: what it looks at, or None without one.
    """

    objective: DictConfig
    loss: str
    target: str
    mask: DictConfig
    hidden: tuple[int, int]
    online_probe: OnlineProbeSettings | None
    latent: LatentSettings | None = None

    @property
    def views(self) -> int:
        """Masks of each image."""
        return 1 if self.latent is None else self.latent.views

    @property
    def probes_online(self) -> bool:
        """Whether the run measures its features while it trains."""
        return self.online_probe is not None

    @property
    def keeps_best_probe(self) -> bool:
        """Whether it keeps the weights of the best of these measurements."""
        return self.online_probe is not None and self.online_probe.keeps


def read_pretrain(
    cfg: DictConfig, overrides: Sequence[str], *, leads: bool = True, objects: Objects = NO_OBJECTS
) -> PretrainSettings:
    """Reads and checks every key; arguments as of `read_inputs`.

    Raises:
        InputError: a value that the task, the model or the data does not take.
    """
    cfg, inputs = read_inputs(cfg, overrides, leads=leads, objects=objects)
    index, model = inputs.index, (inputs.weights, inputs.given, inputs.trusted, objects.model)
    draft = read_model(cfg, *model)
    cfg = with_mask_mode(cfg, draft)
    check_combination(cfg, draft)
    finest = draft.changed(**hiding_fields(cfg)).mask_stride if draft.mask_layers else draft.mask_stride
    geometry = read_masked_geometry(
        cfg,
        index,
        native=draft.fixed_size,
        stride=draft.stride,
        cell=mask_cell(finest, cfg.objective.target),
        drops=cfg.objective.mask_mode == "drop",
    )
    hidden = (0, 0) if objects.mask else hidden_range(cfg, geometry.units, geometry.drops)
    config = read_model(cfg, *model, image_size=geometry.image_size, channels=geometry.channels)
    budget = read_budget(cfg, index.num_samples(index.select("train")), inputs.processes)
    latent = read_latent(cfg, config, geometry, budget.steps, inputs.trusted) if is_latent(cfg) else None
    predictor = None if latent is None else latent.predictor
    config = masked_config(config, cfg, inputs.weights, inputs.given, predictor)
    check_compared(cfg, budget.batch)
    rounds = 1 + -(-budget.steps // budget.val_every)
    probe = read_online_probe(cfg, index, budget.steps * budget.batch, rounds)
    decided = {"mask.unit": geometry.mask_unit} | resolved_probe(cfg, probe)
    decided |= {} if latent is None else latent.resolved
    if read(cfg, "head._target_") == UNET_HEAD and config.decoder_sizes is not None:
        decided["head.hidden_size"] = config.decoder_sizes["hidden_size"]
    cfg = written_back(with_values(cfg, decided), inputs, geometry, budget)
    cfg = found_out(config, cfg, inputs.given, inputs.weights)
    return PretrainSettings(
        *(inputs, config, geometry, budget, groups_of(cfg)),
        notes=(
            *(() if probe is None else (probe.note,)),
            *(() if latent is None else latent.notes),
            *((FOR_EVERY_MODEL,) if config.can_drop and not chooses(inputs.given) else ()),
        ),
        config=plain_values(cfg),
        objective=without_keys(cfg, "objective", OF_THE_MODEL if latent is None else (*OF_THE_MODEL, *OF_LATENT)),
        loss=str(cfg.objective.loss),
        target=str(cfg.objective.target),
        mask=cfg.mask,
        hidden=hidden,
        online_probe=probe,
        latent=latent,
    )


def chooses(overrides: Sequence[str]) -> bool:
    """Whether an objective was chosen: by its keys or a head's, by a recipe, or with the weights to start from."""
    return any(key_of(override).split(".")[0] in ("objective", "head", "experiment", "init") for override in overrides)
