"""One node's judgement: everything it does in a round that needs keys, bytes or data, and nothing that waits.

What may live here: the duties behind the round machine's effects (select, seal, judge, aggregate, sign), the machines
themselves and what they are restored from. What this file does not know: the network, threads, the clock; chain time
comes in as a number. `node/app.py` performs these duties one at a time in a worker thread; `node/serving.py` answers
peers from the same state.

What takes long, because it goes over every byte of a model, is apart: `seal`, `verdict` and `new_model` read and change
nothing that other duties touch, so that `app` runs them in a thread of their own while peers are answered. The model's
sum grows as verdicts fall (`_Sum`): no update is opened twice, and none stays in memory.

Persist, then speak: every method that returns a signed notice has stored it first, and returns the stored one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar

import numpy as np
import rfc8785
import structlog
from numpy.typing import NDArray

from crypto.blobs import (
    SetEntry,
    SetPlain,
    UpdatePlain,
    dataset_root,
    decode_set,
    decode_update,
    encode_set,
    encode_update,
)
from crypto.commitments import update_root
from crypto.digest import Digest, sha256
from crypto.errors import CryptoError, KeyMismatch, RootMismatch
from crypto.keys import KeyRing, LedgerKey
from crypto.sealing import BlobKind, Sealed, open_blob, seal
from crypto.statements import Abstain, Commit, Domains, Have, Plan, Purged, Statement, Verdict, Vote, sign
from fl_engine.errors import EngineError
from fl_engine.trust import beta
from fl_engine.unlearning import Unlearner
from node import lengths, shards
from node.consent import Leaf, last_deadline, original_opening, usable, usable_next
from node.erasure import method_of
from node.errors import LocalError, LocalFault, NotFound
from node.history import Branch, History, Known, RoundHistory
from node.keystore import current_ring
from node.membership import members_of
from node.messages import AbstainNotice, CloseNotice, CommitNotice, HaveNotice, Notice, TombstoneNotice, VoteNotice
from node.notices import commit_of, hash_of_result, statement_of
from node.records import ZERO, Position, Result, RoundOpened
from node.round import (
    Aggregated,
    Event,
    Held,
    Judged,
    Observed,
    Received,
    Revealed,
    Round,
    SignedAbstain,
    SignedClose,
    SignedHave,
    SignedVote,
    SignHave,
    SignVote,
    Trained,
    WithdrawalKnown,
)
from node.store import Store
from node.study import parse_canonical
from node.training import Arithmetic, LocalTraining, Total, model_root
from node.validity import Case, Code, judge
from node.vault import Vault

log = structlog.get_logger("participant")

ROLE_TRAIN = 1
MAX_SUMS = 1
"""Rounds whose updates are being added up: twice a model's bytes each. Another round's verdict drops the oldest."""

N = TypeVar("N", CommitNotice, AbstainNotice, HaveNotice, VoteNotice, CloseNotice, TombstoneNotice)


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """One training as the worker needs it: import row numbers, records x [N, ...], labels y [N], model and beacon.

    `unlearner` is the method of an erasure that the round belongs to, `squared_length` what it brings the update to.
    `carried` is the network that our shard is brought to, where a replay leaves it as it was; None: it is trained.
    """

    round_id: Digest
    generation: int
    arithmetic: Arithmetic
    leaves: tuple[Leaf, ...]
    rows: NDArray[np.int64]
    x: NDArray[np.float32]
    y: NDArray[np.int64]
    model: bytes
    beacon: bytes
    member: int
    unlearner: Unlearner | None = None
    squared_length: int = 0
    carried: bytes | None = None

    def without_records(self) -> TrainingJob:
        """What is needed after the training: records and model need not wait in memory for the seal."""
        return replace(self, x=self.x[:0], y=self.y[:0], model=b"", carried=None)


@dataclass(frozen=True, slots=True)
class SealedJob:
    """A training's two blobs, sealed and kept, and the leaves that its set names."""

    entries: tuple[SetEntry, ...]
    update: Sealed
    set: Sealed


@dataclass(frozen=True, slots=True)
class Contribution:
    """One member's blobs of a round and all that a verdict on them needs."""

    case: Case
    notice: CommitNotice
    arithmetic: Arithmetic
    history: History


