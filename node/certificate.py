"""The certificate of an erasure: what was done, who checked it, and what nobody can show. `koinon.certificate/4`.

What may live here: making the document at the controlling hospital, and checking one offline. What this file does not
know: the vault, the chain's client. The hospital signs the hash of everything but the annex, and the body names the
annex's hash, so that no byte of the file can change; what the hospital says about others stands beside their own
signatures. The annex is the patient's alone: with it the file holds the consent's opening, without it nothing that
leads to a person or to a consent.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Sequence
from typing import Any, Final

import rfc8785

from crypto.commitments import batch_id, check_consent_id, leaf_key, request_id
from crypto.digest import Digest, sha256
from crypto.errors import CryptoError
from crypto.keys import address_text
from crypto.merkle import Inclusion, MerkleMap, verify_member
from crypto.statements import Attest, Certificate, OpenErasure, Plan, Purged, Statement, Verdict, struct_hash
from node import methods, proof
from node.attestation import Attestation
from node.document import Fields, read
from node.erasure import (
    COPY_DELETED,
    EXCLUDED,
    FINAL,
    LONGEST_EXTENSION_S,
    PAIR,
    Claim,
    auditor_name,
    line_of,
    roster_of,
    sentences,
    terms_of,
    verdicts_needed,
)
from node.errors import NotFound, VerificationFailed
from node.history import ErasureHistory, History, RoundHistory
from node.home import Network
from node.issuers import Issuers, read_issuers, shows_seat, write_issuers
from node.membership import bitmap_of, faults, members_of, quorum
from node.messages import PlanNotice, PurgeNotice, VerdictNotice
from node.participant import Participant
from node.records import LEVEL_LOCAL_REPLAY, ZERO, ErasurePlanned
from node.replay import read_report
from node.store import Store
from node.validity import Code
from node.vault import Annex

SCHEMA: Final = "koinon.certificate/4"
EARLIER: Final = "koinon.certificate/3"
"""Of certificates that were given out before: read, and not made any more. Its L1 named no line, and it did not say
that a copy may stay.
"""
MAX_CERTIFICATE_BYTES: Final = 1 << 26
NOTICE: Final = (
    "Nobody can prove that a model has forgotten a person; "
    "this shows which steps were carried out and who checked them."
)
SCOPE: Final = "One consent, in one study, at one hospital. Not: other consents of the person, other hospitals."
REMAINS: Final = (
    "Source files and clinical records are outside koinon and unchanged; the hospital acts on them by its own duties.",
    "Models that were exported before the head moved are not recalled.",
    "The hospital's copy of the records stays where another consent of the same patient, to another study, covers it.",
    "Encrypted backups open until the keys of that day leave them, 30 days after the link is destroyed.",
)
_REMAINS_EARLIER: Final = (*REMAINS[:2], REMAINS[3])
_NO_REPLAY_EARLIER: Final = "no replay: never in an included set"
"""What `methods.NO_REPLAY` was called; it said more than a plan knows."""
CONTACTS: Final = {
    "hospital": "the data-protection officer of the hospital named above",
    "authority": "the data-protection supervisory authority at the hospital's seat",
}


# --------------------------------------------------------------------------------------------------------------------
# Making


def head_round(history: History, erasure: ErasureHistory) -> RoundHistory | None:
    """The agreed round that made the confirmed model; None where that is the study's initial model."""
    confirmed, plan = erasure.confirmed, erasure.plan
    if confirmed is None or plan is None:
        return None
    made = [
        one
        for one in history.path(erasure.opened.study, confirmed.branch)
        if one.final is not None and one.final.result.model_root == confirmed.head_model
    ]
    return made[0] if made else None


