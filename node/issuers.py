"""Who signs: the network's founders, everybody they and their successors voted in or out, and their keys, offline.

What may live here: the part of a proof or certificate that leads from `network.json` to the keys its signatures are
checked with, written and read. What this file does not know: what was signed. A document carries the network it was
made on; with a `network.json` at hand the two must be the same, without one everything may hold and still be another
network's, which is why the fingerprint is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, TypeVar

from crypto.digest import Digest
from crypto.errors import CryptoError, SignatureMismatch
from crypto.keys import address_text, parse_address
from crypto.statements import (
    Admit,
    Domains,
    Keys,
    Recover,
    Remove,
    Revoke,
    Rotate,
    Seat,
    SeatAuditor,
    Statement,
    Succeed,
    recover_any,
    struct_hash,
    verify_any,
)
from node.document import Fields
from node.errors import NodeError, NotFound, VerificationFailed
from node.history import History
from node.home import NETWORK_SCHEMA, Network, parse_network
from node.membership import FOUNDING_EPOCH, NOBODY, Auditor, Member, faults, members_of, quorum
from node.membership import Keys as MemberKeys
from node.messages import (
    AdmissionNotice,
    AuditorSeatNotice,
    RecoveryNotice,
    RemovalNotice,
    RevocationNotice,
    RotationNotice,
    SuccessionNotice,
)
from node.notices import Ballot
from node.records import Contracts
from node.store import Store, seat_subject

N = TypeVar("N", AdmissionNotice, RemovalNotice, RotationNotice, RevocationNotice, RecoveryNotice, SuccessionNotice)
PARTS: Final = ("membership", "consent", "training", "unlearning")


@dataclass(frozen=True, slots=True)
class Term:
    """A ledger key of a member and how long it counts: from epoch `since`, not in `until`, None: to the end."""

    ledger: bytes  # 20-byte address
    since: int = FOUNDING_EPOCH
    until: int | None = None
    rotated: bool = False  # away, by its own word

    def covers(self, epoch: int, *, of_round: bool) -> bool:
        """Whether it counts in this epoch.

        A round that opens in the second of a rotation keeps the key before it. A key that came later counts too: its
        member or a quorum vouches for it, and it decides rounds that were open when a revocation made way for it.
        """
        return self.until is None or epoch < self.until or (of_round and self.rotated and epoch == self.until)


@dataclass(frozen=True, slots=True)
class Issuers:
    """Whose signatures count. `checked`: the founders are those of a `network.json` the checker has.

    `network`: as it was founded. `contracts`: where it is at the end of the document. `moves`: the epochs of its moves.
    `used`: what was found signed, by member and key.
    """

    network: Network
    contracts: Contracts
    moves: tuple[int, ...]
    terms: dict[int, list[Term]]  # member index -> its keys, in order
    names: dict[int, str]
    checked: bool
    auditors: dict[int, tuple[bytes, str]] = field(default_factory=dict)
    """Seat -> ledger and name: of `network.json`, and voted in."""
    used: dict[tuple[int, bytes], list[str]] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        """The newest epoch in which the document shows a key to come or go."""
        return max(max(one.since, one.until or 0) for terms in self.terms.values() for one in terms)

    @property
    def domains(self) -> Domains:
        """What the members sign for."""
        return self.contracts.domains

    def contracts_in(self, epoch: int) -> Contracts:
        """The deployment in which a round of this epoch was opened."""
        return self.contracts.line[sum(1 for move in self.moves if move < epoch)]

    @property
    def ledgers(self) -> dict[int, bytes]:
        """Member index -> the newest ledger address."""
        return {index: terms[-1].ledger for index, terms in self.terms.items()}

    def signed(
        self,
        statement: Statement,
        member: int,
        signature: bytes,
        what: str,
        epoch: int | None = None,
        *,
        of_round: bool = False,
    ) -> None:
        """Raise `VerificationFailed` unless this member signed this statement.

        Args:
            epoch: the key must count then. None, for a statement that names no epoch: any key it ever had, because a
                document cannot show when such a statement reached the chain.
            of_round: the epoch is that of the opening of a round or an erasure, which keep the keys they opened with.
        """
        terms = self.terms.get(member)
        if terms is None:
            raise VerificationFailed(f"{what}: member {member} is no member of the network")
        count = [one for one in terms if epoch is None or one.covers(epoch, of_round=of_round)]
        if not count:
            raise VerificationFailed(f"{what}: member {member} had no key in epoch {epoch}")
        try:
            got = recover_any(statement, self.domains, signature)
            found = next((one for one in count if one.ledger in got), None)
            if found is None:
                raise SignatureMismatch(count[-1].ledger, got[0])
        except CryptoError as error:
            raise VerificationFailed(f"{what}, member {member}: {error}") from error
        said = self.used.setdefault((member, found.ledger), [])
        if what not in said:
            said.append(what)

    def signed_by_auditor(
        self, statement: Statement, seat: int, holder: tuple[bytes, str], signature: bytes, what: str
    ) -> bool:
        """Raise `VerificationFailed` unless `holder` (ledger, name) has this auditor's seat and signed the statement.

        Returns whether the seat is known to be theirs. A founding auditor's is in no `changes` and not in the network's
        fingerprint either: without a `network.json` that the checker has, it is the document's word.
        """
        known = self.auditors.get(seat)
        if known is None and self.checked:
            raise VerificationFailed(f"{what}: there is no auditor in seat {seat}")
        if known not in (None, holder):
            raise VerificationFailed(
                f"{what}: {holder[1]!r:.80} with {address_text(holder[0])} is not the auditor in seat {seat}"
            )
        try:
            verify_any(statement, self.domains, signature, holder[0])
        except CryptoError as error:
            raise VerificationFailed(f"{what}, auditor's seat {seat}: {error}") from error
        return known is not None

    def keys_used(self) -> list[dict[str, Any]]:
        """Which key said what: `member`, `name`, `ledger_address`, `signed`, and the epochs it counts in.

        `until_epoch` is not one of them; None: to the end.
        """
        return [
            {
                "member": member,
                "name": self.names.get(member, ""),
                "ledger_address": address_text(term.ledger),
                "from_epoch": term.since,
                "until_epoch": term.until,
                "signed": self.used[member, term.ledger],
            }
            for member, terms in sorted(self.terms.items())
            for term in terms
            if (member, term.ledger) in self.used
        ]


# --------------------------------------------------------------------------------------------------------------------
# Writing


class _Lacking(NotFound):
    """No statement about this subject is in the store."""

    def __init__(self, subject: Digest, what: str) -> None:
        super().__init__(f"{what} are not in this home")
        self.subject = subject


def write_issuers(network: Network, history: History, store: Store, seats: Iterable[int] = ()) -> dict[str, Any]:
    """The network as its fingerprint covers it, and every change of membership with its votes.

    Args:
        seats: auditors' seats that the document rests on; where they were voted in, it shows that too.

    Raises:
        NotFound: the votes of a change are not in this store.
    """
    changes = [(epoch, write()) for epoch, write in _changes(network, history, store)]
    changes += [(one.seated, _seating(one, store)) for one in _voted_in(history, seats)]
    first = network.line[0]
    return {
        "network": {
            "chain": {key: first.raw["chain"][key] for key in ("chain_id", "genesis_hash")},
            "contracts": first.raw["contracts"],
            "founders": first.raw["founders"],
        },
        "changes": [change for _, change in sorted(changes, key=lambda pair: pair[0])],
    }


def lacking(network: Network, history: History, store: Store) -> list[Digest]:
    """What to ask peers for, as subjects of notices, so that `write_issuers` shows every change with its quorum.

    And every auditor's seat: whatever an auditor attests, a certificate may have to show whose word it is.
    """
    found: list[Digest] = []
    seats = list(history.registry.auditors)
    changes = [write for _, write in _changes(network, history, store)]
    changes += [partial(_seating, one, store) for one in _voted_in(history, seats)]
    for write in changes:
        try:
            write()
        except _Lacking as error:
            found.append(error.subject)
    if changes and not found:
        try:
            read_issuers(Fields("issuers", write_issuers(network, history, store, seats)), network)
        except VerificationFailed:  # some of a change's votes
            found = [Digest(ledger.rjust(32, b"\0")) for ledger in _touched(network, history)]
            found += [_about(one) for one in _voted_in(history, seats)]
    return list(dict.fromkeys(found))


def _touched(network: Network, history: History) -> list[bytes]:
    """Every address that a change of membership may be kept under."""
    keys = [one.ledger for member in history.registry.members.values() for one in member.keys]
    return [*keys, NOBODY, *(later.contracts.membership for later in network.line[1:])]


def _changes(network: Network, history: History, store: Store) -> Iterator[tuple[int, Callable[[], dict[str, Any]]]]:
    """Every change of membership since the founding: its epoch, and what writes it down."""
    for member in history.registry.members.values():
        if member.admitted > FOUNDING_EPOCH:
            yield member.admitted, partial(_admission, member, store)
        for before, keys in zip(member.keys, member.keys[1:], strict=False):
            if before.revoked and before.until is not None and before.until < keys.since:
                yield before.until, partial(_revocation, member, before, store)
            yield keys.since, partial(_new_keys, member, keys, store)
        if member.revoked is not None:
            yield member.revoked, partial(_revocation, member, member.keys[-1], store)
        if member.removed is not None:
            yield member.removed, partial(_removal, member, store)
    for later in network.line[1:]:
        where = later.contracts.membership
        for epoch in (epoch for epoch, successor in history.registry.successions if successor == where):
            yield epoch, partial(_succession, later, epoch, store)


def _voted_in(history: History, seats: Iterable[int]) -> list[Auditor]:
    found = (history.registry.auditors[seat] for seat in seats)
    return [one for one in found if one.seated > FOUNDING_EPOCH]


def shows_seat(history: History, store: Store, seat: int) -> bool:
    """Whether `write_issuers` can show how this auditor's seat came about: the votes are here, or none was needed."""
    try:
        return all(_seating(one, store) for one in _voted_in(history, (seat,)))
    except NotFound:
        return False


