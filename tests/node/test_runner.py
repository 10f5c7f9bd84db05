"""What a node's process is before it is a node."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

ARENAS = """
import ctypes, threading
from node.runner import share_one_arena

share_one_arena()
gate = threading.Barrier(9)
kept = []

def hold():
    kept.append([bytearray(1000) for _ in range(2000)])
    gate.wait()

threads = [threading.Thread(target=hold) for _ in range(8)]
for one in threads:
    one.start()
gate.wait()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
libc.malloc_info(0, ctypes.c_void_p(libc.fdopen(1, b"w")))
libc.fflush(None)
"""


@pytest.mark.slow  # a process
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library has arenas")
def test_threads_take_memory_from_one_place() -> None:
    found = subprocess.run([sys.executable, "-c", ARENAS], check=True, capture_output=True, text=True).stdout
    assert found.count("<heap nr=") == 1
