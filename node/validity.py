"""Is a member's contribution valid? A pure function of its two plaintexts and the chain, the same at every node.

Rules of this file
1. The order of the CHECKS table is the order of the checks, and the first that fails is the code that counts
   (PROTOCOL.md, clause 6). Two nodes that hold the same bytes and the same chain cannot disagree.
2. Grants, forms and anchors count as of the snapshot, the round's opening position; withdrawals and expiry as of the
   seal. Nothing later is looked at, and nothing that is neither in the plaintexts nor on the chain: not who served the
   bytes, not when they came.
3. A bad chunk or a bad wrap is the fault of whoever served it and never gets here. What gets here was opened with the
   committed key, or is known not to open with it: the author's fault, BAD_SEAL.

What this file does not know: ciphertexts and keys (`crypto.sealing`), tensors (the check of the integers is handed in),
files, the clock. Reasons name members, rules and figures, never a consent.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import NoReturn, Protocol

import rfc8785

from crypto.blobs import (
    ROLE_TRAIN,
    SetEntry,
    SetPlain,
    UpdatePlain,
    check_entry,
    dataset_root,
    decode_set,
    decode_update,
    decode_update_header,
)
from crypto.digest import Digest
from crypto.errors import CryptoError, EncodingError, UnsortedKeys
from crypto.merkle import verify_anchored
from node.records import Anchored, FormRegistered, Granted, Position, Withdrawn
from node.round import Seal

MAX_BRACKETS = 64
"""Most arrays and objects in an update's metrics: keeps every reader's recursion far from its limit."""


class Code(IntEnum):
    """Why a contribution is left out; the four bits a member has in a result's codes. Zero: it is valid."""

    VALID = 0
    BAD_SEAL = 1
    """A blob does not open with its committed key, or opens to something else than was committed."""
    HEADER = 2
    """A plaintext is not in its format, or is of another round or member: a copy, for instance."""
    SHAPE = 3
    """Another number of model integers than the model has."""
    RANGE = 4
    """A model integer beyond the grid's bound."""
    TREE = 5
    """The leaves are not strictly sorted, or do not lead to the committed dataset root."""
    COUNT = 6
    """The records of the training leaves do not add up to the n_k the update is weighted with."""
    CONSENT = 7
    """A leaf whose consent was not granted by this hospital for this study, or is expired or withdrawn."""
    POLICY = 8
    """Fewer consents than the study asks for, or more records of one consent than it allows."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome. `records` is n_k where valid, else 0; `why` is one sentence for people, not part of any vote."""

    code: Code
    records: int
    why: str


class ConsentView(Protocol):
    """What the chain says about consents, by records with the position that orders them. None: no such record."""

    def grant(self, consent_id: Digest) -> tuple[Granted, Position] | None:
        """The grant that is stored for this consent alone."""
        ...

    def anchor(self, root: Digest) -> tuple[Anchored, Position] | None:
        """The anchor with this root."""
        ...

    def form(self, form_id: Digest) -> tuple[FormRegistered, Position] | None:
        """The registered form."""
        ...

    def withdrawal(self, consent_id: Digest) -> tuple[Withdrawn, Position] | None:
        """The first withdrawal of this consent, granted or not."""
        ...


CheckValues = Callable[[bytes, int, int], Code | None]
"""(little-endian int32 bytes, count, bound) -> RANGE if any is beyond the bound in absolute value, else None.

It lives where numpy is; the count was checked before.
"""


@dataclass(frozen=True, slots=True)
class Case:
    """What one member's contribution is judged by.

    Attributes:
        round_id, member, study: which contribution this is.
        dataset_root: what the member committed to, from the chain.
        parameters: P, the number of model integers.
        bound: largest absolute value of an update's integer (the spec's `max_abs` on the grid).
        min_consents, max_records_per_consent: the study's policy.
        snapshot: position of the round's opening record.
        seal: when the set was sealed (`Round.seal`).
        original: in a replay, position of the opening that this height had on the parent branch: a consent granted
            later cannot have been in the round that is replayed. None in an ordinary round.
    """

    round_id: Digest
    member: int
    study: Digest
    dataset_root: Digest
    parameters: int
    bound: int
    min_consents: int
    max_records_per_consent: int
    snapshot: Position
    seal: Seal
    original: Position | None = None

    @property
    def granted_by(self) -> Position:
        """The last position at which a grant, an anchor or a form counts."""
        return self.snapshot if self.original is None else min(self.snapshot, self.original)


