"""The house, enforced: who may import whom, read from the syntax of every file (nothing is imported to check it).

Rules of the house:

1. `crypto` and `fl_engine` never see each other; neither sees `node`. Nothing imports `scripts` or `tests`.
2. An outside library enters by one door, the file of `HOUSE` that names it. What no row names, nobody imports.
3. Pure files decide: no await, no clock, no randomness, no files, no sockets. They import `PURE_STDLIB` and each other.
4. The node process never loads torch, and never the embedded chain's engine: both live in processes of their own.
5. No import cycles. Nothing that runs code found in data (pickle and its kin, `torch.load`), no computed import.

The first row of `HOUSE` whose pattern matches a file governs it. A pattern is a shell pattern over the path; a row may
name files that do not exist yet.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("crypto", "fl_engine", "node")

PURE_STDLIB = frozenset(
    "__future__ abc base64 binascii bisect collections contextlib copy dataclasses decimal enum fractions functools "
    "heapq itertools json math operator re string struct textwrap types typing".split()
)
"""What a pure file may take from the standard library; hashing is `crypto`'s."""

NO_WORLD = frozenset(
    "asyncio datetime ftplib glob http io logging multiprocessing pathlib random selectors shutil signal smtplib "
    "socket socketserver sqlite3 ssl subprocess tempfile threading time urllib uuid".split()
)
"""Clock, files, processes and network: `crypto` has none of them. Of `os` it takes `urandom` alone (or `secrets`)."""

NO_AMBIENT_STATE = frozenset(
    "asyncio datetime http multiprocessing random secrets signal socket socketserver sqlite3 ssl subprocess time "
    "urllib uuid".split()
)
"""What would make a result of `fl_engine` depend on more than its arguments."""

NEVER = frozenset("dill cloudpickle joblib marshal pickle shelve jsonpickle".split())
"""Reading these formats runs code found in the data."""


@dataclass(frozen=True)
class Row:
    """One row of the house table."""

    files: str
    """Shell patterns, separated by spaces."""
    own: str = ""
    """Our rooms and files it may import, as shell patterns over dotted names."""
    libraries: str = ""
    """Outside libraries it may import, by import name."""
    pure: bool = False
    """Rule 3 applies."""
    banned: frozenset[str] = frozenset()
    """Modules of the standard library that it may not import."""


PURE_NODE = (
    "node node.errors node.messages node.records node.study node.membership node.round node.consent node.erasure "
    "node.history node.methods"
)
JOINTS = "node node.* crypto crypto.* fl_engine fl_engine.*"

CRYPTO = " crypto crypto.*"
ERASING = " node.desk node.notices node.participant node.proof node.store node.vault"
REPORTS = " node.reports node.reports.* node.duo node.events node.trail node.validity"

