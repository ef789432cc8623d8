"""The errors that a user can mend, and how any error becomes one line.

Belongs here: errors that more than one package raises. Does not belong here: an error of one module, which stands in
that module and derives from ``UserError``.
"""

from __future__ import annotations


class UserError(Exception):
    """Something the user can fix. The message is one line: the thing that is wrong, then the fix."""


class SettingsError(UserError):
    """A profile or an environment variable that cannot be used."""


class DataError(UserError):
    """A dataset that cannot be used; the message names file, row or column, and the fix."""


def user_line(error: BaseException) -> str | None:
    """The one line of an error that the user can do something about, or None for a defect."""
    text = str(error)
    if isinstance(error, UserError):
        return text.splitlines()[0] if text else type(error).__name__
    if "No space left on device" in text or getattr(error, "errno", None) == 28:
        return f"the disk is full ({text.splitlines()[0]}); free some space and materialise again"
    memory = isinstance(error, MemoryError) or "out of memory" in text.lower() or "can't allocate memory" in text
    if memory:
        first = text.splitlines()[0] if text else "no memory left"
        return f"out of memory ({first}); lower batch_size and raise gradient_accumulation by as much"
    return None