def _votes(notices: Sequence[Ballot]) -> list[dict[str, Any]]:
    return [{"member": n.member, "signature": n.signature.hex()} for n in sorted(notices, key=lambda n: n.member)]


def _kept(store: Store, ledger: bytes, kind: type[N], epoch: int, what: str) -> list[N]:
    """The kept notices of a kind about this ledger address that brought the change of this epoch."""
    subject = Digest(ledger.rjust(32, b"\0"))
    found = [n for n in store.notices(subject, kind.__name__) if isinstance(n, kind) and n.epoch == epoch - 1]
    if not found:
        raise _Lacking(subject, what)
    return found


def _admission(member: Member, store: Store) -> dict[str, Any]:
    first = member.keys[0]
    what = f"the votes that admitted member {member.index}"
    votes = _kept(store, first.ledger, AdmissionNotice, member.admitted, what)
    return {
        "kind": "admit",
        "epoch": member.admitted,
        "index": member.index,
        "ledger": first.ledger.hex(),
        "peer_id": first.peer_id.hex(),
        "sealing_key": first.sealing_key.hex(),
        "name": member.name,
        "seat_signature": votes[0].seat_signature.hex(),
        "votes": _votes(votes),
    }


def _about(auditor: Auditor) -> Digest:
    """The subject under which the votes for a seat are kept."""
    return seat_subject(auditor.ledger, auditor.study, auditor.voted_end)