def make(
    network: Network,
    history: History,
    node: Participant,
    erasure: ErasureHistory,
    annex: dict[str, Any] | None,
    *,
    issued_at: int,
    first_height: int | None,
    study_name: str,
    sign: Callable[[Statement], bytes],
) -> dict[str, Any]:
    """The certificate of an erasure whose head moved, signed by this node, which controls it.

    Args:
        annex: from `make_annex`; None for a certificate nobody came for.
        issued_at: chain time.
        first_height: first round without the consents (`erasure.excluded_from`).
        study_name: the study's neutral name.
        sign: signs a statement with the hospital's ledger key.

    Raises:
        NotFound: the erasure is not confirmed, or votes or verdicts that a certificate needs are not in this home.
    """
    opened, plan, confirmed = erasure.opened, erasure.plan, erasure.confirmed
    if plan is None or confirmed is None or not erasure.moved:
        raise NotFound(f"erasure {opened.batch.hex()[:12]} is not confirmed")
    hospital = history.registry.members[opened.controller].name
    head = head_round(history, erasure)
    line = history.studies[opened.study].branches[line_of(history, erasure)]
    store = node.store
    # Only what the chain has and whose signature is here is named.
    purges = [
        one
        for one in store.notices(opened.batch, "PurgeNotice")
        if isinstance(one, PurgeNotice) and one.stage == FINAL and erasure.purges.get(one.member) == one.inventory
    ]
    verdicts = [
        one
        for one in store.notices(opened.batch, "VerdictNotice")
        if isinstance(one, VerdictNotice)
        and (one.branch, one.head_model) == (confirmed.branch, confirmed.head_model)
        and one.member in erasure.verdicts
        and one.member != opened.controller
    ]
    votes = _signatures(store.notices(opened.batch, "PlanNotice"), lambda n: terms_of(n) == terms_of(plan))
    # Whoever made the model counts, also where it left since: who is here, a file cannot tell.
    roster = roster_of(history, opened.study) | bitmap_of(one["member"] for one in votes)
    roster |= 0 if head is None else head.opened.roster
    n, others = roster.bit_count(), (roster & ~(1 << opened.controller)).bit_count()
    f = faults(n, history.studies[opened.study].created.terms.f)
    agreeing = sum(one.confirmed and bool(roster >> one.member & 1) for one in verdicts)
    for what, here, needed in (
        ("votes for its plan", len(votes), quorum(n, f)),
        ("other members' verdicts", agreeing, verdicts_needed(n, others, f)),
    ):
        if here < needed:
            raise NotFound(
                f"erasure {opened.batch.hex()[:12]}: {here} of the {needed} {what} that its certificate must show are "
                "in this home; the members who have the others are asked whenever it is asked for"
            )
    purged = {one.member: one.inventory for one in purges}
    attested = _kept_attestations(history, store, erasure)
    earned = sentences(
        hospital=hospital,
        study_name=study_name,
        first_height=first_height,
        batch=opened.batch,
        requests_root=opened.requests_root,
        excluded=erasure.steps[EXCLUDED],
        base_model=plan.base_model,
        head_model=confirmed.head_model,
        branch=confirmed.branch,
        method=plan.method,
        confirmed=agreeing,
        others=others,
        purged=purged,
        members=(roster | bitmap_of(purged)).bit_count(),
        attested={
            (one["level"], auditor_name(one["name"], one["seat"])): Digest.from_hex(one["evidence"]) for one in attested
        },
    )
    body: dict[str, Any] = {
        "schema": SCHEMA,
        "notice": NOTICE,
        "scope": SCOPE,
        "issuers": write_issuers(network, history, store, sorted({one["seat"] for one in attested})),
        "study": {
            "id": opened.study.hex(),
            "terms": proof.write_terms(history.studies[opened.study].created.terms),
        },
        "study_name": study_name,
        "hospital": {"index": opened.controller, "name": hospital},
        "erasure": {
            "batch": opened.batch.hex(),
            "poster": opened.poster,
            "epoch": erasure.epoch,
            "requests_root": opened.requests_root.hex(),
            "due_at": opened.due_at,
            "extended_to": None if erasure.extended is None else erasure.extended.due_at,
            "excluded": erasure.steps[EXCLUDED].hex(),
            "copy_deleted": erasure.steps[COPY_DELETED].hex(),
            "first_height": first_height,
            "method": methods.name_of(plan.method),
            "exact": methods.is_exact(plan.method),
        },
        "dates": {
            name: _day(at) for name, at in sorted(erasure.times.items()) if name not in ("closing", "link_destroyed")
        },
        "issued_on": _day(issued_at),
        "roster": roster,
        "claims": [_claim(one) for one in earned],
        "plan": _plan(plan, votes),
        "models": {
            "before": line.models[plan.target_height].hex(),
            "base": plan.base_model.hex(),
            "after": confirmed.head_model.hex(),
        },
        "purges": [
            {"member": n.member, "stage": n.stage, "inventory": n.inventory.hex(), "signature": n.signature.hex()}
            for n in purges
        ],
        "verdicts": [{"member": n.member, "confirmed": n.confirmed, "signature": n.signature.hex()} for n in verdicts],
        "attestations": attested,
        "branch": confirmed.branch,
        "head": None if head is None else proof.write_result(history, node, head),
        "exceptions": {
            "members": [
                {"index": m, "name": history.registry.members[m].name} for m in members_of(roster) if m not in purged
            ],
            "remains": list(REMAINS),
        },
        "blocks": [
            {"state": name, "number": one.position.block, "hash": one.block_hash.hex()}
            for name, one in sorted(erasure.marks.items(), key=lambda pair: (pair[1].position, pair[0]))
        ],
        "contacts": dict(CONTACTS),
        "annex_sha256": None if annex is None else sha256(rfc8785.dumps(annex)).hex(),
    }
    digest = sha256(rfc8785.dumps(body))
    body["signature"] = sign(Certificate(opened.controller, digest)).hex()
    body["annex"] = annex
    return body


