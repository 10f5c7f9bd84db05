"""The chaos bench: three minutes of it, and what it stands on."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.network.chaos import KINDS, Chaos, lines, requests, schedule
from tests.network.links import ProxyLinks

SEED = 20


@pytest.mark.network
@pytest.mark.timeout(1200)
def test_no_run_is_lost_whatever_happens_to_its_processes(tmp_path: Path) -> None:
    report = Chaos(tmp_path / "net", SEED, 80.0, rounds=3, longest_s=8.0, patient_s=30.0).run()
    # What a fault may cost in windows (`over`) is for scripts/chaos: a machine with too much to do is slow by itself.
    assert not report["broken"], "\n".join(lines(report))
    assert len(report["faults"]) >= 6, "\n".join(lines(report))
    assert report["rounds_verified"] >= report["rounds_verifiable"] >= 3
    assert report["erasures"], "nobody asked for erasure"


def test_a_seed_fixes_what_happens_and_when() -> None:
    assert schedule(7, 600, 60) == schedule(7, 600, 60) != schedule(8, 600, 60)
    assert {fault.kind for fault in schedule(7, 3600, 60)} == set(KINDS)
    assert max(fault.seconds for fault in schedule(7, 3600, 60)) == 60
    assert requests(7, 600, 60) == requests(7, 600, 60) != requests(8, 600, 60)
    assert len(requests(7, 3600, 60)) > 50
    assert not requests(7, 600, 0)


# --------------------------------------------------------------------------------------------------------------------
# Lines


def echo(listening: socket.socket) -> None:
    while True:
        try:
            line, _ = listening.accept()
        except OSError:
            return
        with line:
            while data := line.recv(1 << 16):
                line.sendall(data)


@pytest.fixture
def wired(tmp_path: Path) -> Iterator[tuple[ProxyLinks, int]]:
    """The line from `a` to `b`, who echoes, and its port."""
    listening = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=echo, args=(listening,), daemon=True).start()
    port = listening.getsockname()[1]
    seats = [{"name": name, "address": f"/ip4/127.0.0.1/tcp/{port}"} for name in ("a", "b")]
    url = f"http://127.0.0.1:{port}"
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.toml").write_text(f'url = "{url}"')
    founded = json.dumps({"founders": seats, "auditors": [], "chain": {"url": url}})
    (tmp_path / "a" / "network.json").write_text(founded)
    links = ProxyLinks(tmp_path, ["a"])
    found = json.loads((tmp_path / "a" / "network.json").read_text())["founders"]
    assert found[0]["address"].endswith(str(port)), "one's own address stays"
    try:
        yield links, int(found[1]["address"].rpartition("/")[2])
    finally:
        links.close()
        listening.close()
    assert (tmp_path / "a" / "network.json").read_text() == founded


def test_a_cut_line_swallows_and_a_healed_one_delivers_what_was_under_way(wired: tuple[ProxyLinks, int]) -> None:
    links, port = wired
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        line.sendall(b"one")
        assert line.recv(10) == b"one"
        links.cut("b", "a")
        links._do(_now())
        line.sendall(b"two")
        line.settimeout(0.3)
        with pytest.raises(TimeoutError):
            line.recv(10)
        links.heal("a", "b")
        line.settimeout(10)
        assert line.recv(10) == b"two"


def test_a_line_ends_where_its_listener_ends_and_carries_a_megabyte_whole(wired: tuple[ProxyLinks, int]) -> None:
    links, port = wired
    links.shape("a", "b", latency_s=0.02, bytes_per_s=1 << 27)
    words = bytes(range(256)) * 4096
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        threading.Thread(target=line.sendall, args=(words,), daemon=True).start()
        heard = bytearray()
        while len(heard) < len(words):
            heard += line.recv(1 << 16)
        assert bytes(heard) == words


async def _now() -> None:
    """One turn of the lines' loop: what was asked of it before is done."""
