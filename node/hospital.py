"""A hospital's home, opened for reading by whoever may: the blobs, the records and the study of one of its erasures.

What may live here: opening, and what refuses it. The home's node may be running; nothing is written. What this file
does not know: what is done with what was opened (`node/executor.py` trains again, `node/exposure.py` attacks).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from node import config, keystore
from node.audit.home import Fault, HomeReader
from node.errors import InputError, NotFound, Refused, VerificationFailed
from node.history import ErasureHistory, History
from node.home import Network, open_home, read_network, read_password
from node.reports.erasure import find_erasure
from node.runner import read_history
from node.study import parse_canonical
from node.training import Arithmetic
from node.vault import Vault


@dataclass(frozen=True, slots=True)
class Hospital:
    """What lies open: the chain as it is believed, and of the hospital (member `index`) its store and its vault."""

    index: int
    network: Network
    history: History
    erasure: ErasureHistory
    arithmetic: Arithmetic
    store: HomeReader
    vault: Vault
    timeout_s: float  # of its training worker
    noise_secret: bytes


@contextmanager
def opened(home: Path, erasure: str, ledger: Path | None = None) -> Iterator[Hospital]:
    """The home of the hospital whose patients asked for an erasure (its id or the beginning of it).

    Args:
        ledger: the home whose copy of the chain is believed, of any member or auditor; None: the hospital's own.

    Raises:
        NotFound, LocalFault, InputError: a home, its password, keys or vault.
        Refused: the home of another hospital.
        VerificationFailed: what lies in the home is not what the hospital committed to, also where the body finds it.
    """
    own, network = open_home(home), read_network(home / "network.json")
    believed = home if ledger is None else ledger
    if read_network(believed / "network.json").fingerprint != network.fingerprint:
        raise InputError(f"{believed} is a home of another network than {home}")
    history = read_history(believed)
    found = history.erasures[find_erasure(history, erasure)]
    if own.role != "member" or own.index != found.opened.controller:
        whose = history.registry.members[found.opened.controller].name
        raise Refused(f"the records of this erasure were {whose}'s, and {home} is not its home: do it there")
    settings = config.load(own.config_path)
    key = keystore.at_rest_key(keystore.load_all(own, read_password(own, settings["node", "password_file"]))[0])
    try:
        with closing(HomeReader(home, key)) as store, closing(Vault.read(own.vault_path, key)) as vault:
            spec = store.content(history.studies[found.opened.study].created.terms.spec_hash, "spec")
            if spec is None:
                raise NotFound(f"the study's specification is not in {home}")
            arithmetic = Arithmetic(parse_canonical(spec))
            timeout_s = settings["training", "timeout_s"]
            secret = keystore.noise_secret(key)
            yield Hospital(own.index, network, history, found, arithmetic, store, vault, timeout_s, secret)
    except Fault as fault:
        raise VerificationFailed(str(fault)) from fault