HOUSE = (
    # --- crypto: bytes
    Row("crypto/errors.py", "", "", banned=NO_WORLD),
    Row("crypto/packing.py", "crypto.errors", "numpy", pure=True),
    Row("crypto/*", "crypto crypto.*", "cryptography coincurve eth_account eth_hash eth_keys", banned=NO_WORLD),
    # --- fl_engine: tensors, a star around the core
    Row("fl_engine/errors.py", "", "", banned=NO_AMBIENT_STATE),
    Row(
        "fl_engine/params.py fl_engine/ring.py fl_engine/rng.py",
        "fl_engine fl_engine.errors fl_engine.params fl_engine.ring fl_engine.rng",
        "numpy",
        banned=NO_AMBIENT_STATE,
    ),
    Row("fl_engine/aggregation/* fl_engine/trust/*", "fl_engine fl_engine.*", "numpy", banned=NO_AMBIENT_STATE),
    # two that start a process: the training worker, and pip, which brings the demonstration data as packages
    Row(
        "fl_engine/worker_client.py fl_engine/data/fetch.py",
        "fl_engine fl_engine.*",
        "numpy",
        banned=NO_AMBIENT_STATE - {"subprocess"},
    ),
    Row("fl_engine/data/*", "fl_engine fl_engine.*", "numpy torch tifffile", banned=NO_AMBIENT_STATE),
    Row("fl_engine/*", "fl_engine fl_engine.*", "numpy torch monai", banned=NO_AMBIENT_STATE),
    # --- node: what decides
    Row("node/__init__.py node/errors.py", "", "", pure=True),
    Row("node/messages.py node/records.py node/membership.py node/round.py", PURE_NODE + CRYPTO, "", pure=True),
    Row("node/consent.py node/notices.py", PURE_NODE + CRYPTO, "", pure=True),
    Row("node/erasure.py", PURE_NODE + CRYPTO + " node.validity fl_engine.unlearning", "", pure=True),
    Row("node/methods.py", PURE_NODE + " fl_engine.errors fl_engine.training fl_engine.unlearning", "", pure=True),
    Row("node/history.py", PURE_NODE + CRYPTO + " fl_engine.trust fl_engine.trust.*", "", pure=True),
    Row("node/refusals.py", "node node.errors node.membership", "", pure=True),
    Row("node/validity.py", PURE_NODE + CRYPTO, "rfc8785", pure=True),
    # --- node: the doors, one outside library each
    Row("node/wire.py", PURE_NODE + CRYPTO, "msgpack"),
    Row("node/doors.py", PURE_NODE, "trio"),
    Row("node/session.py", "", "libp2p trio"),
    Row(
        "node/transport.py",
        PURE_NODE + " node.doors node.service node.session node.wire crypto crypto.*",
        "libp2p multiaddr trio structlog",
    ),
    Row(
        "node/ledger.py",
        PURE_NODE + " node.abi node.account node.evidence node.jsonrpc node.jsontext crypto crypto.*",
        "requests rlp",
    ),
    Row("node/account.py", PURE_NODE + " node.jsonrpc crypto crypto.*", "eth_account rlp"),
    Row("node/deployment.py", PURE_NODE + " node.abi node.account node.jsonrpc node.ledger crypto crypto.*", "rlp"),
    Row("node/jsonrpc.py", PURE_NODE + " node.evidence crypto crypto.*", "rlp"),
    Row("node/store.py", PURE_NODE + " node.evidence node.wire crypto crypto.*", "cryptography"),
    Row("node/keystore.py", "node node.errors node.home crypto crypto.*", "cryptography"),
    Row("node/abi.py", PURE_NODE + " node.evidence node.refusals crypto crypto.*", "eth_abi eth_utils"),
    Row("node/evidence.py", PURE_NODE + CRYPTO, "rlp trie"),
    Row("node/config.py", "node node.errors", "tomli_w"),
    Row("node/jsontext.py", "", ""),
    Row("node/roles.py", "node node.errors node.home node.store crypto crypto.*", ""),
    Row("node/fhir.py", "node node.errors node.jsontext", "fhir rfc8785"),
    # --- node: the embedded chain, a process of its own
    Row(
        "node/chain/evm.py",
        "node node.errors node.jsontext node.chain node.chain.* crypto crypto.*",
        "eth eth_abi eth_bloom eth_hash eth_keys eth_rlp eth_typing eth_utils hexbytes rlp structlog trie",
    ),
    Row(
        "node/chain/*",
        "node node.errors node.jsontext node.chain node.chain.* crypto crypto.*",
        "aiohttp eth_abi eth_account eth_bloom eth_hash eth_keys eth_rlp eth_typing eth_utils hexbytes rlp structlog",
    ),
    # --- node: reports for people outside: no files, no clock, no network; times are only written as dates
    Row("node/reports/provenance.py", PURE_NODE + CRYPTO, "prov", banned=NO_WORLD - {"datetime"}),
    Row("node/reports/*", PURE_NODE + REPORTS + CRYPTO, "rfc8785", banned=NO_WORLD - {"datetime"}),
    # --- node: erasures, in rooms over one book: no files, no network; a time is taken for a request, written as a date
    Row("node/erasing/books.py", PURE_NODE + ERASING + CRYPTO, "", banned=NO_WORLD),
    Row(
        "node/erasing/*",
        PURE_NODE + ERASING + " node.attestation node.card node.certificate node.enrolment node.erasing.* node.lengths "
        "node.planning node.reports.* node.retention node.shards node.wire fl_engine.params fl_engine.unlearning"
        + CRYPTO,
        "structlog",
        banned=NO_WORLD - {"datetime", "time"},
    ),
    # --- node: the vault: ciphers in three rooms, the databases in one, the network in none
    Row(
        "node/vault/compartment.py",
        "node.errors",
        "cryptography",
        banned=NO_WORLD - {"pathlib", "sqlite3", "threading"},
    ),
    Row("node/vault/link.py", "node.errors node.vault.compartment", "cryptography", banned=NO_WORLD - {"threading"}),
    Row(
        "node/vault/copies.py",
        "node.errors node.vault.compartment",
        "cryptography numpy",
        banned=NO_WORLD - {"pathlib", "threading"},
    ),
    Row(
        "node/vault/consents.py",
        PURE_NODE + " node.card node.vault.compartment" + CRYPTO,
        "",
        banned=NO_WORLD - {"datetime"},
    ),
    Row(
        "node/vault/*",
        PURE_NODE + " node.card node.vault.*" + CRYPTO,
        "numpy",
        banned=NO_WORLD - {"datetime", "pathlib", "threading", "time"},
    ),
    # --- node: the joints
    Row("node/audit/*", JOINTS, "cryptography numpy rfc8785"),
    Row("node/cli/* node/__main__.py", JOINTS, "click numpy rfc8785 segno structlog tomli_w trio"),
    Row("node/*", JOINTS, "numpy prometheus_client rfc8785 segno structlog tomli_w trio"),
)

