"""A stored folder is there whole or not at all, and is what it was when it was stored."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from emotion_assets.storage.store import Store, StoredFolder, StoreError, file_sha256
from emotion_assets_tests.conftest import PROJECT


def stored(store: Store, text: str = "one", kind: str = "models") -> StoredFolder:
    with store.writing(kind) as draft:
        draft.file("a.txt").write_text(text, encoding="utf-8")
        (draft.path / "sub").mkdir()
        (draft.path / "sub" / "b.txt").write_text("two", encoding="utf-8")
        return draft.finish({"text": text})


def test_equal_content_gives_one_folder_and_one_digest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert stored(store).path == stored(store).path
    assert stored(store).digest != stored(store, "other").digest


def test_two_runs_that_finish_equal_content_share_one_folder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.writing("models") as one, store.writing("models") as two:
        for draft in (one, two):
            draft.file("a.txt").write_text("same", encoding="utf-8")
        assert one.finish({}) == two.finish({})
    assert len(list((tmp_path / "models").iterdir())) == 1


def test_a_draft_left_by_a_killed_process_is_removed_when_it_is_old(tmp_path: Path) -> None:
    old, young = (tmp_path / "models" / f".draft-{name}" for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    stored(Store(tmp_path))
    assert not old.exists() and young.exists()


def test_a_failed_draft_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Store(tmp_path).writing("models") as draft:
        draft.file("a.txt").write_text("half", encoding="utf-8")
        raise RuntimeError
    assert list((tmp_path / "models").iterdir()) == []


def test_an_altered_file_is_refused_by_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = stored(store)
    folder.file("sub/b.txt").write_text("tampered", encoding="utf-8")
    with pytest.raises(
        StoreError, match=r"sub/b\.txt: was altered since it was stored; delete .* and materialise .* again"
    ):
        store.open("models", folder.digest)


def test_a_file_altered_together_with_its_manifest_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = stored(store)
    folder.file("a.txt").write_text("tampered", encoding="utf-8")
    manifest = json.loads(folder.file("manifest.json").read_text(encoding="utf-8"))
    manifest["files"]["a.txt"] = file_sha256(folder.file("a.txt"))
    folder.file("manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(StoreError, match=r"manifest\.json: was altered since it was stored"):
        store.open("models", folder.digest)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = stored(store)
    folder.file("a.txt").unlink()
    with pytest.raises(StoreError, match=r"a\.txt: is missing since it was stored"):
        store.open("models", folder.digest)


def test_a_damaged_folder_is_replaced_when_its_content_is_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = stored(store)
    folder.file("a.txt").write_text("tampered", encoding="utf-8")
    again = stored(store)
    assert again.digest == folder.digest
    assert store.open("models", again.digest).file("a.txt").read_text(encoding="utf-8") == "one"


def test_an_asset_that_was_never_materialised_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        StoreError, match=r"bigru was not materialised yet in .*; materialise baseline_models/bigru first \(dg launch "
    ):
        Store(tmp_path).current(["baseline_models", "bigru"])


def test_a_pointer_moves_to_the_newest_folder_and_the_old_one_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second = stored(store), stored(store, "other")
    store.point(["m"], "models", first)
    store.point(["m"], "models", second)
    assert store.current(["m"]).digest == second.digest
    assert store.open("models", first.digest).info == {"text": "one"}


@pytest.mark.parametrize("failpoint", ["store.mid_save", "store.before_point"])
def test_a_process_killed_while_it_stores_leaves_the_old_state_and_the_next_run_finishes(
    tmp_path: Path, failpoint: str
) -> None:
    code = (
        "import sys; from pathlib import Path; from emotion_assets_tests.storage.test_store import stored;"
        "from emotion_assets.storage.store import Store; store = Store(Path(sys.argv[1]));"
        "store.point(['m'], 'models', stored(store, 'new'))"
    )
    store = Store(tmp_path)
    old = stored(store, "old")
    store.point(["m"], "models", old)
    command = [sys.executable, "-c", code, str(tmp_path)]
    killed = subprocess.run(command, env=os.environ | {"EMOTION_FAILPOINT": failpoint}, cwd=PROJECT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert store.current(["m"]).digest == old.digest
    assert subprocess.run(command, cwd=PROJECT, check=False).returncode == 0
    assert store.current(["m"]).info == {"text": "new"}


def test_work_done_before_is_recalled_unless_its_folder_was_damaged(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = stored(store)
    store.remember("recipe", "models", folder)
    recalled = store.recall("recipe")
    assert recalled is not None
    assert recalled.digest == folder.digest
    folder.file("a.txt").unlink()
    assert store.recall("recipe") is None
    assert store.recall("another recipe") is None


def finish(store: Store, text: str, info: dict[str, object], identity: tuple[str, ...] = ()) -> StoredFolder:
    with store.writing("datasets") as draft:
        draft.file("rows.txt").write_text(text)
        return draft.finish(info, identity)


def test_the_same_files_about_something_else_are_another_folder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = finish(store, "rows", {"name": "a", "labels": ["joy", "fear"], "n": 1}, ("name", "labels"))
    other_name = finish(store, "rows", {"name": "b", "labels": ["joy", "fear"], "n": 2}, ("name", "labels"))
    other_order = finish(store, "rows", {"name": "a", "labels": ["fear", "joy"], "n": 3}, ("name", "labels"))
    assert len({first.digest, other_name.digest, other_order.digest}) == 3
    assert other_name.info == {"name": "b", "labels": ["joy", "fear"], "n": 2}
    assert store.open("datasets", other_order.digest).info["labels"] == ["fear", "joy"]


def test_what_is_no_part_of_the_identity_makes_no_other_folder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = finish(store, "rows", {"name": "a", "seconds": 1.0}, ("name",))
    again = finish(store, "rows", {"name": "a", "seconds": 2.0}, ("name",))
    assert again == first
    assert again.info["seconds"] == 1.0


def test_an_identity_that_was_altered_is_noticed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = finish(store, "rows", {"name": "a"}, ("name",))
    manifest = folder.file("manifest.json")
    manifest.write_text(manifest.read_text().replace('"name": "a"', '"name": "b"'))
    with pytest.raises(StoreError, match="was altered since it was stored"):
        store.open("datasets", folder.digest)


def test_a_folder_from_before_identities_keeps_its_digest_while_it_is_about_the_same(tmp_path: Path) -> None:
    store = Store(tmp_path)
    before = finish(store, "rows", {"name": "a", "labels": ["joy"]})
    assert finish(store, "rows", {"name": "a", "labels": ["joy"]}, ("name", "labels")) == before
    after = finish(store, "rows", {"name": "b", "labels": ["joy"]}, ("name", "labels"))
    assert after.digest != before.digest
    assert after.info["name"] == "b"
