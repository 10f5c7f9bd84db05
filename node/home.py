"""Homes: where a node, a chain and a network live on disk, and who may use them now.

What may live here: paths, `home.json`, `network.json`, the lock, the control file. What this file does not know: what
is inside a store, a vault or a keystore. A home belongs to one running process (an advisory lock that the kernel drops
when the process dies, so a crash never leaves a home locked).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import rfc8785

from crypto.digest import Digest
from crypto.keys import address_text, parse_address, parse_peer_id, peer_id_text
from node import jsontext
from node.errors import InputError, LocalFault, NotFound
from node.records import Contracts

FORMAT = 1
NETWORK_SCHEMA = "koinon.network/1"
VERSION = "0.3.1"
MAX_JSON_BYTES = 1 << 20
LOOK_S = 0.5  # whoever only looks at a home's lock (`in_use`) has it for a moment, which is over by then


def read_at_most(path: Path, limit: int) -> bytes | None:
    """A file from outside, or None where it is larger than `limit` bytes: a pipe or a device tells no size before."""
    with path.open("rb") as file:
        data = file.read(limit + 1)
    return None if len(data) > limit else data


def read_user_file(path: Path, limit: int, what: str = "") -> bytes:
    """A file that a user named; `InputError` says why it cannot be used, and `what` it was to be."""
    name = f"{what} {path}".lstrip()
    try:
        data = read_at_most(path, limit)
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or error}") from error
    if data is None:
        raise InputError(f"{name}: larger than {limit} bytes")
    return data


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON object from a file we did not necessarily write; `InputError` says what is wrong with it."""
    try:
        data = read_at_most(path, MAX_JSON_BYTES)
        if data is None:
            raise InputError(f"{path}: larger than {MAX_JSON_BYTES} bytes")
        value = jsontext.loads(data)
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object")
    return value


def write_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file whole or not at all. Raises OSError, which names `path` where it cannot be made there."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: dict[str, Any], mode: int = 0o644) -> None:
    """Write a JSON file for people and programs, whole or not at all."""
    write_file(path, json.dumps(value, indent=2).encode() + b"\n", mode)


# --------------------------------------------------------------------------------------------------------------------
# network.json


@dataclass(frozen=True, slots=True)
class Seat:
    """A founder or an auditor as `network.json` names them."""

    index: int
    name: str
    ledger: bytes
    peer_id: bytes
    sealing_key: bytes
    address: str  # multiaddr


@dataclass(frozen=True, slots=True)
class Network:
    """What everybody outside needs to check a certificate or a proof, and a node needs to find its peers.

    `before`: the network as its description was at the deployment before this one, if it moved.
    """

    name: str
    chain_url: str
    genesis_hash: Digest
    contracts: Contracts
    founders: tuple[Seat, ...]
    auditors: tuple[Seat, ...]
    synthetic: bool
    raw: dict[str, Any]
    before: Network | None = None

    @property
    def line(self) -> tuple[Network, ...]:
        """Its descriptions, deployment by deployment, the first one first."""
        return (*(() if self.before is None else self.before.line), self)

    @property
    def fingerprint(self) -> str:
        """Hash of what cannot change: chain, first contracts, founders (64 hex digits). A move changes none of it."""
        if self.before is not None:
            return self.before.fingerprint
        fixed = {key: self.raw[key] for key in ("contracts", "founders")}
        fixed["chain"] = {key: self.raw["chain"][key] for key in ("chain_id", "genesis_hash")}
        return hashlib.sha256(rfc8785.dumps(fixed)).hexdigest()


