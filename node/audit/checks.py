"""The checks of `audit verify` on one home: chain evidence, signed statements and contents against each other.

What this file does not know: plaintexts (`node/audit/rounds.py`), erasures (`node/audit/erasures.py`), reports.

Rules of this file
1. A check is a function of `Audit`: it returns None (all of it holds), a sentence (what it could not check and why), or
   raises `Fault` at the first thing that does not hold. Order and names are `node/audit/verify.py`'s table.
2. Missing is not wrong. What this node never had (it was away, it joined later) is not checked and says so; what it did
   have, by its own index, keys, votes or commitments, must be there or lie under its signed tombstone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from crypto.digest import Digest, keccak256
from crypto.errors import CryptoError, SignatureMismatch
from crypto.keys import KeyRing
from crypto.sealing import BlobKind
from crypto.statements import Domains, Tombstone, recover_any, struct_hash
from fl_engine.errors import EngineError
from node.abi import Codec
from node.audit.bundle import About, left_out
from node.audit.home import Fault, HomeReader, KeptNotice, NotChecked
from node.audit.records import (
    Chain,
    equal,
    holds,
    observe,
    refused,
    round_name,
)
from node.errors import NodeError, VerificationFailed
from node.evidence import verify_block
from node.follower import logged_of
from node.history import History, RoundHistory
from node.home import Home, Network, Seat
from node.keystore import current_ring
from node.membership import Member
from node.messages import (
    ERASED,
    RETENTION,
    AbstainNotice,
    CommitNotice,
    HaveNotice,
    TombstoneNotice,
    VoteNotice,
)
from node.notices import check, statement_of
from node.records import AuditorSeated, MemberAdmitted, RoundFinal
from node.store import notice_key
from node.study import parse_canonical
from node.training import Arithmetic, model_root

KINDS = ("cipher", "model", "shard", "spec")


@dataclass(slots=True)
class RoundsOutcome:
    """What executing the rounds again found: first fault and reasons, by the name of the check."""

    faults: dict[str, Fault] = field(default_factory=dict)
    reasons: dict[str, list[str]] = field(default_factory=dict)

    def skip(self, name: str, why: str) -> None:
        """Something was not checked."""
        self.reasons.setdefault(name, []).append(why)


@dataclass(slots=True)
class Audit:
    """One home under audit. `chain` and what follows from it are filled by the chain check."""

    home: Home
    network: Network
    domains: Domains
    store: HomeReader
    codec: Codec
    rings: tuple[KeyRing, ...]  # all keys of the home, the first ones first; empty without its password
    no_ring: str  # why there are none
    key_fault: Fault | None
    chain: Chain
    hashes: dict[int, Digest] = field(default_factory=dict)
    record_faults: dict[str, Fault] = field(default_factory=dict)
    arithmetics: dict[Digest, Arithmetic] = field(default_factory=dict)
    tombstones: dict[Digest, TombstoneNotice] = field(default_factory=dict)
    verified: set[Digest] = field(default_factory=set)
    purged: set[Digest] = field(default_factory=set)
    rounds: RoundsOutcome | None = None
    bundle: About | None = None  # what the bundle under audit says of itself; None: a home is under audit

    @property
    def history(self) -> History:
        """The chain as this home kept it."""
        return self.chain.history

    @property
    def me(self) -> int | None:
        """Our member index; None at an auditor."""
        return self.home.index if self.home.role == "member" else None

    def covers(self, study: Digest) -> bool:
        """Whether what is under audit is about this study; a home is about all."""
        return self.bundle is None or self.bundle.covers(study)

    def rounds_covered(self) -> Iterator[RoundHistory]:
        """The rounds of the studies under audit, in the chain's order."""
        return (one for one in self.history.rounds.values() if self.covers(one.opened.study))

    def left_out(self, one: RoundHistory, member: int, kind: BlobKind) -> str | None:
        """Why a bundle is without a blob and its key that its home may have had; None: it must have what that has."""
        if self.bundle is None:
            return None
        days = self.arithmetic(one.opened.study).study["policy", "set_retention_days"]
        return left_out(self.bundle, self.history, one, member, kind, days)

    def signers(self) -> tuple[bytes, ...]:
        """The ledger addresses that this node signs with, or ever did; the newest first."""
        registry = self.history.registry
        found = registry.members.get(self.home.index) if self.me is not None else registry.auditors.get(self.home.index)
        if found is None:
            raise Fault("seat", "home.json", "a registered seat", f"{self.home.role} {self.home.index}")
        return found.ledgers(past=True) if isinstance(found, Member) else (found.ledger,)

    def arithmetic(self, study: Digest) -> Arithmetic:
        """A study's arithmetic, from its spec in this home.

        Raises:
            NotChecked: the spec is not here.
            Fault: it is not the study's.
        """
        if study not in self.arithmetics:
            terms = self.history.studies[study].created.terms
            where = f"study {study.hex()[:12]}"
            data = self.store.content(terms.spec_hash, "spec")
            if data is None:
                raise NotChecked(f"{where}: its specification is not in this home")
            try:
                spec = parse_canonical(data)
                made = Arithmetic(spec)
            except NodeError as error:
                raise Fault("specification", where, "a specification this program reads", error.message) from None
            equal("terms", where, spec.terms(terms.member, terms.initial_model, terms.invited), terms)
            self.arithmetics[study] = made
        return self.arithmetics[study]


