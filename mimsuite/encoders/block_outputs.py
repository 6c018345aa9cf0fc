"""What blocks of a network put out in a pass, for encoders whose stages do not hand it on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from mimsuite.errors import InputError
from mimsuite.types import FeatureMap


@contextmanager
def watched(blocks: Mapping[int, nn.Module]) -> Iterator[dict[int, Tensor]]:
    """Keeps what blocks put out while it is open, by their numbers."""
    found: dict[int, Tensor] = {}

    def keeper(number: int) -> Callable[..., None]:
        def keep(_: nn.Module, __: Any, output: Any) -> None:
            found[number] = output[0] if isinstance(output, tuple) else output

        return keep

    handles = [block.register_forward_hook(keeper(number)) for number, block in blocks.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def last_stage_maps(
    run: Callable[[], FeatureMap],
    blocks: Sequence[nn.Module],
    wanted: Sequence[int],
    as_map: Callable[[Tensor, tuple[int, int]], Tensor],
) -> tuple[Tensor, ...]:
    """The maps `(B, D, h, w)` of blocks of the last stage.

    Args:
        run: a pass of the encoder, which ends with the features of the last block, after the final norm.
        blocks: all of them, in order.
        wanted: numbers from 1; the last block has the map that the encoder ends with.
        as_map: makes a map of the grid `(h, w)` of what a block puts out.

    Raises:
        InputError: no such block, or one of an earlier stage, whose map is of another size.
    """
    if not all(1 <= number <= len(blocks) for number in wanted):
        raise InputError(f"layers={list(wanted)} are not some of the encoder's blocks 1 to {len(blocks)}")
    with watched({number: blocks[number - 1] for number in wanted if number < len(blocks)}) as found:
        last = run().grid
    grid = (last.shape[-2], last.shape[-1])
    maps = tuple(last if number == len(blocks) else as_map(found[number], grid) for number in wanted)
    if any(x.shape != last.shape for x in maps):
        raise InputError(f"layers={list(wanted)}: only blocks with maps like the last one's can be one target")
    return maps
