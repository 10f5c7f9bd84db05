"""Erasures in a home: what was said of them is here, condemned contents are gone, plans follow from the chain, no
erased leaf came back.

What this file does not know: the steps of an erasure on the chain (`node/audit/records.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from crypto.blobs import SetPlain, decode_set
from crypto.digest import Digest, hash_words
from crypto.errors import CryptoError
from crypto.sealing import BlobKind, open_blob
from node import methods
from node.audit.checks import Audit, commit_notices
from node.audit.home import NotChecked, OnPurpose
from node.audit.records import (
    equal,
    erasure_name,
    holds,
    round_name,
)
from node.audit.rounds import covered_by_purge
from node.erasure import (
    FINAL,
    PAIR,
    doomed_models,
    doomed_rounds,
    influenced_from,
    inventory,
    is_forgotten,
    target_of,
    terms_of,
)
from node.history import ErasureHistory, RoundHistory
from node.membership import faults, quorum
from node.messages import (
    CommitNotice,
    OpeningNotice,
    PlanNotice,
    PurgeNotice,
    TombstoneNotice,
    VerdictNotice,
)
from node.records import ErasurePlanned


def statements_are_here(audit: Audit) -> str | None:
    """What the chain has of plans, purges and verdicts stands here in the words of those who said it, signed.

    A home gets them as they are said. One that was away, or whoever leaves them out of a bundle, rests on the chain.
    """
    missing = [
        f"{erasure_name(batch)}: {lack}"
        for batch, erasure in audit.history.erasures.items()
        if audit.covers(erasure.opened.study)
        for lack in (
            *_plan_votes(audit, batch, erasure),
            *_purge_statements(audit, batch, erasure),
            *_own_tombstones(audit, batch, erasure),
            *_verdict_statements(audit, batch, erasure),
        )
    ]
    return "; ".join(missing) or None


def _plan_votes(audit: Audit, batch: Digest, erasure: ErasureHistory) -> Iterator[str]:
    """The chain does not say who voted for a plan, only that enough did."""
    plan = erasure.plan
    if plan is None:
        return
    planners, terms = audit.chain.planners[batch], audit.history.studies[plan.study].created.terms
    needed = quorum(planners.bit_count(), faults(planners.bit_count(), terms.f))
    votes = {
        one.member
        for one in audit.store.notices(batch, "PlanNotice")
        if isinstance(one, PlanNotice) and terms_of(one) == terms_of(plan) and planners >> one.member & 1
    }
    if len(votes) < needed:
        yield f"{len(votes)} of the {needed} votes that its plan took are here"


def _purge_statements(audit: Audit, batch: Digest, erasure: ErasureHistory) -> Iterator[str]:
    said = {
        one.member: one.inventory
        for one in audit.store.notices(batch, "PurgeNotice")
        if isinstance(one, PurgeNotice) and one.stage == FINAL
    }
    lacking = [member for member, listed in sorted(erasure.purges.items()) if said.get(member) != listed]
    if lacking:
        whose = ", ".join(f"of member {member}" for member in lacking)
        yield f"{len(lacking)} of {len(erasure.purges)} purge statements on the chain are not here ({whose})"


def _own_tombstones(audit: Audit, batch: Digest, erasure: ErasureHistory) -> Iterator[str]:
    """Our last attestation is the hash of a list, so this one can be seen to be whole.

    The others' lists are not asked for: a home takes only so many tombstones of a peer.
    """
    me = audit.me
    if me is None:
        return
    said = audit.store.own_notice(batch, "PurgeNotice", PAIR)  # to the others, and not on the chain
    listed = erasure.purges.get(me, said.inventory if isinstance(said, PurgeNotice) else None)
    stones = [
        (one.notice.content, one.notice.reason, one.notice.subject)
        for one in audit.store.kept_notices("TombstoneNotice")
        if one.member == me and isinstance(one.notice, TombstoneNotice) and one.notice.subject == batch
    ]
    if listed is not None and inventory(stones) != listed:
        yield f"the {len(stones)} tombstones of this home that are here are not the list that it attested as purged"


def _verdict_statements(audit: Audit, batch: Digest, erasure: ErasureHistory) -> Iterator[str]:
    said = {
        one.member: (one.branch, one.head_model, one.confirmed)
        for one in audit.store.notices(batch, "VerdictNotice")
        if isinstance(one, VerdictNotice)
    }
    lacking = [
        member
        for member, given in sorted(erasure.verdicts.items())
        if said.get(member) != (given.branch, given.head_model, given.confirmed)
    ]
    if lacking:
        whose = ", ".join(f"of member {member}" for member in lacking)
        yield f"{len(lacking)} of {len(erasure.verdicts)} verdicts on the chain are not here ({whose})"


def purges_are_carried_out(audit: Audit) -> str | None:
    """What we attested as purged is here neither as blob nor as key nor as model, and the attestation is ours."""
    if audit.me is None:
        return None
    history = audit.history
    for batch, erasure in history.erasures.items():
        if not audit.covers(erasure.opened.study):
            continue
        pair, own = (audit.store.own_notice(batch, "PurgeNotice", stage) for stage in (PAIR, FINAL))
        if isinstance(own, PurgeNotice) and audit.me in erasure.purges:
            where = f"{erasure_name(batch)}, our attestation"
            equal("inventory", where, own.inventory, erasure.purges[audit.me])
        if erasure.plan is not None and (pair is not None or audit.me in erasure.purges):
            _condemned_is_gone(audit, batch, erasure.plan)
    return None


def _condemned_is_gone(audit: Audit, batch: Digest, plan: ErasurePlanned) -> None:
    store = audit.store
    for one in doomed_rounds(audit.history, plan):
        for member, notice in commit_notices(audit, one).items():
            whose = f"{erasure_name(batch)}, {round_name(one)}, member {member}"
            there = store.on_disk(notice.update.cipher_root)
            holds("purged update", whose, "gone", not there, "still there")
            key = store.has_key(one.opened.round_id, member, BlobKind.UPDATE)
            holds("purged content key", whose, "gone", not key, "still there")
    # Two studies of one specification on the same data make the same models: what another study names stays.
    elsewhere = {
        root
        for number, study in audit.history.studies.items()
        if number != plan.study
        for branch in study.branches.values()
        for root in branch.models.values()
    }
    for root in sorted(doomed_models(audit.history, plan) - elsewhere):
        holds(
            "purged model",
            f"{erasure_name(batch)}, {store.place(root)}",
            "gone",
            not store.on_disk(root),
            "still there",
        )


def erasures_are_clean(audit: Audit) -> str | None:
    """By the openings this home got: base older than the first use, no erased leaf in an included set after it."""
    missing: list[str] = []
    forgotten: list[str] = []
    history = audit.history
    replaced = covered_by_purge(history)
    for batch, erasure in history.erasures.items():
        if erasure.plan is None or not audit.covers(erasure.opened.study):
            continue
        _plan_follows(audit, batch, erasure, erasure.plan)
        missing += method_is_allowed(audit, batch, erasure.plan)
        openings = [n for n in audit.store.notices(batch, "OpeningNotice") if isinstance(n, OpeningNotice)]
        if not openings:
            which = f"{erasure_name(batch)}: which consents it is about"
            if audit.bundle is not None and audit.bundle.holds != "everything":
                missing.append(f"{which} is left out of a bundle {audit.bundle.holds.replace('-', ' ')}")
            elif is_forgotten(history, erasure):
                forgotten.append(f"{which} was forgotten when it was over")
            else:
                missing.append(f"{which} did not come to this home")
            continue
        missing += _leaves_unused(audit, batch, erasure, openings[0], replaced)
    if missing:
        return "; ".join(missing + forgotten)
    return OnPurpose("; ".join(forgotten)) if forgotten else None


def _plan_follows(audit: Audit, batch: Digest, erasure: ErasureHistory, plan: ErasurePlanned) -> None:
    """Seed and target of a plan are functions of the chain, so that no quorum can choose them."""
    seed = hash_words("branch", batch, audit.hashes[erasure.position.block])
    equal("branch seed", erasure_name(batch), seed, plan.branch_seed)
    equal("target height", erasure_name(batch), target_of(audit.history, erasure), plan.target_height)
    controller = erasure.opened.controller
    influenced = influenced_from(audit.history, plan.study, plan.parent_branch, plan.base_height, controller)
    holds(
        "base model",
        erasure_name(batch),
        "with nothing taken over of the hospital's",
        influenced is None,
        influenced,
    )


def method_is_allowed(audit: Audit, batch: Digest, plan: ErasurePlanned) -> Iterable[str]:
    """The method is one that the study's way of training has, and can show what the study asks an erasure to show."""
    method = methods.numbered(plan.method)
    if method is None or method is methods.DEFAULT:
        return []
    try:
        study = audit.arithmetic(plan.study).study
    except NotChecked as error:
        return [str(error)]
    why = methods.barred(method, study)
    holds("method", erasure_name(batch), "one that the study allows", why is None, f"{method.name}, which {why}")
    return []


