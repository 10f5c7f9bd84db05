"""An auditor's word about an erasure, as the file in which it reaches the hospital: `koinon.attestation/1`.

What may live here: making one at an auditor's home, reading one, and checking it against the chain. What this file
does not know: the chain's client, the certificate. The report is in the file whole; what is signed, and what the chain
keeps, is its hash. The chain shows no more than that this seat said so, once a level.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Final

from crypto.digest import Digest, sha256
from crypto.errors import CryptoError
from crypto.keys import LedgerKey
from crypto.statements import Attest, sign, verify_any
from node import document, jsontext, replay
from node.document import Fields
from node.errors import InputError, NotFound, Refused, VerificationFailed
from node.history import ErasureHistory, History
from node.home import Home, Network
from node.records import LEVEL_ATTACK_AUDIT, LEVEL_LOCAL_REPLAY
from node.store import Store
from node.study import Study, parse_canonical
from node.training import Arithmetic

SCHEMA: Final = "koinon.attestation/1"
MAX_REPORT_BYTES: Final = replay.MAX_REPORT_BYTES
MAX_ATTESTATION_BYTES: Final = 2 * MAX_REPORT_BYTES
LEVELS: Final = {"L3": LEVEL_LOCAL_REPLAY, "L4": LEVEL_ATTACK_AUDIT}
"""How people name a level -> its number on the chain."""


@dataclass(frozen=True, slots=True)
class Attestation:
    """What an auditor signed, and the report that it is about."""

    network: str  # fingerprint
    batch: Digest
    level: int
    seat: int
    report: bytes
    signature: bytes

    @property
    def evidence(self) -> Digest:
        """The report's hash."""
        return sha256(self.report)

    @property
    def statement(self) -> Attest:
        """What the signature is over."""
        return Attest(self.batch, self.level, self.seat, self.evidence)


def write(one: Attestation) -> bytes:
    """The file's bytes."""
    names = {number: name for name, number in LEVELS.items()}
    return document.write(
        {
            "schema": SCHEMA,
            "network": one.network,
            "erasure": one.batch.hex(),
            "level": names[one.level],
            "seat": one.seat,
            "report": one.report.decode(),
            "signature": one.signature.hex(),
        }
    )


def read(data: bytes) -> Attestation:
    """The attestation in `data`; `VerificationFailed` where it is none. Nothing of it is believed yet."""
    top = Fields("attestation", document.read(data, SCHEMA, MAX_ATTESTATION_BYTES))
    top.take("schema", str)
    level = top.take("level", str)
    if level not in LEVELS:
        top.fault(f"level {level!r:.20} is none of {', '.join(LEVELS)}")
    found = Attestation(
        top.take("network", str),
        top.digest("erasure"),
        LEVELS[level],
        top.uint("seat", 16),
        top.take("report", str).encode(),
        top.signature("signature"),
    )
    top.done()
    return found


def attest(
    home: Home,
    network: Network,
    history: History,
    erasure: ErasureHistory,
    level: str,
    report: bytes,
    key: LedgerKey,
    now: int,
) -> bytes:
    """Sign a report at an auditor's home.

    Args:
        home, network: the auditor's.
        history: as that home kept it.
        level: a key of `LEVELS`.
        report: a local replay (L3), or the JSON of an attack audit (L4).
        key: the auditor's ledger key.
        now: unix seconds, for the auditor's term.

    Raises:
        Refused: not an auditor's home, or a seat without a say in this study; the erasure is not confirmed.
        VerificationFailed: the report does not earn the level.
    """
    if home.role != "auditor":
        raise Refused(f"{home.path} is a member's home: only an auditor attests")
    bare = Attestation(network.fingerprint, erasure.opened.batch, LEVELS[level], home.index, report, b"")
    made = replace(bare, signature=sign(bare.statement, network.contracts.domains.of(bare.statement), key))
    with closing(Store(home.path, bytes(32))) as store:
        check(made, history, network, erasure, Arithmetic(spec_of(store, history, erasure)), store.get, now)
    return write(made)


def spec_of(store: Store, history: History, erasure: ErasureHistory) -> Study:
    """The specification of the study that an erasure is in; `NotFound` while it is not in this home."""
    return parse_canonical(store.get(history.studies[erasure.opened.study].created.terms.spec_hash))


def check(
    one: Attestation,
    history: History,
    network: Network,
    erasure: ErasureHistory,
    arithmetic: Arithmetic,
    content: Callable[[Digest], bytes],
    now: int,
) -> None:
    """Check an attestation as the contract will, and its report as the contract cannot; `now` is chain time.

    `content`: as for `replay.check_report`.

    Raises:
        Refused: the erasure is not confirmed yet, or was refused; the seat has no say in its study.
        VerificationFailed: another network's, not this seat's signature, or a report that does not earn its level.
        NotFound: no such seat; or as `replay.rounds_of`.
    """
    where = f"erasure {erasure.opened.batch.hex()[:12]}"
    if one.network != network.fingerprint:
        raise VerificationFailed(f"the attestation is of network {one.network:.12}, this is {network.fingerprint[:12]}")
    if erasure.confirmed is None or erasure.refused is not None:
        raise Refused(f"{where} is not confirmed: there is no result yet that evidence could be about")
    auditor = history.registry.auditors.get(one.seat)
    if auditor is None:
        raise NotFound(f"there is no auditor in seat {one.seat}")
    if not auditor.serves(erasure.opened.study, now):
        raise Refused(f"the auditor in seat {one.seat} has no term for this study now")
    try:
        verify_any(one.statement, network.contracts.domains, one.signature, auditor.ledger)
    except CryptoError as error:
        raise VerificationFailed(f"attestation of auditor's seat {one.seat}: {error}") from error
    if one.level == LEVEL_LOCAL_REPLAY:
        replay.check_report(one.report, history, erasure, arithmetic, network.fingerprint, content)
    else:
        _check_audit(one.report, erasure.confirmed.head_model)


def _check_audit(report: bytes, model: Digest) -> None:
    try:
        found: Any = jsontext.loads(report)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the report is not JSON: {error}") from None
    if not isinstance(found, dict) or found.get("level") != "L4":
        raise VerificationFailed("the report is no attack audit: `koinon erase audit --out` writes one")
    if not found.get("findings"):
        raise VerificationFailed("the report is of no attack: none of those it names was run")
    if found.get("model") != model.hex():
        raise VerificationFailed(
            f"the report is of an attack on model {found.get('model')!s:.12}, the erasure made {model.hex()[:12]}"
        )
