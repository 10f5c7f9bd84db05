"""The contracts' ABI: calls become bytes, logs become records, reverts become errors.

What may live here: one codec over the ABI files of `contracts/artifacts`, and the table of the function that carries
each call. What this file does not know: JSON-RPC, blocks, keys. `node/ledger.py` decodes what a client tells it
and the offline audit decodes what `node/evidence.py` proves, both with this codec.

Rules
- Names lead: an event's or function's parameter `updateRoot` is the field `update_root` of the record or call, whatever
  the order. A name that has no counterpart is an error when the codec is made, not when a log comes by.
- What an event packs is named in `_PACKED` and `_BATCHES`, and nowhere else: a record has plain fields, and is of one
  member or consent.
- A malformed signature becomes zeros, which no key signed: the contract then skips that entry of a batch, and only it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Final, cast, get_args, get_type_hints

from eth_abi import abi
from eth_abi.exceptions import DecodingError
from eth_abi.exceptions import EncodingError as AbiEncodingError

from crypto.digest import Digest, keccak256
from crypto.errors import EncodingError
from crypto.statements import CreateStudy, encode_data, to_compact
from node import records
from node.errors import CallReverted, LedgerError, LocalFault
from node.evidence import RawLog
from node.records import Call, Continuation, Contracts, Record, Result, SeatInput
from node.refusals import refusal

ARTIFACTS: Final = Path(__file__).resolve().parent.parent / "contracts" / "artifacts"

CONTRACTS: Final = {
    "membership": "Membership",
    "consent": "ConsentRegistry",
    "training": "TrainingLedger",
    "unlearning": "UnlearningRegistry",
}
"""Field of `Contracts` -> name of the contract and its artifact."""

_RECORDS: Final[dict[str, type]] = {one.__name__: one for one in get_args(Record)}


@dataclass(frozen=True, slots=True)
class Artifact:
    """What the compiler made of one contract: its ABI entries and creation code."""

    name: str
    abi: tuple[dict[str, Any], ...]
    bytecode: bytes


@dataclass(frozen=True, slots=True)
class EncodedCall:
    """A call as a transaction carries it.

    Attributes:
        to: the contract's address, 20 bytes.
        data: selector and arguments.
        timed: what the contract does with it depends on the block's stamp.
        gas: a limit that suffices on every path through the contract.
    """

    to: bytes
    data: bytes
    timed: bool
    gas: int


def load_artifact(name: str, folder: Path = ARTIFACTS) -> Artifact:
    """Read one artifact.

    Raises:
        LocalFault: the file is missing or not an artifact.
    """
    path = folder / f"{name}.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return Artifact(name, tuple(document["abi"]), bytes.fromhex(document["bytecode"].removeprefix("0x")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LocalFault(f"{path} is not a contract artifact: {type(error).__name__}: {error}") from error


class _Function:
    """A function or custom error: a selector and named, typed parameters."""

    def __init__(self, entry: Mapping[str, Any]) -> None:
        self.name = str(entry["name"])
        self.inputs = cast(list[dict[str, Any]], entry["inputs"])
        self.types = [_type(one) for one in self.inputs]
        self.selector = keccak256(f"{self.name}({','.join(self.types)})".encode())[:4]

    def encode(self, arguments: Mapping[str, object]) -> bytes:
        return self.selector + encode_arguments(self.inputs, arguments)

    def decode(self, data: bytes) -> dict[str, object]:
        try:
            values = abi.decode(self.types, data)
        except DecodingError as error:
            raise LedgerError(f"{self.name}: not in the form of the ABI: {error}") from None
        return {one["name"]: _plain(one, value) for one, value in zip(self.inputs, values, strict=True)}


_PACKED: Final[dict[tuple[str, str], tuple[tuple[str, int], ...]]] = {
    ("RoundOpened", "standing"): (
        ("branch", 32),
        ("height", 32),
        ("epoch", 64),
        ("roster", 32),
        ("suspended", 32),
        ("f", 8),
        ("quorum", 8),
        ("opened_at", 40),
    ),
    ("RoundFinal", "decided"): (
        ("branch", 16),
        ("height", 24),
        ("attempt", 8),
        ("outcome", 8),
        ("included", 32),
        ("codes", 128),
        ("signers", 32),
    ),
}
"""Event and parameter -> the record's fields in that word and their bits, the lowest first."""


