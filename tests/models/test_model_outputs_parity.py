"""Output objects behave as transformers' do, in the hands of the tools that take them apart and rebuild them."""

import copy
import dataclasses
import pickle
from collections.abc import Mapping

import accelerate.utils
import pytest
import torch
from torch.nn.parallel import scatter_gather
from torch.utils import _pytree as pytree
from transformers import modeling_outputs as theirs
from transformers.models.cvt.modeling_cvt import BaseModelOutputWithCLSToken

from mimsuite.encoders import outputs as ours

X, Y, Z = torch.zeros(2, 1), torch.ones(2, 1), torch.full((2, 1), 2.0)
NAMES = sorted(name for name, value in vars(ours).items() if dataclasses.is_dataclass(value))
THEIRS = vars(theirs) | {"BaseModelOutputWithCLSToken": BaseModelOutputWithCLSToken}


def plain(value):
    """The same without tensors and views, to compare: what it is made of, names and order included."""
    if isinstance(value, torch.Tensor):
        return value.flatten().tolist()
    if isinstance(value, Mapping):
        return [[name, plain(one)] for name, one in value.items()]
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def state(out):
    """All that can be read from an output: its entries, and its fields as attributes."""
    return plain(out), [[f.name, plain(getattr(out, f.name))] for f in dataclasses.fields(out)], plain(out.to_tuple())


def full(cls):
    names = [f.name for f in dataclasses.fields(cls)]
    return {name: (X, Y) if name in ("feature_maps", "hidden_states", "attentions") else Z for name in names}


def assigned(cls):
    out = cls()
    first, second = list(full(cls).items())[:2]
    out[second[0]] = second[1]
    setattr(out, *first)
    return out


def item_assigned(cls):
    out = cls(**full(cls))
    out[next(iter(out))] = Y
    return out


WAYS = {
    "nothing": lambda cls: cls(),
    "names": lambda cls: cls(**full(cls)),
    "numbers": lambda cls: cls(*full(cls).values()),
    "the first field": lambda cls: cls(next(iter(full(cls).values()))),
    "all but the first": lambda cls: cls(**dict(list(full(cls).items())[1:])),
    "pairs from a generator": lambda cls: cls((k, v) for k, v in full(cls).items()),
    "pairs in a list": lambda cls: cls(list(full(cls).items())),
    "pairs of lists": lambda cls: cls([list(pair) for pair in full(cls).items()]),
    "some pairs": lambda cls: cls(list(full(cls).items())[1:]),
    "pairs with None": lambda cls: cls((k, None) for k in full(cls)),
    "a dict": lambda cls: cls(full(cls)),
    "another output": lambda cls: cls(cls(**full(cls))),
    "a dict of some": lambda cls: cls(dict(list(full(cls).items())[1:])),
    "assignment": assigned,
    "assignment to an entry": item_assigned,
    "replace": lambda cls: dataclasses.replace(cls(**full(cls)), **dict(list(full(cls).items())[:1])),
    "copy": lambda cls: copy.copy(cls(**full(cls))),
    "its own copy": lambda cls: cls(**full(cls)).copy(),
    "deepcopy": lambda cls: copy.deepcopy(cls(**full(cls))),
    "pickle": lambda cls: pickle.loads(pickle.dumps(cls(**full(cls)))),
    "pickle of one field": lambda cls: pickle.loads(pickle.dumps(cls(next(iter(full(cls).values()))))),
    "gather": lambda cls: scatter_gather.gather([cls(**full(cls)), cls(**full(cls))], target_device=0),
    "gather of the first field": lambda cls: scatter_gather.gather([cls(next(iter(full(cls).values())))] * 2, 0),
    "accelerate": lambda cls: accelerate.utils.send_to_device(cls(**full(cls)), "cpu"),
    "honor_type": lambda cls: accelerate.utils.operations.honor_type(cls(**full(cls)), full(cls).items()),
    "tree_map": lambda cls: pytree.tree_map(lambda t: t + 1, cls(**full(cls))),
    "tree_map to None": lambda cls: pytree.tree_map(lambda t: None if t is Z else t, cls(**full(cls))),
}


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_made_and_rebuilt_as_in_transformers(name, monkeypatch):
    monkeypatch.setattr(scatter_gather.Gather, "apply", lambda device, dim, *parts: torch.cat(parts, dim))  # needs GPUs
    for way, make in WAYS.items():
        assert state(make(getattr(ours, name))) == state(make(THEIRS[name])), way