ONLY_FROM = {
    "node.cli": "node/cli/* node/__main__.py",
    "node.chain": "node/chain/* node/cli/* node/founding.py node/audit/*",
    "node.erasing": "node/erasing/* node/app.py node/duties.py",
    "node.vault.*": "node/vault/*",
    "fl_engine.worker": "",
}
"""Parts that only the named files import; everyone else asks the node for erasures, the vault for what is in its rooms,
and starts the others as a process (the training worker: everyone)."""

NODE_PROCESS = ("node.runner", "node.app", "node.round", "node.transport", "node.ledger", "node.store", "node.vault")
"""Where the walk of rule 4 begins."""

NOT_IN_THE_NODE_PROCESS = frozenset({"torch", "monai", "eth"})


@dataclass(frozen=True)
class Import:
    """One imported name."""

    name: str
    """Dotted and absolute; `from a import b` counts as a.b where that is a file of ours, else as a."""
    line: int
    at_start: bool
    """Runs when the module is loaded (not inside a function, not for type checkers alone)."""
    typing_only: bool


def matches(text: str, patterns: str) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns.split())


def module_name(path: str) -> str:
    """The dotted name of a file given by its path from the root."""
    parts = path.removesuffix(".py").split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def house_files() -> dict[str, str]:
    """Path from the root -> source, of every Python file in the rooms."""
    found = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in found}


@cache
def imports_of(path: str, source: str, modules: frozenset[str]) -> list[Import]:
    """Every import in a source, wherever it stands in the file."""
    package = module_name(path) if path.endswith("__init__.py") else module_name(path).rpartition(".")[0]
    found: list[Import] = []

    def visit(node: ast.AST, at_start: bool, typing_only: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, at_start, typing_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.append(Import(full if full in modules else base, node.lineno, at_start, typing_only))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for guarded in node.body:
                visit(guarded, False, True)
            for otherwise in node.orelse:
                visit(otherwise, at_start, typing_only)
            return
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, at_start and not inside, typing_only)

    visit(ast.parse(source, path), True, False)
    return found


