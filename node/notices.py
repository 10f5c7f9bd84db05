"""Is this notice what it claims to be? The signature rules of everything that peers hand each other.

What may live here: for each notice, the statement it carries, who must have signed it, and what in it must follow from
what else; one row each in `_RULES`. Pure. What this file does not know: what a notice leads to (`round`, `erasure`,
`app`). A notice that passes is *genuine*, not *true*: the chain's first statement counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from crypto.commitments import consent_id, request_id, result_hash, update_root
from crypto.digest import Digest, keccak256
from crypto.errors import CryptoError, SignatureMismatch
from crypto.merkle import requests_root
from crypto.statements import (
    Abstain,
    Admit,
    Close,
    Commit,
    Domains,
    EndAuditor,
    Have,
    Keys,
    Plan,
    Purged,
    Recover,
    Remove,
    RequestErasure,
    Revoke,
    Rotate,
    Seat,
    SeatAuditor,
    Statement,
    Succeed,
    Tombstone,
    Verdict,
    Vote,
    Withdraw,
    WithdrawByQuorum,
    recover_any,
    struct_hash,
    verify_any,
)
from node.errors import PeerError
from node.history import History
from node.messages import (
    AbstainNotice,
    AdmissionNotice,
    AuditorEndNotice,
    AuditorSeatNotice,
    CloseNotice,
    CommitNotice,
    ErasureNotice,
    HaveNotice,
    LeftConsentNotice,
    Notice,
    OpeningNotice,
    PlanNotice,
    PurgeNotice,
    RecoveryNotice,
    RemovalNotice,
    RevocationNotice,
    RotationNotice,
    SuccessionNotice,
    TombstoneNotice,
    VerdictNotice,
    VoteNotice,
    WithdrawalNotice,
)
from node.records import Result

__all__ = ["Ballot", "check", "commit_of", "counts", "hash_of_result", "keys_of", "speakers", "statement_of"]


class NotGenuine(PeerError):
    """A notice whose signature or inner hashes do not hold."""


def hash_of_result(result: Result) -> Digest:
    """The result hash that votes and the next round's parent name."""
    return result_hash(
        outcome=result.outcome,
        included=result.included,
        codes=result.codes,
        model_root=result.model_root,
        trust_hash=keccak256(result.trust),
        commit_root=result.commit_root,
        consent_accumulator=result.consent_acc,
    )


def commit_of(notice: CommitNotice) -> Commit:
    """The statement inside a commit notice."""
    return Commit(notice.round_id, notice.member, notice.update_root, notice.dataset_root, notice.next_dataset_root)


def statement_of(notice: Notice) -> Statement | None:
    """The signed statement a notice carries; None for an opening, which its own hashes prove."""
    match notice:
        case CommitNotice():
            return commit_of(notice)
        case AbstainNotice():
            return Abstain(notice.round_id, notice.member)
        case HaveNotice():
            return Have(notice.round_id, notice.member, notice.attempt, notice.bitmap)
        case VoteNotice():
            return Vote(notice.round_id, notice.attempt, notice.set, hash_of_result(notice.result))
        case CloseNotice():
            return Close(notice.study, notice.branch, notice.height, notice.result_hash)
        case WithdrawalNotice():
            return Withdraw(notice.consent_id)
        case ErasureNotice():
            return RequestErasure(notice.consent_id, notice.study)
        case PlanNotice():
            return Plan(
                notice.batch,
                notice.parent_branch,
                notice.base_height,
                notice.base_model,
                notice.branch_seed,
                notice.target_height,
                notice.method,
                notice.rounds,
            )
        case PurgeNotice():
            return Purged(notice.batch, notice.member, notice.stage, notice.inventory)
        case VerdictNotice():
            return Verdict(notice.batch, notice.member, notice.branch, notice.head_model, notice.confirmed)
        case AdmissionNotice():
            return Admit(notice.epoch, notice.ledger, struct_hash(_seat(notice)))
        case RemovalNotice():
            return Remove(notice.epoch, notice.target, notice.ledger)
        case RotationNotice():
            return Rotate(notice.epoch, notice.member, struct_hash(keys_of(notice, notice.member)))
        case RevocationNotice():
            return Revoke(notice.epoch, notice.target, notice.ledger)
        case RecoveryNotice():
            return Recover(notice.epoch, notice.target, struct_hash(keys_of(notice, notice.target)))
        case AuditorSeatNotice():
            seat = struct_hash(_seat(notice))
            return SeatAuditor(notice.epoch, notice.ledger, seat, notice.study, notice.term_end)
        case AuditorEndNotice():
            return EndAuditor(notice.epoch, notice.seat, notice.ledger)
        case LeftConsentNotice():
            return WithdrawByQuorum(notice.epoch, notice.hospital, notice.consent_id)
        case SuccessionNotice():
            return Succeed(notice.epoch, notice.ledger)
        case TombstoneNotice():
            return Tombstone(notice.member, notice.content, notice.reason, notice.subject)
        case OpeningNotice():
            return None