Check = Callable[[Audit], str | None]


# --------------------------------------------------------------------------------------------------------------------
# The home itself


def store_is_whole(audit: Audit) -> str | None:
    """SQLite's pages and our format."""
    audit.store.check()
    return None


def keystore_is_ours(audit: Audit) -> str | None:
    """The keys open, and they are those of the seat this home says it has."""
    if audit.key_fault is not None:
        raise audit.key_fault
    if not audit.rings:
        return audit.no_ring
    registry = audit.history.registry
    ring = current_ring(audit.rings, registry.keys_of(audit.me))
    equal("ledger address", "keystore.json", audit.signers()[0], ring.ledger.address)
    seat = registry.members[audit.home.index] if audit.me is not None else registry.auditors[audit.home.index]
    equal("peer id", "keystore.json", seat.peer_id, ring.peer.peer_id)
    equal("sealing key", "keystore.json", seat.sealing_key, ring.sealing.public)
    return None


# --------------------------------------------------------------------------------------------------------------------
# The chain


def chain_is_whole(audit: Audit) -> str | None:
    """Headers hash and link from the genesis hash of network.json, receipts are theirs, logs are records.

    A transaction's hash is under no header that is kept: each receipt has one, and it stands nowhere else.
    """
    parent = audit.network.genesis_hash
    transactions: dict[Digest, int] = {}
    for expected_number, (evidence, stored, stamp) in enumerate(audit.store.evidence()):
        where = f"{audit.store.file_of('blocks')}: block {evidence.number}"
        equal("block number", where, expected_number, evidence.number)
        equal("block hash", where, stored, keccak256(evidence.header_rlp))
        try:
            block = verify_block(evidence)
        except VerificationFailed as error:
            expected, got = _values(error.message)
            kind = next((one for one in ("transactions", "receipt") if one in error.message), "header")
            raise Fault("receipts" if kind == "receipt" else kind, where, expected, got) from None
        if evidence.number == 0:
            equal("genesis hash", where, audit.network.genesis_hash, block.block_hash)
        else:
            equal("parent hash", where, parent, block.parent_hash)
        equal("timestamp", where, block.timestamp, stamp)
        parent = block.block_hash
        audit.hashes[evidence.number] = block.block_hash
        for transaction in block.transactions:
            before = transactions.setdefault(transaction, block.number)
            holds(
                "transactions", where, "in no other block", before == block.number, f"{transaction.hex()} in {before}"
            )
        try:
            logs = logged_of(block, audit.codec, audit.network.contracts)
        except NodeError as error:
            raise Fault("log", where, "a record of the contracts", error.message) from None
        for logged in logs:
            observe(audit.chain, logged, audit.record_faults)
    if not audit.hashes:
        return "no block is kept in this home"
    return None


def _values(message: str) -> tuple[str, str]:
    """Both values out of a sentence of `node/evidence.py`."""
    _, found, after = message.partition(": expected ")
    if not found:
        return "a block as its header describes it", message
    expected, _, got = after.partition(", ")
    return expected, got.removeprefix("computed ").removeprefix("found ")


def record_rule(name: str) -> Check:
    """The check that reports what the rules over the records found under this name."""

    def reported(audit: Audit) -> str | None:
        if name in audit.record_faults:
            raise audit.record_faults[name]
        return None

    return reported


