"""What a label stands for, as a file has it: a name, a number that something names, a list of one.

Belongs here: how one value becomes a label of the profile. Does not belong here: where the value stands (``rows``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]{0,8}))(?:\.0+)?")


@dataclass(frozen=True)
class LabelNames:
    """The labels there may be, and what names those that are numbers; the order of the profile never does.

    Attributes:
        labels: those of the profile.
        given: ``dataset.label_names``; the first is the name of 0.
        declared: the names that the file itself has for its numbers.
    """

    labels: tuple[str, ...]
    given: tuple[str, ...] = ()
    declared: tuple[str, ...] = ()

    def label_of(self, value: Any, spelt_out: Any = None) -> str:
        """The label that a value means; ``spelt_out`` is its name where the row has it in a column of its own.

        Raises:
            ValueError: there is none; the message is the problem and the fix.
        """
        if isinstance(value, list):
            if len(value) != 1:
                shown = ", ".join(repr(one) for one in value[:3]) + (", ..." if len(value) > 3 else "")
                raise ValueError(
                    f"the label is a list; this project takes one label a row (here: {shown[:200] or 'none'}); "
                    "keep one, or leave the row out"
                )
            value = value[0]
        if isinstance(value, list | dict):
            kind = "a list in a list" if isinstance(value, list) else "an object"
            raise ValueError(f"the label is {kind}; this project takes one label a row: write its name")
        number = whole_number(value)
        name = _stripped(value) if number is None else self._name_of(number, value, _stripped(spelt_out))
        if name not in self.labels:
            what = (
                f"{name!r} (the name of {number})" if number is not None and name != _stripped(value) else f"{value!r}"
            )
            raise ValueError(
                f"unknown label {what}; use one of {', '.join(self.labels)}, or name it in the profile's labels"
            )
        return str(name)

    def _name_of(self, number: int, value: Any, spelt_out: Any) -> Any:
        names = self.declared or self.given
        if isinstance(spelt_out, str) and spelt_out:
            name = spelt_out
        elif not names:
            name = None
        elif 0 <= number < len(names):
            name = names[number]
        else:
            raise ValueError(
                f"the label is the number {number}, which has no name (names there are: {len(names)}, the first for "
                "0); remove the row, or name all numbers under dataset.label_names"
            )
        if name and 0 <= number < len(self.given) and name != self.given[number]:
            raise ValueError(
                f"the file names the label {number} {name!r}, dataset.label_names {self.given[number]!r}; take "
                "label_names out or correct it"
            )
        as_text = next((text for text in (str(value).strip(), str(number)) if text in self.labels), None)
        if as_text and (name is None or (name not in self.labels and whole_number(name) is None)):
            return as_text  # the profile's labels are the numbers themselves
        if name is None and not any(whole_number(label) is not None for label in self.labels):
            raise ValueError("labels are numbers; give their names in that order under dataset.label_names (0 first)")
        return value if name is None else name


def whole_number(value: Any) -> int | None:
    """The whole number that a value is, or says as text (``0``, ``"0"``, ``0.0``, ``"0.0"``)."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, int):
        return value
    found = _WHOLE.fullmatch(value.strip()) if isinstance(value, str) else None
    return int(found[1]) if found else None


def declared_names(feature: Any) -> tuple[str, ...]:
    """The names of a feature of ``datasets`` that is a ClassLabel, or a list of them."""
    from datasets import ClassLabel

    while hasattr(feature, "feature"):
        feature = feature.feature
    return tuple(feature.names) if isinstance(feature, ClassLabel) and feature.names else ()


def _stripped(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value