def _seat(notice: AdmissionNotice | AuditorSeatNotice) -> Seat:
    role = "member" if isinstance(notice, AdmissionNotice) else "auditor"
    return Seat(role, notice.peer_id, Digest(notice.sealing_key), notice.name)


def keys_of(notice: RotationNotice | RecoveryNotice, member: int) -> Keys:
    """The new keys' own statement inside a rotation or a vote for a recovery."""
    return Keys(member, notice.ledger, notice.peer_id, Digest(notice.sealing_key))


def _commit_opens(notice: CommitNotice, history: History, domains: Domains) -> None:
    got = update_root(notice.round_id, notice.member, notice.update.hash, notice.set.hash)
    if got != notice.update_root:
        raise NotGenuine(
            f"commit of member {notice.member}: update root {notice.update_root.hex()}, computed {got.hex()}"
        )


def _holder_opens(notice: WithdrawalNotice | ErasureNotice, history: History, domains: Domains) -> None:
    got = consent_id(notice.holder, notice.holder_salt, notice.binding)
    if got != notice.consent_id:
        raise NotGenuine(f"the holder's opening gives consent {got.hex()}, not {notice.consent_id.hex()}")


def _applicant_signed(notice: AdmissionNotice | AuditorSeatNotice, history: History, domains: Domains) -> None:
    seat = _seat(notice)
    verify_any(seat, domains, notice.seat_signature, notice.ledger)


def _new_keys_signed(notice: RotationNotice | RecoveryNotice, history: History, domains: Domains) -> None:
    keys = keys_of(notice, notice.member if isinstance(notice, RotationNotice) else notice.target)
    verify_any(keys, domains, notice.keys_signature, notice.ledger)


def _opening_opens(notice: OpeningNotice, history: History, domains: Domains) -> None:
    erasure = history.erasures.get(notice.batch)
    if erasure is None:
        raise NotGenuine(f"opening of batch {notice.batch.hex()}, which the chain does not know")
    if notice.leaf_keys and len(notice.leaf_keys) != len(notice.requests):
        raise NotGenuine(f"opening of {len(notice.requests)} requests with {len(notice.leaf_keys)} leaf keys")
    if notice.controller != erasure.opened.controller:
        raise NotGenuine(f"opening of a batch of member {erasure.opened.controller} for member {notice.controller}")
    root = requests_root(request_id(salt, consent) for consent, salt in notice.requests)
    if root != erasure.opened.requests_root:
        raise NotGenuine(f"the opening hashes to {root.hex()}, the batch says {erasure.opened.requests_root.hex()}")


@dataclass(frozen=True, slots=True)
class _Rule:
    """Who signs ("member": a key of `member`, by `speakers`; "holder": the address in the notice; "nobody")."""

    signer: str
    inner: Callable[[Any, History, Domains], None] | None = None


# notice -> who must have signed it | what else must follow from its own content
_RULES: dict[type, _Rule] = {
    CommitNotice: _Rule("member", _commit_opens),
    AbstainNotice: _Rule("member"),
    HaveNotice: _Rule("member"),
    VoteNotice: _Rule("member"),
    CloseNotice: _Rule("member"),
    WithdrawalNotice: _Rule("holder", _holder_opens),
    ErasureNotice: _Rule("holder", _holder_opens),
    OpeningNotice: _Rule("nobody", _opening_opens),
    PlanNotice: _Rule("member"),
    PurgeNotice: _Rule("member"),
    VerdictNotice: _Rule("member"),
    AdmissionNotice: _Rule("member", _applicant_signed),
    RemovalNotice: _Rule("member"),
    RotationNotice: _Rule("member", _new_keys_signed),
    RevocationNotice: _Rule("member"),
    RecoveryNotice: _Rule("member", _new_keys_signed),
    AuditorSeatNotice: _Rule("member", _applicant_signed),
    AuditorEndNotice: _Rule("member"),
    LeftConsentNotice: _Rule("member"),
    SuccessionNotice: _Rule("member"),
    TombstoneNotice: _Rule("member"),
}