@dataclass(frozen=True, slots=True)
class Mixture:
    """What a round's new model is made of: (commit, n_k) of each included member, in order; the parent's root."""

    round_id: Digest
    arithmetic: Arithmetic
    included: tuple[tuple[CommitNotice, int], ...]
    parent: Digest


@dataclass(slots=True)
class _Sum:
    """The updates found valid so far, added up, and whose they are: update root -> n_k."""

    total: Total
    parts: dict[Digest, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Use:
    """The consents that our latest training or commit of a round uses, and how many of them we reported withdrawn."""

    consents: frozenset[Digest]
    reported: int = 0


@dataclass(slots=True)
class Participant:
    """State of one node, in memory; everything that must survive is in `store`, `vault` and the chain.

    `me` is the member index, or None at an auditor, which holds seat `seat`. `seed_of` is the beacon's seed of a branch
    at a height, `unlearner_of` the unlearning method of a round; only a simulation that repeats an erasure's branch
    gives others than the history's. `first` are the keys the home was made with, `later` those it made since, whether
    the registry has them or not.
    """

    me: int | None
    seat: int | None
    first: KeyRing
    domains: Domains
    store: Store
    vault: Vault | None
    history: History = field(default_factory=History)
    rounds: Known[Round] = field(default_factory=Known)
    studies: dict[Digest, Arithmetic] = field(default_factory=dict)
    seed_of: Callable[[Branch, int], Digest] = lambda branch, height: branch.seed
    unlearner_of: Callable[[History, RoundHistory], Unlearner | None] = method_of
    later: tuple[KeyRing, ...] = ()
    _use: dict[Digest, _Use] = field(default_factory=dict)
    _ended: set[Digest] = field(default_factory=set)  # our consents that were ended here, mined or not
    _refused: set[tuple[Digest, str]] = field(default_factory=set)  # what the log says of the gate since we started
    _heard: int = 0  # withdrawals of the chain that were looked at
    _made: dict[Digest, frozenset[Digest]] = field(default_factory=dict)  # round -> models made for it, while it runs
    _replayed: tuple[Position | None, dict[Digest, Digest]] = (None, {})  # as of then: model of a replay -> its erasure
    _sums: dict[Digest, _Sum] = field(default_factory=dict)  # by round, at most MAX_SUMS; of the thread of long work

    def __post_init__(self) -> None:
        self._read_ended()

    # ----------------------------------------------------------------------------------------------------------------
    # Keys

    @property
    def rings(self) -> tuple[KeyRing, ...]:
        """All keys of this home, the first ones first."""
        return (self.first, *self.later)

    @property
    def ring(self) -> KeyRing:
        """The keys that the registry has for us."""
        return current_ring(self.rings, self.history.registry.keys_of(self.me))

    def ledger_key(self, statement: Statement) -> LedgerKey:
        """The key with which this statement counts: a round or an erasure keeps the keys it was opened with."""
        opened_at: int | None = None
        match statement:
            case Commit() | Abstain() | Have() | Vote():
                one = self.history.rounds.get(statement.round_id)
                opened_at = None if one is None else one.opened.opened_at
            case Plan() | Purged() | Verdict():
                erasure = self.history.erasures.get(statement.batch)
                opened_at = None if erasure is None else erasure.opened.opened_at
        if opened_at is not None and self.me is not None and self.later:
            wanted = self.history.registry.ledgers_of_round(self.me, opened_at, None)
            for ring in self.rings:
                if ring.ledger.address in wanted:
                    return ring.ledger
        return self.ring.ledger

    def sign(self, statement: Statement) -> bytes:
        """Our signature, with the key with which it counts."""
        return sign(statement, self.domains.of(statement), self.ledger_key(statement))

    def audit_open(self, study: Digest, seat: int) -> bool:
        """Whether the chain says that this hospital opened the study to the auditor in this seat."""
        return (self.me, seat, study) in self.history.registry.openings

    def audit_ordered(self, study: Digest, seat: int) -> bool:
        """Whether somebody here ordered that opening; the chain may not have it yet."""
        return self.store.meta(f"audit opened {study.hex()} {seat}") is not None

    def order_audit(self, study: Digest, seat: int, now: int, role: str) -> None:
        """Note that `role` opened the study to the auditor's seat, in the log first; said again, nothing changes."""
        if self.audit_ordered(study, seat):
            return
        with self.store.transaction():
            self.store.log(float(now), "audit_opened", {"study": study.hex(), "seat": seat, "role": role})
            self.store.set_meta(f"audit opened {study.hex()} {seat}", str(now))

    def _read_ended(self) -> None:
        if self.vault is not None:
            self._ended = {one.consent_id for one in self.vault.holdings() if one.mark}

    def reapply(self, outlive: Callable[[Digest, Digest], None]) -> int:
        """Do again what the chain says was withdrawn and erased: the vault may be a restored one. How many changed."""
        count = 0 if self.vault is None else self.vault.reapply(self.history, outlive)
        self.store.set_meta("reapplied", str(count))
        self._read_ended()
        return count

    def read_anew(self, history: History) -> None:
        """Go on from another reading of the chain: machines and studies follow from it, what we did stays."""
        self.history = history
        self._heard, self._replayed = 0, (None, {})
        self.rounds.clear()
        self.studies.clear()
        for use in self._use.values():
            use.reported = 0  # the new machines have heard of nothing yet

    # ----------------------------------------------------------------------------------------------------------------
    # Studies

    def study(self, study: Digest) -> Arithmetic:
        """The study's spec and arithmetic; `NotFound` while its spec is not here."""
        if study not in self.studies:
            spec = parse_canonical(self.store.get(self.history.studies[study].created.terms.spec_hash))
            self.studies[study] = Arithmetic(spec)
            initial = self.studies[study].initial()
            if model_root(initial) == self.history.studies[study].created.terms.initial_model:
                self.store.put("model", initial)
        return self.studies[study]

    # ----------------------------------------------------------------------------------------------------------------
    # Machines

    def machine(self, one: RoundHistory) -> tuple[Round, tuple[Event, ...]]:
        """A machine for this round and what to restore it from: the chain's records and our own store."""
        opened = one.opened
        consent_acc, membership_acc = self.history.snapshot(one)
        terms = self.history.studies[opened.study].created.terms
        me = None if self.stands_outside(opened) else self.me
        machine = Round(opened, terms, me, consent_acc=consent_acc, membership_acc=membership_acc)
        self.rounds[opened.round_id] = machine
        events: list[Event] = [Observed(logged) for logged in one.logged[1:]]
        for notice in self.store.notices(opened.round_id):
            events += self._restored(notice)
        for study_notice in self.store.notices(opened.study, "CloseNotice"):
            if isinstance(study_notice, CloseNotice) and (study_notice.branch, study_notice.height) == (
                opened.branch,
                opened.height,
            ):
                events.append(self._own_or_received(study_notice, SignedClose(study_notice)))
        if self.store.meta(f"revealed {opened.round_id.hex()}") is not None:
            events.append(Revealed())
        return machine, tuple(events)

    def _own_or_received(self, notice: CloseNotice | AbstainNotice | HaveNotice | VoteNotice, own: Event) -> Event:
        return own if notice.member == self.me else Received(notice)

    def _restored(self, notice: Notice) -> list[Event]:
        match notice:
            case CommitNotice():
                events: list[Event] = []
                if notice.member == self.me:
                    if self.holds(notice):
                        events.append(Trained(notice, 0))
                        self._remember_use(notice)
                    else:
                        events.append(Received(notice))
                else:
                    events.append(Received(notice))
                if self.holds(notice):
                    events.append(Held(notice.member))
                return events
            case AbstainNotice():
                return [self._own_or_received(notice, SignedAbstain(notice))]
            case HaveNotice():
                return [self._own_or_received(notice, SignedHave(notice))]
            case VoteNotice():
                return [self._own_or_received(notice, SignedVote(notice))]
            case _:
                return []

    def _remember_use(self, notice: CommitNotice) -> None:
        plain = self.open_set(notice)
        self._use[notice.round_id] = _Use(frozenset(entry.consent_id for entry in plain.entries))

    # ----------------------------------------------------------------------------------------------------------------
    # Consent in flight

    def withdrawn(self, consent_id: Digest) -> bool:
        """Whether this consent is known as withdrawn, on chain or only here."""
        return consent_id in self.history.withdrawals or consent_id in self._ended

    def end_consent(self, consent_id: Digest, at: int, mark: str = "withdrawn", reason: str = "") -> bool:
        """Stop the use of one of our consents at once, mined or not; whether it is ours and this was news."""
        if self.vault is None or not self.vault.note_withdrawal(consent_id, at=at, mark=mark, reason=reason):
            return False
        self._ended.add(consent_id)
        self.store.log(float(at), "consent_withdrawn", {"subject": consent_id.hex()})
        return True

    def hear_withdrawals(self) -> None:
        """End those of our consents that the chain says were withdrawn, by a card at another member for instance."""
        if self.vault is None:
            return
        for consent_id, (record, _) in islice(self.history.withdrawals.items(), self._heard, None):
            if self.vault.mark_of(consent_id) == "":
                self.end_consent(consent_id, record.at)
        self._heard = len(self.history.withdrawals)

    def _note_refusal(self, opened: RoundOpened, consent_id: Digest, fault: str) -> None:
        """Keep in the log that the gate left a consent out: once a reason, not once a round."""
        if (consent_id, fault) not in self._refused:
            self._refused.add((consent_id, fault))
            body = {"subject": consent_id.hex(), "study": opened.study.hex(), "why": fault}
            self.store.log(float(opened.opened_at), "consent_refused", body)

    def new_withdrawals(self, round_id: Digest) -> WithdrawalKnown | None:
        """What to tell the round's machine about withdrawals since the last call."""
        use = self._use.get(round_id)
        if use is None:
            return None
        hits = sum(self.withdrawn(consent) for consent in use.consents)
        fresh = hits - use.reported
        use.reported = hits
        return WithdrawalKnown(fresh) if fresh > 0 else None

    # ----------------------------------------------------------------------------------------------------------------
    # Training and the commit

    def prepare(self, round_id: Digest, generation: int) -> TrainingJob | None:
        """Select records whose consents pass the gate now; None when they are fewer than the study's minimum.

        Raises:
            NotFound: the parent model is not here yet, or what a replay replaces is here still.
        """
        if self.vault is None or self.me is None:
            raise LocalError("this node has no data to train on")
        one = self.history.rounds[round_id]
        opened = one.opened
        batch = self.replay_of(round_id)
        if batch is not None and not self.has_purged(batch, self.me):
            raise NotFound("what this replay replaces is not purged here yet")  # and what is kept of it, not yet kept
        arithmetic = self.study(opened.study)
        terms = self.history.studies[opened.study].created.terms
        deadline = last_deadline(terms, opened.opened_at)
        leaves = []
        for leaf in self.vault.leaves(opened.study):
            if leaf.role == ROLE_TRAIN:
                fault = usable(leaf, self.history, one, deadline)
                if fault is None:
                    leaves.append(leaf)
                else:
                    self._note_refusal(opened, leaf.consent_id, fault)
        policy = arithmetic.study.sections["policy"]
        if policy["sets_ahead"]:
            leaves = self._as_announced(one, leaves)
        leaves.sort(key=lambda leaf: leaf.leaf_key)
        if len(leaves) < policy["min_consents"]:
            return None
        cap = policy["max_records_per_consent"]
        rows = np.array(sorted(row for leaf in leaves for row in leaf.used_rows(cap)), dtype=np.int64)
        x, y = self.vault.rows((int(row) for row in rows), ROLE_TRAIN)
        self._use[round_id] = _Use(frozenset(leaf.consent_id for leaf in leaves))
        return TrainingJob(
            round_id,
            generation,
            arithmetic,
            tuple(leaves),
            rows,
            x,
            y,
            self.model(opened.parent_model),
            self.beacon(one, self.me),
            self.me,
            self.unlearner_of(self.history, one),
            lengths.kept(self.store, self.history, one),
            shards.kept(self.store, self.history, one, arithmetic, self.me),
        )

    def replay_of(self, round_id: Digest) -> Digest | None:
        """The erasure whose line a round is on; None: it is on a study's first one."""
        opened = self.history.rounds[round_id].opened
        batch = self.history.studies[opened.study].branches[opened.branch].batch
        return batch if batch in self.history.erasures else None

    def has_purged(self, batch: Digest, member: int) -> bool:
        """Whether a member has said that it holds nothing more that a model of the replay could be compared with.

        On the chain, where it says it of everything, or to us.
        """
        if member in self.history.erasures[batch].purges:
            return True
        return any(getattr(one, "member", None) == member for one in self.store.notices(batch, "PurgeNotice"))

    def may_have(self, member: int, model: Digest) -> bool:
        """Whether a model may come to a member: one made in a replay, agreed or not yet, only after its word."""
        if self._replayed[0] != self.history.last:
            made = {
                one.final.result.model_root: branch.batch
                for study in self.history.studies.values()
                for branch in study.branches.values()
                if branch.batch in self.history.erasures
                for one in map(self.history.rounds.__getitem__, branch.rounds.values())
                if one.final is not None and one.made_model
            }
            self._replayed = self.history.last, made
        batch = self._replayed[1].get(model)
        if batch is None:
            batch = next((self.replay_of(one) for one, made in list(self._made.items()) if model in made), None)
        return batch is None or self.has_purged(batch, member)

    def _as_announced(self, one: RoundHistory, leaves: list[Leaf]) -> list[Leaf]:
        """Of these leaves what our commit of the round before announced; all where there was none."""
        before = self.history.round_before(one)
        kept = self.store.meta(f"announced {one.opened.study.hex()}")
        if before is None or kept is None:
            return leaves
        announced = json.loads(kept)
        if announced["round"] != before.opened.round_id.hex():
            return leaves
        counts = {leaf: announced["leaves"].get(_tag(before.opened.round_id, leaf), 0) for leaf in leaves}
        return [replace(leaf, rows=leaf.rows[:count]) for leaf, count in counts.items() if count]

    def _announce(self, one: RoundHistory) -> tuple[Digest, str]:
        """What we would train on in the round after this one, if nobody withdraws: its root, and what to keep of it.

        The leaves are kept under hashes that say nothing once their keys are destroyed.
        """
        assert self.vault is not None
        opened = one.opened
        cap = self.study(opened.study).study["policy", "max_records_per_consent"]
        deadline = last_deadline(self.history.studies[opened.study].created.terms, opened.opened_at)
        leaves = [
            leaf
            for leaf in self.vault.leaves(opened.study)
            if leaf.role == ROLE_TRAIN and usable_next(leaf, self.history, one, deadline)
        ]
        entries = sorted((leaf.entry(cap) for leaf in leaves), key=lambda entry: entry.leaf_key)
        counts = {_tag(opened.round_id, leaf): len(leaf.used_rows(cap)) for leaf in leaves}
        kept = json.dumps({"round": opened.round_id.hex(), "leaves": counts})
        return (dataset_root(entries) if entries else ZERO), kept

    def beacon(self, one: RoundHistory, member: int) -> bytes:
        """The 32 bytes from which a member's batch order of a round follows."""
        branch = self.history.studies[one.opened.study].branches[one.opened.branch]
        seed = self.seed_of(branch, one.opened.height)
        return beacon_of(self.history, self.study(one.opened.study), one, seed, member, self.store.get)

    def stands_outside(self, opened: RoundOpened) -> bool:
        """Whether we are a member that is not on the roster of this round: one that came later, or is revoked."""
        return self.me is not None and not opened.roster >> self.me & 1

    def kept_commit(self, round_id: Digest) -> CommitNotice | None:
        """Our commit of a round if one is stored with all that it opens; there is never a second one."""
        notice = self.store.own_notice(round_id, "CommitNotice")
        if not isinstance(notice, CommitNotice) or not self.holds(notice):
            return None
        self._remember_use(notice)
        return notice

    def seal(self, job: TrainingJob, trained: LocalTraining) -> SealedJob:
        """Seal the update and its set and keep both ciphertexts. Long work: touches nothing but the store."""
        cap = job.arithmetic.study["policy", "max_records_per_consent"]
        entries = tuple(leaf.entry(cap) for leaf in job.leaves)
        metrics = rfc8785.dumps({} if trained.loss is None else {"loss": round(trained.loss, 6)})
        update = UpdatePlain(
            job.round_id,
            job.member,
            trained.records,
            trained.profile,
            Digest(os.urandom(32)),
            metrics,
            trained.values,
        )
        plain_set = SetPlain(job.round_id, job.member, Digest(os.urandom(32)), entries)
        sealed_update = seal(encode_update(update), job.round_id, job.member, BlobKind.UPDATE)
        sealed_set = seal(encode_set(plain_set), job.round_id, job.member, BlobKind.SET)
        for sealed in (sealed_update, sealed_set):
            self.store.put("cipher", sealed.ciphertext, sealed.commit.cipher_root)
        return SealedJob(entries, sealed_update, sealed_set)

    def discard(self, sealed: SealedJob) -> None:
        """Remove blobs that will not be committed; nobody else has them or their keys."""
        for one in (sealed.update, sealed.set):
            self.store.remove(one.commit.cipher_root)

    def commit(self, job: TrainingJob, sealed: SealedJob) -> CommitNotice:
        """Sign the commit to sealed blobs that are kept, store it with their keys; the stored notice.

        A retrained commit replaces one that was stored but not yet believed by anyone only through the machine: the
        store keeps the first commit of a round for ever, so a second generation must find no first one.
        """
        update, set_ = sealed.update, sealed.set
        root = update_root(job.round_id, job.member, update.commit.hash, set_.commit.hash)
        following, announced = ZERO, None
        if job.arithmetic.study["policy", "sets_ahead"]:
            following, announced = self._announce(self.history.rounds[job.round_id])
        notice = CommitNotice(
            job.round_id, job.member, root, dataset_root(sealed.entries), following, update.commit, set_.commit, b""
        )
        with self.store.transaction():  # the keys and the statement that commits to them, or neither
            self.store.put_key(job.round_id, job.member, BlobKind.UPDATE, update.key)
            self.store.put_key(job.round_id, job.member, BlobKind.SET, set_.key)
            kept = self._say(notice, commit_of(notice))
            if announced is not None and kept.next_dataset_root == following:
                self.store.set_meta(f"announced {self.history.rounds[job.round_id].opened.study.hex()}", announced)
            return kept

    # ----------------------------------------------------------------------------------------------------------------
    # Blobs

    def holds(self, notice: CommitNotice) -> bool:
        """Whether both blobs and both keys of this commit are here."""
        return all(
            self.store.has(blob.cipher_root) and self.store.key(notice.round_id, notice.member, kind) is not None
            for blob, kind in ((notice.update, BlobKind.UPDATE), (notice.set, BlobKind.SET))
        )

    def model(self, root: Digest) -> bytes:
        """A model as it was agreed. One that this disk has altered would part us from everybody: it makes room.

        Raises:
            NotFound: it is not here, or not any more; others have it.
        """
        data = self.store.get(root)
        if model_root(data) != root:
            log.warning("the disk altered a model, which is removed and fetched again", model=root.hex()[:12])
            self.store.remove(root)
            raise NotFound(f"model {root.hex()} was altered in this home: removed, to be fetched again")
        return data

    def _open(self, notice: CommitNotice, kind: BlobKind) -> bytes:
        key = self.store.key(notice.round_id, notice.member, kind)
        if key is None:
            raise NotFound(f"no content key for round {notice.round_id.hex()}, member {notice.member}")
        blob = notice.update if kind is BlobKind.UPDATE else notice.set
        data = self.store.get(blob.cipher_root)
        try:
            return open_blob(data, key, blob, notice.round_id, notice.member, kind)
        except (RootMismatch, KeyMismatch) as error:  # both were checked when they came: the fault is this disk's
            raise LocalFault(f"blob {blob.cipher_root.hex()} or its key was altered in this home: {error}") from error

    def open_set(self, notice: CommitNotice) -> SetPlain:
        """The plaintext set behind a commit that is held here."""
        return decode_set(self._open(notice, BlobKind.SET))

    def judge(self, round_id: Digest, member: int) -> Judged:
        """The verdict on a member's blobs, at once."""
        return self.verdict(self.contribution(round_id, member))

    def contribution(self, round_id: Digest, member: int) -> Contribution:
        """A member's blobs of a sealed round and what they are judged by."""
        one, machine = self.history.rounds[round_id], self.rounds[round_id]
        notice, seal_ = machine.facts.opens(member), machine.seal()
        if notice is None or seal_ is None:
            raise LocalError(f"member {member} of round {round_id.hex()} cannot be judged before the seal")
        opened = one.opened
        arithmetic = self.study(opened.study)
        policy = arithmetic.study.sections["policy"]
        case = Case(
            round_id,
            member,
            opened.study,
            one.commits[member].dataset_root,
            arithmetic.size,
            arithmetic.grid.limit,
            policy["min_consents"],
            policy["max_records_per_consent"],
            one.position,
            seal_,
            original_opening(self.history, opened),
        )

        return Contribution(case, notice, arithmetic, self.history)

    def verdict(self, one: Contribution) -> Judged:
        """The verdict: a pure function of plaintexts and chain, the same at every node. What is valid is added up.

        Long work: reads the store, and of the history only what was there when the contribution was sealed.
        """
        notice, arithmetic = one.notice, one.arithmetic
        checked: list[bytes] = []

        def plain(kind: BlobKind) -> bytes | None:
            try:
                return self._open(notice, kind)
            except CryptoError:
                return None

        def check_values(values: bytes, count: int, bound: int) -> Code | None:
            checked.append(values)
            return None if arithmetic.in_range(values) else Code.RANGE

        verdict = judge(one.case, plain(BlobKind.UPDATE), plain(BlobKind.SET), one.history, check_values)
        if verdict.code is Code.VALID:
            self._add(notice, arithmetic, checked[0], verdict.records)
        return Judged(notice.member, int(verdict.code), verdict.records)

    def _add(self, notice: CommitNotice, arithmetic: Arithmetic, values: bytes, records: int) -> None:
        running = self._sums.get(notice.round_id)
        if running is None:
            while len(self._sums) >= MAX_SUMS:
                del self._sums[next(iter(self._sums))]
            running = self._sums[notice.round_id] = _Sum(Total(arithmetic))
        if notice.update_root not in running.parts:
            try:
                running.total.add(notice.member, values, records)
            except EngineError:  # more records than the sum holds: `new_model` meets it again and says so
                del self._sums[notice.round_id]
            else:
                running.parts[notice.update_root] = records

    # ----------------------------------------------------------------------------------------------------------------
    # The result

    def aggregate(self, round_id: Digest, members: int) -> Aggregated:
        """The result of a set whose members are all judged, at once; stores the new model.

        Raises:
            NotFound: the parent model is not here.
        """
        mixture = self.mixture(round_id, members)
        return self.result(round_id, members, None if mixture is None else self.new_model(mixture))

    def mixture(self, round_id: Digest, members: int) -> Mixture | None:
        """What the new model of a judged set is made of; None where too few are included for one."""
        opened, facts = self.history.rounds[round_id].opened, self.rounds[round_id].facts
        included = []
        for m in members_of(members):
            code, records = facts.verdicts[m]
            if code == Code.VALID:
                notice = facts.opens(m)
                assert notice is not None
                included.append((notice, records))
        if len(included) < facts.least:
            return None
        return Mixture(round_id, self.study(opened.study), tuple(included), opened.parent_model)

    def new_model(self, mixture: Mixture) -> Digest:
        """The root of the new model, which is kept. Long work: touches nothing but the store and the running sum.

        Raises:
            NotFound: the parent model is not here.
        """
        parent = self.model(mixture.parent)
        running = self._sums.pop(mixture.round_id, None)
        if running is not None and running.parts == {n.update_root: records for n, records in mixture.included}:
            model = running.total.model(parent)
        else:  # judged before a restart, or another set than all that were judged: opened once more, one at a time
            del running
            model = mixture.arithmetic.next_model(
                parent, ((n.member, self._values(n, mixture.arithmetic), records) for n, records in mixture.included)
            )
        root = model_root(model)
        # Before it is kept, so that nobody takes it for a stray one.
        self._made[mixture.round_id] = self._made.get(mixture.round_id, frozenset()) | {root}
        return self.store.put("model", model, root)

    def unsettled_models(self) -> set[Digest]:
        """Models of rounds that are not over: what we made for them, and what somebody voted for."""
        running = {round_id for round_id, one in self.history.rounds.items() if not one.over}
        made = dict(self._made)  # it is added to in the thread of long work
        for round_id in made.keys() - running:
            del self._made[round_id]
        votes = (notice for round_id in running for notice in self.store.notices(round_id, "VoteNotice"))
        voted = {notice.result.model_root for notice in votes if isinstance(notice, VoteNotice)}
        return voted.union(*(models for round_id, models in made.items() if round_id in running))

    def result(self, round_id: Digest, members: int, model: Digest | None) -> Aggregated:
        """The result of a judged set with this new model; None: the parent's stays."""
        one, facts = self.history.rounds[round_id], self.rounds[round_id].facts
        codes = sum(facts.verdicts[m][0] << 4 * m for m in members_of(members))
        bitmap = sum(1 << m for m in members_of(members) if facts.verdicts[m][0] == Code.VALID)
        outcome, root = (2, one.opened.parent_model) if model is None else (1, model)
        return Aggregated(
            members,
            Result(
                outcome,
                bitmap,
                codes,
                root,
                trust_bytes(self.history, one, bitmap, members & ~bitmap),
                self.history.commit_root(one),
                self.history.consent_acc_at(*self.history.seal(one)),
            ),
        )

    def _values(self, notice: CommitNotice, arithmetic: Arithmetic) -> bytes:
        return decode_update(self._open(notice, BlobKind.UPDATE), arithmetic.size).values

    # ----------------------------------------------------------------------------------------------------------------
    # Statements

    def sign_abstain(self, round_id: Digest) -> SignedAbstain:
        """Our abstention; the reason stays at home."""
        return SignedAbstain(self.say(AbstainNotice(round_id, self._member, b"")))

    def sign_have(self, round_id: Digest, order: SignHave) -> SignedHave:
        """Our have of an attempt."""
        return SignedHave(self.say(HaveNotice(round_id, self._member, order.attempt, order.bitmap, b"")))

    def sign_vote(self, round_id: Digest, order: SignVote) -> SignedVote:
        """Our vote of an attempt, with a witness that we hold the model it names."""
        model = self.store.get(order.result.model_root)
        witness = sha256(b"koinon/witness/1" + round_id + self._member.to_bytes(2, "big") + model)
        notice = VoteNotice(round_id, self._member, order.attempt, order.set, order.result, witness, b"")
        return SignedVote(self.say(notice))

    def sign_close(self, round_id: Digest) -> SignedClose:
        """Our word that a final result is final."""
        final = self.history.rounds[round_id].final
        if final is None or final.result_hash != hash_of_result(final.result):
            raise LocalError(f"round {round_id.hex()} has no final result to close")
        notice = CloseNotice(final.study, final.branch, final.height, final.result_hash, self._member, b"")
        return SignedClose(self.say(notice))

    @property
    def _member(self) -> int:
        if self.me is None:
            raise LocalError("an auditor signs nothing in a round")
        return self.me

    def say(self, notice: N) -> N:
        """Sign a notice and keep it; what comes back is what was kept first under its key."""
        statement = statement_of(notice)
        assert statement is not None
        return self._say(notice, statement)

    def _say(self, notice: N, statement: Statement) -> N:
        """Sign and store; what comes back is what was stored first under this notice's key."""
        signed = replace(notice, signature=self.sign(statement))
        kept = self.store.remember(signed, own=True)
        assert isinstance(kept, type(notice))
        return kept


def _tag(round_id: Digest, leaf: Leaf) -> str:
    return sha256(b"koinon/announced/1" + round_id + leaf.leaf_key).hex()


def beacon_of(
    history: History,
    arithmetic: Arithmetic,
    one: RoundHistory,
    seed: Digest,
    member: int,
    content: Callable[[Digest], bytes],
) -> bytes:
    """The 32 bytes from which a member's batch order of a round follows; `seed` is its branch's.

    A shard's is of its own network alone: what it learns depends on no other shard, not even by the order of batches.
    So `content` is asked for the round's parent model there, and for nothing elsewhere.
    """
    opened = one.opened
    first, start = history.studies[opened.study].created.terms.initial_model, opened.parent_model
    if arithmetic.shards.count > 1:
        first = arithmetic.first_network
        start = model_root(arithmetic.network_of(content(opened.parent_model), member))
    return arithmetic.study.beacon(first, seed, opened.height, start)


def trust_bytes(history: History, one: RoundHistory, included: int, refused: int) -> bytes:
    """Trust after a round as a result carries it: two bytes big-endian of permille for every index of the roster."""
    opened = one.opened
    width = opened.roster.bit_length()
    state = history.trust(opened.study, opened.branch, width)
    scores = beta.scores(beta.apply(state, included, refused))
    return b"".join(score.to_bytes(2, "big") for score in scores)
