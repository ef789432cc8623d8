"""How an error ends a step: as one line with the thing and the fix; a traceback is for a defect."""

from __future__ import annotations

import functools
import inspect
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, overload

import dagster as dg

from emotion_assets.defs.run_end import ending_with_run, require_run_going
from emotion_assets.settings.errors import user_line
from emotion_assets.storage.locks import BusyError
from emotion_assets.storage.workspace import Workspace

Body = TypeVar("Body", bound=Callable[..., Any])


@overload
def user_errors_as_failures(body: Body) -> Body: ...


@overload
def user_errors_as_failures(*, private: bool) -> Callable[[Body], Body]: ...


def user_errors_as_failures(body: Any = None, *, private: bool = False) -> Any:
    """Turn what a user can do something about (a ``UserError``, a full disk, no memory left) into a ``dagster.Failure``
    of one line, and a defect into one with its traceback. Nothing is tried again but what another run stood in the way
    of. The body of an asset returns, the body of checks yields.

    A body that takes ``context`` ends with its run (``run_end``), and records nothing in a run that is over.

    The body's annotations are evaluated here: Dagster reads them as they stand and takes no strings for ``context``.

    Args:
        private: the body handles what customers wrote, which an error may quote: the traceback of a defect goes to a
            file under the home, and Dagster is told where.
    """
    if body is None:
        return functools.partial(user_errors_as_failures, private=private)
    body.__annotations__ = inspect.get_annotations(body, eval_str=True)

    @functools.wraps(body)
    def run(*args: Any, **kwargs: Any) -> Any:
        with _raise_as_failure(kwargs if private else None), _ending_with_run(args) as going:
            result = body(*args, **kwargs)
            going()
            return result

    @functools.wraps(body)
    def run_yielding(*args: Any, **kwargs: Any) -> Iterator[Any]:
        with _raise_as_failure(kwargs if private else None), _ending_with_run(args) as going:
            for result in body(*args, **kwargs):
                going()
                yield result

    return run_yielding if inspect.isgeneratorfunction(body) else run


@contextmanager
def _ending_with_run(args: tuple[Any, ...]) -> Iterator[Callable[[], None]]:
    """Yields what refuses to go on in a run that is over."""
    context = next((a for a in args if isinstance(a, dg.AssetExecutionContext | dg.OpExecutionContext)), None)
    if context is None:
        yield lambda: None
        return
    instance, run_id = context.instance, context.run.run_id
    require_run_going(instance, run_id)  # a step may be tried again in a run that ended meanwhile
    with ending_with_run(instance, run_id):
        yield lambda: require_run_going(instance, run_id)


@contextmanager
def _raise_as_failure(private_arguments: dict[str, Any] | None = None) -> Iterator[None]:
    try:
        yield
    except dg.Failure:
        raise
    except Exception as error:
        if (line := user_line(error)) is not None:
            raise dg.Failure(line, allow_retries=isinstance(error, BusyError)) from None
        if private_arguments is None:
            raise dg.Failure(f"{type(error).__name__}: {error}", allow_retries=False) from error
        raise _private_failure(error, private_arguments["workspace"]) from None


def _private_failure(error: Exception, workspace: Workspace) -> dg.Failure:
    """A defect without its message, which may quote what it stumbled over."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    path = workspace.settings.home / "errors" / f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        traceback.print_exception(error, file=file)
    return dg.Failure(
        f"{type(error).__name__} in {Path(frame.filename).name} line {frame.lineno}, a defect; its traceback may quote "
        f"what customers wrote and is kept in {path}",
        allow_retries=False,
    )
