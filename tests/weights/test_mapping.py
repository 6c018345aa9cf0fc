"""Tables of names: both ways bit-equal, each tensor read once, and what does not fit is refused by name."""

import pytest
import torch

from mimsuite.errors import InputError
from mimsuite.weights.formats.format import Format, Found, read_as
from mimsuite.weights.formats.mapping import (
    CONV,
    DENSE,
    FROM_HEADS,
    INTO_HEADS,
    OF_HEADS,
    POINT,
    SAME,
    THIRDS,
    Rule,
    Table,
    both,
)
from mimsuite.weights.tensors import Entry, Tensors, in_memory

FACTS = {"num_attention_heads": 2}
QKV = tuple(f"layer.{{i}}.{part}" for part in ("query", "key", "value"))
TABLE = Table(
    (
        Rule("token", "embeddings.cls_token"),
        Rule("patch/kernel", "embeddings.projection.weight", CONV),
        *both("block.{i}.qkv", QKV, THIRDS, THIRDS),
        Rule("block.{i}.query/kernel", "layer.{i}.heads.weight", INTO_HEADS),
        Rule("block.{i}.query/bias", "layer.{i}.heads.bias", OF_HEADS),
        Rule("block.{i}.out/kernel", "layer.{i}.out.weight", FROM_HEADS),
        Rule("block.{i}.dense/kernel", "layer.{i}.dense.weight", DENSE),
        Rule("block.{i}.point", "layer.{i}.point.weight", POINT),
        Rule("stage.{i}.block.{j}.unit.{k}", "stages.{i}.{j}.{k}"),
    ),
    ignored=(r"optimizer\..*",),
)


def theirs():
    """Tensors of the other library: three heads of 2 would make 6, as two of 3 do."""
    draw = torch.Generator().manual_seed(0)
    shapes = {
        "token": (1, 1, 6),
        "patch/kernel": (4, 5, 3, 6),
        "block.0.qkv.weight": (18, 6),
        "block.0.qkv.bias": (18,),
        "block.11.query/kernel": (6, 2, 3),
        "block.11.query/bias": (2, 3),
        "block.11.out/kernel": (2, 3, 6),
        "block.11.dense/kernel": (6, 7),
        "block.11.point": (6, 7, 1, 1),
        "stage.1.block.2.unit.3": (2,),
    }
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def counted(tensors):
    """Tensors that are read from somewhere, and how often each was."""
    reads = dict.fromkeys(tensors, 0)

    def entry(name, tensor):
        def read():
            reads[name] += 1
            return tensor.clone()

        return Entry(tuple(tensor.shape), "float32", read)

    return Tensors({name: entry(name, tensor) for name, tensor in tensors.items()}), reads


def test_there_and_back_is_bit_equal():
    ours = TABLE.to_ours(in_memory(theirs()), FACTS)
    back = TABLE.to_theirs(dict(ours), FACTS)
    assert back.keys() == theirs().keys()
    assert all(torch.equal(back[name], value) and back[name].is_contiguous() for name, value in theirs().items())


def test_ours_is_what_the_forms_say():
    ours, given = TABLE.to_ours(in_memory(theirs()), FACTS), theirs()
    assert torch.equal(ours["layer.0.key.weight"], given["block.0.qkv.weight"][6:12])
    assert torch.equal(ours["layer.0.value.bias"], given["block.0.qkv.bias"][12:])
    assert torch.equal(ours["embeddings.projection.weight"], given["patch/kernel"].permute(3, 2, 0, 1))
    assert torch.equal(ours["layer.11.point.weight"], given["block.11.point"][:, :, 0, 0])
    x = torch.randn(5, 6)
    by_head = torch.einsum("nd,dhe->nhe", x, given["block.11.query/kernel"])
    torch.testing.assert_close(x @ ours["layer.11.heads.weight"].T, by_head.flatten(1))
    torch.testing.assert_close(
        by_head.flatten(1) @ ours["layer.11.out.weight"].T,
        torch.einsum("nhe,hed->nd", by_head, given["block.11.out/kernel"]),
    )
    assert torch.equal(ours["layer.11.heads.bias"], given["block.11.query/bias"].flatten())


