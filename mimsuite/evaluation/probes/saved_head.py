"""A probe's head on disk: `head.safetensors`, and in `head.json` which features of which encoder it takes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file, save

from mimsuite.data.storage import write_bytes, write_json
from mimsuite.evaluation.probes.linear import LinearHead
from mimsuite.settings.probe_head import FACTS, TENSORS, HeadFacts, ProbeHead, find_head


def save_head(folder: Path, head: LinearHead, facts: HeadFacts) -> None:
    """Writes weight `(K, D)` and bias `(K,)`, float64, and the facts."""
    write_bytes(folder / TENSORS, save({"weight": head.weight.contiguous(), "bias": head.bias.contiguous()}))
    write_json(folder / FACTS, asdict(facts))


def load_head(folder: Path) -> tuple[LinearHead, HeadFacts]:
    """Reads what `save_head` wrote.

    Raises:
        InputError: no head there, or damaged files.
    """
    found = find_head(folder)
    return read_weights(found), found.facts


def read_weights(head: ProbeHead) -> LinearHead:
    """The weights of a head whose files were checked."""
    tensors = load_file(head.folder / TENSORS)
    return LinearHead(tensors["weight"], tensors["bias"], head.facts.layernorm)
