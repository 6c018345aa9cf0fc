"""Output objects: attribute, name, number, iteration."""

import pytest
import torch

from mimsuite.encoders.outputs import (
    BaseModelOutputWithPooling,
    ImageClassifierOutput,
    MaskedImageModelingOutput,
)

X, Y = torch.zeros(1), torch.ones(1)


def test_fields_stand_in_the_documented_order():
    out = BaseModelOutputWithPooling(X, Y, (X,), (Y,))
    assert list(out.keys()) == ["last_hidden_state", "pooler_output", "hidden_states", "attentions"]
    assert list(MaskedImageModelingOutput(X, X, (X,), (X,)).keys()) == [
        "loss",
        "reconstruction",
        "hidden_states",
        "attentions",
    ]
    assert list(ImageClassifierOutput(X, X, (X,), (X,)).keys()) == ["loss", "logits", "hidden_states", "attentions"]


def test_none_is_left_out_of_numbers_tuples_and_names():
    out = MaskedImageModelingOutput(reconstruction=Y)
    assert out[0] is Y
    assert out.to_tuple() == (Y,)
    assert out[:1] == (Y,)
    assert list(out) == ["reconstruction"]
    assert len(out) == 1
    assert "loss" not in out
    assert out.loss is None


def test_names_read_like_a_dict():
    out = ImageClassifierOutput(X, Y)
    assert out["logits"] is Y
    assert dict(**out) == {"loss": X, "logits": Y}
    assert dict(out.items()) == {"loss": X, "logits": Y}


def test_an_absent_name_is_a_key_error():
    with pytest.raises(KeyError, match="loss"):
        _ = ImageClassifierOutput(logits=Y)["loss"]


def test_the_reconstruction_is_also_called_logits():
    assert MaskedImageModelingOutput(reconstruction=Y).logits is Y
