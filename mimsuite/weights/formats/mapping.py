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
"""The content of our `config.json`, for what shapes alone do not say, such as the number of heads."""


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


class Rule(NamedTuple):
    """One line of a table. `{i}`, `{j}`, `{k}` in names stand for numbers.

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

    def find(self, name: str) -> tuple[Rule, dict[str, str]] | None:
        """The rule for a name there, and its numbers."""
        for pattern, rule in self._patterns:
            if (found := pattern.fullmatch(name)) is not None:
                return rule, found.groupdict()
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
            names = [text.format(**numbers) for text in rule.all_ours]
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
                names = [text.format(**found.groupdict()) for text in rule.all_ours]
                if all(one in left for one in names):
                    given = tuple(left.pop(one) for one in names)
                    made[rule.theirs.format(**found.groupdict())] = rule.form.theirs(given, facts).contiguous()
        if left:
            raise InputError(f"{sorted(left)[0]} has no place in this format ({len(left)} such); use to=hf")
        return made


def pattern_of(name: str) -> re.Pattern[str]:
    """A regular expression of a name with `{i}`, `{j}`, `{k}` for numbers."""
    parts = re.split(r"\{(\w)\}", name)
    text = "".join(re.escape(p) if n % 2 == 0 else rf"(?P<{p}>\d+)" for n, p in enumerate(parts))
    return re.compile(text)


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
