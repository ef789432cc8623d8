"""How a step ends for the user: one line for what can be put right, a traceback for a defect."""

from __future__ import annotations

import dagster as dg
import pytest

from emotion_assets.defs.failures import user_errors_as_failures
from emotion_assets.settings.errors import UserError


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("the thing; the fix"), "the thing; the fix"),
        (OSError(28, "No space left on device"), "the disk is full"),
        (MemoryError(), "out of memory"),
    ],
)
def test_what_a_user_can_put_right_is_one_line_and_not_retried(error: Exception, line: str) -> None:
    @user_errors_as_failures
    def body() -> None:
        raise error

    with pytest.raises(dg.Failure) as caught:
        body()
    assert caught.value.description is not None
    assert caught.value.description.startswith(line) and "\n" not in caught.value.description
    assert not caught.value.allow_retries


def test_a_defect_keeps_its_traceback() -> None:
    @user_errors_as_failures
    def body() -> None:
        raise KeyError("defect")

    with pytest.raises(KeyError):
        body()
