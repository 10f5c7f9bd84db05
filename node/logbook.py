"""A member's own log under roots on the chain: segments, their file, and the check that needs nothing else.

What may live here: which lines are due for an anchor, the file `koinon.audit-events/1` and its offline check. What this
file does not know: what a line says (`node/reports/events.py`), who asks.

A line is anchored within a day of being written. A segment is kept, with its lines as they are anchored, before its
statement is sent; it is sent again until the chain has it. `AnchorLog.entries` counts all lines so far, so the chain
takes every segment once, also from a home that was restored from a backup.

The file: a head {schema, member, issuers, anchors: [{root, entries, count, signature}]}, then a line an event
{anchor, index, path, event}, every line in its one encoding (RFC 8785).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import rfc8785

from crypto.digest import Digest
from crypto.errors import CryptoError
from crypto.merkle import anchor_count, verify_anchored
from crypto.statements import AnchorLog, sign
from node import jsontext
from node.document import Fields, read
from node.errors import NotFound, VerificationFailed
from node.history import History
from node.home import Network
from node.issuers import read_issuers, write_issuers
from node.participant import Participant
from node.records import LogAnchored, LogAnchoring
from node.reports.events import audit_event, check_event, leaf, line_of, tree
from node.store import LogSegment, Store

SCHEMA: Final = "koinon.audit-events/1"
MAX_FILE_BYTES: Final = 1 << 26
DAY_S: Final = 86_400
MAX_SEGMENT: Final = 1 << 14
"""Most lines anchored together: a bounded tree; what is left is the next segment, at once."""


# --------------------------------------------------------------------------------------------------------------------
# The duty


def due(node: Participant, now: int) -> LogAnchoring | None:
    """The anchor to send now, kept before it is returned; None when the chain has all that is a day old.

    Args:
        node: a member's node.
        now: unix seconds of chain time.
    """
    assert node.me is not None
    last = node.store.last_segment()
    if last is not None:
        record = _anchor_of(node.history, node.me, last)
        if record is None:
            return _anchoring(node, last)
        if record.entries != last.entries:  # an earlier sending of the same lines came through
            _kept(node, last, record.entries)
    after = 0 if last is None else last.last_event
    entries = node.store.log_after(after, MAX_SEGMENT)
    if not entries or entries[0][1] > now - DAY_S:
        return None
    hospital = node.history.registry.members[node.me].name
    lines = tuple(line_of(audit_event(hospital, number, time, kind, body)) for number, time, kind, body in entries)
    return _anchoring(node, LogSegment(entries[-1][0], 0, tree(lines).root, b"", lines))


def _anchoring(node: Participant, segment: LogSegment) -> LogAnchoring:
    """What to send for a segment, kept first."""
    assert node.me is not None
    entries = node.history.registry.logged.get(node.me, 0) + len(segment.lines)
    return LogAnchoring(node.me, segment.root, entries, _kept(node, segment, entries))


def _kept(node: Participant, segment: LogSegment, entries: int) -> bytes:
    """Sign (again: the count or our key may have changed since) and keep the segment; the signature."""
    assert node.me is not None
    statement = AnchorLog(node.me, segment.root, entries)
    signature = sign(statement, node.domains.of(statement), node.ring.ledger)
    node.store.keep_segment(replace(segment, entries=entries, signature=signature))
    return signature


def _anchor_of(history: History, member: int, segment: LogSegment) -> LogAnchored | None:
    """The chain's record of a segment."""
    for logged in reversed(history.logs.get(member, [])):
        record = logged.record
        if isinstance(record, LogAnchored) and record.root == segment.root:
            return record
    return None


# --------------------------------------------------------------------------------------------------------------------
# The file


@dataclass(frozen=True, slots=True)
class Exported:
    """The file's lines, the head first, and the newest entry of the log that is anchored."""

    lines: list[bytes]
    last_event: int


def export(network: Network, history: History, store: Store, member: int, start: str = "", end: str = "") -> Exported:
    """The anchored lines of a member's log, each with its path.

    Args:
        start, end: UTC days YYYY-MM-DD, both included; empty: without bound.

    Raises:
        NotFound: the votes of a change of members are not in this home.
    """
    anchors: list[dict[str, Any]] = []
    lines: list[bytes] = []
    last_event = 0
    for segment in store.segments():
        record = _anchor_of(history, member, segment)
        if record is None or record.entries != segment.entries:
            continue
        last_event = segment.last_event
        grown = tree(segment.lines)
        wanted = [
            (index, event)
            for index, event in enumerate(map(_parsed, segment.lines))
            if start <= event["recorded"][:10] and (not end or event["recorded"][:10] <= end)
        ]
        if not wanted:
            continue
        for index, event in wanted:
            path = [step.hex() for step in grown.prove(index)]
            lines.append(rfc8785.dumps({"anchor": len(anchors), "index": index, "path": path, "event": event}))
        anchors.append(
            {
                "root": segment.root.hex(),
                "entries": str(segment.entries),
                "count": len(segment.lines),
                "signature": segment.signature.hex(),
            }
        )
    head: dict[str, Any] = {
        "schema": SCHEMA,
        "member": member,
        "issuers": write_issuers(network, history, store),
        "anchors": anchors,
    }
    return Exported([rfc8785.dumps(head), *lines], last_event)