def _seating(auditor: Auditor, store: Store) -> dict[str, Any]:
    subject = _about(auditor)
    kept = (one for one in store.notices(subject, "AuditorSeatNotice") if isinstance(one, AuditorSeatNotice))
    votes = [one for one in kept if one.epoch == auditor.seated - 1]
    if not votes:
        raise _Lacking(subject, f"the votes for auditor seat {auditor.seat}")
    return {
        "kind": "seat",
        "epoch": auditor.seated,
        "index": auditor.seat,
        "ledger": auditor.ledger.hex(),
        "peer_id": auditor.peer_id.hex(),
        "sealing_key": auditor.sealing_key.hex(),
        "name": auditor.name,
        "study": auditor.study.hex(),
        "term_end": auditor.voted_end,
        "seat_signature": votes[0].seat_signature.hex(),
        "votes": _votes(votes),
    }


def _removal(member: Member, store: Store) -> dict[str, Any]:
    assert member.removed is not None
    ledger = NOBODY if member.revoked is not None else member.ledger
    votes = _kept(store, ledger, RemovalNotice, member.removed, f"the votes that removed member {member.index}")
    votes = [one for one in votes if one.target == member.index]
    return {"kind": "remove", "epoch": member.removed, "index": member.index, "votes": _votes(votes)}


def _succession(network: Network, epoch: int, store: Store) -> dict[str, Any]:
    votes = _kept(store, network.contracts.membership, SuccessionNotice, epoch, "the votes that moved the network")
    return {"kind": "succeed", "epoch": epoch, "contracts": network.raw["contracts"], "votes": _votes(votes)}


def _revocation(member: Member, keys: MemberKeys, store: Store) -> dict[str, Any]:
    assert keys.until is not None
    votes = _kept(store, keys.ledger, RevocationNotice, keys.until, f"the votes that revoked member {member.index}")
    return {"kind": "revoke", "epoch": keys.until, "index": member.index, "votes": _votes(votes)}