class Evidence:
    """One contribution on the table; each plaintext is decoded once. None stands for a blob that does not open."""

    def __init__(
        self, case: Case, update: bytes | None, set_: bytes | None, consents: ConsentView, check_values: CheckValues
    ) -> None:
        """Lay it out; nothing is decoded yet."""
        self.case, self.consents, self.check_values = case, consents, check_values
        self._update, self._set = update, set_

    @property
    def opens(self) -> bool:
        """Whether both blobs opened to what was committed."""
        return self._update is not None and self._set is not None

    @cached_property
    def header(self) -> UpdatePlain:
        """The update without its integers."""
        assert self._update is not None
        return decode_update_header(self._update)

    @cached_property
    def update(self) -> UpdatePlain:
        """The decoded update."""
        assert self._update is not None
        return decode_update(self._update, self.case.parameters)

    @cached_property
    def set(self) -> SetPlain:
        """The decoded set."""
        assert self._set is not None
        return decode_set(self._set)


class _Fault(Exception):
    """A check failed; the text says why. Never leaves this file."""


def _fail(why: str) -> NoReturn:
    raise _Fault(why)


def check_seal(e: Evidence) -> None:
    """Both blobs open with the committed keys to the committed plaintexts."""
    if not e.opens:
        _fail("a blob does not open to what was committed")


def check_header(e: Evidence) -> None:
    """Both plaintexts are in their format and made for this round by this member; metrics are canonical JSON."""
    try:
        headers: list[tuple[str, Digest, int]] = [("update", e.header.round_id, e.header.member)]
        headers.append(("set", e.set.round_id, e.set.member))
    except UnsortedKeys:
        headers = [("update", e.header.round_id, e.header.member)]  # well formed otherwise; TREE says so
    except EncodingError as error:
        _fail(str(error))
    for what, round_id, member in headers:
        if round_id != e.case.round_id:
            _fail(f"{what} is of round {round_id.hex()}, not {e.case.round_id.hex()}")
        if member != e.case.member:
            _fail(f"{what} is of member {member}, not {e.case.member}")
    if not _is_canonical_object(e.header.metrics):
        _fail("metrics are no canonical JSON object")


def _is_canonical_object(data: bytes) -> bool:
    """RFC 8785. Brackets are counted first, so that no depth of nesting can depend on a reader's stack."""
    if data.count(b"[") + data.count(b"{") > MAX_BRACKETS:
        return False
    try:
        value = json.loads(data.decode("utf-8"))
        return isinstance(value, dict) and rfc8785.dumps(value) == data
    except (ValueError, rfc8785.CanonicalizationError):
        return False


def check_shape(e: Evidence) -> None:
    """As many integers as the model has, packed the one way."""
    try:
        count = e.update.count
    except EncodingError as error:
        _fail(str(error))
    assert count == e.case.parameters


def check_range(e: Evidence) -> None:
    """No integer beyond the bound."""
    if e.check_values(e.update.values, e.case.parameters, e.case.bound) is not None:
        _fail(f"a model integer is beyond {e.case.bound}")


def check_tree(e: Evidence) -> None:
    """The leaves are strictly sorted and lead to the root on chain."""
    try:
        root = dataset_root(e.set.entries)
    except EncodingError as error:
        _fail(str(error))
    if root != e.case.dataset_root:
        _fail(f"leaves lead to {root.hex()}, {e.case.dataset_root.hex()} was committed")


def check_count(e: Evidence) -> None:
    """n_k is the records of the training leaves, and not zero."""
    records = sum(entry.records for entry in e.set.entries if entry.role == ROLE_TRAIN)
    if not 0 < records == e.update.records:
        _fail(f"n_k is {e.update.records}, the training leaves have {records} records")