READS = {
    "first": lambda out: out[0],
    "slice": lambda out: out[:2],
    "end": lambda out: out[-1],
    "names": list,
    "keys": lambda out: list(out.keys()),
    "values": lambda out: list(out.values()),
    "items": lambda out: list(out.items()),
    "reversed": lambda out: list(reversed(out)),
    "length": len,
    "dict": dict,
    "keywords": lambda out: dict(**out),
    "kept": lambda out: dict(out.items()),
    "get": lambda out: [out.get("hidden_states"), out.get("nothing"), out.get("nothing", 3)],
    "in": lambda out: ["hidden_states" in out, "nothing" in out, "loss" in out],
    "kind": lambda out: [isinstance(out, dict), isinstance(out, Mapping), dataclasses.is_dataclass(out)],
    "union": lambda out: out | {"loss": Y},
    "leaves": pytree.tree_leaves,
    "hash": lambda out: type(out).__hash__,
}


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_read_as_in_transformers(name):
    for some in (slice(None), slice(1), slice(1, None)):
        one, other = (cls(**dict(list(full(cls).items())[some])) for cls in (getattr(ours, name), THEIRS[name]))
        for way, read in READS.items():
            assert plain(read(one)) == plain(read(other)), way


@pytest.mark.parametrize("name", NAMES)
def test_fields_stand_in_the_order_of_transformers(name):
    assert list(full(getattr(ours, name))) == list(full(THEIRS[name]))


CHANGES = {
    "del": lambda out: out.__delitem__("hidden_states"),
    "pop": lambda out: out.pop("hidden_states"),
    "setdefault": lambda out: out.setdefault("loss", X),
    "unknown": lambda out: out["nothing"],
    "none": lambda out: out["loss"],
    "number": lambda out: out[7],
    "mixed": lambda out: type(out)([("loss", X), X]),
}


@pytest.mark.parametrize("way", CHANGES)
def test_what_transformers_refuses_is_refused(way):
    mine, other = (
        cls(logits=X, hidden_states=(Y,)) for cls in (ours.ImageClassifierOutput, theirs.ImageClassifierOutput)
    )
    with pytest.raises((TypeError, LookupError, ValueError)) as error:
        CHANGES[way](mine)
    assert "\n" not in str(error.value)
    with pytest.raises(Exception):  # noqa: B017, PT011 — which is what it raises
        CHANGES[way](other)


def test_several_entries_are_set_at_once_as_attributes_too():
    out = ours.ImageClassifierOutput(logits=X)
    out.update({"logits": Y}, loss=Z)
    out |= {"hidden_states": (X,)}
    assert (out.logits, out.loss, out.hidden_states[0]) == (out["logits"], out["loss"], out["hidden_states"][0])
    assert list(out) == ["logits", "loss", "hidden_states"]
    assert out.logits is Y


def test_a_field_set_to_none_is_missing():
    out = ours.ImageClassifierOutput(X, Y)
    out.loss = None
    assert list(out) == ["logits"]
    out["logits"] = None
    assert (len(out), out.logits) == (0, None)


def test_a_compiled_model_makes_an_output():
    def model(pixels, given):
        out = ours.BaseModelOutputWithPooling(last_hidden_state=pixels + 1, hidden_states=(pixels,))
        return out if given is None else ours.ImageClassifierOutput(logits=out[0], hidden_states=out["hidden_states"])

    for given in (None, 1):
        found = torch.compile(model, backend="eager", fullgraph=True)(X, given)
        assert state(found) == state(model(X, given))
        assert type(found) is type(model(X, given))
