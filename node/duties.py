"""What a member owes the chain beside its rounds and erasures: reports of contradictions, rounds nobody opened, and
where it is dialled.

A contradiction is two different statements of one member where the protocol allows one: two commits of a round, two
haves or two votes of an attempt. It is in the store before anything is said about it; from then on it is reported until
the chain names it, whoever was first. A study whose next round could not open when the last one ended (a member was
missing, then came back or was given up) is resumed as soon as one could open. One member's call is enough for either,
so members take turns: the first at once, each next one a while later, and only if it is still due.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import structlog

from crypto.statements import Announce, Commit, Have, Vote, sign, struct_hash
from node.erasing import Surroundings
from node.erasure import roster_of
from node.errors import CallReverted, ChainUnreachable, NodeError
from node.history import History
from node.membership import members_of
from node.messages import CommitNotice, HaveNotice, Notice, VoteNotice
from node.notices import statement_of
from node.participant import Participant
from node.records import AddressAnnouncement, Call, EquivocationReport, Evidence, Opening, Resumption
from node.store import Store

log = structlog.get_logger(__name__)

TURN_S: Final = 4
"""Chain seconds a member waits for each member before it in the order of indexes."""

KINDS: Final[dict[type, int]] = {Commit: 1, Vote: 2, Have: 3}
"""Statement -> its kind in `reportEquivocation`."""


def note_contradiction(store: Store, notice: Notice) -> bool:
    """Keep a genuine notice beside the one of its signer that it contradicts; whether there is one.

    The first pair of a round, kind and member is kept: one is reported.
    """
    if not isinstance(notice, CommitNotice | HaveNotice | VoteNotice):
        return False
    said = statement_of(notice)
    assert said is not None
    for other in store.others(notice):
        known = statement_of(other)
        if known is not None and struct_hash(known) != struct_hash(said):
            store.keep_contradiction(other, notice)
            return True
    return False


def reports(history: History, store: Store) -> list[EquivocationReport]:
    """The contradictions in this home that the chain does not name yet."""
    named = {(one.round_id, one.member, one.kind) for one in history.equivocated()}
    found = []
    for first, second in store.contradictions():
        a, b = statement_of(first), statement_of(second)
        assert isinstance(first, CommitNotice | HaveNotice | VoteNotice)
        assert isinstance(second, CommitNotice | HaveNotice | VoteNotice)
        assert isinstance(a, Commit | Vote | Have)
        assert isinstance(b, Commit | Vote | Have)
        one = history.rounds.get(a.round_id)
        if one is None or one.deployment != history.deployment or (a.round_id, first.member, KINDS[type(a)]) in named:
            continue
        found.append(
            EquivocationReport(
                one.opened.study,
                Opening.of(one.opened),
                one.opened.opened_at,
                KINDS[type(a)],
                first.member,
                Evidence(a, first.signature),
                Evidence(b, second.signature),
            )
        )
    return found


def resumptions(history: History) -> list[Resumption]:
    """The studies in which no round is open although one could open."""
    return [Resumption(study) for study in history.studies if history.could_open(study)]


def announcement(node: Participant, addresses: Mapping[bytes, str], wanted: str) -> AddressAnnouncement | None:
    """What puts our address on the chain, None while others find `wanted` there or in the network's description.

    Made from the chain's records alone, so a lost reply or a crash costs one more look, never a second announcement.
    """
    registry, me = node.history.registry, node.me
    member = registry.members.get(me) if me is not None else None
    if member is None or not member.active or not wanted or registry.address_of(member, addresses) == wanted:
        return None
    number = registry.announced.get(member.index, (0, ""))[0] + 1
    statement = Announce(member.index, number, wanted.encode())
    signature = sign(statement, node.domains.of(statement), node.ring.ledger)
    return AddressAnnouncement(member.index, number, statement.multiaddress, signature)


class Duties:
    """Carries them out, in turn with the other members."""

    def __init__(self, participant: Participant, addresses: Mapping[bytes, str], announce: str = "") -> None:
        """Owe nothing yet; what is due is read from store and chain at every look. See `node.app.Node`."""
        self._participant = participant
        self._addresses, self._announce = addresses, announce
        self._due_since: dict[object, int] = {}
        self._refused: set[object] = set()

    async def work(self, node: Surroundings) -> None:
        """After a look at the chain: what is due and whose turn it is."""
        me = self._participant.me
        if me is None:
            return
        due = await node.core(self._owed, me)
        self._due_since = {key: self._due_since.get(key, node.now) for key in due}
        self._refused &= set(due)
        for key, (call, members) in due.items():
            if key not in self._refused and node.now >= self._due_since[key] + TURN_S * _turn(me, members):
                await self._carry(node, key, call)

    def _owed(self, me: int) -> dict[object, tuple[Call, int]]:
        """What is due, each with the bitmap of those who take turns at it."""
        history, due = self._participant.history, dict[object, tuple[Call, int]]()
        for report in reports(history, self._participant.store):
            due[report.opening, report.kind, report.member] = (report, report.opening.roster & ~(1 << report.member))
        for resumption in resumptions(history):
            due[resumption] = (resumption, roster_of(history, resumption.study))
        own = announcement(self._participant, self._addresses, self._announce)
        if own is not None:
            due[own] = (own, 1 << me)
        return due

    async def _carry(self, node: Surroundings, key: object, call: Call) -> None:
        try:
            await node.send(call)
            log.info("said to the chain", call=type(call).__name__)
        except CallReverted as error:
            # Somebody was first (AlreadyKnown, NothingToOpen): the chain's records will say so. Anything else will not
            # become right by being said again.
            if error.error not in ("AlreadyKnown", "NothingToOpen", "AnnouncementNotNewer"):
                self._refused.add(key)
                log.error("refused", call=type(call).__name__, error=error.message)
        except ChainUnreachable:
            raise
        except NodeError as error:
            log.info("later", call=type(call).__name__, error=error.message)


def _turn(me: int, members: int) -> int:
    """How many members come before this one; those outside come after all."""
    order = list(members_of(members))
    return order.index(me) if me in order else len(order)
