"""Bytes and messages: the only file that knows how a peer message looks on the wire.

A message is one msgpack array `[1, tag, field, field, ...]`: the version, the tag of its kind, then its fields in the
order of the table below. A value inside a message (a blob's commitment, a result, a notice in an `Offer`) is an array
of its own; digests, keys and signatures are `bin`, text is `str`.

Rules of this file:

1. The literal table `KINDS` is the whole format. What is not in it is refused: another version, an unknown tag, a field
   too many or too few, another width, another type, another order of magnitude.
2. One message has one encoding. After reading, the message is written again and compared: a number in a wider form than
   it needs, a length that says more than is there, bytes after the end, all are refused the same way.
3. Size is looked at before anything is read: every kind has its own cap, and the tag is found in the first bytes.
4. Meaning is not looked at. Whether a signature fits, a list is sorted or a round exists is decided where it is used.

A fault in what a peer sent is a `WireError` that names the field; a fault in what we want to send is an `Unsendable`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Protocol, cast

import msgpack

from crypto.digest import CHUNK_BYTES, MAX_CONTENT_BYTES, Digest
from crypto.errors import EncodingError
from crypto.sealing import MAX_CIPHERTEXT_BYTES, BlobCommit
from node import messages
from node.errors import LocalError, PeerError
from node.messages import REFUSALS, Notice, Reply, Request
from node.records import Result

PROTOCOL: Final = "/koinon/1"
"""The libp2p protocol name. Its number is `VERSION`."""

VERSION: Final = 1

# --------------------------------------------------------------------------------------------------------------------
# Limits. Precedents: an h11 or nginx request head 8-16 KiB, an Ethereum devp2p message 16 MiB, a gossipsub message
# 1 MiB, a BitTorrent request 16 KiB and piece 16 KiB - 4 MiB, a TLS record 16 KiB.

MAX_SMALL_BYTES: Final = 4 * 1024
"""Any message without a list or a chunk in it: the largest, a vote with its result, has less than 1 KiB."""

MAX_CHUNK_REPLY_BYTES: Final = CHUNK_BYTES + 64
"""A chunk of 1 MiB and its frame."""

MAX_MAP_REPLY_BYTES: Final = 34 * (MAX_CONTENT_BYTES // CHUNK_BYTES) + MAX_CHUNK_REPLY_BYTES
"""A digest and its two-byte head for every chunk of the longest content (2 GiB), about 68 KiB; and a chunk."""

MAX_KEYS_REPLY_BYTES: Final = 8 * 1024
"""Two wraps."""

MAX_NOTICES_BYTES: Final = 1024 * 1024
"""An `Offer` or a `Notices`, as long as a gossipsub message. All notices of a round of 32 members fit six times."""

MAX_NOTICES: Final = 512
"""Notices in one answer. A round of 32 members with three extensions has at most 32 x 9 = 288."""

MAX_OFFERED: Final = 64
"""Notices in one `Offer`, each of which costs the receiver a signature check. An honest node offers one at a time."""

MAX_LISTS: Final = 16 * 1024
"""Arrays in one message, at any depth: two full openings in an `Offer` have 8 202. An empty array is one byte on the
wire and 64 in memory."""

MAX_OPENING_REQUESTS: Final = 4096
"""Requests in one erasure batch: an `OpeningNotice` of about 410 KiB, so that two fit an `Offer`."""

MAX_OPENING_BYTES: Final = MAX_NOTICES_BYTES // 2

MAX_NAME_BYTES: Final = 128
"""A hospital's name, UTF-8. A DNS name has at most 253 bytes, an X.509 organisation name 64 characters."""

MAX_STATUS_BYTES: Final = 64
MAX_REASON_BYTES: Final = 512
"""One sentence, for a log line."""

MAX_WRAP_BYTES: Final = 2048
"""A wrapped content key: 80 bytes with X25519, 1168 with the ML-KEM hybrid."""

PEER_ID_BYTES: Final = 38
"""The only libp2p peer id in use here: an Ed25519 key inline (libp2p specs, peer-ids)."""