def row_of(path: str) -> Row:
    return next(row for row in HOUSE if matches(path, row.files))


def violations(path: str, source: str, modules: frozenset[str]) -> Iterator[str]:
    """What in one file breaks the house, a sentence each."""
    row = row_of(path)
    for found in imports_of(path, source, modules):
        where = f"{path}:{found.line}"
        top = found.name.partition(".")[0]
        if top in ("tests", "scripts", "contracts"):
            yield f"{where}: nothing imports {top}"
        elif top in NEVER:
            yield f"{where}: {top} runs code found in data"
        elif top in ROOMS:
            if found.name != module_name(path) and not matches(found.name, row.own):
                yield f"{where}: may not import {found.name} (its row allows: {row.own or 'nothing of ours'})"
            for part, users in ONLY_FROM.items():
                if matches(found.name, f"{part} {part}.*") and not matches(path, users):
                    yield f"{where}: only {users or 'its own process'} may import {part}"
        elif top in sys.stdlib_module_names:
            if row.pure and top not in PURE_STDLIB:
                yield f"{where}: a pure file may not import {top}"
            if top in row.banned:
                yield f"{where}: may not import {top}"
        elif top not in row.libraries.split():
            yield f"{where}: may not import {top} (its row allows: {row.libraries or 'no library'})"
    for node in ast.walk(ast.parse(source, path)):
        where = f"{path}:{getattr(node, 'lineno', 0)}"
        if row.pure and isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            yield f"{where}: a pure file has no async code"
        if path.startswith("crypto/"):
            taken = []
            if isinstance(node, ast.ImportFrom) and node.module == "os":
                taken = [alias.name for alias in node.names]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
                taken = [node.attr]
            yield from (f"{where}: may not use os.{name}" for name in taken if name != "urandom")
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("__import__", "importlib.import_module", "import_module", "exec", "eval", "torch.load"):
                yield f"{where}: {called} is not used in this house"
            if called in ("open", "input", "print") and (row.pure or path.startswith("crypto/")):
                yield f"{where}: a file that touches nothing calls {called}"


def ancestors(name: str) -> list[str]:
    """The packages whose __init__ runs before a module does: a.b.c -> a, a.b."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def reached(starts: tuple[str, ...], graph: dict[str, set[str]]) -> dict[str, str]:
    """Every name that loading the starts leads to, with the module that imports it."""
    by: dict[str, str] = {}
    todo = [(start, "the start") for start in starts if start in graph]
    while todo:
        name, importer = todo.pop()
        if name in by:
            continue
        by[name] = importer
        todo.extend((target, name) for target in sorted(graph.get(name, ())))
        todo.extend((package, name) for package in ancestors(name) if package in graph)
    return by


def import_graph(files: dict[str, str], *, only_at_start: bool) -> dict[str, set[str]]:
    """Module -> names it imports, imports for type checkers left out."""
    modules = frozenset(module_name(path) for path in files)
    return {
        module_name(path): {
            found.name
            for found in imports_of(path, source, modules)
            if not found.typing_only and (found.at_start or not only_at_start)
        }
        for path, source in files.items()
    }


def cycle_in(graph: dict[str, set[str]]) -> list[str] | None:
    """Some cycle of modules that import each other, or None. A package's __init__ may gather its own files."""
    done: set[str] = set()

    def walk(name: str, trail: list[str]) -> list[str] | None:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return None
        for target in sorted(graph.get(name, ())):
            if target in graph and target != name and (found := walk(target, [*trail, name])):
                return found
        done.add(name)
        return None

    for start in sorted(graph):
        if found := walk(start, []):
            return found
    return None