def _committed(values: dict[str, Any]) -> list[dict[str, Any]]:
    """A commitment of each member that the event names."""
    roots: bytes = values.pop("roots")
    members: int = values.pop("members")
    if len(roots) % 96 or len(roots) > 96 * records.MAX_MEMBERS or members >> (8 * (len(roots) // 96)):
        raise LedgerError(f"a log of event Committed has {len(roots)} bytes of roots for members {members:#x}")
    names = ("update_root", "dataset_root", "next_dataset_root")
    return [
        {
            **values,
            "member": members >> (8 * k) & 0xFF,
            **{
                name: Digest(roots[at : at + 32])
                for name, at in zip(names, range(96 * k, 96 * k + 96, 32), strict=True)
            },
        }
        for k in range(len(roots) // 96)
    ]


def _one(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [values]


def _withdrawn(values: dict[str, Any]) -> list[dict[str, Any]]:
    """A withdrawal of each consent that the event names."""
    return [{"consent_id": one, "at": values["at"]} for one in values["consent_ids"]]


_BATCHES: Final[dict[str, tuple[str, set[str], Callable[[dict[str, Any]], list[dict[str, Any]]]]]] = {
    "Committed": ("Committed", {"members", "roots"}, _committed),
    "WithdrawnTogether": ("Withdrawn", {"consent_ids"}, _withdrawn),
}
"""Event of several, whose record is of one -> that record, its parameters for that, and how they are told apart."""


class _Event:
    """An event that is a record, or several."""

    def __init__(self, entry: Mapping[str, Any]) -> None:
        self._name = str(entry["name"])
        inputs = cast(list[dict[str, Any]], entry["inputs"])
        self._indexed = [one for one in inputs if one["indexed"]]
        self._rest = [one for one in inputs if not one["indexed"]]
        self._rest_types = [_type(one) for one in self._rest]
        self.topic = keccak256(f"{self._name}({','.join(_type(one) for one in inputs)})".encode())
        self._packed = {name: parts for (event, name), parts in _PACKED.items() if event == self._name}
        record, batch, self._each = _BATCHES.get(self._name, (self._name, set(), _one))
        self._kind = _RECORDS[record]
        names = {_snake(one["name"]) for one in inputs} - batch
        for name, parts in self._packed.items():
            names = names - {name} | {part for part, _ in parts}
        flat = _flat_fields(self._kind)
        if not names <= flat:
            raise LocalFault(f"event {self._name} has {sorted(names - flat)}, which the record does not know")

    def decode(self, log: RawLog) -> tuple[Record, ...]:
        try:
            words = [
                abi.decode([_type(one)], topic)[0] for one, topic in zip(self._indexed, log.topics[1:], strict=True)
            ]
            rest = abi.decode(self._rest_types, log.data)
        except (DecodingError, ValueError) as error:
            raise LedgerError(f"a log of event {self._name} is not in the form of the ABI: {error}") from None
        values = {
            _snake(one["name"]): _plain(one, value)
            for one, value in zip([*self._indexed, *self._rest], [*words, *rest], strict=True)
        }
        for name, parts in self._packed.items():
            word = values.pop(name)
            for part, bits in parts:
                values[part] = word & ((1 << bits) - 1)
                word >>= bits
        return tuple(cast(Record, _build(self._kind, one)) for one in self._each(values))


def encode_arguments(inputs: Sequence[Mapping[str, Any]], arguments: Mapping[str, object]) -> bytes:
    """ABI-encode arguments given by their Solidity names; structs are mappings, arrays sequences.

    Raises:
        EncodingError: a value does not fit its type.
    """
    try:
        return abi.encode([_type(one) for one in inputs], [_ordered(one, arguments[one["name"]]) for one in inputs])
    except (AbiEncodingError, ValueError, TypeError) as error:
        raise EncodingError("call", str(error)) from None


def _type(parameter: Mapping[str, Any]) -> str:
    """The canonical type: structs as tuples."""
    kind = str(parameter["type"])
    if not kind.startswith("tuple"):
        return kind
    return f"({','.join(_type(one) for one in parameter['components'])}){kind[5:]}"


def _ordered(parameter: Mapping[str, Any], value: Any) -> Any:
    """A value as the ABI library takes it: structs as tuples in their order, addresses as text."""
    kind = str(parameter["type"])
    if kind.endswith("]"):
        element = {**parameter, "type": kind[: kind.rindex("[")]}
        return [_ordered(element, one) for one in value]
    if kind == "tuple":
        return tuple(_ordered(one, value[one["name"]]) for one in parameter["components"])
    return "0x" + value.hex() if kind == "address" else value


def _plain(parameter: Mapping[str, Any], value: Any) -> Any:
    """A decoded value in the types of `node.records`."""
    kind = str(parameter["type"])
    if kind.endswith("]"):
        element = {**parameter, "type": kind[: kind.rindex("[")]}
        return tuple(_plain(element, one) for one in value)
    if kind == "tuple":
        return {
            _snake(one["name"]): _plain(one, part) for one, part in zip(parameter["components"], value, strict=True)
        }
    if kind == "address":
        return bytes.fromhex(value[2:])
    return Digest(value) if kind == "bytes32" else value


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", lambda match: "_" + match[1].lower(), name)


_LANGUAGE_ERRORS: Final = {
    error.selector: error
    for error in (
        _Function({"name": "Error", "inputs": [{"name": "reason", "type": "string"}]}),
        _Function({"name": "Panic", "inputs": [{"name": "code", "type": "uint256"}]}),
    )
}
"""What Solidity itself raises."""

_NESTED: Final = (CreateStudy, Result)
"""Structs inside records. An event may carry one as a struct or its fields beside the record's own."""


def _flat_fields(kind: type) -> set[str]:
    hints = get_type_hints(kind)
    names = set(hints)
    for name in hints:
        if hints[name] in _NESTED:
            names |= _flat_fields(hints[name])
    return names


def _build(kind: type, values: Mapping[str, Any]) -> Any:
    """A record from its event's values by name."""
    arguments: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        if hint in _NESTED:
            given = values.get(name, values)
            arguments[name] = _build(hint, given)
        elif name == "creator":  # StudyCreated: said by the terms' `member`
            arguments[name] = values["terms"]["member"]
        else:
            arguments[name] = values[name]
    return kind(**arguments)


class Codec:
    """Encodes calls and decodes logs and reverts by the four contracts' ABI."""

    def __init__(self, artifacts: Iterable[Artifact]) -> None:
        """Prepare every function, event and error.

        Raises:
            LocalFault: an event has a parameter that its record does not know, or a call has no function.
        """
        self._functions: dict[tuple[str, str], _Function] = {}
        self._events: dict[tuple[str, Digest], _Event] = {}
        self._errors: dict[bytes, _Function] = dict(_LANGUAGE_ERRORS)
        for artifact in artifacts:
            for entry in artifact.abi:
                match entry["type"]:
                    case "function":
                        self._functions[artifact.name, entry["name"]] = _Function(entry)
                    case "event" if entry["name"] in _RECORDS or entry["name"] in _BATCHES:
                        event = _Event(entry)
                        self._events[artifact.name, event.topic] = event
                    case "error":
                        error = _Function(entry)
                        self._errors[error.selector] = error
        missing = [
            f"{row.contract}.{row.function}"
            for row in (*_CALLS.values(), *_ALONE.values())
            if (row.name, row.function) not in self._functions
        ]
        if missing:
            raise LocalFault(f"the contracts' artifacts are of another version: no function {', '.join(missing)}")

    @staticmethod
    def load(folder: Path = ARTIFACTS) -> Codec:
        """The codec of the artifacts that come with this package."""
        return Codec(load_artifact(name, folder) for name in CONTRACTS.values())

    def encode(self, call: Call, contracts: Contracts) -> EncodedCall:
        """A call as bytes for its contract.

        Raises:
            EncodingError: a field does not fit its Solidity type.
        """
        row = (_ALONE if _is_alone(call) else _CALLS)[type(call)]
        if isinstance(call, records.Withdrawals) and call.deployment is not None:
            contracts = contracts.line[call.deployment]
        arguments = row.arguments(call)
        return EncodedCall(
            to=getattr(contracts, row.contract),
            data=self._functions[row.name, row.function].encode(arguments),
            timed=row.timed,
            gas=row.gas + row.entry_gas * row.entries(call),
        )

    def records(self, log: RawLog, contracts: Contracts) -> tuple[Record, ...]:
        """The records of a log: one of most, several of a batch, none of another contract or of another event.

        Raises:
            LedgerError: one of our events whose data are not in its form.
        """
        name = next((name for field, name in CONTRACTS.items() if getattr(contracts, field) == log.address), None)
        if name is None or not log.topics:
            return ()
        event = self._events.get((name, log.topics[0]))
        return () if event is None else event.decode(log)

    def reverted(self, data: bytes) -> CallReverted:
        """The error that a revert's bytes stand for."""
        error = self._errors.get(data[:4])
        if error is None:
            return CallReverted(f"the contract refused the call with {data.hex() or 'no reason'}")
        try:
            operands = error.decode(data[4:])
        except LedgerError:
            return CallReverted(f"the contract refused the call with {data.hex()}")
        return refusal(error.name, operands)

    def accumulator_call(self) -> bytes:
        """Call data that ask a registry for its accumulator."""
        return self._functions["Membership", "accumulator"].encode({})


# --------------------------------------------------------------------------------------------------------------------
# Which function carries which call, and with what gas


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of the table of calls.

    Attributes:
        contract: field of `Contracts`.
        function: its name in Solidity.
        arguments: the call as arguments by their Solidity names.
        timed: what happens depends on the block's stamp, or on what else is in the block before it.
        gas: a limit that suffices on every path, without entries (measured: contracts/README.md; at least doubled).
        entry_gas: for each entry, vote or step of a path.
        entries: how many of those a call has.
    """

    contract: str
    function: str
    arguments: Callable[[Any], dict[str, object]]
    timed: bool = False
    gas: int = 600_000
    entry_gas: int = 20_000
    entries: Callable[[Any], int] = lambda call: 0

    @property
    def name(self) -> str:
        """The contract's name."""
        return CONTRACTS[self.contract]


def _compact(signature: bytes) -> dict[str, object]:
    """r and vs; zeros for bytes that are no signature."""
    try:
        r, vs = to_compact(signature)
    except EncodingError:
        r = vs = bytes(32)
    return {"r": r, "vs": vs}


def _votes(votes: Sequence[tuple[int, bytes]]) -> dict[str, object]:
    """Bitmap of the signers and their signatures, ascending."""
    signers, packed = 0, b""
    for member, signature in sorted(dict(votes).items()):
        if not 0 <= member < records.MAX_MEMBERS:
            raise EncodingError("votes", f"member index {member} is not between 0 and {records.MAX_MEMBERS - 1}")
        signers |= 1 << member
        packed += b"".join(cast(dict[str, bytes], _compact(signature)).values())
    return {"signers": signers, "signatures": packed}


def _ballot(votes: Sequence[tuple[int, bytes]]) -> dict[str, object]:
    """Votes as Membership takes them: ascending by member, each signature as it is (a wallet's has its own form)."""
    return {"votes": [{"member": member, "signature": signature} for member, signature in sorted(dict(votes).items())]}


def _camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)


def _fields(value: Any) -> dict[str, object]:
    """The fields of a call, entry or statement by Solidity's names; signatures and votes as the contracts take them."""
    arguments: dict[str, object] = {}
    for field in fields(value):
        found = getattr(value, field.name)
        if field.name == "signature":
            arguments |= _compact(found)
        elif field.name == "votes":
            arguments |= _votes(found)
        elif field.name == "entries":
            arguments["entries"] = [_fields(one) if is_dataclass(one) else _pair(one) for one in found]
        else:
            arguments[_camel(field.name)] = _fields(found) if is_dataclass(found) else found
    return arguments


def _pair(entry: tuple[int, bytes]) -> dict[str, object]:
    return {"member": entry[0], **_compact(entry[1])}


def seat_argument(seat: SeatInput) -> dict[str, object]:
    """A seat with its applicant's signature as the 65 bytes it is."""
    return {
        "ledger": seat.ledger,
        "peerId": seat.peer_id,
        "sealingKey": seat.sealing_key,
        "name": seat.name,
        "signature": seat.signature,
    }


def continuation_argument(one: Continuation) -> dict[str, object]:
    """A study as the TrainingLedger of the next deployment is created with it."""
    names = ("parent", "baseHeight", "baseFinals", "origin")
    return {
        "terms": _fields(one.terms),
        "branches": [dict(zip(names, branch, strict=True)) for branch in one.branches],
        "voids": [{"key": key, "word": word} for key, word in one.voids],
    }


def _keys_argument(keys: records.KeysInput) -> dict[str, object]:
    return {
        "ledger": keys.ledger,
        "peerId": keys.peer_id,
        "sealingKey": keys.sealing_key,
        "signature": keys.signature,
    }


_NO_TERMS: Final = ("opening", "votes", "proof")
"""Fields of a plan's call that are not in its statement."""


def _batch(call: Any) -> dict[str, object]:
    """The statement that an erasure's batch was opened with."""
    return {"t": _fields(call.opening)}


def _ascending(entries: Sequence[Any]) -> list[Any]:
    """Entries one of a member, the last, in the order of members."""
    found = dict(sorted({one.member: one for one in entries}.items()))
    for member in found:
        if not 0 <= member < records.MAX_MEMBERS:
            raise EncodingError("entries", f"member index {member} is not between 0 and {records.MAX_MEMBERS - 1}")
    return list(found.values())


def _signed_by(entries: Sequence[Any]) -> dict[str, object]:
    """Bitmap of the members of entries, and their signatures, ascending."""
    packed = _votes([(one.member, one.signature) for one in _ascending(entries)])
    return {"members": packed["signers"], "signatures": packed["signatures"]}


def _purges(entries: Sequence[Any]) -> dict[str, object]:
    return {"inventories": [one.inventory for one in _ascending(entries)], **_signed_by(entries)}


def _entries(call: Any) -> int:
    return len(call.entries)


def _voters(call: Any) -> int:
    return len(call.votes)


_CALLS: Final[dict[type, _Row]] = {
    records.Admission: _Row(
        "membership",
        "admit",
        lambda c: {**_ballot(c.votes), "seat": seat_argument(c.seat)},
        gas=1_500_000,
        entries=_voters,
    ),
    records.Removal: _Row("membership", "remove", lambda c: {**_ballot(c.votes), "index": c.member}, entries=_voters),
    records.AuditorSeating: _Row(
        "membership",
        "seatAuditor",
        lambda c: {**_ballot(c.votes), "seat": seat_argument(c.seat), "study": c.study, "termEnd": c.term_end},
        entries=_voters,
    ),
    records.Rotation: _Row(
        "membership",
        "rotate",
        lambda c: {"index": c.member, "keys": _keys_argument(c.keys), "signature": c.signature},
        timed=True,
        gas=1_500_000,
    ),
    records.Revocation: _Row(
        "membership", "revoke", lambda c: {**_ballot(c.votes), "index": c.member}, gas=1_500_000, entries=_voters
    ),
    records.Recovery: _Row(
        "membership",
        "recover",
        lambda c: {**_ballot(c.votes), "index": c.member, "keys": _keys_argument(c.keys)},
        gas=1_500_000,
        entries=_voters,
    ),
    records.AuditorEnding: _Row(
        "membership", "endAuditor", lambda c: {**_ballot(c.votes), "seat": c.seat}, entries=_voters
    ),
    records.Succession: _Row(
        "membership", "succeed", lambda c: {**_ballot(c.votes), "successor_": c.successor}, entries=_voters
    ),
    records.LogAnchoring: _Row(
        "membership",
        "anchorLog",
        lambda c: {**_compact(c.signature), "member": c.member, "root": c.root, "entries": c.entries},
    ),
    records.AddressAnnouncement: _Row(
        "membership",
        "announce",
        lambda c: {
            **_compact(c.signature),
            "member": c.member,
            "number": c.number,
            "multiaddress": c.multiaddress,
        },
    ),
    records.AuditOpening: _Row(
        "membership",
        "openAudit",
        lambda c: {**_compact(c.signature), "member": c.member, "seat": c.seat, "study": c.study},
        timed=True,
    ),
    records.FormRegistration: _Row("consent", "registerForm", _fields),
    records.Grants: _Row(
        "consent",
        "grant",
        _fields,
        timed=True,
        gas=200_000,
        entry_gas=40_000,
        entries=lambda c: sum(1 + len(one.consent_ids) for one in c.entries),
    ),
    records.Anchoring: _Row(
        "consent",
        "anchor",
        _fields,
        timed=True,
        gas=200_000,
        entry_gas=40_000,
        entries=lambda c: sum(1 + len(one.roots) for one in c.entries),
    ),
    records.Withdrawals: _Row(
        "consent",
        "withdraw",
        lambda c: {"entries": [_fields(one) for one in c.entries]},
        timed=True,
        gas=200_000,
        entry_gas=100_000,
        entries=_entries,
    ),
    records.HospitalWithdrawal: _Row("consent", "withdrawByHospital", _fields, entries=lambda c: len(c.path)),
    records.QuorumWithdrawal: _Row("consent", "withdrawByQuorum", _fields, entries=_voters),
    records.StudyCreation: _Row(
        "training", "createStudy", lambda c: {**_compact(c.signature), "t": _fields(c.terms)}, gas=900_000
    ),
    records.Joining: _Row("training", "join", _fields, timed=True, gas=900_000),
    records.Leaving: _Row("training", "leave", _fields),
    records.Commits: _Row("training", "postCommits", _fields, timed=True, entry_gas=60_000, entries=_entries),
    records.Abstentions: _Row("training", "postAbstains", _fields, timed=True, entry_gas=60_000, entries=_entries),
    records.Haves: _Row("training", "postHaves", _fields, timed=True, entry_gas=80_000, entries=_entries),
    records.Finalisation: _Row(
        "training", "finalise", _fields, timed=True, gas=1_500_000, entry_gas=30_000, entries=_voters
    ),
    records.RoundFailure: _Row("training", "failRound", _fields, timed=True, gas=1_500_000),
    records.Resumption: _Row("training", "resume", _fields, timed=True, gas=900_000),
    records.EquivocationReport: _Row(
        "training",
        "reportEquivocation",
        lambda c: {
            **{_camel(name): getattr(c, name) for name in ("study", "opened_at", "kind", "member")},
            "opening": _fields(c.opening),
            **{
                name: {"body": encode_data(one.statement), **_compact(one.signature)}
                for name, one in (("a", c.a), ("b", c.b))
            },
        },
    ),
    records.AuditAnnouncement: _Row("training", "auditAccess", _fields, timed=True),
    records.ErasureOpening: _Row(
        "unlearning",
        "openErasure",
        lambda c: {**_batch(c), **_compact(c.signature), "steps": _fields(c.steps)},
        timed=True,
    ),
    records.ErasureAuthorisation: _Row("unlearning", "authorise", lambda c: {**_batch(c), **_fields(c)}),
    records.ErasureRefusal: _Row("unlearning", "refuse", lambda c: {**_batch(c), **_fields(c)}),
    records.ErasureExtension: _Row("unlearning", "extend", lambda c: {**_batch(c), **_fields(c)}, timed=True),
    records.ErasureProgress: _Row("unlearning", "step", lambda c: {**_batch(c), **_fields(c)}, timed=True),
    records.Planning: _Row(
        "unlearning",
        "plan",
        lambda c: {
            **_batch(c),
            **_votes(c.votes),
            "p": {_camel(one.name): getattr(c, one.name) for one in fields(c) if one.name not in _NO_TERMS},
            "proof": {**_fields(c.proof), "forks": [_fields(one) for one in c.proof.forks]},
        },
        timed=True,
        gas=2_500_000,
        entry_gas=30_000,
        entries=lambda c: len(c.votes) + len(c.proof.links) + sum(1 + len(one.links) for one in c.proof.forks),
    ),
    records.Purges: _Row(
        "unlearning",
        "attestPurge",
        lambda c: {**_batch(c), "purges": _purges(c.entries)},
        timed=True,
        entry_gas=40_000,
        entries=_entries,
    ),
    records.Verdicts: _Row(
        "unlearning",
        "verdicts",
        lambda c: {
            **_batch(c),
            "given": {
                **_signed_by(c.entries),
                "confirming": sum(1 << one.member for one in _ascending(c.entries) if one.confirmed),
            },
            "purges": _purges(c.purges),
        },
        timed=True,
        gas=1_500_000,
        entry_gas=40_000,
        entries=lambda c: len(c.entries) + len(c.purges),
    ),
    records.EvidenceAttestation: _Row("unlearning", "attest", lambda c: {**_batch(c), **_fields(c)}, timed=True),
}
"""Every call of `node.records`, and the function that takes it."""

_ALONE: Final[dict[type, _Row]] = {
    records.Grants: _Row(
        "consent",
        "grantOne",
        lambda c: {
            "formId": c.entries[0].form_id,
            "member": c.entries[0].member,
            "consentId": c.entries[0].consent_ids[0],
            **_compact(c.entries[0].signature),
        },
        timed=True,
    ),
    records.Withdrawals: _Row("consent", "withdrawOne", lambda c: {"entry": _fields(c.entries[0])}, timed=True),
}
"""Calls of many consents, and the function that takes one alone for less gas."""


def _is_alone(call: Call) -> bool:
    """Whether a call that may have many consents has one."""
    match call:
        case records.Grants(entries=(entry,)):
            return len(entry.consent_ids) == 1
        case records.Withdrawals():
            return len(call.entries) == 1
        case _:
            return False
