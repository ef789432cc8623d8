"""Who waits for a lock says so at once and again, and names who holds it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from emotion_assets.storage import locks
from emotion_assets.storage.locks import BusyError, file_lock


def test_who_waits_says_at_once_and_again_what_it_waits_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "WORD_SECONDS", 0.2)
    said: list[str] = []
    path, waited = tmp_path / "a.lock", threading.Event()

    def wait() -> None:
        with file_lock(path, 60, "the training of bigru", holder="run 2", say=said.append):
            waited.set()

    with file_lock(path, 0, "the training of bigru", holder="run 1"):
        thread = threading.Thread(target=wait)
        thread.start()
        while len(said) < 3:
            time.sleep(0.02)
        assert not waited.is_set()
    thread.join()
    assert waited.is_set() and path.read_text() == "run 2"
    assert said[0] == "waits for the training of bigru, which run 1 has under way; 0 s so far"


def test_who_gets_the_lock_at_once_says_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    path = tmp_path / "a.lock"
    with file_lock(path, 0, "it", say=said.append), pytest.raises(BusyError), file_lock(path, 0, "it"):
        pass
    assert said == []
