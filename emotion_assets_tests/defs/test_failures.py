"""How a step ends for the user: one line for what can be put right, a traceback for a defect."""

from __future__ import annotations

import dagster as dg
import pytest

from emotion_assets.defs.failures import user_errors_as_failures
from emotion_assets.settings.errors import UserError
from emotion_assets.storage.locks import BusyError
from emotion_assets.storage.workspace import Workspace


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


def test_a_defect_keeps_its_traceback_and_is_not_tried_again() -> None:
    @user_errors_as_failures
    def body() -> None:
        raise KeyError("defect")

    with pytest.raises(dg.Failure, match="KeyError: 'defect'") as caught:
        body()
    assert isinstance(caught.value.__cause__, KeyError) and not caught.value.allow_retries


def test_what_another_run_stood_in_the_way_of_may_be_tried_again() -> None:
    @user_errors_as_failures
    def body() -> None:
        raise BusyError("the database: another run has been using it for 120 s; wait for that run to end")

    with pytest.raises(dg.Failure) as caught:
        body()
    assert caught.value.allow_retries


def test_a_defect_on_customers_texts_tells_dagster_where_its_traceback_is_and_nothing_else(
    workspace: Workspace,
) -> None:
    @user_errors_as_failures(private=True)
    def body(workspace: Workspace) -> None:
        raise ValueError("could not read 'my secret complaint'")

    with pytest.raises(dg.Failure) as caught:
        body(workspace=workspace)
    said = str(caught.value.description)
    assert "ValueError in test_failures.py" in said and "secret" not in said
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    (kept,) = (workspace.settings.home / "errors").iterdir()
    assert str(kept) in said and "my secret complaint" in kept.read_text() and kept.stat().st_mode & 0o077 == 0
