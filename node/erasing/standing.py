"""Where an erasure stands, for people; and whose it is, for questions about plans.

What may live here: answers that are put together from the other rooms. Nothing here is kept or said.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from crypto.digest import Digest
from node import card as cards
from node import methods
from node.erasing.books import Books
from node.erasing.handover import Handover
from node.erasing.plans import Plans
from node.erasing.requests import Requests
from node.erasing.sets import Sets
from node.erasure import (
    COPY_DELETED,
    DUE_S,
    GROUNDS,
    PAIR,
    claims,
    excluded_from,
    is_overdue,
    is_removed,
    replays,
    roster_of,
    state_of,
    was_given_up,
)
from node.errors import InputError, NotFound
from node.history import ErasureHistory
from node.membership import members_of
from node.messages import PurgeNotice
from node.planning import Subject
from node.reports.erasure import find_erasure


class Standing:
    """Answers questions about erasures."""

    def __init__(self, books: Books, requests: Requests, sets: Sets, plans: Plans, handover: Handover) -> None:
        self._books, self._requests, self._sets, self._plans, self._handover = books, requests, sets, plans, handover

    def _locate(self, who: Digest | str) -> Digest | None:
        """The batch, or None while a request of which we know waits to be opened."""
        if isinstance(who, str):
            return self._handover.find(who)[0]
        if who in self._books.history.erasures:
            return who
        batch = self._requests.batch_of(who)
        if batch is None and not self._books.kept_requests([who]):
            raise NotFound(
                f"no erasure of {who.hex()[:12]} was asked for here, or it is over and forgotten (its own id finds it)"
            )
        return batch

    def subjects(
        self, *, patient: str | None = None, consent: Digest | None = None, card: bytes | None = None, erasure: str = ""
    ) -> list[Subject]:
        """Whose erasure a question about plans is about, one in each study; nothing is kept and nothing is said.

        A batch speaks for all its consents: a plan is made for the batch.
        """
        if erasure:
            return [self._subject_of(find_erasure(self._books.history, erasure))]
        if card is not None:
            parsed = cards.parse(card)
            cards.check_network(parsed, self._books.desk.network)
            shown = [(parsed.origin.study, parsed.origin.member, parsed.consent_id, parsed.leaf_key)]
        else:
            who = consent if consent is not None else patient
            if who is None:
                raise InputError("name a patient, a consent, a card or an erasure")
            vault = self._books.vault
            held = vault.find(who)
            shown = [(one.study, one.member, one.consent_id, vault.annex(one.consent_id).leaf_key) for one in held]
        found: dict[tuple[Digest, Digest | None], Subject] = {}
        for study, hospital, consent_id, key in shown:
            batch = self._requests.batch_of(consent_id)
            if batch is not None and batch in self._books.history.erasures:
                found[study, batch] = self._subject_of(batch, consent_id, key)
                continue
            known = found.get((study, None), Subject(study, hospital, frozenset(), frozenset()))
            requests = [one.received_at for one in self._books.kept_requests([*known.consents, consent_id])]
            found[study, None] = replace(
                known,
                consents=known.consents | {consent_id},
                keys=known.keys | {key},
                received_at=min(requests, default=None),
            )
        return list(found.values())

    def _subject_of(self, batch: Digest, consent: Digest | None = None, key: Digest | None = None) -> Subject:
        """A batch on the chain; `consent` and `key` are known to be in it, the rest as far as its opening is here."""
        opened, opening = self._books.erasure(batch).opened, self._books.opening(batch)
        consents = set() if opening is None else {one for one, _ in opening.requests}
        keys = set() if opening is None else set(opening.leaf_keys)
        return Subject(
            opened.study,
            opened.controller,
            frozenset(consents | ({consent} if consent is not None else set())),
            frozenset(keys | ({key} if key is not None else set())),
            batch,
            opened.due_at - DUE_S,
            self._sets.uses(batch),
            self._books.store.meta(f"method {batch.hex()}") or "",
        )

    def _copy_stays(self, batch: Digest, erasure: ErasureHistory) -> bool | None:
        """Whether records of these patients are still here, since another consent of theirs covers them.

        None: it is not known here (another hospital's), or not decided yet.
        """
        if COPY_DELETED not in erasure.steps or erasure.opened.controller != self._books.me:
            return None
        linked = [consent for consent in self._books.consents(batch) if self._books.is_linked(consent)]
        return any(one.has_copy for consent in linked for one in self._books.vault.find(consent))

    def status(self, who: Digest | str, now: int = 0) -> dict[str, Any]:
        """Where an erasure stands: `state`, `claims`, `due_at`, `times`, `overdue` and who is waited for.

        Args:
            who: an erasure, or (at the controlling hospital) a consent or a patient.
            now: chain time, for `overdue` and `certificate_ready`.
        """
        batch = self._locate(who)
        if batch is None or batch not in self._books.history.erasures:
            requests = self._books.kept_requests([who]) if isinstance(who, Digest) else []
            due = min((one.received_at for one in requests), default=now) + DUE_S
            return {
                "erasure": "" if batch is None else batch.hex(),
                "state": "waiting",
                "times": {},
                "due_at": due,
                "extended_from": None,
                "overdue": now > due,
                "claims": [],
                "evidence_missing": [],
                "certificate_ready": False,
                "waits_for": [],
            }
        history, erasure = self._books.history, self._books.history.erasures[batch]
        opened, plan, consents = erasure.opened, erasure.plan, self._books.consents(batch)
        first = excluded_from(history, opened.study, consents) if consents else None
        studies = self._books.participant.studies
        name = studies[opened.study].study.name if opened.study in studies else opened.study.hex()[:12]
        hospital = history.registry.members[opened.controller].name
        roster = roster_of(history, opened.study)
        waiting = self._handover.waits_for(batch, now)
        earned = claims(erasure, history, hospital=hospital, study_name=name, first_height=first)
        return {
            "erasure": batch.hex(),
            "study": opened.study.hex(),
            "controller": opened.controller,
            "poster": opened.poster,
            "state": state_of(erasure, history).value,
            "times": dict(erasure.times),
            "due_at": erasure.due_at,
            "extended_from": None if erasure.extended is None else opened.due_at,
            "overdue": is_overdue(erasure, now),
            "refused_on": None if erasure.refused is None else GROUNDS.get(erasure.refused.ground, "unknown"),
            "claims": [
                {
                    "level": one.level,
                    "sentence": one.sentence,
                    "evidence": dict(one.evidence),
                    "does_not_show": one.does_not_show,
                }
                for one in earned
            ],
            "evidence_missing": self._evidence_missing(erasure, {one.level for one in earned}),
            "plan": None
            if plan is None
            else {
                "branch": plan.branch,
                "parent_branch": plan.parent_branch,
                "base_height": plan.base_height,
                "base_model": plan.base_model.hex(),
                "target_height": plan.target_height,
                "replays": replays(plan),
                "method": methods.name_of(plan.method),
                "exact": methods.is_exact(plan.method),
                "rounds": plan.rounds,
                "given_up": was_given_up(history, plan),
            },
            "method_chosen": self._books.store.meta(f"method {batch.hex()}"),
            "method_refused": self._plans.refused_choice(batch, erasure),
            "copy_stays": self._copy_stays(batch, erasure),
            "hospital_removed": is_removed(history, erasure),
            "roster": list(members_of(roster)),
            "pair_attested": sorted(n.member for n in self._books.about(batch, PurgeNotice) if n.stage == PAIR),
            "attested": sorted(erasure.purges),
            "confirmed_by": sorted(m for m, v in erasure.verdicts.items() if v.confirmed),
            "certificate_ready": waiting == [] and erasure.refused is None and COPY_DELETED in erasure.steps,
            "waits_for": waiting or [],
        }

    def _evidence_missing(self, erasure: ErasureHistory, earned: set[str]) -> list[str]:
        """Levels that the study asks for and a confirmed erasure has not; of one that replayed nothing, never L3."""
        found = self._books.participant.studies.get(erasure.opened.study)
        if found is None or erasure.confirmed is None or erasure.plan is None:
            return []
        asked = [one for one in found.study["policy", "evidence"] if one != "L3" or replays(erasure.plan)]
        return [one for one in asked if one not in earned]