def digest_of(document: dict[str, Any]) -> Digest:
    """What the hospital signed: sha256 of the canonical body without signature and annex."""
    return sha256(rfc8785.dumps({key: v for key, v in document.items() if key not in ("signature", "annex")}))


def make_annex(
    one: Annex,
    request_salt: Digest,
    request_ids: Sequence[Digest],
    first_use: dict[str, Any] | None,
    since: dict[str, Any] | None,
) -> dict[str, Any]:
    """What the patient gets and nobody else.

    Args:
        one: the consent's opening, without the document's salt.
        request_salt, request_ids: the request's own salt, and the ids of all requests of the batch, which are salted.
        first_use: a proof over the first round that used the consent; None where none did.
        since: a proof over the rounds since the exclusion; None where there is none yet.
    """
    own = request_id(request_salt, one.consent_id)
    tree = MerkleMap.sorting((request, ZERO) for request in request_ids)
    place = tree.prove(own)
    return {
        "opening": {
            "consent_id": one.consent_id.hex(),
            "doc_commit": one.doc_commit.hex(),
            "form": one.form_id.hex(),
            "holder": address_text(one.holder),
            "holder_salt": one.holder_salt.hex(),
            "leaf_secret": one.leaf_secret.hex(),
        },
        "request": {
            "salt": request_salt.hex(),
            "index": place.index,
            "count": place.count,
            "path": [step.hex() for step in place.path],
        },
        "first_use": first_use,
        "since": since,
    }


def _day(at: int) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).date().isoformat()


def keep_attestation(store: Store, one: Attestation) -> None:
    """Keep what an auditor attested for the certificate: the signature, and the report of a local replay.

    That of an attack may tell of a person, and stays with whoever made it.
    """
    report = one.report.decode() if one.level == LEVEL_LOCAL_REPLAY else None
    kept = json.dumps({"signature": one.signature.hex(), "report": report})
    store.set_meta(f"attestation {one.batch.hex()} {one.level} {one.seat}", kept)


