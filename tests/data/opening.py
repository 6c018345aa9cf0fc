"""What is reported where data cannot be opened."""

import pytest

from mimsuite.data.open import open_index
from mimsuite.errors import InputError


def refused(data, cache):
    """The message, of one line."""
    with pytest.raises(InputError) as error:
        open_index(str(data), cache)
    message = str(error.value)
    assert "\n" not in message
    return message