def _leaves_unused(
    audit: Audit, batch: Digest, erasure: ErasureHistory, opening: OpeningNotice, replaced: set[Digest]
) -> Iterable[str]:
    plan = erasure.plan
    assert plan is not None
    consents, unread = {consent for consent, _ in opening.requests}, 0
    for one in audit.history.path(plan.study, plan.branch):
        if one.final is None or not one.final.result.included >> erasure.opened.controller & 1:
            continue
        controller = erasure.opened.controller
        notice = commit_notices(audit, one).get(controller)
        plain = None if notice is None else _set_of(audit, one, notice)
        if plain is None:  # a later erasure deletes what it replaces, and its own plan is looked at by itself
            unread += one.opened.round_id not in replaced
            continue
        where = f"{erasure_name(batch)}, {round_name(one)}, set of member {controller}"
        # Leaf keys are the hospital's word: one that it said to be erased and goes on using is as bad.
        used = any(entry.consent_id in consents or entry.leaf_key in opening.leaf_keys for entry in plain.entries)
        holds("erased leaf", where, "in no included set of the clean branch", not used, "an erased leaf")
    return [f"{erasure_name(batch)}: {unread} sets of its controller are not readable here"] if unread else []


def _set_of(audit: Audit, one: RoundHistory, notice: CommitNotice) -> SetPlain | None:
    if not audit.store.opens_keys:
        return None
    data = audit.store.content(notice.set.cipher_root, "cipher")
    key = audit.store.content_key(one.opened.round_id, notice.member, BlobKind.SET)
    if data is None or key is None:
        return None
    try:
        return decode_set(open_blob(data, key, notice.set, one.opened.round_id, notice.member, BlobKind.SET))
    except CryptoError:
        return None