def _kept_attestations(history: History, store: Store, erasure: ErasureHistory) -> list[dict[str, Any]]:
    """What auditors attested on the chain, as far as their signatures, and how they were seated, are here."""
    found = []
    for (level, seat), evidence in sorted(erasure.attested.items()):
        kept = store.meta(f"attestation {erasure.opened.batch.hex()} {level} {seat}")
        if kept is not None and shows_seat(history, store, seat):
            auditor = history.registry.auditors[seat]
            about = {"level": level, "seat": seat, "name": auditor.name, "ledger": address_text(auditor.ledger)}
            found.append({**about, "evidence": evidence.hex(), **json.loads(kept)})
    return found


def _claim(one: Claim) -> dict[str, Any]:
    return {
        "level": one.level,
        "sentence": one.sentence,
        "evidence": dict(one.evidence),
        "does_not_show": one.does_not_show,
    }


def _plan(plan: ErasurePlanned, votes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "parent_branch": plan.parent_branch,
        "base_height": plan.base_height,
        "base_model": plan.base_model.hex(),
        "branch_seed": plan.branch_seed.hex(),
        "target_height": plan.target_height,
        "method": plan.method,
        "rounds": plan.rounds,
        "votes": votes,
    }


def _signatures(notices: Sequence[Any], fits: Callable[[PlanNotice], bool]) -> list[dict[str, Any]]:
    kept = sorted((n for n in notices if isinstance(n, PlanNotice) and fits(n)), key=lambda n: n.member)
    return [{"member": n.member, "signature": n.signature.hex()} for n in kept]


# --------------------------------------------------------------------------------------------------------------------
# Checking


def check(data: bytes, network: Network | None) -> dict[str, Any]:
    """Check a certificate offline.

    Args:
        data: the file.
        network: the network whose founders count; None: the file's own, unchecked.

    Returns:
        `claims`, `notice`, `exceptions`, `issuers` ("checked" or "unchecked"), `fingerprint`, `erasure`, `study`,
        `hospital`, `confirmed_by`, `keys` (which key of whom signed what, and in which epochs it counts), `auditors`
        (who attested what, and whether the seat is known to be theirs), `annex` (whether it is there; the consent it
        opens, and what its proofs found).

    Raises:
        VerificationFailed: something in it does not hold, or it is another network's.
    """
    tree = read(data, SCHEMA, MAX_CERTIFICATE_BYTES, earlier=EARLIER)
    top = Fields("certificate", tree)
    earlier = top.take("schema", str) == EARLIER
    if top.take("notice", str) != NOTICE or top.take("scope", str) != SCOPE:
        top.fault("notice or scope are not those of this version")
    annex = tree.get("annex")
    if top.has("annex"):
        top.take("annex", dict)
    stated = top.digest("annex_sha256") if top.has("annex_sha256") else None
    if annex is not None and (stated is None or sha256(rfc8785.dumps(annex)) != stated):
        top.fault("the annex is not the one that was signed for")
    inner = top.fields("issuers")
    issuers = read_issuers(inner, network)
    inner.done()
    hospital = top.fields("hospital")
    controller, name = hospital.uint("index", 5), hospital.take("name", str)
    hospital.done()
    if issuers.names.get(controller) != name:
        hospital.fault(f"member {controller} is {issuers.names.get(controller)!r}, not {name!r:.80}")
    own = Certificate(controller, digest_of(tree))
    issuers.signed(own, controller, top.signature("signature"), "certificate", issuers.epoch)
    body = _Body(top, issuers, controller, name, earlier=earlier)
    found = body.check()
    top.done()
    if annex is not None:
        found["annex"] = _check_annex(Fields("annex", annex), network, body)
    return found