def founders_are_the_networks(audit: Audit) -> str | None:
    """The founding on the chain is the one network.json names, seat by seat."""
    foundings = audit.history.registry.foundings
    line = audit.network.line
    holds("deployments", "network.json", f"at least {len(foundings)}", len(foundings) <= len(line), len(line))
    for network, (members, auditors) in zip(line, foundings, strict=False):
        _check_founding("founder", network.founders, members)
        _check_founding("founding auditor", network.auditors, auditors)
    return None if len(foundings) == len(line) else f"deployment {len(foundings)} lies beyond the kept chain"


def _check_founding(
    what: str, named: Sequence[Seat], found: Mapping[int, MemberAdmitted] | Mapping[int, AuditorSeated]
) -> None:
    for seat in named:
        where = f"network.json: {what} {seat.index}"
        holds(what, where, "a founding seat on the chain", seat.index in found, "none")
        for name in ("name", "ledger", "peer_id", "sealing_key"):
            equal(name.replace("_", " "), where, getattr(found[seat.index], name), getattr(seat, name))
    equal(f"number of {what}s", "network.json", len(found), len(named))


# --------------------------------------------------------------------------------------------------------------------
# Statements


def statements_are_signed(audit: Audit) -> str | None:
    """Every kept notice lies under its own key, is signed by whom it names, and follows from its own content."""
    unknown = missing = 0
    for kept in audit.store.kept_notices():
        notice = kept.notice
        subject, kind, turn, member = notice_key(notice)
        if isinstance(notice, CommitNotice) and not kept.own:
            turn = kept.turn  # others' commits are kept by their root, so that contradictory ones are
        key = (kept.subject, kept.kind, kept.turn, kept.member)
        equal("key of a statement", kept.where, (subject.hex(), kind, turn, member), (key[0].hex(), *key[1:]))
        if isinstance(notice, TombstoneNotice) and kept.own:
            _check_own_tombstone(audit, kept, notice)
            continue
        if (
            isinstance(notice, CommitNotice | AbstainNotice | HaveNotice | VoteNotice)
            and notice.round_id not in audit.history.rounds
        ):
            holds("round we signed in", kept.where, "a round on the chain", not kept.own, "no such round")
            unknown += 1
            continue
        _check_signature(audit, kept)
    for one in audit.rounds_covered():
        if one.over:
            missing += len(one.commits) - len(commit_notices(audit, one))
    found = [f"{unknown} statements are about rounds beyond the kept chain"] if unknown else []
    if missing:
        found.append(f"{missing} commitments on the chain came without their signed notice to this home")
    return "; ".join(found) or None


def _check_signature(audit: Audit, kept: KeptNotice) -> None:
    try:
        check(kept.notice, audit.history, audit.domains, past=True)
    except NodeError as error:
        cause = error.__cause__
        if isinstance(cause, SignatureMismatch):
            got = "no key at all" if cause.got is None else cause.got
            raise Fault("signature", kept.where, cause.expected, got) from None
        raise Fault("statement", kept.where, "a genuine statement", error.message) from None


def _check_own_tombstone(audit: Audit, kept: KeptNotice, notice: TombstoneNotice) -> None:
    statement = Tombstone(notice.member, notice.content, notice.reason, notice.subject)
    try:
        got = recover_any(statement, audit.domains, notice.signature)
    except SignatureMismatch as error:
        raise Fault("signature", kept.where, audit.signers()[0], error.got or "no key at all") from None
    except CryptoError as error:
        raise Fault("signature", kept.where, "a signature", error) from None
    if not set(got) & set(audit.signers()):
        raise Fault("signature", kept.where, audit.signers()[0], got[0])


def commit_notices(audit: Audit, one: RoundHistory) -> dict[int, CommitNotice]:
    """The notices that open what stands on the chain, by member."""
    found: dict[int, CommitNotice] = {}
    for notice in audit.store.notices(one.opened.round_id, "CommitNotice"):
        if isinstance(notice, CommitNotice):
            record = one.commits.get(notice.member)
            if record is not None and (record.update_root, record.dataset_root, record.next_dataset_root) == (
                notice.update_root,
                notice.dataset_root,
                notice.next_dataset_root,
            ):
                found[notice.member] = notice
    return found