# --- the house as it stands -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", ROOMS)
def test_every_import_of_a_room_is_allowed_by_its_row(room: str) -> None:
    files = house_files()
    modules = frozenset(module_name(path) for path in files)
    broken = [
        sentence
        for path, source in files.items()
        if path.startswith(room + "/")
        for sentence in violations(path, source, modules)
    ]
    assert not broken, "\n".join(broken)


def test_no_module_takes_part_in_an_import_cycle() -> None:
    assert cycle_in(import_graph(house_files(), only_at_start=True)) is None


def test_the_node_process_never_reaches_torch_or_the_chain_engine() -> None:
    by = reached(NODE_PROCESS, import_graph(house_files(), only_at_start=False))
    found = {name: importer for name, importer in by.items() if name.partition(".")[0] in NOT_IN_THE_NODE_PROCESS}
    assert not found, f"reached from the node process, with the module that imports it: {found}"


def test_starting_the_command_line_loads_neither_torch_nor_the_chain_engine() -> None:
    by = reached(("node.cli.main",), import_graph(house_files(), only_at_start=True))
    found = {name: importer for name, importer in by.items() if name.partition(".")[0] in NOT_IN_THE_NODE_PROCESS}
    assert not found, f"loaded at start, with the module that imports it: {found}"


def test_what_the_node_takes_from_the_engine_loads_without_torch() -> None:
    light = "errors params ring rng beacon frames worker_client aggregation trust".split()
    light += ["unlearning.execution", "attacks.audit"]
    by = reached(tuple(f"fl_engine.{name}" for name in light), import_graph(house_files(), only_at_start=False))
    assert not {name: importer for name, importer in by.items() if name.partition(".")[0] == "torch"}


def test_nothing_imports_scripts_or_tests() -> None:
    python_scripts = [
        path
        for path in sorted((ROOT / "scripts").rglob("*"))
        if path.is_file() and (path.suffix == ".py" or (not path.suffix and "python" in path.open().readline()))
    ]
    broken = []
    for path in [*python_scripts, *sorted((ROOT / "tests").rglob("*.py"))]:
        name = path.relative_to(ROOT).as_posix()
        barred = ("scripts", "tests") if name.startswith("scripts/") else ("scripts",)
        for found in imports_of(name, path.read_text(encoding="utf-8"), frozenset()):
            if found.name.partition(".")[0] in barred:
                broken.append(f"{name}:{found.line}: imports {found.name}")
    assert not broken, "\n".join(broken)


def test_no_folder_under_tests_is_a_package() -> None:
    """`tests/crypto/__init__.py` would hide the real `crypto`."""
    assert not [path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("__init__.py")]


def test_every_room_ships_its_types() -> None:
    assert not [room for room in ROOMS if not (ROOT / room / "py.typed").exists()]


# --- the check itself -----------------------------------------------------------------------------------------------

KNOWN = frozenset(
    "crypto crypto.digest fl_engine fl_engine.params fl_engine.worker node node.round node.app "
    "node.cli node.cli.main".split()
)