def compare(data: bytes, history: History) -> None:
    """Compare a certificate that holds with a copy of the chain: a file alone cannot show that its erasure is there.

    What was not on the chain yet when the certificate was made may have come since; what it says must be there.

    Raises:
        VerificationFailed: the first thing that it says and this chain does not have.
    """
    tree = json.loads(data)
    batch = Digest.from_hex(tree["erasure"]["batch"])
    found = history.erasures.get(batch)

    def same(what: str, told: object, chain: object) -> None:
        if told != chain:
            raise VerificationFailed(f"certificate: {what} is {told!s:.70}, on the chain {chain!s:.70}")

    if found is None or found.plan is None or found.confirmed is None:
        state = "no such erasure" if found is None else "one that is not confirmed"
        raise VerificationFailed(f"certificate: erasure {batch.hex()[:12]}: this copy of the chain has {state}")
    plan, controller = found.plan, found.opened.controller
    line = history.studies[found.opened.study].branches[line_of(history, found)]
    same("the hospital", tree["hospital"]["name"], history.registry.members[controller].name)
    same("epoch", tree["erasure"]["epoch"], found.epoch)
    same("extended_to", tree["erasure"].get("extended_to"), None if found.extended is None else found.extended.due_at)
    for name, number in (("excluded", EXCLUDED), ("copy_deleted", COPY_DELETED)):
        same(name, tree["erasure"][name], found.steps[number].hex() if number in found.steps else None)
    for name, value in _plan(plan, tree["plan"]["votes"]).items():
        same(f"{name} of the plan", tree["plan"][name], value)
    same("branch", tree["branch"], found.confirmed.branch)
    same("the model before", tree["models"]["before"], line.models[plan.target_height].hex())
    same("the model after", tree["models"]["after"], found.confirmed.head_model.hex())
    for one in tree["purges"]:
        known = found.purges.get(one["member"])
        same(f"purge of member {one['member']}", one["inventory"], None if known is None else known.hex())
    for one in tree["verdicts"]:
        given = found.verdicts.get(one["member"])
        same(f"verdict of member {one['member']}", one["confirmed"], None if given is None else given.confirmed)
    spoke = bitmap_of(found.verdicts) | bitmap_of(found.purges)
    if left_out := list(members_of(spoke & ~tree["roster"])):
        raise VerificationFailed(f"certificate: its roster is without members {left_out}, who spoke on the chain")
    for one in tree["attestations"]:
        report = found.attested.get((one["level"], one["seat"]))
        same(f"evidence of seat {one['seat']}", one["evidence"], None if report is None else report.hex())
    for name, day in tree["dates"].items():
        # Of what several members do, the last so far is named: more may have come since.
        days = None if name not in found.times else (_day(found.marks[name].timestamp), _day(found.times[name]))
        same(f"the day of {name}", day, days if days is None else min(max(day, days[0]), days[1]))
    for one in tree["blocks"]:
        mark = found.marks.get(one["state"])
        chain = None if mark is None else (mark.position.block, mark.block_hash.hex())
        same(f"the block of {one['state']}", (one["number"], one["hash"]), chain)


