"""Homes: a node's is for its owner alone, whatever the process's umask would leave open."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

import pytest

from node.errors import InputError, LocalFault
from node.home import HomeLock, create_home, in_use, read_at_most, read_json, read_user_file


@pytest.mark.parametrize("there", [False, True])
def test_a_node_s_home_is_for_its_owner_alone_and_the_folder_around_it_as_it_was(tmp_path: Path, there: bool) -> None:
    network = tmp_path / "net"
    path = network / "member-1"
    before = os.umask(0o022)
    try:
        if there:
            path.mkdir(parents=True)
        create_home(path, "member", 0)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(network.stat().st_mode) == 0o755
    with pytest.raises(LocalFault, match="already"):
        create_home(path, "member", 0)


def test_a_file_that_tells_no_size_is_read_to_its_limit_and_no_further(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="larger than"):
        read_json(Path("/dev/zero"))
    with pytest.raises(InputError, match=r"^model /dev/zero: larger than 10 bytes"):
        read_user_file(Path("/dev/zero"), 10, "model")
    path = tmp_path / "ten"
    path.write_bytes(b"0123456789")
    assert (read_at_most(path, 10), read_at_most(path, 9)) == (b"0123456789", None)


def test_a_look_at_a_home_leaves_it_as_it_is_and_is_in_nobody_s_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not in_use(tmp_path)
    assert not list(tmp_path.iterdir())
    lock = HomeLock(tmp_path)
    assert in_use(tmp_path)
    lock.release()
    written = (tmp_path / "lock").read_bytes()
    assert not in_use(tmp_path)
    assert (tmp_path / "lock").read_bytes() == written
    with (tmp_path / "lock").open() as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        monkeypatch.setattr("node.home.time.sleep", lambda _: look.close())  # the look is over
        HomeLock(tmp_path).release()
    assert look.closed