def test_nothing_is_read_until_it_is_asked_for_and_everything_once():
    tensors, reads = counted(theirs())
    ours = TABLE.to_ours(tensors, FACTS)
    assert ours.shapes["layer.0.key.weight"] == (6, 6)
    assert set(reads.values()) == {0}
    read = dict(ours)
    assert {name: tuple(value.shape) for name, value in read.items()} == ours.shapes
    assert set(reads.values()) == {1}
    assert torch.equal(ours["layer.0.query.weight"], read["layer.0.query.weight"])  # again: it is read again
    assert reads["block.0.qkv.weight"] == 2


def test_what_no_rule_has_is_named_and_what_is_ignored_is_not():
    names = [*theirs(), "optimizer.step", "block.x.qkv.weight", "token2", "block.0.qkv.weight.extra"]
    assert TABLE.unknown(names) == ["block.x.qkv.weight", "token2", "block.0.qkv.weight.extra"]


def test_a_tensor_that_does_not_split_is_refused():
    with pytest.raises(InputError, match=r"block\.0\.qkv\.bias has shape \(2,\), which does not split into layer"):
        TABLE.to_ours(in_memory({"block.0.qkv.bias": torch.zeros(2)}), FACTS)


def test_two_tensors_for_one_of_ours_are_refused():
    twice = Table((Rule("old.{i}", "x.{i}"), Rule("new.{i}", "x.{i}")))
    with pytest.raises(InputError, match=r"new\.3 is a second tensor for x\.3; remove one"):
        twice.to_ours(in_memory({"old.3": torch.zeros(1), "new.3": torch.zeros(1)}), FACTS)


def test_ours_without_a_place_there_is_refused_by_name():
    state = dict(TABLE.to_ours(in_memory(theirs()), FACTS))
    with pytest.raises(InputError, match=r"decoder\.0\.weight has no place in this format \(1 such\)"):
        TABLE.to_theirs(state | {"decoder.0.weight": torch.zeros(1)}, FACTS)
    with pytest.raises(InputError, match=r"layer\.0\.key\.weight has no place"):
        TABLE.to_theirs({name: value for name, value in state.items() if name != "layer.0.query.weight"}, FACTS)


def made(found):
    return {"hidden_size": found.shapes["token"][2]}


FORM = Format("own", "a file of somebody", "vit", lambda _: TABLE, lambda _: True, made)


def test_a_format_reports_what_was_used_and_what_was_ignored():
    read = read_as(FORM, Found("x.pth", in_memory(theirs() | {"optimizer.a": torch.zeros(1)})))
    assert read.report() == "a file of somebody: 10 of its tensors are used, 1 ignored (optimizer.a)"
    assert read.config == {"hidden_size": 6}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"extra": (1,)}, "but has 1 tensors that mimsuite does not know, such as extra"),
        ({"token": (6,)}, r"but cannot be read \(IndexError"),
        ({"patch/kernel": (3, 6)}, "but cannot be read"),
        ({"block.0.qkv.bias": ()}, "but cannot be read"),
    ],
    ids=["unknown", "token", "kernel", "bias"],
)
def test_shapes_that_no_such_file_has_give_one_line(change, words):
    tensors = theirs() | {name: torch.zeros(shape) for name, shape in change.items()}
    with pytest.raises(InputError, match=f"^init=x.pth looks like a file of somebody, {words}") as caught:
        read_as(FORM, Found("init=x.pth", in_memory(tensors)))
    assert "\n" not in str(caught.value)


def test_tensors_come_in_parts_of_bounded_size_each_read_once():
    tensors, reads = counted({f"t{n}": torch.full((n,), float(n)) for n in range(1, 9)})
    parts = list(tensors.in_parts(40))
    assert [list(part) for part in parts] == [["t1", "t2", "t3", "t4"], ["t5"], ["t6"], ["t7"], ["t8"]]
    assert set(reads.values()) == {1}
    assert list(Tensors({}).in_parts(40)) == []


def test_tensors_are_a_mapping():
    one, two = in_memory({"a": torch.ones(1), "b": torch.ones(2)}), in_memory({"b": torch.zeros(3)})
    assert (one | two).shapes == {"a": (1,), "b": (3,)}
    assert list(one.only(["b"])) == ["b"]
    assert list(one.renamed(str.upper)) == ["A", "B"]
    assert one.metas()["b"].device.type == "meta"
    assert (len(one), "a" in one, "c" in one) == (2, True, False)
    assert SAME.theirs(SAME.ours(one["a"], {}), {}) is one["a"]
