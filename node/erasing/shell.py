"""The shell around the machine of `node/erasure.py`: what is due is looked up there and done in the rooms.

What may live here: the collecting of `Facts`, the starting of duties, the table of which room does which act. What this
file does not know: how anything is done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Final

import structlog

from crypto.digest import Digest
from crypto.errors import CryptoError
from node.desk import Desk
from node.erasing.archive import Archive
from node.erasing.books import Books, Surroundings
from node.erasing.decisions import Decisions
from node.erasing.handover import Handover
from node.erasing.plans import Plans
from node.erasing.purge import LOOK_AGAIN_S, Purge
from node.erasing.relays import Relays
from node.erasing.requests import Requests
from node.erasing.sets import Sets
from node.erasing.standing import Standing
from node.erasing.verdict import Verdict
from node.erasure import (
    FINAL,
    JUDGING,
    OVER,
    PAIR,
    Act,
    Done,
    Erasure,
    Facts,
    Failed,
    Looked,
    State,
    checkpoint_of,
    exclusion_evidence,
    has_turn,
    is_forgotten,
    is_removed,
    may_be_planned,
    never_closes,
    old_line_is_quiet,
    openers_of,
    questions,
    replays,
    roster_of,
    state_of,
    terms_of,
)
from node.errors import NodeError, NotFound
from node.history import ErasureHistory
from node.membership import bitmap_of
from node.messages import OpeningNotice, PlanNotice, PurgeNotice, TombstoneNotice, VerdictNotice
from node.participant import Participant

log = structlog.get_logger("erasing")

RETRY_S: Final = 3  # chain seconds until a duty that failed is tried again


class Erasing:
    """One node's erasures.

    Args:
        participant: the node's state.
        desk: withdraws for us, and knows the network and our name.
    """

    def __init__(self, participant: Participant, desk: Desk) -> None:
        self._books = books = Books(participant, desk)
        self.sets = Sets(books)
        self.archive = Archive(books, self.sets)
        self.decisions = Decisions(books, self.sets, self.archive)
        self.requests = Requests(books, self.decisions)
        self.relays = Relays(books, self.requests)
        self.plans = Plans(books, self.sets)
        self.purge = Purge(books, self.sets)
        self.verdict = Verdict(books, self.sets, self.purge)
        self.handover = Handover(books, self.requests, self.archive)
        self.standing = Standing(books, self.requests, self.sets, self.plans, self.handover)
        self._machines: dict[Digest, Erasure] = {}
        self._settled: dict[Digest, tuple[object, int]] = {}  # batch -> (last record, time) of a look without acts
        self._busy: set[str] = set()
        self._duties: dict[Act, Callable[[Surroundings, Digest], Awaitable[None]]] = {  # act -> how this node does it
            Act.AUTHORISE: self.decisions.authorise,
            Act.EXCLUDE: self.decisions.exclude,
            Act.SHARE_OPENING: self.requests.share,
            Act.READ_SETS: self.sets.read,
            Act.VOTE_PLAN: self.plans.vote,
            Act.GATHER_PLANS: self.plans.gather,
            Act.POST_PLAN: self.plans.post,
            Act.PURGE: self.purge.carry_out,
            Act.ATTEST_PAIR: partial(self.purge.attest, PAIR),
            Act.GATHER_PURGES: self.purge.gather,
            Act.GIVE_VERDICT: self.verdict.give,
            Act.ATTEST_REST: partial(self.purge.attest, FINAL),
            Act.POST_VERDICTS: self.verdict.post,
            Act.POST_PURGES: self.purge.post,
            Act.CLOSE: self.handover.close,
            Act.FORGET: self.handover.forget,
        }
        # What people and peers ask for, at the room that does it.
        self.request, self.relayed = self.requests.request, self.relays.relayed
        self.batch_of = self.requests.batch_of
        self.refuse, self.extend = self.decisions.refuse, self.decisions.extend
        self.refusable = self.decisions.refusable
        self.receipt, self.delivered = self.handover.receipt, self.handover.delivered
        self.attested, self.waits_for = self.handover.attested, self.handover.waits_for
        self.status, self.subjects = self.standing.status, self.standing.subjects
        self.outlive = self.archive.outlive

    def forget(self) -> None:
        """The chain is read anew: machines are made again."""
        self._machines.clear()
        self.purge.clean.clear()
        self._settled.clear()
        self.plans.awaited.clear()

    async def work(self, node: Surroundings) -> None:
        """Called after every look at the chain: start whatever is due. Never waits for peers or the chain itself."""
        for duty in (self.requests.ask_by_form, self.requests.open_waiting, self.relays.relay):
            if duty.__name__ not in self._busy:
                self._busy.add(duty.__name__)
                node.spawn(self._alone, node, duty)
        for batch in list(self._books.history.erasures):
            if self._is_settled(batch, node.now):
                continue
            for act in await node.core(self._look, batch, node.now):
                node.spawn(self._perform, node, batch, act)

    async def _alone(self, node: Surroundings, duty: Callable[[Surroundings], Awaitable[object]]) -> None:
        try:
            await duty(node)
        except (NodeError, CryptoError, OSError) as error:
            log.info("later", duty=duty.__name__, error=str(error)[:300])
        finally:
            self._busy.discard(duty.__name__)

    def _is_settled(self, batch: Digest, now: int) -> bool:
        """Whether a batch was over at a look, and the chain has had nothing new since; an old home has many of them."""
        settled = self._settled.get(batch)
        return settled is not None and settled[0] == self._books.history.last and now < settled[1] + LOOK_AGAIN_S

    def _look(self, batch: Digest, now: int) -> tuple[Act, ...]:
        erasure = self._books.history.erasures.get(batch)
        if erasure is None:
            return ()
        machine = self._machines.setdefault(batch, Erasure(batch))
        try:
            facts = self._facts(batch, erasure, now)
        except NotFound as error:  # what is not here yet of one erasure holds nothing else up
            log.info("later", erasure=batch.hex()[:8], error=error.message)
            return ()
        acts = machine.handle(Looked(facts), now)
        if is_forgotten(self._books.history, erasure) and not machine.under_way:
            self._settled[batch] = (self._books.history.last, now)
        return acts

    async def _perform(self, node: Surroundings, batch: Digest, act: Act) -> None:
        """Carry an act out and report how it went. Nothing that fails here may end the node."""
        event: Done | Failed = Done(act)
        try:
            await self._duties[act](node, batch)
        except (NodeError, CryptoError, OSError) as error:
            log.info("later", erasure=batch.hex()[:8], act=act.value, error=str(error)[:300])
            event = Failed(act, node.now + RETRY_S)
        machine = self._machines.get(batch)
        if machine is not None:
            await node.core(machine.handle, event, node.now)

    def _facts(self, batch: Digest, erasure: ErasureHistory, now: int) -> Facts:
        history, me, opened = self._books.history, self._books.me, erasure.opened
        terms = history.studies[opened.study].created.terms
        state, roster = state_of(erasure, history), roster_of(history, opened.study)
        controller = me == opened.controller
        if controller and state not in OVER and self._books.opening(batch) is None:
            self.relays.identify(batch, erasure, now)
        opening = self._books.opening(batch)
        found = history.studies[opened.study]
        ready = may_be_planned(history, erasure, self._books.consents(batch), now)
        facts = Facts(
            state,
            me,
            roster,
            opened.controller,
            terms.f,
            opening=opening is not None,
            shows=me is not None and bool(openers_of(history, erasure) >> me & 1),
            ready=ready or erasure.plan is not None,
            unclosed=is_removed(history, erasure) and (not controller or never_closes(history, erasure)),
            took_part=me in found.joined | found.left,
        )
        if state is State.REFUSED:
            return facts
        if controller and opening is not None:
            consents = tuple(consent for consent, _ in opening.requests)
            facts = replace(
                facts,
                requests=True,
                excluded=exclusion_evidence(history, opened.study, consents) is not None,
                delivered=self.handover.is_delivered(batch, erasure, now),
                lacking=self.requests.lacking(batch, erasure, roster),
            )
        if facts.shows and opening is not None and not controller:
            facts = replace(facts, lacking=self.requests.lacking(batch, erasure, roster))
        if not facts.ready:
            return facts
        uses = self.sets.uses(batch)
        asked = questions(history, erasure)
        was_read = self._books.store.meta(f"uses {batch.hex()}") is not None
        answered = was_read and all(one.opened.round_id in uses for one in asked or ())
        facts = replace(facts, answered=answered, window_end=opened.opened_at + terms.erasure_window)
        if erasure.plan is None:
            plan = self.plans.planned(batch, erasure, now) if opening is not None else None
            votes = [n for n in self._books.about(batch, PlanNotice) if plan is not None and terms_of(n) == plan]
            return replace(
                facts,
                has_turn=has_turn(history, erasure),
                plan=plan,
                voted=any(n.member == me for n in votes),
                votes=bitmap_of(n.member for n in votes),
            )
        checkpoint = checkpoint_of(history, erasure.plan)
        kept = self._books.about(batch, VerdictNotice)
        fitting = [
            n.member
            for n in kept
            if checkpoint is not None and (n.branch, n.head_model) == (checkpoint.branch, checkpoint.model)
        ]
        given = bitmap_of(erasure.verdicts)
        others = roster & ~(1 << opened.controller)
        quiet = old_line_is_quiet(history, erasure.plan)
        return replace(
            facts,
            forks=replays(erasure.plan),
            quiet=quiet,
            dirty=quiet and self.purge.is_dirty(batch, erasure, now),
            pair=self._kept_purges(batch, PAIR),
            rest=bitmap_of(erasure.purges),
            purge_end=erasure.times["planned"] + terms.purge_seconds,
            rest_kept=self._kept_purges(batch, FINAL),
            caught_up=checkpoint is not None and (quiet or not replays(erasure.plan)),
            judged=any(n.member == me for n in kept),
            verdicts=given,
            unposted=bitmap_of(fitting) & others & ~given,
            unposted_purges=0 if state in JUDGING else bitmap_of(one.member for one in self.purge.entries(batch)),
        )

    def _kept_purges(self, batch: Digest, stage: int) -> int:
        return bitmap_of(n.member for n in self._books.about(batch, PurgeNotice) if n.stage == stage)

    async def noticed(
        self, node: Surroundings, notice: OpeningNotice | PlanNotice | PurgeNotice | VerdictNotice | TombstoneNotice
    ) -> None:
        """A genuine notice about an erasure was kept: what follows from it is done at the next look."""
        if isinstance(notice, OpeningNotice | PlanNotice | VerdictNotice):
            machine = self._machines.get(notice.batch)
            if machine is not None:
                for act in await node.core(self._look, notice.batch, node.now):
                    node.spawn(self._perform, node, notice.batch, act)