Ballot = (
    AdmissionNotice
    | RemovalNotice
    | RevocationNotice
    | RecoveryNotice
    | AuditorSeatNotice
    | AuditorEndNotice
    | LeftConsentNotice
    | SuccessionNotice
)
"""A member's vote in the governance of the network: it names the epoch it is for."""


def speakers(notice: Notice, history: History, *, past: bool = False) -> tuple[bytes, ...]:
    """Ledger addresses whose signature makes this notice its member's: the contracts' rules (contracts/README.md).

    | notice | keys |
    | --- | --- |
    | of a round | those that decide the round |
    | plan, purge, verdict | those that decide the erasure |
    | close | those its member had since the round opened |
    | votes and rotations | the one its member has in the epoch it names |
    | tombstone, and anything about what the chain does not have yet | those its member has or gave up itself |

    `past` adds keys that were taken away since: what they signed before stands. For an audit, never for acting.
    """
    assert not isinstance(notice, WithdrawalNotice | ErasureNotice | OpeningNotice)
    member = history.registry.members.get(notice.member)
    if member is None:
        return ()
    if isinstance(notice, Ballot | RotationNotice):
        found = member.ledger_at(notice.epoch)
        return () if found is None else (found,)
    opened_at: int | None = None
    ended_at: int | None = None
    if isinstance(notice, CommitNotice | AbstainNotice | HaveNotice | VoteNotice):
        one = history.rounds.get(notice.round_id)
        if one is not None:
            opened_at, ended_at = one.opened.opened_at, one.ended_at
    elif isinstance(notice, PlanNotice | PurgeNotice | VerdictNotice):
        erasure = history.erasures.get(notice.batch)
        if erasure is not None:
            opened_at = erasure.opened.opened_at
    elif isinstance(notice, CloseNotice):
        study = history.studies.get(notice.study)
        known = study is not None and notice.branch in study.branches  # a stranger may name any
        one = history.round_at(notice.study, notice.branch, notice.height) if known else None
        return member.ledgers(past=past, since=0 if one is None else one.opened.opened_at)
    if opened_at is None or past:
        return member.ledgers(past=past)
    return history.registry.ledgers_of_round(member.index, opened_at, ended_at)


def check(notice: Notice, history: History, domains: Domains, *, past: bool = False) -> None:
    """Raise `NotGenuine` unless the notice is signed by whom it names and consistent in itself; `past`: `speakers`."""
    rule = _RULES[type(notice)]
    name = type(notice).__name__
    try:
        if rule.inner is not None:
            rule.inner(notice, history, domains)
        statement = statement_of(notice)
        if statement is None:
            return
        if rule.signer == "holder":
            assert isinstance(notice, WithdrawalNotice | ErasureNotice)
            verify_any(statement, domains, notice.signature, notice.holder)
            return
        assert not isinstance(notice, WithdrawalNotice | ErasureNotice | OpeningNotice)
        if notice.member not in history.registry.members:
            raise NotGenuine(f"{name}: member {notice.member} is not registered")
        ledgers = speakers(notice, history, past=past)
        if not ledgers:
            raise NotGenuine(f"{name}: no key of member {notice.member} counts here")
        got = recover_any(statement, domains, notice.signature)
        if not set(got) & set(ledgers):
            raise SignatureMismatch(ledgers[0], got[0])
    except CryptoError as error:
        raise NotGenuine(f"{name}: {error}") from error


def counts(notice: Notice, history: History, domains: Domains) -> bool:
    """Whether its signature counts now: a kept one may have been overtaken by a change of keys."""
    try:
        check(notice, history, domains)
    except NotGenuine:
        return False
    return True
