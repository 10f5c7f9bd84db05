"""The plan of an erasure: which one follows, our vote for it, and the carrying of all votes to the chain.

What may live here: the finding of the method that the patient's hospital chose, and of the plan. What this file does
not know: the rules that a plan follows from (`node/erasure.py`), how it is carried out.
"""

from __future__ import annotations

from crypto.digest import Digest
from fl_engine.unlearning import Unlearner
from node import methods
from node.erasing.books import Books, Surroundings
from node.erasing.sets import Sets
from node.erasure import CHOICE_S, PlanTerms, has_turn, is_removed, plan_of, roster_of, terms_of
from node.history import ErasureHistory
from node.messages import PlanNotice
from node.notices import counts
from node.records import Planning
from node.study import Study


class Plans:
    """Votes on plans."""

    def __init__(self, books: Books, sets: Sets) -> None:
        self._books, self._sets = books, sets
        self.awaited: dict[Digest, int] = {}  # batch -> since when its hospital's vote for a plan is awaited

    def _chosen(self, batch: Digest, erasure: ErasureHistory, study: Study) -> Unlearner | None:
        """The method that the controlling hospital chose for a batch: by its vote, which is its signed choice.

        None where that is not here, or names what members cannot carry out in this study.
        """
        if erasure.opened.controller == self._books.me:
            kept = self._books.store.meta(f"method {batch.hex()}")
            return methods.find(kept or methods.default_of(study).name, study)
        for vote in self._books.about(batch, PlanNotice) if not is_removed(self._books.history, erasure) else ():
            found = methods.numbered(vote.method)
            if vote.member != erasure.opened.controller or found is None:
                continue
            if methods.barred(found, study) is None:
                return found
        return None

    def planned(self, batch: Digest, erasure: ErasureHistory, now: int) -> PlanTerms | None:
        """The plan that follows; None while it does not, or while the choice of its method is awaited.

        It is awaited for `CHOICE_S` from when the hospital can vote, and not where it has no vote or nothing replays.
        """
        opened = erasure.opened
        study = self._books.spec(opened.study)
        if study is None:
            return None  # which plan an honest member signs depends on the specification
        method = self._chosen(batch, erasure, study)
        plan = plan_of(self._books.history, erasure, self._sets.uses(batch), method or methods.default_of(study))
        if plan is None or method is not None or plan.method == methods.NOTHING:
            return plan
        if not roster_of(self._books.history, opened.study) >> opened.controller & 1:
            return plan
        if not has_turn(self._books.history, erasure):
            self.awaited.pop(batch, None)
            return None
        terms = self._books.history.studies[opened.study].created.terms
        since = max(self.awaited.setdefault(batch, now), opened.opened_at + terms.erasure_window)
        return plan if now > since + CHOICE_S else None

    def refused_choice(self, batch: Digest, erasure: ErasureHistory) -> str | None:
        """Why the method that the controlling hospital voted for is not followed; None where it is."""
        for vote in self._books.about(batch, PlanNotice):
            if vote.member != erasure.opened.controller or vote.method == methods.NOTHING:
                continue
            found = methods.numbered(vote.method)
            if found is None:
                return f"the hospital chose a method of number {vote.method}, which is not known here"
            if (why := methods.barred(found, self._books.spec(erasure.opened.study))) is not None:
                return f"the hospital chose {found.name}, which no member carries out: it {why}"
        return None

    async def vote(self, node: Surroundings, batch: Digest) -> None:
        """Give our vote."""
        notice = await node.core(self._sign, batch, node.now)
        if notice is not None:
            await node.offer(notice)

    def _sign(self, batch: Digest, now: int) -> PlanNotice | None:
        """Our vote for the plan that follows now. One for a line that does not train any more is replaced."""
        terms = self.planned(batch, self._books.erasure(batch), now)
        if terms is None:
            return None
        self._books.drop_votes_against(terms, batch, ours=True)
        draft = PlanNotice(
            batch,
            self._books.member,
            terms.parent_branch,
            terms.base_height,
            terms.base_model,
            terms.branch_seed,
            terms.target_height,
            terms.method,
            terms.rounds,
            b"",
        )
        return self._books.say(draft)

    async def gather(self, node: Surroundings, batch: Digest) -> None:
        """Give our vote, and ask for those of the others."""
        notice = await node.core(self._sign, batch, node.now)
        if notice is not None:
            await node.offer(notice)
        await node.pull(batch)

    async def post(self, node: Surroundings, batch: Digest) -> None:
        """Carry the votes to the chain."""
        call = await node.core(self._planning, batch, node.now)
        if call is not None:
            await node.send(call)

    def _planning(self, batch: Digest, now: int) -> Planning | None:
        erasure, history = self._books.erasure(batch), self._books.history
        terms = self.planned(batch, erasure, now)
        roster, domains = roster_of(history, erasure.opened.study), self._books.participant.domains
        votes = [
            (n.member, n.signature)
            for n in self._books.about(batch, PlanNotice)
            if terms_of(n) == terms and roster >> n.member & 1 and counts(n, history, domains)
        ]
        if terms is None:
            return None
        return Planning(
            erasure.opening,
            terms.parent_branch,
            terms.base_height,
            terms.base_model,
            terms.branch_seed,
            terms.target_height,
            terms.method,
            terms.rounds,
            tuple(sorted(votes)),
            history.base_proof(erasure.opened.study, terms.parent_branch, terms.base_height),
        )
