"""Messages to the user: one screen, whatever was given."""

import pytest

from llada_v import errors

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.UserError)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_that_repeats_too_much_keeps_its_start_and_its_remedy(kind):
    told = str(kind(f"size is {'x' * 9999}; give a number"))
    assert told.startswith("size is xxx") and told.endswith("xxx; give a number")
    assert len(told) <= errors.LONGEST
    assert str(kind("size is 0; give a number")) == "size is 0; give a number"
