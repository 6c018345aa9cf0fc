"""Tables of names: which tensor of another library is which of ours, and how it is stored there; read in both ways."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from mimsuite.errors import InputError
from mimsuite.weights.tensors import Entry, Tensors

if TYPE_CHECKING:
    from torch import Tensor

Facts = Mapping[str, Any]
"""The content of our `config.json`, for what shapes alone do not say, such as the number of heads; empty: not known."""


class Form(NamedTuple):
    """How tensors are stored elsewhere.

    Attributes:
        ours: one of theirs -> ours, as many as the rule names.
        theirs: ours -> one of theirs.
    """

    ours: Callable[[Tensor, Facts], tuple[Tensor, ...]]
    theirs: Callable[[tuple[Tensor, ...], Facts], Tensor]


SAME = Form(lambda t, _: (t,), lambda ts, _: ts[0])
DENSE = Form(lambda t, _: (t.T,), lambda ts, _: ts[0].T)
"""`(in, out)` there, `(out, in)` here."""
CONV = Form(lambda t, _: (t.permute(3, 2, 0, 1),), lambda ts, _: ts[0].permute(2, 3, 1, 0))
"""`(h, w, in, out)` there, `(out, in, h, w)` here."""
POINT = Form(lambda t, _: (t.flatten(1),), lambda ts, _: ts[0][:, :, None, None])
"""A 1x1 convolution `(out, in, 1, 1)` there, a linear layer here."""
POINT_DENSE = Form(lambda t, _: (t.flatten(0, -2).T,), lambda ts, _: ts[0].T[None, None])
"""A 1x1 convolution `(1, 1, in, out)` there, a linear layer here."""
TOKEN = Form(lambda t, _: (t.reshape(1, 1, -1),), lambda ts, _: ts[0][0])
"""`(1, D)` there, `(1, 1, D)` here."""
FLAT = Form(lambda t, _: (t.flatten(),), lambda ts, _: ts[0])
"""A vector, there perhaps with axes of one before it."""


def _with_class_place(table: Tensor, facts: Facts) -> tuple[Tensor]:
    """A table of positions `(1, T, D)`, where the sizes are known with one of zeros for a class token that has none."""
    from torch.nn import functional as F

    if not facts:
        return (table,)
    down, across = _grid(facts)
    missing = down * across + facts.get("use_class_token", True) - table.shape[1]
    return (F.pad(table, (0, 0, 1, 0)) if missing == 1 else table,)


def _grid(facts: Facts) -> tuple[int, int]:
    """Rows and columns of patches, by `image_size` and `patch_size`."""
    sides = [side if isinstance(side, list | tuple) else (side, side) for side in map(facts.get, SIZES)]
    return sides[0][0] // sides[1][0], sides[0][1] // sides[1][1]


SIZES = ("image_size", "patch_size")
POSITIONS = Form(_with_class_place, lambda ts, _: ts[0])
"""Positions of the patches, there perhaps without one of the class token: that is added behind them."""


def _joined(tensors: tuple[Tensor, ...], _: Facts) -> Tensor:
    import torch

    return torch.cat(tensors)


THIRDS = Form(lambda t, _: t.chunk(3), _joined)
"""Query, key and value below each other there."""
INTO_HEADS = Form(
    lambda t, _: (t.flatten(1).T,),
    lambda ts, facts: ts[0].T.reshape(ts[0].shape[1], facts["num_attention_heads"], -1),
)
"""`(D, heads, d)` there, a linear layer `(heads * d, D)` here."""
OF_HEADS = Form(lambda t, _: (t.flatten(),), lambda ts, facts: ts[0].reshape(facts["num_attention_heads"], -1))
"""`(heads, d)` there."""
FROM_HEADS = Form(
    lambda t, _: (t.flatten(0, 1).T,),
    lambda ts, facts: ts[0].T.reshape(facts["num_attention_heads"], -1, ts[0].shape[0]),
)
"""`(heads, d, D)` there, a linear layer `(D, heads * d)` here."""


def _with_key_bias(query: Tensor, _: Facts) -> tuple[Tensor, Tensor]:
    return query, query.new_zeros(query.shape)


def _without_key_bias(biases: tuple[Tensor, ...], _: Facts) -> Tensor:
    if biases[1].count_nonzero():
        raise InputError("a bias of keys that is not 0 has no place in this format; use to=hf")
    return biases[0]


NO_KEY_BIAS = Form(_with_key_bias, _without_key_bias)
"""The bias of queries there, those of queries and keys here: the latter is 0 (BEiT, SimMIM)."""


class Rule(NamedTuple):
    """One line of a table. `{i}` and `{j}` in names stand for numbers, `{j+1:02d}` for one that is written otherwise.

    Attributes:
        theirs: the name there.
        ours: the name or names here, without the prefix of the encoder.
        form: how it is stored there.
    """

    theirs: str
    ours: str | tuple[str, ...]
    form: Form = SAME

    @property
    def all_ours(self) -> tuple[str, ...]:
        """The names here, also if it is one."""
        return (self.ours,) if isinstance(self.ours, str) else self.ours


@dataclass(frozen=True)
class Table:
    """The names of a format.

    Attributes:
        rules: a line per tensor of a layer.
        ignored: regular expressions of names there that carry nothing.
    """

    rules: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()
    _patterns: list[tuple[re.Pattern[str], Rule]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_patterns", [(pattern_of(rule.theirs), rule) for rule in self.rules])

    def find(self, name: str) -> tuple[Rule, dict[str, int]] | None:
        """The rule for a name there, and its numbers as we count them."""
        for pattern, rule in self._patterns:
            if (found := pattern.fullmatch(name)) is not None:
                return rule, numbers_of(found)
        return None

    def unknown(self, names: Iterable[str]) -> list[str]:
        """Names that no rule has and that are not ignored."""
        skipped = [re.compile(text) for text in self.ignored]
        return [n for n in names if self.find(n) is None and not any(text.fullmatch(n) for text in skipped)]

    def to_ours(self, tensors: Tensors, facts: Facts) -> Tensors:
        """The same tensors under our names and in our forms, each still read when it is asked for.

        One of theirs that is several of ours is read once, if ours are asked for one after the other.
        """
        entries: dict[str, Entry] = {}
        for name, entry in tensors.entries.items():
            if (found := self.find(name)) is None:
                continue
            rule, numbers = found
            names = [filled(text, numbers) for text in rule.all_ours]
            parts = rule.form.ours(entry.meta(), facts)
            if len(parts) != len(names):
                raise InputError(f"{name} has shape {entry.shape}, which does not split into {', '.join(names)}")
            read = _once(entry, rule.form, facts, len(names))
            for number, (own, part) in enumerate(zip(names, parts, strict=True)):
                if own in entries:
                    raise InputError(f"{name} is a second tensor for {own}; remove one of them from the file")
                entries[own] = Entry(tuple(part.shape), entry.dtype, read(number))
        return Tensors(entries)

    def to_theirs(self, state: Mapping[str, Tensor], facts: Facts) -> dict[str, Tensor]:
        """Our tensors under the names of the format; contiguous.

        Raises:
            InputError: tensors of ours that the format has no name for.
        """
        left, made = dict(state), {}
        for rule in self.rules:
            first = pattern_of(rule.all_ours[0])
            for name in [name for name in left if first.fullmatch(name)]:
                found = first.fullmatch(name)
                assert found is not None
                numbers = numbers_of(found)
                names = [filled(text, numbers) for text in rule.all_ours]
                if all(one in left for one in names):
                    given = tuple(left.pop(one) for one in names)
                    made[filled(rule.theirs, numbers)] = rule.form.theirs(given, facts).contiguous()
        if left:
            raise InputError(f"{sorted(left)[0]} has no place in this format ({len(left)} such); use to=hf")
        return made


NUMBER = re.compile(r"\{(\w)(\+1)?(?::02d)?\}")


def pattern_of(name: str) -> re.Pattern[str]:
    """A regular expression of a name with places for numbers."""
    text, end = "", 0
    for place in NUMBER.finditer(name):
        text += re.escape(name[end : place.start()]) + rf"(?P<{place[1]}{'1' if place[2] else ''}>\d+)"
        end = place.end()
    return re.compile(text + re.escape(name[end:]))


def numbers_of(found: re.Match[str]) -> dict[str, int]:
    """The numbers that a pattern of `pattern_of` found, counted from 0."""
    return {letter[0]: int(text) - len(letter[1:]) for letter, text in found.groupdict().items()}


def filled(name: str, numbers: Mapping[str, int]) -> str:
    """A name with numbers in their places."""
    return name.format(**numbers, **{f"{letter}+1": number + 1 for letter, number in numbers.items()})


def _once(entry: Entry, form: Form, facts: Facts, count: int) -> Callable[[int], Callable[[], Tensor]]:
    """Readers of the parts of one tensor, which is kept until the last of them is read."""
    kept: dict[int, Tensor] = {}

    def part(number: int) -> Callable[[], Tensor]:
        def read() -> Tensor:
            if number not in kept:
                kept.update(enumerate(form.ours(entry.read(), facts)))
            found = kept.pop(number)
            if number == count - 1:
                kept.clear()
            return found

        return read

    return part


def both(theirs: str, ours: str | tuple[str, ...], weight: Form = SAME, bias: Form = SAME) -> Iterator[Rule]:
    """The rules for `.weight` and `.bias` of a layer."""
    own = (ours,) if isinstance(ours, str) else ours
    for end, form in (("weight", weight), ("bias", bias)):
        yield Rule(f"{theirs}.{end}", tuple(f"{name}.{end}" for name in own), form)
