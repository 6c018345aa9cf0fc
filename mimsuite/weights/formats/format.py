"""What a format of another library is: how it is recognised, which config it makes, and its table of names."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mimsuite.errors import InputError, reading
from mimsuite.weights.formats.mapping import Table
from mimsuite.weights.tensors import Tensors

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}  # of the published widths whose heads are not 64 wide


@dataclass(frozen=True)
class Found:
    """Weights that somebody has, not yet known.

    Attributes:
        where: what errors call them: `init=FILE`, or a path.
        tensors: by their names there.
        config: the content of `config.json` beside them; empty without one.
    """

    where: str
    tensors: Tensors
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by name."""
        return self.tensors.shapes

    def has(self, *names: str) -> bool:
        """Whether all of these names are there."""
        return all(name in self.tensors.entries for name in names)

    def count(self, pattern: str) -> int:
        """How many different numbers stand at the group of a regular expression in the names: layers, say."""
        text = re.compile(pattern)
        return len({found[1] for name in self.tensors if (found := text.match(name)) is not None})

    def without_prefix(self, *prefixes: str) -> Found:
        """The same with the first prefix removed that any name has; what does not begin with it stays."""
        first = next((p for p in prefixes if any(name.startswith(p) for name in self.tensors)), "")
        return Found(self.where, self.tensors.renamed(lambda name: name.removeprefix(first)), self.config)

    def refuse(self, looks_like: str, reason: str) -> InputError:
        """The error for weights that are known and cannot be used."""
        return InputError(f"{self.where} looks like {looks_like}, {reason}")


@dataclass(frozen=True)
class Format:
    """A format of another library.

    Attributes:
        name: short, as reports have it.
        title: what it is, in words that end a sentence.
        model_type: our family.
        table: names there and here.
        recognises: whether weights are of this format, by their names and shapes or by the config beside them.
        config: makes the content of our `config.json`; raises an `InputError` where a variant cannot be had.
        canonical: brings the names to those of the table: removes prefixes, unifies old and new numbering.
        preprocessor: the `preprocessor_config.json` of the published weights: mean and deviation; empty: not known.
        model_types: names of `model_type` in a `config.json` that is of this format.
        derive: tensors of ours that the files imply without holding them, such as a key bias of 0.
        reduce: the opposite: what of our tensors the table has names for.
    """

    name: str
    title: str
    model_type: str
    table: Callable[[Mapping[str, Any]], Table]
    recognises: Callable[[Found], bool]
    config: Callable[[Found], dict[str, Any]]
    canonical: Callable[[Found], Found] = lambda found: found
    preprocessor: Callable[[Found], dict[str, Any]] = lambda _: {}
    model_types: tuple[str, ...] = ()
    derive: Callable[[Tensors, Mapping[str, Any]], Tensors] = lambda tensors, _: tensors
    reduce: Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]] = lambda state, _: state


@dataclass(frozen=True)
class Read:
    """Weights of another library as ours.

    Attributes:
        format: what they are.
        config: our `config.json`.
        preprocessor: our `preprocessor_config.json`, or empty.
        tensors: under our names, read when they are asked for.
        used: how many of theirs that is.
        ignored: names there that carry nothing for us.
    """

    format: Format
    config: dict[str, Any]
    preprocessor: dict[str, Any]
    tensors: Tensors
    used: int
    ignored: tuple[str, ...]

    def report(self) -> str:
        """What was found, in one line, with what many files do not say: heads (`heads_of`), and what MAE predicts."""
        some = ", ".join(self.ignored[:3]) + (", ..." if len(self.ignored) > 3 else "")
        rest = f", {len(self.ignored)} ignored ({some})" if self.ignored else ""
        sizes = [self.config.get(name) for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")]
        shown = "" if None in sizes else "; {} blocks, {} wide, {} heads".format(*sizes)
        target = self.config.get("mim_target")
        shown += "" if target is None else f"; its decoder is taken to predict {target}"
        return f"{self.format.title}: {self.used} of its tensors are used{rest}{shown}"


def read_as(form: Format, found: Found) -> Read:
    """Weights in our names and forms; of most files nothing but names and shapes is read yet.

    Raises:
        InputError: a variant that cannot be had, or names that the format does not have.
    """
    fix = "its tensors are not those of a whole network; download it again"
    with reading(f"{found.where} looks like {form.title}, but", fix):
        own = form.canonical(found)
        config = form.config(own)
        table = form.table(config)
        if unknown := table.unknown(own.tensors):
            raise found.refuse(
                form.title, f"but has {len(unknown)} tensors that mimsuite does not know, such as {unknown[0]}"
            )
        tensors = form.derive(table.to_ours(own.tensors, config), config)
    ignored = tuple(name for name in own.tensors if table.find(name) is None)
    prepared = of_channels(form.preprocessor(own), config.get("num_channels", 3))
    return Read(form, config, prepared, tensors, len(own.tensors) - len(ignored), ignored)


def of_channels(preprocessor: Mapping[str, Any], channels: Any) -> dict[str, Any]:
    """What a format says of the preprocessing; without mean and deviation where they are of other channels.

    Published weights are of colour images; somebody's own of one channel or of ten were not normalised so.
    """
    given = [preprocessor.get(name) for name in IMAGENET]
    strange = any(isinstance(values, list | tuple) and len(values) not in (1, channels) for values in given)
    return {name: value for name, value in preprocessor.items() if not strange or name not in IMAGENET}


def write_as(form: Format, state: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Our tensors, their names with or without the prefix of the encoder, under the names of a format.

    Raises:
        InputError: a tensor that the format has no place for.
    """
    prefix = f"{form.model_type}."
    own = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return form.table(config).to_theirs(form.reduce(own, config), config)


def heads_of(found: Found, width: int) -> int:
    """Heads of a transformer whose files do not say them: 64 wide, but for the published sizes where they are not.

    Raises:
        InputError: another width.
    """
    if width % 64 and width not in HEADS:
        raise found.refuse(f"a transformer {width} wide", "whose number of heads is not known; convert it to to=hf")
    return HEADS.get(width, width // 64)


def square(found: Found, places: int, others: int = 0) -> int:
    """The side of a square grid of `places`, or of as many as are left without the `others` among them.

    Raises:
        InputError: not a square.
    """
    side = math.isqrt(places)
    if others and side * side != places:
        return square(found, places - others)
    if side * side != places:
        raise found.refuse(f"a transformer of {places} places", "which are not a square; write it with a config.json")
    return side
