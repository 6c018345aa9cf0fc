"""Which parameters share a learning rate and a weight decay: the optimizer's parameter groups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from mimsuite.errors import InputError

if TYPE_CHECKING:
    from mimsuite.models.composed import ForImageClassification

NEVER_DECAYED = ("cls_token", "register_tokens", "position_embeddings")


def param_groups(model: nn.Module, *, weight_decay: float, decay_mask_token: bool) -> list[dict[str, Any]]:
    """Splits parameters into one group with weight decay and one without.

    Not decayed: 1-D tensors (biases, norms), class tokens, position embeddings, and the mask token unless
    `decay_mask_token` (SimMIM's ViT decays its mask token, its Swin does not).

    Returns:
        Two optimizer groups; each trainable parameter is in exactly one of them. Besides `params` and `weight_decay`
        a group carries `names`, the parameters' names in the same order.
    """
    exempt = NEVER_DECAYED if decay_mask_token else (*NEVER_DECAYED, "mask_token")
    groups: dict[bool, list[tuple[str, nn.Parameter]]] = {True: [], False: []}
    for name, parameter in trainable_parameters(model):
        groups[_is_decayed(name, parameter, exempt)].append((name, parameter))
    return [_group(members, weight_decay if decayed else 0.0) for decayed, members in groups.items()]


def layer_groups(
    model: ForImageClassification, *, weight_decay: float, lr: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Splits parameters by their learning rate, which falls from the head to the embeddings, and by weight decay.

    A parameter learns at `lr * layer_decay ** (num_blocks + 1 - parameter_depth)`, as in the fine-tuning of BEiT (Bao
    et al. 2022), MAE (He et al. 2022, appendix A.1) and SimMIM (Xie et al. 2022, section 4.1). Not decayed: 1-D tensors
    (biases, norms), class tokens and position embeddings, as in `param_groups`.

    Args:
        model: frozen parameters (`requires_grad=False`) are in no group.
        weight_decay: of the groups that have one.
        lr: peak learning rate of the head and of what follows the blocks.
        layer_decay: factor from one depth to the one before, in (0, 1]; 1: all learn at `lr`.

    Returns:
        Optimizer groups, the head's first, no empty ones; each trainable parameter is in exactly one. A group
        carries `params`, `names` (as in `model.named_parameters()`), `weight_decay`, `lr` and `lr_scale`, the factor
        on `lr` that it holds already.

    Raises:
        InputError: a `layer_decay` outside (0, 1].
    """
    if not 0 < layer_decay <= 1:
        raise InputError(f"layer_decay={layer_decay} is not in (0, 1]; use 0.65, or 1 for one learning rate")
    deepest = model.encoder.num_blocks + 1
    groups: dict[tuple[float, bool], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in trainable_parameters(model):
        scale = layer_decay ** (deepest - parameter_depth(model, name))
        groups.setdefault((scale, _is_decayed(name, parameter, NEVER_DECAYED)), []).append((name, parameter))
    return [
        _group(groups[scale, decayed], weight_decay if decayed else 0.0) | {"lr": lr * scale, "lr_scale": scale}
        for scale, decayed in sorted(groups, reverse=True)
    ]


def parameter_depth(model: ForImageClassification, name: str) -> int:
    """Depth of a parameter, by its name in the model: the encoder's `depth_of`; the head has that of a final norm.

    Raises:
        InputError: the encoder has no such parameter.
    """
    prefix = model.base_prefix + "."
    if name.startswith(prefix):
        return model.encoder.depth_of(name.removeprefix(prefix))
    return model.encoder.num_blocks + 1


def _is_decayed(name: str, parameter: nn.Parameter, exempt: tuple[str, ...]) -> bool:
    return parameter.ndim > 1 and name.rpartition(".")[2] not in exempt


def _group(members: list[tuple[str, nn.Parameter]], weight_decay: float) -> dict[str, Any]:
    names, parameters = [name for name, _ in members], [parameter for _, parameter in members]
    return {"params": parameters, "names": names, "weight_decay": weight_decay}


def trainable_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters that get gradients."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