def check_consents(e: Evidence) -> None:
    """Every leaf opens its consent; granted here by the snapshot, on a valid form, not withdrawn by the seal."""
    for place, entry in enumerate(e.set.entries):
        why = _consent_fault(e.case, entry, e.consents)
        if why is not None:
            _fail(f"leaf {place}: {why}")


def _consent_fault(case: Case, entry: SetEntry, consents: ConsentView) -> str | None:
    try:
        check_entry(entry)
    except CryptoError:
        return "its opening does not lead to the consent it names"
    granted = _proof(entry, consents)
    if granted is None:
        return "no grant or anchor on the chain proves its consent"
    record, position = granted
    if position > case.granted_by:
        return "its consent was granted after the snapshot"
    if record.form_id != entry.form_id:
        return "its consent was granted on another form"
    if record.member != case.member:
        return f"its consent was granted by member {record.member}"
    form = consents.form(entry.form_id)
    if form is None or form[1] > case.granted_by or form[0].study != case.study:
        return "its form was not registered for this study by the snapshot"
    if form[0].valid_to <= case.seal.time:
        return "its form had expired at the seal"
    withdrawn = consents.withdrawal(entry.consent_id)
    if withdrawn is not None and ended_by(withdrawn, case.seal):
        return "its consent was withdrawn by the seal"
    return None


def _proof(entry: SetEntry, consents: ConsentView) -> tuple[Granted | Anchored, Position] | None:
    if entry.anchor is None:
        return consents.grant(entry.consent_id)
    found = consents.anchor(entry.anchor.root)
    if found is None:
        return None
    try:
        verify_anchored(entry.anchor.root, found[0].count, entry.consent_id, entry.anchor.index, entry.anchor.path)
    except CryptoError:
        return None
    return found


def ended_by(withdrawn: tuple[Withdrawn, Position], seal: Seal) -> bool:
    """Whether this withdrawal had come when the set was sealed."""
    record, position = withdrawn
    return record.at <= seal.time if seal.position is None else position <= seal.position


def check_policy(e: Evidence) -> None:
    """Enough consents, and not too many records of one."""
    case, consents = e.case, len(e.set.entries)
    if consents < case.min_consents:
        _fail(f"{consents} consents, the study asks for {case.min_consents}")
    most = max(entry.records for entry in e.set.entries)
    if most > case.max_records_per_consent:
        _fail(f"{most} records of one consent, the study allows {case.max_records_per_consent}")


CHECKS: tuple[tuple[Code, Callable[[Evidence], None]], ...] = (
    (Code.BAD_SEAL, check_seal),
    (Code.HEADER, check_header),
    (Code.SHAPE, check_shape),
    (Code.RANGE, check_range),
    (Code.TREE, check_tree),
    (Code.COUNT, check_count),
    (Code.CONSENT, check_consents),
    (Code.POLICY, check_policy),
)


def judge(
    case: Case, update: bytes | None, set_: bytes | None, consents: ConsentView, check_values: CheckValues
) -> Verdict:
    """The verdict on one contribution: the first check of the table that fails, or valid.

    Args:
        case: what it is judged by.
        update: plaintext of the update, or None if committed ciphertext and key do not give the committed one.
        set_: plaintext of the set, or None in the same way.
        consents: the chain's records, at least up to the seal.
        check_values: the range check over the model integers.

    Returns:
        The verdict; bad input is never an error here, it is a code.
    """
    evidence = Evidence(case, update, set_, consents, check_values)
    for code, check in CHECKS:
        try:
            check(evidence)
        except _Fault as fault:
            return Verdict(code, 0, f"{code.name}: {fault}")
    return Verdict(Code.VALID, evidence.update.records, "valid")


def pack_codes(codes: dict[int, int]) -> int:
    """Codes by member, packed four bits a member as a result carries them."""
    packed = 0
    for member, code in codes.items():
        packed |= code << 4 * member
    return packed


def code_of(codes: int, member: int) -> Code:
    """The code of one member in a result's codes; `ValueError` for a number that is no code."""
    return Code(codes >> 4 * member & 15)