def _parsed(line: bytes) -> dict[str, Any]:
    found = jsontext.loads(line)
    if not isinstance(found, dict):
        raise NotFound("the log's segments in this home are damaged")
    return found


# --------------------------------------------------------------------------------------------------------------------
# Offline check


@dataclass(frozen=True, slots=True)
class _Anchor:
    root: Digest
    entries: int
    count: int
    signature: bytes

    @classmethod
    def read(cls, given: Fields) -> _Anchor:
        return cls(
            given.digest("root"), given.uint("entries", 64), given.uint("count", 32), given.signature("signature")
        )


def check(data: bytes, network: Network | None) -> dict[str, Any]:
    """Check a file of audit events: the anchors are the member's word, every event is under one of them.

    Args:
        data: the file.
        network: whose signatures to expect; None: the founders are the file's own claim.

    Returns:
        {schema, member, name, network, issuers_checked, events, anchors, complete}. `complete`: the anchors follow on
        each other from the log's first line, and every line of theirs is here.

    Raises:
        VerificationFailed: anything does not hold, with the line.
    """
    if len(data) > MAX_FILE_BYTES:
        raise VerificationFailed(f"audit-events: {len(data)} bytes, at most {MAX_FILE_BYTES} expected")
    first, _, rest = data.partition(b"\n")
    head = Fields("head", read(first, SCHEMA, MAX_FILE_BYTES))
    head.take("schema", str)
    member = head.uint("member", 16)
    given = head.fields("issuers")
    issuers = read_issuers(given, network)
    given.done()
    anchors = head.each("anchors", _Anchor.read)
    head.done()
    known = 0
    gapless = True
    for place, anchor in enumerate(anchors):
        what = f"anchors[{place}]"
        if not 0 < anchor.count <= MAX_SEGMENT or anchor.entries - anchor.count < known:
            raise VerificationFailed(f"{what}: {anchor.count} lines up to entry {anchor.entries}, after entry {known}")
        gapless &= anchor.entries - anchor.count == known
        known = anchor.entries
        issuers.signed(AnchorLog(member, anchor.root, anchor.entries), member, anchor.signature, what)
    seen: set[tuple[int, int]] = set()
    for number, line in enumerate(rest.split(b"\n")[:-1] if rest else [], 2):
        seen.add(_check_line(line, f"line {number}", anchors, seen))
    if rest and not rest.endswith(b"\n"):
        raise VerificationFailed("the last line has no end: the file is cut")
    return {
        "schema": SCHEMA,
        "member": member,
        "name": issuers.names[member],
        "network": issuers.network.fingerprint,
        "issuers_checked": issuers.checked,
        "events": len(seen),
        "anchors": [{"root": one.root.hex(), "entries": one.entries, "lines": one.count} for one in anchors],
        "complete": gapless and len(seen) == sum(one.count for one in anchors),
        "note": "that the chain has these anchors is seen with `koinon audit trail --kind log-anchored`",
    }


def _check_line(line: bytes, where: str, anchors: list[_Anchor], seen: set[tuple[int, int]]) -> tuple[int, int]:
    try:
        tree_ = jsontext.loads(line)
        same = rfc8785.dumps(tree_) == line
    except (ValueError, RecursionError, rfc8785.CanonicalizationError) as error:
        raise VerificationFailed(f"{where}: not JSON: {error}") from error
    if not same:
        raise VerificationFailed(f"{where}: the bytes are not in canonical form (RFC 8785)")
    fields = Fields(where, tree_)
    place, index, path = fields.uint("anchor", 32), fields.uint("index", 32), fields.digests("path")
    event: Mapping[str, Any] = fields.take("event", dict)
    fields.done()
    if place >= len(anchors) or index >= anchors[place].count or (place, index) in seen:
        raise VerificationFailed(f"{where}: leaf {index} of anchor {place} is not there, or was shown before")
    check_event(event, where)
    try:
        verify_anchored(anchors[place].root, anchor_count(anchors[place].count), leaf(line_of(event)), index, path)
    except CryptoError as error:
        raise VerificationFailed(f"{where}: {error}") from error
    return place, index


__all__ = ["DAY_S", "MAX_SEGMENT", "SCHEMA", "Exported", "check", "due", "export"]
