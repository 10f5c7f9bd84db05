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
from crypto.errors import CryptoError
from crypto.merkle import requests_root
from crypto.statements import (
    Abstain,
    Admit,
    Close,
    Commit,
    Domains,
    Have,
    Plan,
    Purged,
    Remove,
    RequestErasure,
    Seat,
    Statement,
    Tombstone,
    Verdict,
    Vote,
    Withdraw,
    struct_hash,
    verify,
)
from node.errors import PeerError
from node.history import History
from node.messages import (
    AbstainNotice,
    AdmissionNotice,
    CloseNotice,
    CommitNotice,
    ErasureNotice,
    HaveNotice,
    Notice,
    OpeningNotice,
    PlanNotice,
    PurgeNotice,
    RemovalNotice,
    TombstoneNotice,
    VerdictNotice,
    VoteNotice,
    WithdrawalNotice,
)
from node.records import Result

__all__ = ["check", "commit_of", "hash_of_result", "statement_of"]


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
            )
        case PurgeNotice():
            return Purged(notice.batch, notice.member, notice.stage, notice.inventory)
        case VerdictNotice():
            return Verdict(notice.batch, notice.member, notice.branch, notice.head_model, notice.confirmed)
        case AdmissionNotice():
            return Admit(notice.epoch, notice.ledger, struct_hash(_seat(notice)))
        case RemovalNotice():
            return Remove(notice.epoch, notice.target, notice.ledger)
        case TombstoneNotice():
            return Tombstone(notice.member, notice.content, notice.reason, notice.subject)
        case OpeningNotice():
            return None


def _seat(notice: AdmissionNotice) -> Seat:
    return Seat("member", notice.peer_id, Digest(notice.sealing_key), notice.name)


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


def _applicant_signed(notice: AdmissionNotice, history: History, domains: Domains) -> None:
    seat = _seat(notice)
    verify(seat, domains.of(seat), notice.seat_signature, notice.ledger)


def _opening_opens(notice: OpeningNotice, history: History, domains: Domains) -> None:
    erasure = history.erasures.get(notice.batch)
    if erasure is None:
        raise NotGenuine(f"opening of batch {notice.batch.hex()}, which the chain does not know")
    if len(notice.leaf_keys) != len(notice.requests):
        raise NotGenuine(f"opening of {len(notice.requests)} requests with {len(notice.leaf_keys)} leaf keys")
    root = requests_root(request_id(salt, consent) for consent, salt in notice.requests)
    if root != erasure.opened.requests_root:
        raise NotGenuine(f"the opening hashes to {root.hex()}, the batch says {erasure.opened.requests_root.hex()}")


@dataclass(frozen=True, slots=True)
class _Rule:
    """Who signs ("member": the registered key of `member`; "holder": the address in the notice; "nobody")."""

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
    TombstoneNotice: _Rule("member"),
}


def check(notice: Notice, history: History, domains: Domains) -> None:
    """Raise `NotGenuine` unless the notice is signed by whom it names and consistent in itself."""
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
            verify(statement, domains.of(statement), notice.signature, notice.holder)
            return
        assert not isinstance(notice, WithdrawalNotice | ErasureNotice | OpeningNotice)
        member = history.registry.members.get(notice.member)
        if member is None:
            raise NotGenuine(f"{name}: member {notice.member} is not registered")
        verify(statement, domains.of(statement), notice.signature, member.ledger)
    except CryptoError as error:
        raise NotGenuine(f"{name}: {error}") from error