class _Body:
    """The signed part of a certificate on the table; each signature of others is checked on the way."""

    def __init__(self, top: Fields, issuers: Issuers, controller: int, name: str, *, earlier: bool) -> None:
        self.earlier = earlier
        self.top, self.issuers, self.controller, self.name = top, issuers, controller, name
        self.study, self.terms = proof.read_study(top.fields("study"))
        self.study_name = top.take("study_name", str)
        self.auditors: list[dict[str, Any]] = []  # who attested what, for people
        self.roster = top.uint("roster", 32)
        self.branch = top.uint("branch", 32)
        inner = top.fields("erasure")
        self.batch, self.root = inner.digest("batch"), inner.digest("requests_root")
        self.due_at, self.epoch = inner.uint("due_at", 53), inner.uint("epoch", 53)
        statement = OpenErasure(self.study, controller, inner.uint("poster", 5), self.root, self.due_at)
        if batch_id(struct_hash(statement)) != self.batch:
            inner.fault("the batch is not the hash of its terms")
        self.extended_to = inner.uint("extended_to", 53) if inner.has("extended_to") else None
        if self.extended_to is not None and not 0 < self.extended_to - self.due_at <= LONGEST_EXTENSION_S:
            inner.fault("the due date is extended by more than two months, or not beyond itself")
        self.excluded, self.copy_deleted = inner.digest("excluded"), inner.digest("copy_deleted")
        self.first_height = inner.uint("first_height", 32) if inner.has("first_height") else None
        self.method, self.exact = inner.take("method", str), inner.take("exact", bool)
        inner.done()

    def check(self) -> dict[str, Any]:
        top = self.top
        models = top.fields("models")
        before, base, after = models.digest("before"), models.digest("base"), models.digest("after")
        models.done()
        agreed = self._head(after)
        plan, forks = self._plan(base)
        if agreed is not None and forks and agreed.height > plan.base_height and agreed.branch != self.branch:
            top.fault(f"the round is of branch {agreed.branch}, the verdicts are about branch {self.branch}")
        verdicts = self._verdicts(after)
        purges = self._purges()
        attested = self._attestations()
        exceptions = self._exceptions(purges)
        self._claims(plan, verdicts, purges, attested, after)
        dates, blocks = self._dates(), self._blocks()
        contacts = top.fields("contacts")
        for place, text in CONTACTS.items():
            if contacts.take(place, str) != text:
                contacts.fault(f"field {place} is not that of this version")
        contacts.done()
        return {
            "notice": NOTICE,
            "erasure": self.batch.hex(),
            "study": self.study.hex(),
            "study_name": self.study_name,
            "hospital": {"index": self.controller, "name": self.name},
            "method": self.method,
            "exact": self.exact,
            "claims": self.shown,
            "models": {"before": before.hex(), "base": base.hex(), "after": after.hex()},
            "confirmed_by": verdicts,
            "exceptions": exceptions,
            "due_on": _day(self.due_at),
            "extended_to": None if self.extended_to is None else _day(self.extended_to),
            "dates": dates,
            "blocks": blocks,
            "issuers": "checked" if self.issuers.checked else "unchecked",
            "fingerprint": self.issuers.network.fingerprint,
            "keys": self.issuers.keys_used(),
            "auditors": self.auditors,
            "annex": None,
        }

    def _signed(self, statement: Statement, member: int, signature: bytes, what: str) -> None:
        """By a key that counts in this erasure: the one its member had when it was opened, or a later one."""
        self.issuers.signed(statement, member, signature, what, self.epoch, of_round=True)

    def _plan(self, base: Digest) -> tuple[Plan, bool]:
        inner = self.top.fields("plan")
        plan = Plan(
            self.batch,
            inner.uint("parent_branch", 32),
            inner.uint("base_height", 32),
            inner.digest("base_model"),
            inner.digest("branch_seed"),
            inner.uint("target_height", 32),
            inner.uint("method", 8),
            inner.uint("rounds", 32),
        )
        if plan.base_model != base:
            inner.fault("the plan's checkpoint is not the base model")
        found = methods.numbered(plan.method)
        if plan.method != methods.NOTHING and (found is None or methods.barred(found) is not None):
            inner.fault(f"members carry out no erasure by {methods.name_of(plan.method)}")
        voters = 0
        for member, signature in inner.each("votes", lambda v: (v.uint("member", 5), v.signature("signature"))):
            self._signed(plan, member, signature, "vote for the plan")
            voters |= 1 << member
        n = self.roster.bit_count()
        if n == 0 or (voters & self.roster).bit_count() < quorum(n, faults(n, self.terms.f)):
            inner.fault(f"{voters.bit_count()} votes of {n} members are no quorum")
        inner.done()
        forks = plan.target_height != plan.base_height
        names = (methods.name_of(plan.method), *([_NO_REPLAY_EARLIER] if plan.method == methods.NOTHING else []))
        if self.method not in names or self.exact != methods.is_exact(plan.method):
            kind = "exact" if self.exact else "approximate"
            inner.fault(f"the plan is not of the {kind} method {self.method!r:.60}")
        if forks != (plan.method != methods.NOTHING) or forks != (plan.rounds > 0):
            inner.fault(f"{plan.rounds} rounds by method {plan.method} are not what the plan replays")
        return plan, forks

    def _verdicts(self, after: Digest) -> list[int]:
        confirmed: set[int] = set()

        def one(v: Fields) -> tuple[int, bool, bytes]:
            return v.uint("member", 5), v.take("confirmed", bool), v.signature("signature")

        for member, yes, signature in self.top.each("verdicts", one):
            self._signed(Verdict(self.batch, member, self.branch, after, yes), member, signature, "verdict")
            if yes and member != self.controller and self.roster >> member & 1:
                confirmed.add(member)
        n = self.roster.bit_count()
        others = (self.roster & ~(1 << self.controller)).bit_count()
        needed = verdicts_needed(n, others, faults(n, self.terms.f))
        if len(confirmed) < needed:
            self.top.fault(f"{len(confirmed)} other members confirmed, {needed} needed")
        return sorted(confirmed)

    def _purges(self) -> dict[tuple[int, int], Digest]:
        found: dict[tuple[int, int], Digest] = {}

        def one(p: Fields) -> tuple[int, int, Digest, bytes]:
            return p.uint("member", 5), p.uint("stage", 1), p.digest("inventory"), p.signature("signature")

        for member, stage, listed, signature in self.top.each("purges", one):
            self._signed(Purged(self.batch, member, stage, listed), member, signature, "purge")
            found[stage, member] = listed
        return found

    def _attestations(self) -> dict[tuple[int, str], Digest]:
        """What auditors signed, as (level, name); the report of a local replay must earn its level by what it says."""
        found: dict[tuple[int, str], Digest] = {}

        def one(a: Fields) -> None:
            level, seat = a.uint("level", 8), a.uint("seat", 16)
            holder = a.address("ledger"), a.take("name", str)
            evidence, signature = a.digest("evidence"), a.signature("signature")
            statement = Attest(self.batch, level, seat, evidence)
            what = f"attestation of level {level}"
            known = self.issuers.signed_by_auditor(statement, seat, holder, signature, what)
            report = a.take("report", str).encode() if a.has("report") else None
            if (level == LEVEL_LOCAL_REPLAY) != (report is not None) or (report and sha256(report) != evidence):
                a.fault("the report is not the one that was signed for")
            if report is not None:
                read_report(
                    report,
                    network=self.issuers.network.fingerprint,
                    study=self.study,
                    hospital=(self.controller, self.name),
                    erasure=self.batch,
                    branch=self.branch,
                    method=self.method,
                )
            found[level, auditor_name(holder[1], seat)] = evidence
            self.auditors.append(
                {"level": level, "seat": seat, "name": holder[1], "ledger_address": address_text(holder[0])}
                | {"seat_is": "checked" if known else "unchecked"}
            )

        self.top.each("attestations", one)
        return found

    def _head(self, after: Digest) -> proof.RoundFound | None:
        """The round that made the model; whoever was on its roster counts among those that had to be asked."""
        if not self.top.has("head"):
            initial = self.terms.initial_model
            if after != initial:
                self.top.fault("the round that made the model after the erasure is missing")
            return None
        inner = self.top.fields("head")
        agreed = proof.check_result(inner, self.issuers, self.study, self.terms).found
        inner.done()
        if agreed.model_root != after:
            inner.fault("this round did not make the model after the erasure")
        if missing := list(members_of(agreed.roster & ~self.roster)):
            inner.fault(f"members {missing} made this model, and the certificate's roster is without them")
        return agreed

    def _exceptions(self, purges: dict[tuple[int, int], Digest]) -> dict[str, Any]:
        inner = self.top.fields("exceptions")
        named = dict(inner.each("members", lambda m: (m.uint("index", 5), m.take("name", str))))
        remains = tuple(inner.take("remains", list))
        if remains != (_REMAINS_EARLIER if self.earlier else REMAINS):
            inner.fault("field remains is not that of this version")
        inner.done()
        # Before, members said on the chain of both stages what they had purged.
        stages = (PAIR, FINAL) if any(stage == PAIR for stage, _ in purges) else (FINAL,)
        silent = [m for m in members_of(self.roster) if any((stage, m) not in purges for stage in stages)]
        if missing := [m for m in silent if m not in named]:
            inner.fault(f"members {missing} did not attest and are not named")
        if said := [m for m in named if m not in silent]:
            inner.fault(f"members {said} attested, or were not asked, and are named all the same")
        if any(self.issuers.names.get(index) != name for index, name in named.items()):
            inner.fault("a member is not of the name given")
        return {"members": [{"index": m, "name": n} for m, n in sorted(named.items())], "remains": list(remains)}

    def _claims(
        self,
        plan: Plan,
        verdicts: list[int],
        purges: dict[tuple[int, int], Digest],
        attested: dict[tuple[int, str], Digest],
        after: Digest,
    ) -> None:
        """The sentences must be those that follow from what was checked: no more may be claimed."""
        stated = {m: listed for (stage, m), listed in sorted(purges.items()) if stage == FINAL}
        follows = sentences(
            hospital=self.name,
            study_name=self.study_name,
            first_height=self.first_height,
            batch=self.batch,
            requests_root=self.root,
            excluded=self.excluded,
            base_model=plan.base_model,
            head_model=after,
            branch=self.branch,
            method=plan.method,
            confirmed=len(verdicts),
            others=(self.roster & ~(1 << self.controller)).bit_count(),
            purged=stated,
            members=(self.roster | bitmap_of(stated)).bit_count(),
            attested=attested,
            names_line=not self.earlier,
        )
        shown = self.top.take("claims", list)
        if shown != [_claim(one) for one in follows]:
            self.top.fault("the claims are not those that its evidence supports")
        self.shown = shown

    def _dates(self) -> dict[str, str]:
        inner = self.top.take("dates", dict)
        inner = {**inner, "issued": self.top.take("issued_on", str)}
        for name, day in inner.items():
            try:
                exact = isinstance(day, str) and datetime.date.fromisoformat(day).isoformat() == day
            except ValueError:
                exact = False
            if not exact:
                self.top.fault(f"dates: {name} = {day!r:.40} is not a day written YYYY-MM-DD")
        return inner

    def _blocks(self) -> list[dict[str, Any]]:
        def one(b: Fields) -> dict[str, Any]:
            return {"state": b.take("state", str), "number": b.uint("number", 53), "hash": b.digest("hash").hex()}

        return self.top.each("blocks", one)


