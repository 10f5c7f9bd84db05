"""Foundry's anvil: the Ethereum client by URL of those tests that need one that is not ours."""

from __future__ import annotations

import re
import secrets
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[1] / "node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil"


def need_anvil() -> None:
    """Skip the test where there is no node.js to install anvil with: scripts/test says so in its last line."""
    if not PATH.exists():
        pytest.skip(f"no anvil at {PATH}: run scripts/setup with node.js present")


@contextmanager
def anvil(*options: str, port: int = 0, chain_id: int | None = None) -> Iterator[str]:
    """A client on loopback by Prague's rules while the block runs; its URL. Port 0: a free one; no id: a random one."""
    need_anvil()
    number = 2**40 + secrets.randbelow(2**40) if chain_id is None else chain_id
    command = [str(PATH), "--port", str(port), "--chain-id", str(number), "--hardfork", "prague", "--accounts", "1"]
    command += ["--max-persisted-states", "1"]  # else it leaves gigabytes of old states in the home folder
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                found = re.search(r"Listening on (\S+)", line)
                if found:
                    break
            else:
                pytest.fail("anvil ended before it listened")
            threading.Thread(target=process.stdout.read, daemon=True).start()  # so that its pipe never fills
            yield f"http://{found[1]}"
        finally:
            process.terminate()
            process.wait(timeout=20)
