"""What the tests of vault, cards, enrolment and gate share: a network in memory, a study, a hospital with patients."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crypto.commitments import study_id
from crypto.digest import Digest
from crypto.keys import KeyRing
from crypto.statements import CreateStudy, Seat, sign, struct_hash
from fl_engine.data.dataset import Dataset
from node.card import Origin
from node.enrolment import enrol, form_registrations, pending_calls
from node.history import History
from node.home import Network, network_json, parse_network
from node.home import Seat as HomeSeat
from node.memory.ledger import MemoryLedger, memory_contracts
from node.records import (
    ZERO,
    Call,
    Logged,
    Position,
    Record,
    RoundOpened,
    SeatInput,
    StudyCreated,
    StudyCreation,
)
from node.register import RegisterRow
from node.study import Study, parse_sections
from node.vault import Vault

NOW = 1_800_000_000  # 2027-01-15 08:00 UTC
TODAY = datetime.date(2027, 1, 15)
QUARTER_END = 1_893_456_000  # 2030-01-01
SIGNED = datetime.date(2026, 12, 1)
AT_REST = bytes(range(32))
CANARY = "ZZCANARY-4711"
MEMBER = 1


def study_spec(
    name: str = "nuclei",
    *,
    on_withdrawal: str = "stop+delete",
    valid_to: int = QUARTER_END,
    side: int = 2,
    **changes: Any,
) -> Study:
    """A study with two forms; `changes` are keys of both."""
    form: dict[str, Any] = {
        "text_sha256": "ab" * 32,
        "valid_to": valid_to,
        "on_withdrawal": on_withdrawal,
        "custody": "synthetic",
    }
    form |= changes
    return parse_sections(
        {
            "schema": "koinon.study/1",
            "name": name,
            "task": "nuclei",
            "rounds": 4,
            "data": {"input_shape": [1, side, side], "classes": 3},
            "model": {"name": "small-cnn"},
            "forms": [{"name": "main", **form}, {"name": "second", **form, "purposes": 3}],
        }
    )


def terms(spec: Study) -> CreateStudy:
    return spec.terms(0, Digest(b"\x11" * 32), 3)


def dataset(patients: int = 6, records: int = 2, *, first: str = CANARY, side: int = 2) -> Dataset:
    """`patients` with `records` rows each, the first named `first`; the last two are for validation and test."""
    names = [first] + [f"MRN-{i:04}" for i in range(1, patients)]
    ids = tuple(name for name in names for _ in range(records))
    roles = np.zeros(len(ids), dtype=np.uint8)
    roles[-records:] = 2
    roles[-2 * records : -records] = 1
    x = np.arange(len(ids) * side**2, dtype=np.float32).reshape(len(ids), 1, side, side)
    y = np.arange(len(ids), dtype=np.int64) % 3
    return Dataset(x=x, y=y, patients=ids, roles=roles, classes=3, name="made for tests")


def register(patients: tuple[str, ...], *, form: str = "main", signed: datetime.date = SIGNED) -> list[RegisterRow]:
    return [RegisterRow(i, one, form, signed, "patient", "dr.keller") for i, one in enumerate(patients, start=2)]


class Chain:
    """A history that is told what the chain says, record by record; a block each."""

    def __init__(self) -> None:
        self.history = History()
        self.block = 0

    def add(self, record: Record, time: int = NOW) -> Position:
        self.block += 1
        position = Position(self.block, 0)
        self.history.apply(Logged(position, Digest(self.block.to_bytes(32, "big")), time, ZERO, record))
        return position

    def open_round(self, study: Digest, height: int = 1, branch: int = 0, time: int = NOW) -> RoundOpened:
        round_id = Digest(bytes([branch, height]) * 16)
        opened = RoundOpened(round_id, study, branch, height, ZERO, ZERO, 1, 0b111, 0, 0, 2, ZERO, ZERO, ZERO, time)
        self.add(opened, time)
        return opened


def found_network() -> tuple[MemoryLedger, list[KeyRing], Network]:
    """Three members on a ledger in memory whose clock stands at `NOW`, and their `network.json`."""
    contracts = memory_contracts()
    domains = contracts.domains
    rings = [KeyRing.generate() for _ in range(3)]
    seats, homes = [], []
    for i, ring in enumerate(rings):
        statement = Seat("member", ring.peer.peer_id, ring.sealing.public, f"hospital-{i}")
        signature = sign(statement, domains.of(statement), ring.ledger)
        seats.append(SeatInput(ring.ledger.address, ring.peer.peer_id, ring.sealing.public, f"hospital-{i}", signature))
        homes.append(
            HomeSeat(i, f"hospital-{i}", ring.ledger.address, ring.peer.peer_id, ring.sealing.public, "/ip4/127.0.0.1")
        )
    raw = network_json("test", "http://127.0.0.1:1", Digest(b"\x22" * 32), contracts, tuple(homes), (), True)
    return MemoryLedger(seats, clock=lambda: NOW), rings, parse_network(raw)


@dataclass
class World:
    """A network with one study and the vault of its member 1, whose patients are imported."""

    ledger: MemoryLedger
    rings: list[KeyRing]
    network: Network
    spec: Study
    study: Digest
    origin: Origin
    vault: Vault
    path: Path

    @classmethod
    def found(cls, path: Path, spec: Study | None = None, data: Dataset | None = None) -> World:
        ledger, rings, network = found_network()
        spec = spec or study_spec()
        statement = terms(spec)
        domains = ledger.contracts.domains
        ledger.send(StudyCreation(statement, sign(statement, domains.of(statement), rings[0].ledger)))
        study = study_id(struct_hash(statement))
        origin = Origin.of(network, study, MEMBER, f"hospital-{MEMBER}")
        vault = Vault.create(path / "vault", AT_REST)
        vault.import_dataset(data or dataset())
        world = cls(ledger, rings, network, spec, study, origin, vault, path / "vault")
        world.send(*form_registrations(spec, origin, rings[MEMBER].ledger, world.history()))
        return world

    def send(self, *calls: Call) -> None:
        for call in calls:
            self.ledger.send(call)

    def history(self) -> History:
        history = History()
        history.apply_all(self.ledger.records(0, self.ledger.head().number))
        return history

    def enrol(self, *patients: str, single: bool = False) -> tuple[Digest, ...]:
        """Enrol these patients (all if none is named) and post the grants."""
        rows = register(patients or self.vault.patient_ids())
        minted = enrol(self.vault, rows, self.spec, self.origin, now=NOW, single=single).minted
        self.send(*pending_calls(self.vault, self.origin, self.rings[MEMBER].ledger))
        self.vault.confirm(self.history())
        return minted

    def reopen(self) -> Vault:
        self.vault.close()
        self.vault = Vault.open(self.path, AT_REST)
        return self.vault


def study_created(spec: Study) -> StudyCreated:
    statement = terms(spec)
    return StudyCreated(study_id(struct_hash(statement)), 0, statement)