def _check_annex(annex: Fields, network: Network | None, body: _Body) -> dict[str, Any]:
    opening = annex.fields("opening")
    consent, secret = opening.digest("consent_id"), opening.digest("leaf_secret")
    opening.digest("form")
    try:
        key = leaf_key(secret)
        check_consent_id(
            consent, opening.address("holder"), opening.digest("holder_salt"), opening.digest("doc_commit"), key
        )
        opening.done()
        request = annex.fields("request")
        own = request_id(request.digest("salt"), consent)
        place = Inclusion(request.uint("index", 32), request.uint("count", 32), request.digests("path"))
        request.done()
        verify_member(body.root, own, ZERO, place)
    except CryptoError as error:
        annex.fault(str(error))
    shown: dict[str, Any] = {"consent_id": consent.hex()}
    for name in ("first_use", "since"):
        shown[name] = None
        if annex.has(name):
            inner = proof.check_tree(annex.take(name, dict), network)
            if (inner["consent_id"], inner["study"], inner["hospital"]["index"]) != (
                consent.hex(),
                body.study.hex(),
                body.controller,
            ):
                annex.fault(f"{name} is a proof about something else")
            shown[name] = inner["rounds"]
            if name == "since" and inner["used"]:
                annex.fault("a round since the exclusion used the consent")
    shown["refused_since"] = [
        one["height"] for one in shown["since"] or [] if one["reason"] == Code.CONSENT.name
    ]  # another's consent may be meant: the hospital was left out with its whole set
    annex.done()
    return shown


__all__ = ["EARLIER", "NOTICE", "SCHEMA", "check", "compare", "digest_of", "head_round", "make", "make_annex"]