@pytest.mark.parametrize(
    "path, source, fault",
    [
        ("node/round.py", "import web3", "may not import web3"),
        ("node/round.py", "import time", "pure file may not import time"),
        ("node/round.py", "def f():\n    from random import random", "pure file may not import random"),
        ("node/round.py", "from pathlib import Path", "pure file may not import pathlib"),
        ("node/round.py", "async def f(): ...", "no async code"),
        ("node/round.py", "from node import app", "may not import node.app"),
        ("node/round.py", "from .app import run", "may not import node.app"),
        ("node/round.py", "from fl_engine import params", "may not import fl_engine.params"),
        ("node/records.py", "open('x')", "calls open"),
        ("node/app.py", "import libp2p.host", "may not import libp2p"),
        ("node/app.py", "import torch", "may not import torch"),
        ("node/app.py", "def f():\n    import msgpack", "may not import msgpack"),
        ("node/app.py", "from node.cli import main", "only node/cli/*"),
        ("node/app.py", "from tests.fakes import clock", "nothing imports tests"),
        ("node/training.py", "import torch", "may not import torch"),
        ("node/training.py", "from fl_engine.worker import main", "only its own process"),
        ("fl_engine/worker.py", "import torch\ntorch.load('x')", "torch.load is not used"),
        ("node/store.py", "import pickle", "pickle runs code"),
        ("node/wire.py", "import trio", "may not import trio"),
        ("node/chain/server.py", "from eth.chains.base import MiningChain", "may not import eth"),
        ("node/erasing/purge.py", "import socket", "may not import socket"),
        ("node/erasing/books.py", "from node.erasing.purge import Purge", "may not import node.erasing"),
        ("node/runner.py", "from node.erasing.purge import Purge", "only node/erasing/*"),
        ("node/desk.py", "from node.vault.link import Link", "only node/vault/*"),
        ("node/vault/vault.py", "from cryptography.exceptions import InvalidTag", "may not import cryptography"),
        ("node/vault/link.py", "from node.vault.copies import Copies", "may not import node.vault.copies"),
        ("node/anything/new.py", "import sqlalchemy", "may not import sqlalchemy"),
        ("crypto/digest.py", "from fl_engine import params", "may not import fl_engine.params"),
        ("crypto/digest.py", "from node.round import handle", "may not import node.round"),
        ("crypto/digest.py", "import time", "may not import time"),
        ("crypto/digest.py", "import os\nos.listdir('.')", "may not use os.listdir"),
        ("crypto/digest.py", "from os import path", "may not use os.path"),
        ("fl_engine/params.py", "import torch", "may not import torch"),
        ("fl_engine/rng.py", "import random", "may not import random"),
        ("fl_engine/training/fedavg.py", "from crypto import digest", "may not import crypto.digest"),
        (
            "fl_engine/training/fedavg.py",
            "import importlib\nimportlib.import_module('node')",
            "import_module is not used",
        ),
    ],
)
def test_a_source_that_breaks_the_house_is_caught(path: str, source: str, fault: str) -> None:
    assert any(fault in sentence for sentence in violations(path, source, KNOWN)), list(violations(path, source, KNOWN))


@pytest.mark.parametrize(
    "path, source",
    [
        (
            "node/round.py",
            "from __future__ import annotations\nimport struct\nfrom crypto import digest\nfrom . import errors",
        ),
        ("node/ledger.py", "import json, threading, time\nimport requests"),
        ("node/chain/server.py", "import asyncio\nfrom aiohttp import web\nfrom node.chain import evm"),
        ("node/chain/evm.py", "from eth.chains.base import MiningChain"),
        ("fl_engine/worker.py", "import torch\nfrom fl_engine import params"),
        ("node/cli/main.py", "import click\nfrom node import app\nfrom node.chain import server"),
        ("crypto/digest.py", "import os\nos.urandom(32)"),
        ("crypto/digest.py", "import hashlib, secrets\nfrom eth_hash.auto import keccak"),
        ("fl_engine/training/fedavg.py", "import numpy as np\nimport torch\nfrom ..params import ParamSpec"),
    ],
)
def test_a_source_that_keeps_to_the_house_passes(path: str, source: str) -> None:
    assert list(violations(path, source, KNOWN)) == []


def test_torch_is_found_through_a_file_in_between() -> None:
    files = {
        "node/app.py": "from node import training",
        "node/training.py": "def f():\n    from fl_engine.training import step",
        "fl_engine/training/__init__.py": "import torch",
        "fl_engine/training/step.py": "",
        "node/typed.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import eth",
    }
    graph = import_graph(files, only_at_start=False)
    assert reached(("node.app",), graph)["torch"] == "fl_engine.training"
    assert "torch" not in reached(("node.app",), import_graph(files, only_at_start=True))
    assert "eth" not in reached(("node.typed",), graph)


def test_a_cycle_is_found() -> None:
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert cycle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None
