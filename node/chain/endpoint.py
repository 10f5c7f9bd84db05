"""Where the running chain of a home is reached. Known to whoever talks to it, without loading the chain itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from node import jsontext
from node.chain.files import write_private
from node.chain.genesis import chain_folder
from node.errors import LocalFault, NotFound

ENDPOINT_FORMAT = 1


@dataclass(frozen=True)
class Endpoint:
    """How the running chain of a home is reached: `chain/endpoint.json`, there while it runs."""

    url: str
    pid: int
    token: str | None


def endpoint_file(home: Path) -> Path:
    """Where the endpoint of a running chain is written."""
    return chain_folder(home) / "endpoint.json"


def load_endpoint(home: Path) -> Endpoint:
    """Read `chain/endpoint.json`. It may be stale if the chain was killed: only an answer shows that it runs.

    Raises:
        NotFound: there is none; the chain does not run.
        LocalFault: it cannot be read.
    """
    path = endpoint_file(home)
    try:
        document = jsontext.loads(path.read_bytes())
    except FileNotFoundError:
        raise NotFound(f"the chain in {home} is not running") from None
    except ValueError as error:
        raise LocalFault(f"{path} cannot be read: {error}") from None
    if not isinstance(document, dict) or document.get("format") != ENDPOINT_FORMAT:
        raise LocalFault(f"{path} is not of format {ENDPOINT_FORMAT}")
    url, pid, token = document.get("url"), document.get("pid"), document.get("token")
    if not isinstance(url, str) or not isinstance(pid, int) or not isinstance(token, str | None):
        raise LocalFault(f"{path} lacks url, pid or token")
    return Endpoint(url, pid, token)


def save_endpoint(home: Path, endpoint: Endpoint) -> None:
    """Write `chain/endpoint.json`, 0600 because the token is in it."""
    document = {"format": ENDPOINT_FORMAT, "url": endpoint.url, "pid": endpoint.pid, "token": endpoint.token}
    write_private(endpoint_file(home), json.dumps(document).encode())
