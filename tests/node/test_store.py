"""Contents on their way in: what has come survives, what is wrong never counts, and what is removed is gone."""

import os
from contextlib import contextmanager
from pathlib import Path

import pytest

from crypto.digest import CHUNK_BYTES, ContentMap, Digest
from crypto.errors import CryptoError
from node.errors import LocalFault
from node.store import PARTIAL_KEPT_S, Store

CONTENT = b"".join(bytes([i + 1]) * CHUNK_BYTES for i in range(2)) + b"end"
MAP = ContentMap.of(CONTENT)
ROOT = MAP.root("cipher")


def chunk(index: int) -> bytes:
    return CONTENT[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]


@pytest.fixture
def store(tmp_path: Path):
    made = Store(tmp_path, bytes(32))
    yield made
    made.close()


@contextmanager
def full_disk(store: Store):
    """SQLite says so where a file may not grow."""
    store._db.execute("PRAGMA max_page_count = 1")  # as many as there are
    yield
    store._db.execute("PRAGMA max_page_count = 1000000")


def test_a_full_disk_is_a_fault_of_this_machine_that_takes_back_what_was_begun(store):
    def both() -> None:
        with store.transaction():
            store.set_meta("first", "a")
            store.set_meta("second", "b" * 100_000)

    with full_disk(store):
        with pytest.raises(LocalFault, match=r"node\.db: database or disk is full"):
            store.set_meta("second", "b" * 100_000)
        with pytest.raises(LocalFault, match=r"node\.db: database or disk is full"):
            both()
    assert (store.meta("first"), store.meta("second")) == (None, None)
    both()
    assert store.meta("first") == "a"


def files(store: Store) -> list[Path]:
    return [path for path in store.home.glob("blobs/*/*") if path.is_file()]


def test_chunks_come_in_any_order_and_over_several_runs(store):
    first = store.partial("cipher", ROOT)
    assert first.missing(MAP) == [0, 1, 2]
    first.keep(MAP, 2, chunk(2))
    first.keep(MAP, 0, chunk(0))
    first.close()
    assert not store.has(ROOT)

    again = Store(store.home, bytes(32))
    second = again.partial("cipher", ROOT)
    assert second.missing(MAP) == [1]
    second.keep(MAP, 1, chunk(1))
    second.finish(MAP)
    again.close()
    assert store.has(ROOT)
    assert (store.get(ROOT), store.kind_of(ROOT)) == (CONTENT, "cipher")
    assert len(files(store)) == 1


def test_a_wrong_chunk_is_not_kept_and_a_spoiled_one_is_missing(store):
    partial = store.partial("cipher", ROOT)
    with pytest.raises(CryptoError):
        partial.keep(MAP, 1, chunk(0))
    for index in range(3):
        partial.keep(MAP, index, chunk(index))
    partial.close()
    (file,) = files(store)
    with file.open("r+b") as spoiled:
        spoiled.seek(CHUNK_BYTES + 7)
        spoiled.write(b"\xff")
    assert store.partial("cipher", ROOT).missing(MAP) == [1]


def test_a_longer_rest_of_another_content_is_cut(store):
    short = ContentMap.of(b"short")
    partial = store.partial("spec", short.root("spec"))
    partial.keep(short, 0, b"short")
    partial.close()
    (file,) = files(store)
    with file.open("ab") as longer:
        longer.write(bytes(100))
    partial.finish(short)
    assert store.get(short.root("spec")) == b"short"


def test_what_is_removed_leaves_nothing_behind(store):
    partial = store.partial("cipher", ROOT)
    partial.keep(MAP, 0, chunk(0))
    partial.close()
    assert not store.remove(ROOT)
    assert files(store) == []


def test_a_pull_that_nobody_goes_on_with_is_dropped_when_the_store_is_opened(store):
    for root, age_s in ((ROOT, PARTIAL_KEPT_S + 60), (Digest(bytes(31) + b"\x01"), 60)):
        partial = store.partial("cipher", root)
        partial.keep(MAP, 0, chunk(0))
        partial.close()
        newest = max(files(store), key=lambda path: path.stat().st_ctime_ns)
        then = newest.stat().st_mtime - age_s
        os.utime(newest, (then, then))
    # One that its node finishes between the look at the folder and the look at the file: there by name, and gone.
    gone = newest.with_name("ab" * 32 + newest.suffix)
    gone.symlink_to(store.home / "nowhere")
    Store(store.home, bytes(32)).close()
    gone.unlink()
    assert [path.stem for path in files(store)] == [(bytes(31) + b"\x01").hex()]
