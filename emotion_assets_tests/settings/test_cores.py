"""The cores of the machine and of its container."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from emotion_assets.settings import cores


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("max 100000\n", 64),  # no limit, as the kernel writes it
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("20000 100000\n", 1),
        ("12800000 100000\n", 64),
        (None, 64),  # no control groups of version 2
    ],
)
def test_a_container_uses_the_cores_that_it_may_keep_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, expected: int
) -> None:
    file = tmp_path / "cpu.max"
    if limit is not None:
        file.write_text(limit, encoding="ascii")
    monkeypatch.setattr(cores, "CONTAINER_LIMIT", file)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert cores.count_cores() == expected
