"""Every final round of a home, executed again: opened, judged, added, compared with what the members voted for.

What may live here: one pass over the rounds in the chain's order that answers four checks, and the rule of what must be
here to execute a round. What this file does not know: signatures and the chain's own rules, which were checked before.

Judging and adding are the nodes' own code (`validity`, `training`). One member's plaintexts and one model are in memory
at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

from crypto.blobs import SetPlain, UpdatePlain, decode_set, decode_update
from crypto.commitments import update_root
from crypto.digest import Digest
from crypto.errors import BadSeal, CryptoError, EncodingError, KeyMismatch
from crypto.sealing import BlobCommit, BlobKind, open_blob
from fl_engine.errors import EngineError
from node.audit.checks import Audit, Check, RoundsOutcome, commit_notices, votes_for
from node.audit.home import Fault, NotChecked
from node.audit.records import (
    decided_set,
    round_name,
)
from node.consent import original_opening
from node.erasure import doomed_rounds
from node.history import History, RoundHistory
from node.membership import members_of
from node.messages import (
    RETENTION,
    CommitNotice,
    VoteNotice,
)
from node.records import RoundFinal
from node.round import MODEL, Seal
from node.training import Arithmetic, model_root
from node.validity import Case, Code, code_of, judge

REEXECUTED = ("validity", "consent", "aggregation", "models")
"""Names of the checks that one pass over the rounds answers."""


def reexecution(name: str) -> Check:
    """The check that reports what executing the rounds again found under this name."""

    def reported(audit: Audit) -> str | None:
        if audit.rounds is None:
            audit.rounds = RoundsOutcome()
            _Rounds(audit, audit.rounds).run()
        if name in audit.rounds.faults:
            raise audit.rounds.faults[name]
        reasons = audit.rounds.reasons.get(name, [])
        if not reasons:
            return None
        return reasons[0] if len(reasons) == 1 else f"{reasons[0]}; and {len(reasons) - 1} more"

    return reported


class _Absent(Exception):
    """Something that executing a round needs is not here and need not be. `sealed`: it is here, but does not open."""

    def __init__(self, why: str, *, sealed: bool = False) -> None:
        self.why, self.sealed = why, sealed
        super().__init__(why)


class _Rounds:
    """The pass: every final round of every branch in the chain's order, with the model it started from."""

    def __init__(self, audit: Audit, outcome: RoundsOutcome) -> None:
        self._audit = audit
        self._outcome = outcome
        self._model: tuple[Digest, bytes] | None = None  # newest model, as computed here
        self._covered = covered_by_purge(audit.history)

    def run(self) -> None:
        """Execute all final rounds; a fault ends its round, and the next one goes on."""
        audit = self._audit
        covered = self._covered
        for one in audit.rounds_covered():
            if one.final is None:
                continue
            before = set(self._outcome.faults)
            partial: list[str] = []
            try:
                self._execute(one, one.final, partial)
            except _Absent as absent:
                if one.opened.round_id in covered and not absent.sealed:
                    audit.purged.add(one.opened.round_id)
                    self._remaining_sets(one, one.final)
                else:
                    for name in ("validity", "consent", "aggregation"):
                        self._outcome.skip(name, f"{round_name(one)}: {absent.why}")
            except _Of as fault:
                self._outcome.faults.setdefault(fault.check, fault.fault)
            except NotChecked as reason:
                for name in ("validity", "consent", "aggregation"):
                    self._outcome.skip(name, str(reason))
            except Fault as fault:
                self._outcome.faults.setdefault("aggregation", fault)
            else:
                if not partial and set(self._outcome.faults) == before:
                    audit.verified.add(one.opened.round_id)
            self._check_model(one, one.final, one.opened.round_id in covered)

    # --- one round

    def _execute(self, one: RoundHistory, final: RoundFinal, partial: list[str]) -> None:
        audit, found = self._audit, final.result
        arithmetic = audit.arithmetic(one.opened.study)
        members = decided_set(audit.history, one, final.attempt)
        notices = commit_notices(audit, one)
        for member in members_of(members):  # all or nothing, before anything is opened
            self._presence(one, final, member, notices.get(member))
        if not audit.store.opens_keys:
            raise _Absent(f"content keys are sealed: {audit.no_ring}", sealed=True)

        def updates() -> Iterator[tuple[int, bytes, int]]:
            for member in members_of(members):
                pair = self._member(one, final, member, notices[member], arithmetic, partial)
                if pair is not None:
                    yield member, *pair

        if found.outcome != MODEL:
            for _ in updates():
                pass
            return
        parent = self._parent(one, arithmetic)
        try:
            made = arithmetic.next_model(parent, updates())
        except EngineError as error:
            raise _Of("aggregation", Fault("aggregation", round_name(one), found.model_root, error)) from None
        root = model_root(made)
        if root != found.model_root:
            raise _Of("aggregation", Fault("model root", round_name(one), found.model_root, root))
        self._model = (root, made)

    def _parent(self, one: RoundHistory, arithmetic: Arithmetic) -> bytes:
        root = one.opened.parent_model
        if self._model is not None and self._model[0] == root:
            return self._model[1]
        data = self._audit.store.content(root, "model")
        if data is None and model_root(arithmetic.initial()) == root:
            data = arithmetic.initial()
        if data is None:
            raise _Absent("its parent model is not in this home")
        return data

    def _presence(self, one: RoundHistory, final: RoundFinal, member: int, notice: CommitNotice | None) -> None:
        """Raise unless everything of this member is here that is not excused.

        Raises:
            _Absent: never here, or purged.
            _Of: here once, and gone without a tombstone.
        """
        audit = self._audit
        where = f"{round_name(one)}, member {member}"
        had = self._must_have(one, final, member)
        if notice is None:
            if had is not None:
                raise _Of(
                    "validity", Fault("openings of a commitment", where, one.commits[member].update_root, "missing")
                )
            raise _Absent(f"the openings of member {member}'s commitment never came")
        opens = update_root(notice.round_id, member, notice.update.hash, notice.set.hash)
        if opens != notice.update_root:
            raise _Of("validity", Fault("update root", where, notice.update_root, opens))
        for kind, blob in ((BlobKind.UPDATE, notice.update), (BlobKind.SET, notice.set)):
            what = kind.name.lower()
            has_key = audit.store.has_key(one.opened.round_id, member, kind)
            if audit.store.has(blob.cipher_root) and has_key:
                continue
            left = audit.left_out(one, member, kind)
            if left is not None and kind is BlobKind.SET:
                continue
            if not has_key and one.opened.round_id in self._covered:
                raise _Absent(f"the content key of member {member}'s {what} was purged")
            tombstone = audit.tombstones.get(blob.cipher_root)
            if tombstone is not None and tombstone.reason == RETENTION:
                if kind is BlobKind.SET:
                    continue
                raise _Absent(f"the {what} of member {member} went when this home's history was over its budget")
            if tombstone is not None:
                raise _Absent(f"the {what} of member {member} was purged")
            if left is not None:
                raise _Absent(left)
            reason = had or ("its content key is here" if has_key else None)
            if not audit.store.has(blob.cipher_root) and reason is not None:
                missing = f"missing without a tombstone ({reason})"
                raise _Of("validity", Fault(f"{what} blob", where, blob.cipher_root, missing))
            if not has_key and had is not None:
                missing = f"missing without a tombstone ({had})"
                raise _Of("validity", Fault(f"content key of the {what}", where, blob.key_commit, missing))
            raise _Absent(f"the {what} of member {member} never came")

    def _remaining_sets(self, one: RoundHistory, final: RoundFinal) -> None:
        """Of a purged round the sets stay, but for those of the hospitals that erased: which of these, few know."""
        audit, study = self._audit, one.opened.study
        erasing = {
            erasure.opened.controller
            for erasure in audit.history.erasures.values()
            if erasure.plan is not None and erasure.opened.study == study
        }
        decided = decided_set(audit.history, one, final.attempt)
        for member, notice in commit_notices(audit, one).items():
            root = notice.set.cipher_root
            here = audit.store.has(root) and audit.store.has_key(one.opened.round_id, member, BlobKind.SET)
            if here or root in audit.tombstones or not decided >> member & 1:
                continue
            if member in erasing and self._must_have(one, final, member) is None:
                continue
            why = audit.left_out(one, member, BlobKind.SET) or "it is not here, and no tombstone says why"
            self._outcome.skip("consent", f"{round_name(one)}, set of member {member}: {why}")

    def _must_have(self, one: RoundHistory, final: RoundFinal, member: int) -> str | None:
        """How we know that this node held a member's blobs and keys; None if we do not."""
        audit = self._audit
        if audit.me is None:
            return None
        if member == audit.me:
            return "it is our own"
        for notice in audit.store.notices(one.opened.round_id, "VoteNotice"):
            if isinstance(notice, VoteNotice) and notice.member == audit.me and notice.set >> member & 1:
                return "we voted on it"
        return None

    # --- one member

    def _member(
        self,
        one: RoundHistory,
        final: RoundFinal,
        member: int,
        notice: CommitNotice,
        arithmetic: Arithmetic,
        partial: list[str],
    ) -> tuple[bytes, int] | None:
        """Judge one member's contribution; its integers and n_k if it is included."""
        audit, where = self._audit, f"{round_name(one)}, member {member}"
        said = code_of(final.result.codes, member)
        update = self._open(one, member, BlobKind.UPDATE, notice.update, where)
        if audit.store.has(notice.set.cipher_root):
            set_ = self._open(one, member, BlobKind.SET, notice.set, where)
        else:
            partial.append(where)
            left = audit.left_out(one, member, BlobKind.SET) or "its set was deleted at the end of its retention"
            why = f"{where}: {left}"
            self._outcome.skip("validity", why)
            self._outcome.skip("consent", why)
            return self._unjudged(update, said, arithmetic, where)
        opened = one.opened
        policy = arithmetic.study.sections["policy"]
        position, time = audit.history.seal(one)
        case = Case(
            opened.round_id,
            member,
            opened.study,
            one.commits[member].dataset_root,
            arithmetic.size,
            arithmetic.grid.limit,
            policy["min_consents"],
            policy["max_records_per_consent"],
            one.position,
            Seal(position, time),
            original_opening(audit.history, opened),
        )

        checked: list[bytes] = []

        def values_fit(values: bytes, count: int, bound: int) -> Code | None:
            checked.append(values)
            return None if arithmetic.in_range(values) else Code.RANGE

        found = judge(case, update, set_, audit.history, values_fit)
        if found.code != said:
            raise _Of("validity", Fault("validity code", where, said.name, found.why))
        if said is not Code.VALID:
            return None
        assert set_ is not None
        self._consents_active(one, decode_set(set_), where)
        return checked[0], found.records

    def _unjudged(
        self, update: bytes | None, said: Code, arithmetic: Arithmetic, where: str
    ) -> tuple[bytes, int] | None:
        if said is not Code.VALID:
            return None
        if update is None:
            raise _Of("validity", Fault("validity code", where, said.name, "the update does not open"))
        try:
            plain: UpdatePlain = decode_update(update, arithmetic.size)
        except EncodingError as error:
            raise _Of("validity", Fault("validity code", where, said.name, str(error))) from None
        if not arithmetic.in_range(plain.values):
            raise _Of("validity", Fault("validity code", where, said.name, "the update is out of range"))
        return plain.values, plain.records

    def _open(self, one: RoundHistory, member: int, kind: BlobKind, blob: BlobCommit, where: str) -> bytes | None:
        audit, round_id = self._audit, one.opened.round_id
        data = audit.store.content(blob.cipher_root, "cipher")
        key = audit.store.content_key(round_id, member, kind)
        what = f"{where}, {kind.name.lower()}"
        if data is None or key is None:
            raise _Absent(f"the {kind.name.lower()} of member {member} is not here")
        try:
            return open_blob(data, key, blob, round_id, member, kind)
        except KeyMismatch as error:
            raise _Of("validity", Fault("content key", what, error.expected, error.got)) from None
        except BadSeal:
            return None  # the author's fault, for everybody alike: BAD_SEAL
        except CryptoError as error:
            raise _Of("validity", Fault("ciphertext", what, blob.cipher_root, error)) from None

    def _consents_active(self, one: RoundHistory, plain: SetPlain, where: str) -> None:
        """No leaf of an included set was withdrawn before the round opened; said again without the nodes' judge."""
        for place, entry in enumerate(plain.entries):
            withdrawn = self._audit.history.withdrawal(entry.consent_id)
            if withdrawn is not None and withdrawn[1] < one.position:
                at = f"withdrawn in block {withdrawn[1].block}"
                raise _Of("consent", Fault("consent", f"{where}, leaf {place}", "active at the round's opening", at))

    # --- the model of a round

    def _check_model(self, one: RoundHistory, final: RoundFinal, covered: bool) -> None:
        """The recorded model of this height is here, or there is a reason why it is not."""
        audit, root = self._audit, final.result.model_root
        if final.result.outcome != MODEL or audit.store.has(root):
            return
        where = f"{round_name(one)}, model"
        if root in audit.tombstones:
            return
        if audit.bundle is not None and audit.bundle.holds == "headers-only":
            self._outcome.skip("models", f"{where}: the bundle was made with headers only")
            return
        why = self._held_model(one, final)
        if why is not None:
            fault = Fault("model", where, root, f"missing without a tombstone ({why})")
            self._outcome.faults.setdefault("models", fault)
        elif not covered:
            self._outcome.skip("models", f"{where} is not in this home")

    def _held_model(self, one: RoundHistory, final: RoundFinal) -> str | None:
        audit = self._audit
        if any(root == final.result.model_root for root, _, _ in audit.store.index()):
            return "it is in the index"
        if audit.me is not None and any(vote.member == audit.me for vote in votes_for(audit, one, final)):
            return "we voted on it"
        known = {m for s in audit.history.studies.values() for b in s.branches.values() for m in b.models.values()}
        for root, kind, _ in audit.store.index():
            if kind == "model" and root not in known:
                return f"instead there is a model that no record names, {root.hex()}"
        return None


class _Of(Exception):
    """A fault that belongs to the named check."""

    def __init__(self, check_name: str, fault: Fault) -> None:
        self.check, self.fault = check_name, fault
        super().__init__(str(fault))


def covered_by_purge(history: History) -> set[Digest]:
    """Rounds that the plan of an erasure condemns: their updates and models are gone or going."""
    plans = [erasure.plan for erasure in history.erasures.values() if erasure.plan is not None]
    return {one.opened.round_id for plan in plans for one in doomed_rounds(history, plan)}