def _new_keys(member: Member, keys: MemberKeys, store: Store) -> dict[str, Any]:
    """A rotation, with the old key's signature, or a recovery, with its votes."""
    found: dict[str, Any] = {
        "kind": "rotate" if keys.rotated else "recover",
        "epoch": keys.since,
        "index": member.index,
        "ledger": keys.ledger.hex(),
        "peer_id": keys.peer_id.hex(),
        "sealing_key": keys.sealing_key.hex(),
    }
    if keys.rotated:
        what = f"the statements that changed the keys of member {member.index}"
        own = _kept(store, keys.ledger, RotationNotice, keys.since, what)[0]
        return {**found, "keys_signature": own.keys_signature.hex(), "signature": own.signature.hex()}
    votes = _kept(store, keys.ledger, RecoveryNotice, keys.since, f"the votes that recovered member {member.index}")
    return {**found, "keys_signature": votes[0].keys_signature.hex(), "votes": _votes(votes)}


# --------------------------------------------------------------------------------------------------------------------
# Reading


def read_issuers(given: Fields, network: Network | None) -> Issuers:
    """Check the chain of votes from the founders on.

    Raises:
        VerificationFailed: another network than `network`, or a change without a quorum of genuine votes.
    """
    own = _network(given)
    if network is not None and own.fingerprint != network.fingerprint:
        raise VerificationFailed(
            f"{given.where}: made on network {own.fingerprint}, this is network {network.fingerprint} ({network.name})"
        )
    terms = {seat.index: [Term(seat.ledger)] for seat in own.founders}
    names = {seat.index: seat.name for seat in own.founders}
    if sorted(terms) != list(range(len(own.founders))):
        given.fault(f"founders have the indexes {sorted(terms)}")
    changes = given.each("changes", _Change.read)
    contracts = own.contracts
    for change in changes:
        if change.contracts is not None:
            contracts = replace(change.contracts, chain_id=contracts.chain_id, before=contracts)
    _check_line(contracts, network)
    moves = tuple(change.epoch for change in changes if change.contracts is not None)
    auditors = {} if network is None else {one.index: (one.ledger, one.name) for one in network.auditors}
    issuers = Issuers(own, contracts, moves, terms, names, network is not None, auditors)
    active, revoked, epoch = set(terms), set[int](), FOUNDING_EPOCH
    for change in changes:
        if change.epoch <= epoch:
            given.fault(f"a change of epoch {change.epoch} comes after epoch {epoch}")
        epoch = change.epoch
        change.check(issuers, active, revoked)
    return issuers


def _check_line(contracts: Contracts, network: Network | None) -> None:
    """The deployments are those of the `network.json`, as far as both go."""
    if network is None:
        return
    for number, (ours, theirs) in enumerate(zip(network.contracts.line, contracts.line, strict=False)):
        if ours != theirs:
            raise VerificationFailed(f"deployment {number} is another one than that of network {network.name}")


def _network(given: Fields) -> Network:
    inner = given.fields("network")
    raw = {
        "schema": NETWORK_SCHEMA,
        "name": "",
        "chain": {**inner.take("chain", dict), "url": ""},
        "contracts": inner.take("contracts", dict),
        "founders": inner.take("founders", list),
        "auditors": [],
        "synthetic": False,
    }
    inner.done()
    try:
        return parse_network(raw, given.where)
    except (NodeError, CryptoError) as error:
        raise VerificationFailed(f"{given.where}: {error}") from error


KINDS: Final = ("admit", "remove", "rotate", "revoke", "recover", "succeed", "seat")