def _seat(where: str, entry: Any) -> Seat:
    try:
        return Seat(
            int(entry["index"]),
            str(entry["name"]),
            parse_address(entry["ledger"]),
            parse_peer_id(entry["peer_id"]),
            bytes(Digest.from_hex(entry["sealing_key"])),
            str(entry["address"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: not a seat: {error}") from error


def parse_network(raw: dict[str, Any], where: str = "network.json") -> Network:
    """Check and type a network description."""
    if not str(raw.get("schema")).startswith(NETWORK_SCHEMA.partition("/")[0]):
        raise InputError(f"{where}: schema {raw.get('schema')!r:.60}: no description of a network")
    if raw.get("schema") != NETWORK_SCHEMA:
        raise LocalFault(f"{where}: schema {raw.get('schema')!r}, this koinon reads {NETWORK_SCHEMA}")
    try:
        before = None if raw.get("before") is None else parse_network(raw["before"], f"{where}: before")
        chain, contracts = raw["chain"], raw["contracts"]
        found = Network(
            str(raw["name"]),
            str(chain["url"]),
            Digest.from_hex(chain["genesis_hash"]),
            Contracts(
                int(chain["chain_id"]),
                *(parse_address(contracts[name]) for name in ("membership", "consent", "training", "unlearning")),
                before=None if before is None else before.contracts,
            ),
            tuple(_seat(f"{where}: founders[{i}]", e) for i, e in enumerate(raw["founders"])),
            tuple(_seat(f"{where}: auditors[{i}]", e) for i, e in enumerate(raw["auditors"])),
            bool(raw["synthetic"]),
            raw,
            before,
        )
        if before is not None and before.raw["chain"] | {"url": ""} != chain | {"url": ""}:
            raise InputError(f"{where}: it moved from another chain, which no network can")
        return found
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{where}: {type(error).__name__}: {error}") from error


def read_network(path: Path) -> Network:
    """`network.json` of a network home or of a node home."""
    return parse_network(read_json(path), str(path))


def network_json(
    name: str,
    chain_url: str,
    genesis_hash: Digest,
    contracts: Contracts,
    founders: tuple[Seat, ...],
    auditors: tuple[Seat, ...],
    synthetic: bool,
    before: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The JSON object of a network; `before`: of the deployment that it continues."""

    def seat(one: Seat) -> dict[str, Any]:
        return {
            "index": one.index,
            "name": one.name,
            "ledger": address_text(one.ledger),
            "peer_id": peer_id_text(one.peer_id),
            "sealing_key": one.sealing_key.hex(),
            "address": one.address,
        }

    return {
        "schema": NETWORK_SCHEMA,
        "name": name,
        "chain": {"url": chain_url, "chain_id": contracts.chain_id, "genesis_hash": genesis_hash.hex()},
        "contracts": {
            part: address_text(getattr(contracts, part)) for part in ("membership", "consent", "training", "unlearning")
        },
        "founders": [seat(one) for one in founders],
        "auditors": [seat(one) for one in auditors],
        "synthetic": synthetic,
    } | ({} if before is None else {"before": before})


# --------------------------------------------------------------------------------------------------------------------
# Node homes


@dataclass(frozen=True, slots=True)
class Home:
    """A node's folder, opened: who it is, not what it holds."""

    path: Path
    role: Literal["member", "auditor"]
    index: int

    @property
    def network_path(self) -> Path:
        """The network's description, a copy."""
        return self.path / "network.json"

    @property
    def config_path(self) -> Path:
        """Settings."""
        return self.path / "config.toml"

    @property
    def keystore_path(self) -> Path:
        """The node's sealed keys."""
        return self.path / "keystore.json"

    def later_keystore(self, number: int) -> Path:
        """The node's sealed keys after its `number`-th change of keys, from 1."""
        return self.path / f"keystore-{number}.json"

    @property
    def vault_path(self) -> Path:
        """What never leaves the hospital."""
        return self.path / "vault"

    @property
    def control_path(self) -> Path:
        """Port and token of the running node."""
        return self.path / "control.json"


def is_network_home(path: Path) -> bool:
    """Whether `path` holds a whole local network rather than one node."""
    return (path / "network.json").exists() and not (path / "home.json").exists()


def node_homes(path: Path) -> list[Path]:
    """Node homes inside a network home: members by index, then the auditor."""
    members = [p for p in path.glob("member-*") if (p / "home.json").exists()]
    members.sort(key=lambda p: int(p.name.removeprefix("member-")) if p.name.removeprefix("member-").isdigit() else 0)
    return members + [p for p in [path / "auditor"] if (p / "home.json").exists()]


def reading_home(path: Path) -> Path:
    """The node home that answers a question asked of `path`: itself, or a network home's auditor."""
    if is_network_home(path):
        auditor = path / "auditor"
        return auditor if (auditor / "home.json").exists() else node_homes(path)[0]
    return path


def create_home(path: Path, role: Literal["member", "auditor"], index: int) -> Home:
    """Make a new node home, for its owner alone whatever is written into it later; refuses a folder that is one."""
    if (path / "home.json").exists():
        raise LocalFault(f"{path} is already a node's home")
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    write_json(path / "home.json", {"format": FORMAT, "koinon": VERSION, "role": role, "index": index})
    return Home(path, role, index)


def open_home(path: Path) -> Home:
    """The home at `path`; `NotFound` when there is none, `LocalFault` when it is of another version."""
    if not path.is_dir():
        raise NotFound(f"{path} does not exist")
    if not (path / "home.json").exists():
        hint = "; it is a network home: name one of its nodes" if is_network_home(path) else ""
        raise NotFound(f"{path} is not a node's home (no home.json){hint}")
    raw = read_json(path / "home.json")
    if raw.get("format") != FORMAT:
        raise LocalFault(f"{path}/home.json: format {raw.get('format')!r}, this koinon reads format {FORMAT}")
    if raw.get("role") not in ("member", "auditor") or type(raw.get("index")) is not int:
        raise InputError(f"{path}/home.json: role {raw.get('role')!r}, index {raw.get('index')!r}")
    return Home(path, raw["role"], raw["index"])


class HomeLock:
    """Exclusive use of a home for as long as the process lives; `LocalFault` names the process that has it."""

    def __init__(self, path: Path) -> None:
        self._path = path / "lock"
        self._file = self._path.open("a+")
        deadline = time.monotonic() + LOOK_S
        while not _locked(self._file, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                self._file.seek(0)
                holder = self._file.read().strip() or "unknown"
                self._file.close()
                raise LocalFault(f"home {path} is in use by process {holder}")
            time.sleep(LOOK_S / 10)
        self._file.seek(0)
        self._file.truncate()
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        """Let another process use the home."""
        fcntl.flock(self._file, fcntl.LOCK_UN)
        self._file.close()


def in_use(path: Path) -> bool:
    """Whether a process holds the home's lock now; a look leaves the home as it is."""
    try:
        with (path / "lock").open() as file:
            return not _locked(file, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def _locked(file: IO[str], kind: int) -> bool:
    """Whether an open file could be locked at once."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def password_in(path: Path) -> str:
    """The password that a file holds; `LocalFault` where it is no text, `OSError` where it cannot be read."""
    try:
        return path.read_text("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise LocalFault(f"password file {path}: not UTF-8 text") from None


def read_password(home: Home, password_file: str) -> str:
    """The keystore's password from the file that the configuration names (relative to the home)."""
    path = Path(password_file)
    path = path if path.is_absolute() else home.path / path
    try:
        return password_in(path)
    except OSError as error:
        raise LocalFault(f"password file {path}: {error.strerror}") from error