def own_statements_are_single(audit: Audit) -> str | None:
    """We said nothing twice differently, and the chain has what we said."""
    if audit.me is None:
        return None
    said: dict[tuple[Digest, str, int], Digest] = {}
    for kept in audit.store.kept_notices():
        notice = kept.notice
        if not isinstance(notice, CommitNotice | AbstainNotice | HaveNotice | VoteNotice):
            continue
        if notice.member != audit.me:
            continue
        statement = statement_of(notice)
        assert statement is not None
        attempt = notice.attempt if isinstance(notice, HaveNotice | VoteNotice) else 0
        hashed = struct_hash(statement)
        first = said.setdefault((notice.round_id, kept.kind, attempt), hashed)
        equal("own statement, said once", f"{kept.where}, attempt {attempt}", first, hashed)
        if isinstance(notice, CommitNotice) and kept.own:
            found = audit.history.rounds.get(notice.round_id)
            record = None if found is None else found.commits.get(audit.me)
            if record is not None:
                equal("own commitment on the chain", kept.where, notice.update_root, record.update_root)
    return None


def votes_are_a_quorum(audit: Audit) -> str | None:
    """For every result, Q of its equal signed votes are here."""
    short, fewest = 0, ""
    for one in audit.rounds_covered():
        if one.final is None:
            continue
        held = {n.member for n in votes_for(audit, one, one.final)}
        if len(held) < one.opened.quorum:
            short += 1
            fewest = fewest or f"{round_name(one)}: {len(held)} of {one.opened.quorum}"
    return f"{short} results have fewer than their quorum of votes in this home ({fewest})" if short else None


def votes_for(audit: Audit, one: RoundHistory, final: RoundFinal) -> Iterator[VoteNotice]:
    """The kept votes for this result, signatures checked."""
    decided = final.result.included | refused(final.result.codes)
    for notice in audit.store.notices(one.opened.round_id, "VoteNotice"):
        if (
            isinstance(notice, VoteNotice)
            and (notice.attempt, notice.set, notice.result) == (final.attempt, decided, final.result)
            and one.opened.roster >> notice.member & 1
        ):
            _check_signature(audit, KeptNotice(one.opened.round_id, "VoteNotice", 0, notice.member, False, b"", notice))
            yield notice


# --------------------------------------------------------------------------------------------------------------------
# Contents


def contents_are_their_names(audit: Audit) -> str | None:
    """Every indexed file is there, as long as its row says, and hashes to its name."""
    for root, kind, length in audit.store.index():
        where = audit.store.place(root)
        place = f"{audit.store.file_of('content')}: content {root.hex()[:16]}"
        holds("kind of a content", place, ", ".join(KINDS), kind in KINDS, kind)
        if not audit.store.on_disk(root):
            raise Fault("file", where, root, "missing without a tombstone")
        data = audit.store.content(root, kind)
        assert data is not None
        equal("length", where, length, len(data))
    return None


def tombstones_hold(audit: Audit) -> str | None:
    """What we signed as deleted is gone, and each tombstone names an erasure or a round that exists."""
    history = audit.history
    for kept in audit.store.kept_notices("TombstoneNotice"):
        if kept.own and isinstance(kept.notice, TombstoneNotice):
            audit.tombstones[kept.notice.content] = kept.notice
    for root, notice in audit.tombstones.items():
        where = f"tombstone of {root.hex()[:16]}"
        subjects: dict[int, Collection[Digest]] = {ERASED: history.erasures, RETENTION: history.rounds}
        known = subjects.get(notice.reason)
        holds("reason", where, "1 (erasure) or 2 (retention)", known is not None, notice.reason)
        assert known is not None
        holds("subject", where, "an erasure or a round on the chain", notice.subject in known, notice.subject)
        holds("purged content", audit.store.place(root), "no file", not audit.store.on_disk(root), "still there")
    return None


def studies_are_their_specs(audit: Audit) -> str | None:
    """Every study's specification gives the terms on the chain, its first model is here and of its layout."""
    missing = []
    for study, found in audit.history.studies.items():
        if not audit.covers(study):
            continue
        where = f"study {study.hex()[:12]}, initial model"
        try:
            arithmetic = audit.arithmetic(study)
        except NotChecked as reason:
            missing.append(str(reason))
            continue
        root = found.created.terms.initial_model
        data = audit.store.content(root, "model")
        if data is None:
            made = model_root(arithmetic.initial())
            if made != root:
                missing.append(f"{where} is not in this home")
            continue
        try:
            arithmetic.check_model(data)
        except (EngineError, NodeError) as error:
            raise Fault("model", where, "a model of the study's layout", error) from None
    return "; ".join(missing) or None