SIGNATURE_BYTES: Final = 65
ADDRESS_BYTES: Final = 20
KEY_BYTES: Final = 32
MAX_TRUST_BYTES: Final = 64
"""Two bytes for each of 32 members."""


class WireError(PeerError):
    """What a peer sent is not a message of this protocol. `field` says where, in dotted form from the message's tag."""

    def __init__(self, field: str, problem: str) -> None:
        self.field: Final = field
        super().__init__(f"{field}: {problem}")


class Unsendable(LocalError):
    """A message of ours breaks the format, so nothing was sent. `field` says where."""

    def __init__(self, field: str, problem: str) -> None:
        self.field: Final = field
        super().__init__(f"{field}: {problem}")


class _Fault(Exception):
    """A broken rule, before it is known whether the peer or we broke it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field = field
        self.problem = problem


# --------------------------------------------------------------------------------------------------------------------
# Field types: `pack` turns a field into what msgpack writes, `unpack` turns what msgpack read into the field.


class _Type(Protocol):
    def pack(self, value: Any, at: str) -> Any: ...

    def unpack(self, value: Any, at: str) -> Any: ...


def _kind_of(value: object) -> str:
    return "nothing" if value is None else type(value).__name__


@dataclass(frozen=True, slots=True)
class _UInt:
    bits: int
    limit: int | None = None  # largest value allowed, when it is not the largest that fits

    def unpack(self, value: Any, at: str) -> int:
        if type(value) is not int:
            raise _Fault(at, f"a number expected, {_kind_of(value)} given")
        top = (1 << self.bits) - 1 if self.limit is None else self.limit
        if not 0 <= value <= top:
            raise _Fault(at, f"{value} is not between 0 and {top}")
        return value

    pack = unpack


@dataclass(frozen=True, slots=True)
class _Wide:
    """A number wider than msgpack's 64 bits: big-endian bytes of fixed width."""

    bits: int

    def pack(self, value: Any, at: str) -> bytes:
        return _UInt(self.bits).unpack(value, at).to_bytes(self.bits // 8, "big")

    def unpack(self, value: Any, at: str) -> int:
        return int.from_bytes(_Bytes(self.bits // 8, self.bits // 8).unpack(value, at), "big")


@dataclass(frozen=True, slots=True)
class _Bool:
    def unpack(self, value: Any, at: str) -> bool:
        if type(value) is not bool:
            raise _Fault(at, f"true or false expected, {_kind_of(value)} given")
        return value

    pack = unpack


@dataclass(frozen=True, slots=True)
class _Bytes:
    least: int
    most: int
    step: int = 1

    def unpack(self, value: Any, at: str) -> bytes:
        if not isinstance(value, bytes):
            raise _Fault(at, f"bytes expected, {_kind_of(value)} given")
        if not self.least <= len(value) <= self.most:
            width = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
            raise _Fault(at, f"{width} bytes expected, {len(value)} given")
        if len(value) % self.step:
            raise _Fault(at, f"{len(value)} bytes is not a multiple of {self.step}")
        return value

    def pack(self, value: Any, at: str) -> bytes:
        return bytes(self.unpack(value, at))


@dataclass(frozen=True, slots=True)
class _DigestType:
    def unpack(self, value: Any, at: str) -> Digest:
        return Digest(_Bytes(32, 32).unpack(value, at))

    def pack(self, value: Any, at: str) -> bytes:
        return _Bytes(32, 32).pack(value, at)


@dataclass(frozen=True, slots=True)
class _Text:
    """Text of at most `most` bytes in UTF-8, without control characters: it ends up in logs and on screens."""

    most: int
    words: tuple[str, ...] | None = None

    def unpack(self, value: Any, at: str) -> str:
        if type(value) is not str:
            raise _Fault(at, f"text expected, {_kind_of(value)} given")
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise _Fault(at, "not text that UTF-8 can hold") from None
        if size > self.most:
            raise _Fault(at, f"at most {self.most} bytes of text expected, {size} given")
        if not value.isprintable():
            raise _Fault(at, f"control characters in {value[:40]!r}")
        if self.words is not None and value not in self.words:
            raise _Fault(at, f"{value[:40]!r} is none of {', '.join(self.words)}")
        return value

    pack = unpack


@dataclass(frozen=True, slots=True)
class _List:
    item: _Type
    most: int

    def pack(self, value: Any, at: str) -> list[Any]:
        if not isinstance(value, tuple):
            raise _Fault(at, f"a tuple expected, {_kind_of(value)} given")
        self._check(len(value), at)
        return [self.item.pack(entry, f"{at}[{index}]") for index, entry in enumerate(value)]

    def unpack(self, value: Any, at: str) -> tuple[Any, ...]:
        if type(value) is not list:
            raise _Fault(at, f"a list expected, {_kind_of(value)} given")
        self._check(len(value), at)
        return tuple(self.item.unpack(entry, f"{at}[{index}]") for index, entry in enumerate(value))

    def _check(self, count: int, at: str) -> None:
        if count > self.most:
            raise _Fault(at, f"at most {self.most} entries expected, {count} given")


@dataclass(frozen=True, slots=True)
class _Pair:
    first: _Type
    second: _Type

    def pack(self, value: Any, at: str) -> list[Any]:
        if not isinstance(value, tuple) or len(value) != 2:
            raise _Fault(at, "a pair expected")
        return [self.first.pack(value[0], f"{at}.0"), self.second.pack(value[1], f"{at}.1")]

    def unpack(self, value: Any, at: str) -> tuple[Any, Any]:
        if type(value) is not list or len(value) != 2:
            raise _Fault(at, "a pair expected")
        return self.first.unpack(value[0], f"{at}.0"), self.second.unpack(value[1], f"{at}.1")


@dataclass(frozen=True, slots=True)
class _Struct:
    """A dataclass as the array of its fields, in the table's order (checked below to be the dataclass's own)."""

    shape: type
    fields: tuple[tuple[str, _Type], ...]

    def pack(self, value: Any, at: str) -> list[Any]:
        if type(value) is not self.shape:
            raise _Fault(at, f"{self.shape.__name__} expected, {_kind_of(value)} given")
        return [kind.pack(getattr(value, name), f"{at}.{name}") for name, kind in self.fields]

    def unpack(self, value: Any, at: str) -> Any:
        if type(value) is not list:
            raise _Fault(at, f"a list of fields expected, {_kind_of(value)} given")
        if len(value) < len(self.fields):
            raise _Fault(f"{at}.{self.fields[len(value)][0]}", "missing")
        if len(value) > len(self.fields):
            raise _Fault(at, f"{len(self.fields)} fields expected, {len(value)} given")
        read = {
            name: kind.unpack(entry, f"{at}.{name}") for (name, kind), entry in zip(self.fields, value, strict=True)
        }
        try:
            return self.shape(**read)
        except EncodingError as error:  # a value that the type itself refuses, such as a blob shorter than its tag
            raise _Fault(f"{at}.{error.field}", error.problem) from None


@dataclass(frozen=True, slots=True)
class _AnyNotice:
    """A notice inside a message: `[tag, field, ...]`."""

    def pack(self, value: Any, at: str) -> list[Any]:
        kind = _BY_TYPE.get(type(value))
        if kind is None or kind.tag not in NOTICE_TAGS:
            raise _Fault(at, f"a notice expected, {_kind_of(value)} given")
        return [kind.tag, *kind.struct.pack(value, f"{at}.{kind.tag}")]

    def unpack(self, value: Any, at: str) -> Any:
        if type(value) is not list or not value:
            raise _Fault(at, "a notice expected")
        if type(value[0]) is not str:
            raise _Fault(at, f"a kind of notice expected, {_kind_of(value[0])} given")  # not shown: it may be deep
        if value[0] not in NOTICE_TAGS:
            raise _Fault(at, f"{value[0]!r:.40} is no kind of notice")
        return KINDS[value[0]].struct.unpack(value[1:], f"{at}.{value[0]}")


_U8, _U16, _U32, _U64 = _UInt(8), _UInt(16), _UInt(32), _UInt(64)
_U128 = _Wide(128)
_BOOL = _Bool()
_DIGEST = _DigestType()
_ADDRESS = _Bytes(ADDRESS_BYTES, ADDRESS_BYTES)
_KEY = _Bytes(KEY_BYTES, KEY_BYTES)
_PEER_ID = _Bytes(PEER_ID_BYTES, PEER_ID_BYTES)
_SIGNATURE = _Bytes(SIGNATURE_BYTES, SIGNATURE_BYTES)
_NAME = _Text(MAX_NAME_BYTES)
_LENGTH = _UInt(64, MAX_CONTENT_BYTES)
_NOTICE = _AnyNotice()

_BLOB = _Struct(
    BlobCommit,
    (
        ("cipher_root", _DIGEST),
        ("plain_hash", _DIGEST),
        ("key_commit", _DIGEST),
        ("length", _UInt(64, MAX_CIPHERTEXT_BYTES)),
    ),
)
_RESULT = _Struct(
    Result,
    (
        ("outcome", _U8),
        ("included", _U32),
        ("codes", _U128),
        ("model_root", _DIGEST),
        ("trust", _Bytes(0, MAX_TRUST_BYTES, 2)),
        ("commit_root", _DIGEST),
        ("consent_acc", _DIGEST),
    ),
)


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the table: a tag, the message it stands for and the most bytes it may take on the wire."""

    tag: str
    struct: _Struct
    cap: int


def _row(tag: str, shape: type, cap: int, *columns: tuple[str, _Type]) -> Kind:
    return Kind(tag, _Struct(shape, columns), cap)


# --------------------------------------------------------------------------------------------------------------------
# The table

_NOTICES = (
    _row(
        "commit", messages.CommitNotice, MAX_SMALL_BYTES,
        ("round_id", _DIGEST), ("member", _U16), ("update_root", _DIGEST), ("dataset_root", _DIGEST),
        ("next_dataset_root", _DIGEST), ("update", _BLOB), ("set", _BLOB), ("signature", _SIGNATURE),
    ),
    _row(
        "abstain", messages.AbstainNotice, MAX_SMALL_BYTES,
        ("round_id", _DIGEST), ("member", _U16), ("signature", _SIGNATURE),
    ),
    _row(
        "have", messages.HaveNotice, MAX_SMALL_BYTES,
        ("round_id", _DIGEST), ("member", _U16), ("attempt", _U8), ("bitmap", _U32), ("signature", _SIGNATURE),
    ),
    _row(
        "vote", messages.VoteNotice, MAX_SMALL_BYTES,
        ("round_id", _DIGEST), ("member", _U16), ("attempt", _U8), ("set", _U32), ("result", _RESULT),
        ("witness", _DIGEST), ("signature", _SIGNATURE),
    ),
    _row(
        "close", messages.CloseNotice, MAX_SMALL_BYTES,
        ("study", _DIGEST), ("branch", _U32), ("height", _U32), ("result_hash", _DIGEST), ("member", _U16),
        ("signature", _SIGNATURE),
    ),
    _row(
        "withdrawal", messages.WithdrawalNotice, MAX_SMALL_BYTES,
        ("consent_id", _DIGEST), ("holder", _ADDRESS), ("holder_salt", _DIGEST), ("binding", _DIGEST),
        ("signature", _SIGNATURE),
    ),
    _row(
        "erasure", messages.ErasureNotice, MAX_SMALL_BYTES,
        ("consent_id", _DIGEST), ("study", _DIGEST), ("controller", _U16), ("holder", _ADDRESS),
        ("holder_salt", _DIGEST), ("binding", _DIGEST), ("signature", _SIGNATURE), ("received_at", _U64),
        ("relay", _U16),
    ),
    _row(
        "opening", messages.OpeningNotice, MAX_OPENING_BYTES,
        ("batch", _DIGEST), ("controller", _U16), ("requests", _List(_Pair(_DIGEST, _DIGEST), MAX_OPENING_REQUESTS)),
        ("leaf_keys", _List(_DIGEST, MAX_OPENING_REQUESTS)),
    ),
    _row(
        "plan", messages.PlanNotice, MAX_SMALL_BYTES,
        ("batch", _DIGEST), ("member", _U16), ("parent_branch", _U32), ("base_height", _U32), ("base_model", _DIGEST),
        ("branch_seed", _DIGEST), ("target_height", _U32), ("method", _U8), ("rounds", _U32), ("signature", _SIGNATURE),
    ),
    _row(
        "purge", messages.PurgeNotice, MAX_SMALL_BYTES,
        ("batch", _DIGEST), ("member", _U16), ("stage", _U8), ("inventory", _DIGEST), ("signature", _SIGNATURE),
    ),
    _row(
        "verdict", messages.VerdictNotice, MAX_SMALL_BYTES,
        ("batch", _DIGEST), ("member", _U16), ("branch", _U32), ("head_model", _DIGEST), ("confirmed", _BOOL),
        ("signature", _SIGNATURE),
    ),
    _row(
        "admission", messages.AdmissionNotice, MAX_SMALL_BYTES,
        ("epoch", _U64), ("ledger", _ADDRESS), ("peer_id", _PEER_ID), ("sealing_key", _KEY), ("name", _NAME),
        ("seat_signature", _SIGNATURE), ("member", _U16), ("signature", _SIGNATURE),
    ),
    _row(
        "removal", messages.RemovalNotice, MAX_SMALL_BYTES,
        ("epoch", _U64), ("target", _U16), ("ledger", _ADDRESS), ("member", _U16), ("signature", _SIGNATURE),
    ),
    _row(
        "rotation", messages.RotationNotice, MAX_SMALL_BYTES,
        ("epoch", _U64), ("member", _U16), ("ledger", _ADDRESS), ("peer_id", _PEER_ID), ("sealing_key", _KEY),
        ("keys_signature", _SIGNATURE), ("signature", _SIGNATURE),
    ),
    _row(
        "revocation", messages.RevocationNotice, MAX_SMALL_BYTES,
        ("epoch", _U64), ("target", _U16), ("ledger", _ADDRESS), ("member", _U16), ("signature", _SIGNATURE),
    ),
    _row(
        "recovery", messages.RecoveryNotice, MAX_SMALL_BYTES,
        ("epoch", _U64), ("target", _U16), ("ledger", _ADDRESS), ("peer_id", _PEER_ID), ("sealing_key", _KEY),
        ("keys_signature", _SIGNATURE), ("member", _U16), ("signature", _SIGNATURE),
    ),
    _row(
        "auditor-seat", messages.AuditorSeatNotice, MAX_SMALL_BYTES,
        ("epoch", _U64), ("ledger", _ADDRESS), ("peer_id", _PEER_ID), ("sealing_key", _KEY), ("name", _NAME),
        ("seat_signature", _SIGNATURE), ("study", _DIGEST), ("term_end", _U64), ("member", _U16),
        ("signature", _SIGNATURE),
    ),
    _row(
        "auditor-end", messages.AuditorEndNotice, MAX_SMALL_BYTES,
        ("epoch", _U64), ("seat", _U16), ("ledger", _ADDRESS), ("member", _U16), ("signature", _SIGNATURE),
    ),
    _row(
        "left-consent", messages.LeftConsentNotice, MAX_SMALL_BYTES,
        ("epoch", _U64), ("hospital", _U16), ("consent_id", _DIGEST), ("member", _U16), ("signature", _SIGNATURE),
    ),
    _row(
        "succession", messages.SuccessionNotice, MAX_SMALL_BYTES,
        ("epoch", _U64), ("ledger", _ADDRESS), ("member", _U16), ("signature", _SIGNATURE),
    ),
    _row(
        "tombstone", messages.TombstoneNotice, MAX_SMALL_BYTES,
        ("member", _U16), ("content", _DIGEST), ("reason", _U8), ("subject", _DIGEST), ("signature", _SIGNATURE),
    ),
)  # fmt: skip

_REQUESTS = (
    _row("hello", messages.Hello, MAX_SMALL_BYTES, ("chain_id", _U64), ("membership", _ADDRESS), ("block", _U64)),
    _row("get-map", messages.GetMap, MAX_SMALL_BYTES, ("root", _DIGEST)),
    _row("get-chunk", messages.GetChunk, MAX_SMALL_BYTES, ("root", _DIGEST), ("index", _U32)),
    _row(
        "get-keys", messages.GetKeys, MAX_SMALL_BYTES, ("round_id", _DIGEST), ("member", _U16), ("kinds", _UInt(8, 3))
    ),
    _row("offer", messages.Offer, MAX_NOTICES_BYTES, ("notices", _List(_NOTICE, MAX_OFFERED))),
    _row("pull", messages.Pull, MAX_SMALL_BYTES, ("subject", _DIGEST)),
)  # fmt: skip

_REPLIES = (
    _row("welcome", messages.Welcome, MAX_SMALL_BYTES, ("block", _U64), ("status", _Text(MAX_STATUS_BYTES))),
    _row(
        "map", messages.MapReply, MAX_MAP_REPLY_BYTES,
        ("length", _LENGTH), ("digests", _List(_Bytes(32, 32), MAX_CONTENT_BYTES // CHUNK_BYTES)),
        ("first", _Bytes(0, CHUNK_BYTES)),
    ),
    _row("chunk", messages.ChunkReply, MAX_CHUNK_REPLY_BYTES, ("data", _Bytes(0, CHUNK_BYTES))),
    _row("keys", messages.KeysReply, MAX_KEYS_REPLY_BYTES, ("wraps", _List(_Bytes(0, MAX_WRAP_BYTES), 2))),
    _row("accepted", messages.Accepted, MAX_SMALL_BYTES, ("new", _U32)),
    _row("notices", messages.Notices, MAX_NOTICES_BYTES, ("notices", _List(_NOTICE, MAX_NOTICES))),
    _row(
        "refusal", messages.Refusal, MAX_SMALL_BYTES,
        ("code", _Text(MAX_SMALL_BYTES, REFUSALS)), ("reason", _Text(MAX_REASON_BYTES)),
    ),
)  # fmt: skip

KINDS: Final[Mapping[str, Kind]] = {row.tag: row for row in (*_NOTICES, *_REQUESTS, *_REPLIES)}
NOTICE_TAGS: Final = frozenset(row.tag for row in _NOTICES)
REQUEST_TAGS: Final = frozenset(row.tag for row in _REQUESTS)
REPLY_TAGS: Final = frozenset(row.tag for row in _REPLIES)
_BY_TYPE: Final = {row.struct.shape: row for row in KINDS.values()}

ANSWERS: Final[Mapping[type, str]] = {
    messages.Hello: "welcome",
    messages.GetMap: "map",
    messages.GetChunk: "chunk",
    messages.GetKeys: "keys",
    messages.Offer: "accepted",
    messages.Pull: "notices",
}
"""The tag of the one reply that a request has, besides a refusal."""

MAX_REQUEST_BYTES: Final = max(row.cap for row in _REQUESTS)

for _entry in (*(row.struct for row in KINDS.values()), _BLOB, _RESULT):
    # A field added to a message and forgotten here must stop the program, not travel as something else.
    if [name for name, _ in _entry.fields] != [field.name for field in fields(_entry.shape)]:
        raise TypeError(f"the wire table of {_entry.shape.__name__} does not list its fields in order")

_PREFIX_BYTES: Final = 32
"""Enough for the array head, the version and the longest tag."""


# --------------------------------------------------------------------------------------------------------------------
# Doors


def encode(message: Request | Reply | Notice) -> bytes:
    """The bytes of a message.

    Raises:
        Unsendable: a field of `message` breaks the format, or the message is longer than its cap.
    """
    kind = _BY_TYPE.get(type(message))
    if kind is None:
        raise Unsendable("message", f"{type(message).__name__} is not in the wire table")
    try:
        body = cast(bytes, msgpack.packb([VERSION, kind.tag, *kind.struct.pack(message, kind.tag)], use_bin_type=True))
    except _Fault as fault:
        raise Unsendable(fault.field, fault.problem) from None
    if len(body) > kind.cap:
        raise Unsendable(kind.tag, f"{len(body)} bytes, at most {kind.cap} may travel")
    return body


def name_fault(name: str) -> str | None:
    """Why no notice can carry this name of a hospital or an auditor, so that no member can seat it; None: one can."""
    try:
        _NAME.pack(name, "name")
    except _Fault as fault:
        return fault.problem
    return None


def decode_request(body: bytes) -> Request:
    """The request in `body`; `WireError` naming the field if it is none."""
    return cast(Request, _decode(body, REQUEST_TAGS, "a request"))


def decode_reply(body: bytes, request: Request) -> Reply:
    """The reply in `body` to `request`; `WireError` if it is none, or the answer to another kind of request."""
    expected = ANSWERS[type(request)]
    return cast(Reply, _decode(body, frozenset((expected, "refusal")), f"{expected} or refusal"))


def decode_notice(body: bytes) -> Notice:
    """The notice in `body`, as the store keeps it; `WireError` naming the field if it is none."""
    return cast(Notice, _decode(body, NOTICE_TAGS, "a notice"))


def reply_cap(request: Request) -> int:
    """The most bytes that a reply to `request` may have: what a reader allows before it reads."""
    return max(KINDS[ANSWERS[type(request)]].cap, KINDS["refusal"].cap)


def _decode(body: bytes, tags: frozenset[str], wanted: str) -> object:
    kind = _kind(body, tags, wanted)
    try:
        # Map and extension types are in no field; every length is bounded by what is really there.
        value = msgpack.unpackb(
            body, raw=False, use_list=True, strict_map_key=True, timestamp=0, max_map_len=0, max_ext_len=0,
            max_array_len=min(len(body), MAX_LISTS), max_str_len=len(body), max_bin_len=len(body),
            list_hook=_ListCount(),
        )  # fmt: skip
    except msgpack.ExtraData as error:
        raise WireError(kind.tag, f"{len(error.extra)} bytes after the end") from None
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise WireError(kind.tag, f"not msgpack: {str(error)[:80] or type(error).__name__}") from None
    try:
        message = kind.struct.unpack(value[2:], kind.tag)
    except _Fault as fault:
        raise WireError(fault.field, fault.problem) from None
    if msgpack.packb([VERSION, kind.tag, *kind.struct.pack(message, kind.tag)], use_bin_type=True) != body:
        raise WireError(kind.tag, "not the canonical encoding")
    return message


class _ListCount:
    """Ends the reading of a message that is made of arrays."""

    def __init__(self) -> None:
        self._left = MAX_LISTS

    def __call__(self, value: list[Any]) -> list[Any]:
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"more than {MAX_LISTS} arrays")
        return value


def _kind(body: bytes, tags: frozenset[str], wanted: str) -> Kind:
    """Read version and tag from the first bytes, and hold the length against the cap of that kind."""
    reader = msgpack.Unpacker(raw=False, use_list=True, max_buffer_size=_PREFIX_BYTES)
    reader.feed(body[:_PREFIX_BYTES])
    try:
        reader.read_array_header()
        version = reader.unpack()
        if type(version) is not int or version != VERSION:
            raise WireError("version", f"{VERSION} expected, {version!r:.40} given")
        tag = reader.unpack()
    except msgpack.OutOfData:
        raise WireError("message", f"{len(body)} bytes end before the tag does") from None
    except (ValueError, msgpack.UnpackException) as error:
        raise WireError("message", f"not a message: {str(error)[:80] or type(error).__name__}") from None
    if type(tag) is not str or tag not in tags:
        raise WireError("tag", f"{wanted} expected, {tag!r:.40} given")
    kind = KINDS[tag]
    if len(body) > kind.cap:
        raise WireError(kind.tag, f"{len(body)} bytes, at most {kind.cap} allowed")
    return kind