@dataclass(frozen=True, slots=True)
class _Change:
    kind: str
    epoch: int
    index: int
    ledger: bytes  # of the new keys, where there are any
    own: Seat | Keys | None  # the new keys' own statement
    own_signature: bytes
    signature: bytes  # of a rotation
    votes: dict[int, bytes]  # of everything else
    contracts: Contracts | None = None  # of a succession; its chain is the network's
    term: tuple[Digest, int] | None = None  # of an auditor's seat: the study, and the end in unix seconds

    @classmethod
    def read(cls, fields: Fields) -> _Change:
        kind, epoch = fields.take("kind", str), fields.uint("epoch", 53)
        if kind not in KINDS:
            fields.fault(f"kind {kind!r:.40} is none of {', '.join(KINDS)}")
        contracts = _contracts(fields.fields("contracts")) if kind == "succeed" else None
        term = (fields.digest("study"), fields.uint("term_end", 53)) if kind == "seat" else None
        index = 0 if kind == "succeed" else fields.uint("index", 16 if kind == "seat" else 5)
        own: Seat | Keys | None = None
        ledger = own_signature = signature = b""
        votes: dict[int, bytes] = {}
        try:
            if kind in ("admit", "seat", "rotate", "recover"):
                ledger = fields.hexes("ledger", 20)
                peer_id, sealing = fields.hexes("peer_id"), fields.digest("sealing_key")
                if kind in ("admit", "seat"):
                    role = "member" if kind == "admit" else "auditor"
                    own = Seat(role, peer_id, sealing, fields.take("name", str))
                    own_signature = fields.signature("seat_signature")
                else:
                    own = Keys(index, ledger, peer_id, sealing)
                    own_signature = fields.signature("keys_signature")
        except CryptoError as error:
            fields.fault(str(error))
        if kind == "rotate":
            signature = fields.signature("signature")
        else:
            votes = dict(fields.each("votes", lambda one: (one.uint("member", 5), one.signature("signature"))))
        return cls(kind, epoch, index, ledger, own, own_signature, signature, votes, contracts, term)

    def check(self, issuers: Issuers, active: set[int], revoked: set[int]) -> None:
        """Check the change against the members before it, and make it."""
        where = f"change of epoch {self.epoch}"
        if self.contracts is not None:
            self._check_votes(issuers, active, Succeed(self.epoch - 1, self.contracts.membership), where)
            return
        if self.term is not None:
            assert isinstance(self.own, Seat)
            seat = SeatAuditor(self.epoch - 1, self.ledger, struct_hash(self.own), *self.term)
            self._check_votes(issuers, active, seat, where)
            holder = issuers.auditors[self.index] = self.ledger, self.own.name
            what = "the auditor's own statement"
            issuers.signed_by_auditor(self.own, self.index, holder, self.own_signature, what)
            return
        if self.kind == "admit":
            if self.index != len(issuers.terms):
                raise VerificationFailed(f"{where} admits member {self.index}, {len(issuers.terms)} is next")
        elif self.index not in (active if self.kind in ("rotate", "revoke") else active | revoked):
            raise VerificationFailed(f"{where}: {self.kind} of member {self.index}, which is not active")
        if self.kind == "rotate":
            rotation = self._statement(issuers, revoked)
            issuers.signed(rotation, self.index, self.signature, where, self.epoch - 1)
        else:
            self._check_votes(issuers, active, self._statement(issuers, revoked), where)
        self._make(issuers, active, revoked)
        if self.own is not None:
            issuers.signed(self.own, self.index, self.own_signature, "the new keys' own statement", self.epoch)

    def _statement(self, issuers: Issuers, revoked: set[int]) -> Statement:
        before = self.epoch - 1
        if self.own is not None:
            hashed = struct_hash(self.own)
            match self.kind:
                case "admit":
                    return Admit(before, self.ledger, hashed)
                case "rotate":
                    return Rotate(before, self.index, hashed)
                case _:
                    return Recover(before, self.index, hashed)
        if self.kind == "revoke":
            return Revoke(before, self.index, issuers.ledgers[self.index])
        return Remove(before, self.index, NOBODY if self.index in revoked else issuers.ledgers[self.index])

    def _check_votes(self, issuers: Issuers, active: set[int], statement: Statement, where: str) -> None:
        n = len(active)
        needed = quorum(n, faults(n, n))
        for member, signature in self.votes.items():
            issuers.signed(statement, member, signature, f"vote for the {where}", self.epoch - 1)
        if len(set(self.votes) & active) < needed:
            raise VerificationFailed(f"{where}: {len(set(self.votes) & active)} votes of {n} members, {needed} needed")

    def _make(self, issuers: Issuers, active: set[int], revoked: set[int]) -> None:
        terms = issuers.terms.setdefault(self.index, [])
        if terms and terms[-1].until is None and self.kind in ("rotate", "revoke", "recover"):
            terms[-1] = replace(terms[-1], until=self.epoch, rotated=self.kind == "rotate")
        if self.own is not None:
            terms.append(Term(self.ledger, self.epoch))
            active.add(self.index)
            revoked.discard(self.index)
        else:
            active.discard(self.index)
            (revoked.add if self.kind == "revoke" else revoked.discard)(self.index)
        if isinstance(self.own, Seat):
            issuers.names[self.index] = self.own.name


def _contracts(fields: Fields) -> Contracts:
    try:
        found = Contracts(0, *(parse_address(fields.take(part, str)) for part in PARTS))
    except CryptoError as error:
        fields.fault(str(error))
    fields.done()
    return found


def roster_names(issuers: Issuers, roster: int) -> list[str]:
    """Names of a roster's members, by index."""
    return [issuers.names.get(member, f"member {member}") for member in members_of(roster)]
