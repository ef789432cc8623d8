"""How a user's mistake ends a step: as one line with the thing and the fix, not as a traceback."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TypeVar

import dagster as dg

from emotion_assets.ml.train import user_line

Result = TypeVar("Result")


def plain_errors(body: Callable[..., Result]) -> Callable[..., Result]:
    """Turn what a user can do something about (a ``UserError``, a full disk, no memory left) into a ``dagster.Failure``
    of one line that is not retried.

    The body's annotations are evaluated here: Dagster reads them as they stand and takes no strings for ``context``.
    """
    body.__annotations__ = inspect.get_annotations(body, eval_str=True)

    @functools.wraps(body)
    def run(*args: object, **kwargs: object) -> Result:
        try:
            return body(*args, **kwargs)
        except Exception as error:
            if (line := user_line(error)) is None:
                raise
            raise dg.Failure(description=line, allow_retries=False) from None

    return run
