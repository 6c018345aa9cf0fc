"""Which features of an encoder a task uses: its layers, by number or by word, and how each becomes a vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from mimsuite.errors import InputError
from mimsuite.settings.read import is_int
from mimsuite.words import DEPTHS, POOLS, Pool

VECTOR_POOLS = tuple(pool for pool in POOLS if pool != "grid")


class View(NamedTuple):
    """One kind of features.

    Attributes:
        layer: a block or stage, from 1; the encoder's `num_layers` is the last, after the final norm. 0: the images.
        pool: "mean" of the patch features, "cls", the class token, "both", the class token and then the mean, or
            "grid", all patch features, row by row.
    """

    layer: int
    pool: Pool

    def __str__(self) -> str:
        return f"layer {self.layer}, {self.pool}"


def read_layers(value: Any, depth: int) -> list[int]:
    """Numbers of layers, ascending, from a word or a list; takes the value itself.

    Raises:
        InputError: an unknown word, or a number that the encoder does not have.
    """
    if isinstance(value, list):
        if not value or not all(is_int(n) and 1 <= n <= depth for n in value):
            raise InputError(f"layers={value}: this encoder's layers are 1 to {depth}; use numbers from these")
        return sorted(set(value))
    if value not in DEPTHS:
        raise InputError(
            f"layers={value} is unknown; layers takes {', '.join(DEPTHS)}, or a list of numbers from 1 to {depth}"
        )
    quarters = sorted({max(1, round(depth * quarter / 4)) for quarter in (1, 2, 3, 4)})
    return {
        "last": [depth],
        "middle": [max(1, depth // 2)],
        "quarters": quarters,
        "all": list(range(1, depth + 1)),
    }[str(value)]


def read_view(layer: Any, pool: str, tokens: Sequence[bool]) -> View:
    """The one view that `layer=` and `pool=` name.

    Args:
        layer: value of the key: a number from 1, "middle" or "auto".
        pool: how the layer becomes a vector.
        tokens: whether each layer has a class token.

    Raises:
        InputError: no such layer, or one without the class token that `pool` needs.
    """
    depth = len(tokens)
    named: dict[Any, int] = {"auto": depth, "middle": max(1, depth // 2)}
    number: Any = named.get(layer) if isinstance(layer, str) else layer
    if not is_int(number) or not 1 <= number <= depth:
        raise InputError(f"layer={layer}: this encoder's layers are 1 to {depth}; use one of these, middle or auto")
    if pool != "mean" and not tokens[number - 1]:
        having = [n for n, has in enumerate(tokens, start=1) if has]
        fix = f"use layer={having[-1]} or pool=mean" if having else "use pool=mean"
        raise InputError(f"pool={pool}, but layer {number} of this encoder has no class token; {fix}")
    return View(number, cast("Pool", pool))


def choose_views(
    layers: Sequence[int], pools: Sequence[str], tokens: Sequence[bool], *, chosen: bool
) -> tuple[View, ...]:
    """The views of some layers, by layer and then by pooling.

    Args:
        layers: numbers from 1.
        pools: what is asked for; empty for the mean, and the class token where there is one.
        tokens: whether each layer has a class token.
        chosen: whether the user named these very layers; else those without what is asked for are skipped.

    Raises:
        InputError: a layer without the class token that is asked for.
    """
    wanted = cast("Sequence[Pool]", pools) or POOLS[:2]
    found = tuple(View(n, p) for n in layers for p in wanted if p == "mean" or tokens[n - 1])
    lacking = [n for n in layers if not tokens[n - 1]]
    if pools and lacking and "mean" not in pools and (chosen or not found):
        raise InputError(
            f"pool={','.join(pools)}, but layer {lacking[0]} of this encoder has no class token; use pool=mean"
        )
    return found
