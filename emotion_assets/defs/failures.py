"""How a user's mistake ends a step: as one line with the thing and the fix, not as a traceback."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import dagster as dg

from emotion_assets.settings.errors import user_line

Body = TypeVar("Body", bound=Callable[..., Any])


def user_errors_as_failures(body: Body) -> Body:
    """Turn what a user can do something about (a ``UserError``, a full disk, no memory left) into a ``dagster.Failure``
    of one line that is not retried. The body of an asset returns, the body of checks yields.

    The body's annotations are evaluated here: Dagster reads them as they stand and takes no strings for ``context``.
    """
    body.__annotations__ = inspect.get_annotations(body, eval_str=True)

    @functools.wraps(body)
    def run(*args: Any, **kwargs: Any) -> Any:
        with _raise_as_failure():
            return body(*args, **kwargs)

    @functools.wraps(body)
    def run_yielding(*args: Any, **kwargs: Any) -> Iterator[Any]:
        with _raise_as_failure():
            yield from body(*args, **kwargs)

    return run_yielding if inspect.isgeneratorfunction(body) else run  # type: ignore[return-value]


@contextmanager
def _raise_as_failure() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if (line := user_line(error)) is None:
            raise
        raise dg.Failure(description=line, allow_retries=False) from None
