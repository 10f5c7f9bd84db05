"""The running node: one nursery that feeds the machines and performs what they ask for.

What may live here: tasks, retries, the order in which blocking pieces run. Every rule is elsewhere: what a round does
(`round`), what an erasure does (`erasure`), what needs keys or data (`participant`), who may be answered (`serving`),
what people may order (`desk`). The state is touched by one worker thread at a time (`_core`); training, the chain and
peers are waited for outside it, and work over every byte of a model has a thread of its own (`_long`), so that peers
are answered meanwhile.

The same class runs a hospital's node over libp2p and an Ethereum client, and a whole simulated study over the
in-memory doors (`node/simulate.py`).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import structlog
import trio
from numpy.typing import NDArray

from crypto.digest import Digest
from crypto.keys import address_text, peer_id_text
from node.desk import Desk
from node.doors import Bucket, Counters, Link, PeerStatus, Started, Transport
from node.duties import Duties, note_contradiction
from node.erasing import Erasing
from node.erasure import is_doomed
from node.errors import (
    CallReverted,
    ChainDisputed,
    ChainUnreachable,
    LedgerError,
    LocalError,
    NodeError,
    NotFound,
    PeerError,
    Refused,
    TimedOut,
)
from node.exchange import MAX_SPEC_BYTES, Exchange
from node.follower import Follower, Reorganised
from node.history import History
from node.jsonrpc import ReplyLost
from node.membership import faults, members_of, quorum
from node.messages import (
    AbstainNotice,
    CloseNotice,
    CommitNotice,
    ErasureNotice,
    HaveNotice,
    Hello,
    Notice,
    OpeningNotice,
    PlanNotice,
    PurgeNotice,
    Reply,
    Request,
    TombstoneNotice,
    VerdictNotice,
    VoteNotice,
    WithdrawalNotice,
)
from node.notices import check, counts
from node.participant import Participant, TrainingJob
from node.records import (
    Abstentions,
    Call,
    CommitEntry,
    Commits,
    Finalisation,
    HaveEntry,
    Haves,
    Head,
    Ledger,
    Logged,
    RoundFailure,
    RoundOpened,
    Sent,
)
from node.round import (
    Aggregate,
    AskPeers,
    BelowMinimum,
    DeclareFailed,
    Effect,
    Event,
    Fetch,
    Held,
    Judge,
    NotSent,
    Observed,
    PeerAnswered,
    Phase,
    PhaseView,
    PostAbstentions,
    PostCommits,
    PostHaves,
    PostResult,
    Prefetch,
    Received,
    Restarted,
    Share,
    SignAbstain,
    SignClose,
    SignHave,
    SignVote,
    StopTraining,
    Tick,
    Train,
    Trained,
    TrainingFailed,
    Wake,
)
from node.round import Sent as Done
from node.serving import Server, Standing, standing
from node.store import notice_key
from node.training import Arithmetic, LocalTraining, Trainer, TrainingStopped, carried_over

log = structlog.get_logger("node")
T = TypeVar("T")
RETRY_S = 2
LOOK_PAUSE_S = 0.02  # least pause between two looks at the chain
NEWS_PER_S, NEWS_BURST = 5.0, 20.0  # of one peer: greetings that tell of a block we have not read, and make us look
BEAT_S = 1.0
STUCK_S = 60.0  # without a beat: something holds the loop, and a restart is the way out
KEEP_MACHINES = 4  # ended rounds per node whose machines still answer for their keys and close their results


@dataclass(slots=True)
class Metrics:
    """Plain counters; `node/cli` turns them into Prometheus text."""

    records: int = 0
    trainings: int = 0
    peer_errors: int = 0
    chain_errors: int = 0
    reorganisations: int = 0
    started: float = field(default_factory=time.time)
    training_s: float = 0.0
    ended: dict[str, int] = field(default_factory=dict)
    """How rounds ended that this process saw end: "final" or "failed" -> number."""


class Node:
    """One member's or auditor's process.

    Args:
        participant: this node's state.
        ledger, transport, trainer: the doors. An auditor has no trainer.
        follower: reads the ledger.
        addresses: peer id -> multiaddress, as the network's description has it; members announce newer ones on chain.
        desk: acts for people.
        poll_s: pause between two looks at the chain.
        announce: the multiaddress at which others are to dial this member; empty: say nothing about it.
    """

    def __init__(
        self,
        participant: Participant,
        ledger: Ledger,
        transport: Transport,
        trainer: Trainer | None,
        follower: Follower,
        addresses: dict[bytes, str],
        desk: Desk,
        poll_s: float,
        announce: str = "",
    ) -> None:
        self.participant = participant
        self.desk = desk
        self.erasing = Erasing(participant, desk)
        self.duties = Duties(participant, addresses, announce)
        self.metrics = Metrics()
        self._ledger, self._transport, self._trainer, self._follower = ledger, transport, trainer, follower
        self._addresses = addresses
        self._poll_s = poll_s
        self._core_turn = trio.CapacityLimiter(1)
        self._long_turn = trio.CapacityLimiter(1)  # one at a time: each holds a few times a model's bytes
        self._chain_turn = trio.CapacityLimiter(4)
        self._sending_turn = trio.CapacityLimiter(8)  # of its own: a look never waits for what waits to be mined
        self._training_turn = trio.CapacityLimiter(1)
        self._exchange = Exchange(transport, participant, self._core)
        self._server = Server(participant, self._deliver, lambda: "following" if self.ready else "syncing")
        self._inbox: list[Notice] = []
        self._head: Head | None = None
        self._now = 0
        self._active: dict[Digest, None] = {}  # rounds whose machines are stepped, oldest first
        self._unready: set[Digest] = set()  # opened rounds whose study's spec is not here yet
        self._before_us: set[Digest] = set()  # rounds that opened before we followed the chain, or while it was away
        self._busy: set[object] = set()
        self._settled: set[Digest] = set()  # models that are here, or purged for good
        self._not_before: dict[Digest, int] = {}  # study or round -> chain time of the next try for what it lacks
        self._nursery: trio.Nursery | None = None
        self._beside: dict[str, trio.CancelScope] = {}  # what waits for the chain beside the looks at it
        self._restarting = True
        self._fault: LedgerError | None = None  # why the last look at the chain failed
        self._training_fault = ""  # why the last training failed
        self._warmed = False  # whether the worker was started ahead of its work
        self._looked: tuple[Head, int] | None = None  # at what the last look that acted was
        self._news = trio.Event()  # something is on the chain that we have not read: look now
        self._words: dict[bytes, Bucket] = {}  # peer -> how often it may still say that there is news
        self.ready = False
        self._beaten = time.monotonic()
        self._phases: dict[Digest, PhaseView] = {}  # as they were last told to the log

    @property
    def history(self) -> History:
        """The chain as this node has read it."""
        return self.participant.history

    @property
    def disputed(self) -> bool:
        """Whether the chain cannot be believed now; rounds wait."""
        return isinstance(self._fault, ChainDisputed)

    @property
    def block(self) -> int:
        """Number of the newest block that was read, -1 before the first."""
        return self._follower.done

    @property
    def open_rounds(self) -> int:
        """Rounds with a machine."""
        return len(self._active)

    @property
    def folder(self) -> Path:
        """The home."""
        return self.participant.store.home

    def links(self) -> Mapping[bytes, PeerStatus]:
        """Every registered peer and how things stand with it. Safe from another thread."""
        while True:
            try:
                return self._transport.connected()
            except RuntimeError:  # the set of peers changed under the eyes of this thread
                continue

    @property
    def alive(self) -> bool:
        """Whether the loop turns: for a monitor, which restarts a node that is not. Read from another thread."""
        return time.monotonic() - self._beaten < STUCK_S

    def obstacles(self) -> list[str]:
        """What keeps this node from taking part now, in words; none: it can. Read from another thread."""
        found: list[str] = []
        if self._fault is not None:
            found.append(f"the chain: {_KIND_OF_FAULT.get(type(self._fault), self._fault.kind)}")
        elif not self.ready:
            found.append("the chain is being read")
        me, registry = self.participant.me, self.history.registry
        if me is None or not self.ready:
            return found
        member, active = registry.members.get(me), registry.active
        if member is None or not member.active:
            return [*found, f"member {me} is not active in the registry"]
        links = self.links()
        near = 1 + sum(
            other.peer_id in links and links[other.peer_id].state is Link.CONNECTED
            for other in list(registry.members.values())
            if other.active and other.index != me
        )
        n = active.bit_count()
        needed = quorum(n, faults(n, n))
        if near < needed:
            found.append(f"{near} of {n} members are connected, ourselves among them; {needed} decide")
        return found

    @property
    def now(self) -> int:
        """Chain time at the last look; the wall clock's while no chain has answered yet."""
        return self._now or int(time.time())

    # ----------------------------------------------------------------------------------------------------------------
    # Threads

    async def _core(self, function: Callable[..., T], *arguments: Any) -> T:
        """One blocking call on the node's state; calls take turns."""
        return await trio.to_thread.run_sync(partial(function, *arguments), limiter=self._core_turn)

    async def _long(self, function: Callable[..., T], *arguments: Any) -> T:
        """One piece of long work over a model's bytes, which touches nothing that `_core` does."""
        return await trio.to_thread.run_sync(partial(function, *arguments), limiter=self._long_turn)

    async def core(self, function: Callable[..., T], *arguments: Any) -> T:
        """For the control endpoint: a blocking call on the node's state, in turn."""
        return await self._core(function, *arguments)

    async def _chain(
        self, function: Callable[..., T], *arguments: Any, limiter: trio.CapacityLimiter | None = None
    ) -> T:
        return await trio.to_thread.run_sync(
            partial(function, *arguments),
            limiter=limiter or self._chain_turn,
            abandon_on_cancel=True,  # type: ignore[call-arg]  # trio-typing's stub is of an older trio
        )

    async def send(self, call: Call) -> Sent:
        """Carry a call to the chain; sending it again is always safe. Then look, and tell the others to."""
        sent = await self._chain(self._ledger.send, call, limiter=self._sending_turn)
        self._news.set()
        domains = self.participant.domains
        self.spawn(self._exchange.greet, Hello(domains.chain_id, domains.membership, sent.block))
        return sent

    async def unread(self) -> Sequence[Logged]:
        """The chain's records from the last one that was read here on, also those that are not final yet."""
        last = self.history.last
        head = await self._chain(self._ledger.head)
        return await self._chain(self._ledger.records, 0 if last is None else last.block, head.number)

    # ----------------------------------------------------------------------------------------------------------------
    # Running

    async def run(self, *, task_status: Started = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the chain, answer peers, take part, until cancelled."""
        self._transport.serve(self._answer)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await self._load()
            await nursery.start(self._transport.run)
            task_status.started(())
            nursery.start_soon(self._beat)
            try:
                await self._follow()
            finally:
                # A training in its thread would hold a node that is to stop until its end, which may be hours away.
                if self._trainer is not None and any(
                    isinstance(mark, tuple) and mark[0] == "training" for mark in self._busy
                ):
                    self._trainer.stop()

    async def _beat(self) -> None:
        while True:
            self._beaten = time.monotonic()
            await trio.sleep(BEAT_S)

    def _warm_up(self) -> None:
        """Start the worker once a study is under way, ahead of its first round; before, a node needs no torch."""
        if self._trainer is not None and not self._warmed:
            self._warmed = any(not self.history.finished(study) for study in self.history.studies)
            if self._warmed:
                self.spawn(self._warm, self._trainer)

    async def _warm(self, trainer: Trainer) -> None:
        try:
            await trio.to_thread.run_sync(trainer.warm, limiter=self._training_turn)
        except LocalError as error:
            log.error("training", error=error.message)

    def close(self) -> None:
        """End the worker and let go of the files; after `run` has ended."""
        if self._trainer is not None:
            self._trainer.close()
        self.participant.store.close()
        if self.participant.vault is not None:
            self.participant.vault.close()

    @property
    def counters(self) -> Counters:
        """What went wrong at our door towards peers."""
        return self._transport.counters

    async def predict(
        self, arithmetic: Arithmetic, rows: NDArray[np.int64], x: NDArray[np.float32], model: bytes
    ) -> NDArray[np.float32]:
        """Logits of a model on records, by the training worker, in turn with training."""
        if self._trainer is None:
            raise Refused("an auditor's node has no worker to evaluate with")
        return await trio.to_thread.run_sync(
            self._trainer.predict, arithmetic, rows, x, model, limiter=self._training_turn
        )

    async def trainer_forget(self) -> None:
        """Make the training worker forget records that are not in the vault any more.

        One that holds such a record is ended, and the next started ahead of its work.
        """
        if self._trainer is None or self.participant.vault is None:
            return
        kept = await self._core(self.participant.vault.every_row)
        if await trio.to_thread.run_sync(self._trainer.forget, kept):
            self.spawn(self._warm, self._trainer)

    def spawn(self, function: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Run a duty beside the look at the chain, so that a silent peer never stalls it."""
        assert self._nursery is not None
        self._nursery.start_soon(function, *arguments)

    async def fetch_set(self, notice: CommitNotice) -> None:
        """Fetch the ciphertext and the key of a commit's set from any holder."""
        await self._exchange.set_blob(notice)

    def hello(self) -> Hello:
        """First words to every peer."""
        domains = self.participant.domains
        return Hello(domains.chain_id, domains.membership, max(self._follower.done, 0))

    async def _answer(self, peer_id: bytes, request: Request) -> Reply:
        if isinstance(request, Hello) and request.block > self._follower.done and self._heeds(peer_id):
            self._news.set()
        reply = await self._core(self._server.answer, peer_id, request, self._now)
        await self._empty_inbox()
        return reply

    def _heeds(self, peer_id: bytes) -> bool:
        """Whether a look is worth a peer's word: whoever tells of blocks that never come is heard now and then."""
        return self._words.setdefault(peer_id, Bucket(NEWS_PER_S, NEWS_BURST, time.monotonic)).spend()

    def _deliver(self, notice: Notice) -> None:
        self._inbox.append(notice)

    async def load(self) -> None:
        """Read what this home keeps of the chain and its studies, for orders that need nothing more."""
        await self._load()
        self._now = max(self._now, int(time.time()))
        for study in self.history.studies:
            try:
                await self._core(self.participant.study, study)
            except NotFound:
                log.info("study spec not here", study=study.hex()[:8])

    async def _load(self) -> None:
        try:
            stored = await self._core(self._follower.stored)
        except Reorganised:
            stored = await self._core(self._follower.stored)
        await self._core(self._adopt, stored)

    async def _follow(self) -> None:
        while True:
            try:
                await self._look()
            except Reorganised as error:
                self.ready = False
                log.warning("reorganised", error=error.message)
                self.metrics.reorganisations += 1
                self._restarting = True
                await self._stop_beside()
                await self._load()
                await self._send_again()
            except LedgerError as error:
                if self._fault is None or self._fault.message != error.message:  # an outage of a night is a line
                    kind = _KIND_OF_FAULT.get(type(error))
                    log.warning("ledger" if kind is None else f"chain {kind}", error=error.message)
                self.ready, self._fault = False, error
                self.metrics.chain_errors += 1
                await trio.sleep(1.0)
            await self._pause()

    async def _pause(self) -> None:
        """Let some time pass between two looks at the chain, less where there is news."""
        await trio.sleep(min(self._poll_s, LOOK_PAUSE_S))  # a peer may say that there is news as often as it likes
        with trio.move_on_after(max(0.0, self._poll_s - LOOK_PAUSE_S)):
            await self._news.wait()

    async def _send_again(self) -> None:
        try:
            count = await self._chain(self._follower.resend)
            log.info("sent again what a reorganisation took out", count=count)
        except LedgerError as error:  # the duties that follow say again what is missing
            log.warning("not sent again", error=error.message)

    def _adopt(self, stored: list[Logged]) -> None:
        """Put the chain as it was kept in the place of what was read of it: at one stroke, for others look on."""
        if self.history.last is not None and self.participant.vault is not None:
            # What the old blocks withdrew stays withdrawn here, whatever the new ones hold.
            self.participant.reapply(self.erasing.outlive)
        history = History()
        history.apply_all(stored)
        self.metrics.records += len(stored)
        self._active.clear()
        self._phases.clear()
        self._not_before.clear()
        self._unready = set(history.rounds)
        self.participant.read_anew(history)
        self.desk.forget()
        self.erasing.forget()

    def _work_beside(self, name: str, work: Callable[[Node], Awaitable[None]]) -> None:
        """Start what may wait for a transaction to be mined, unless it still waits: no round is late because of it."""
        if name not in self._beside:
            self._beside[name] = trio.CancelScope()
            self.spawn(self._alone, name, work)

    async def _alone(self, name: str, work: Callable[[Node], Awaitable[None]]) -> None:
        try:
            with self._beside[name]:
                await work(self)
        except NodeError as error:
            log.info("later", duty=name, error=error.message)
        finally:
            del self._beside[name]

    async def _stop_beside(self) -> None:
        """End what acts on a chain that is not there any more; whatever was due is due again on the next."""
        for scope in self._beside.values():
            scope.cancel()
        while self._beside:  # noqa: ASYNC110 - moments
            await trio.sleep(self._poll_s)

    async def _look(self) -> None:
        """One look at the chain: read what is final, then let every machine act.

        Where the chain is as it was, in the same second, and nobody said that there is news, nothing is due either.
        """
        told, self._news = self._news.is_set(), trio.Event()
        final_time = -1 if self._head is None else self._head.time - 1
        head = await self._chain(self._ledger.head)
        if self.ready and not told and (head, final_time) == self._looked:
            return
        await self._chain(self._follower.check_head, head)
        while self._follower.done < head.final_number:
            logged = await self._chain(self._follower.step, head)
            if logged:
                await self._core(self._apply, logged)
        history = self.history
        rebuilt = (history.registry.accumulator, history.consent_acc, history.unlearning_acc)
        await self._chain(self._follower.compare, head, rebuilt)
        self._fault = None
        self._head, self._now, self._looked = head, max(self._now, head.time), (head, final_time)
        self._refresh_peers()
        self._warm_up()
        self._open_studies()
        if self._restarting:
            self._restarting = False
            if self.participant.vault is not None:
                count = await self._core(self.participant.reapply, self.erasing.outlive)
                log.info("withdrawals and erasures of the chain re-applied", count=count)
        await self._open_machines()
        await self._core(self._server.readmit)
        await self._empty_inbox()
        if not self.ready:
            log.info("following the chain", block=self._follower.done)
        self.ready = True
        for round_id in list(self._active):
            await self._step(round_id, *await self._core(self._due, round_id, head, final_time))
        await self._core(self._retire)
        await self._models()
        self._openings()
        self._work_beside("desk", self.desk.work)
        self._work_beside("votes", self.desk.governance.work)
        await self.erasing.work(self)
        self._work_beside("duties", self.duties.work)

    # ----------------------------------------------------------------------------------------------------------------
    # The chain in

    def _apply(self, logged: list[Logged]) -> None:
        for one in logged:
            self.history.apply(one)
            self.metrics.records += 1
            record = one.record
            if isinstance(record, RoundOpened):
                self._unready.add(record.round_id)
            round_id = getattr(record, "round_id", None)
            machine = self.participant.rounds.get(round_id) if isinstance(round_id, Digest) else None
            if machine is not None and not isinstance(record, RoundOpened) and _of_round(record):
                machine.restore([Observed(one)], self._now)

    def _refresh_peers(self) -> None:
        registry = self.history.registry
        members = (member for member in registry.members.values() if member.active)
        peers = {member.peer_id: registry.address_of(member, self._addresses) for member in members}
        for auditor in registry.auditors.values():
            peers[auditor.peer_id] = self._addresses.get(auditor.peer_id, "")
        peers.pop(self._transport.peer_id, None)
        if {peer: status.address for peer, status in self._transport.connected().items()} != peers:
            self._transport.set_allowed(peers)

    def _open_studies(self) -> None:
        """Ask for specs that are not here; in tasks of their own, so that a silent creator delays no round."""
        for study in self.history.studies:
            mark = ("study", study)
            if study in self.participant.studies or mark in self._busy or self._now < self._not_before.get(study, 0):
                continue
            self._not_before[study] = self._now + RETRY_S
            self._busy.add(mark)
            assert self._nursery is not None
            self._nursery.start_soon(self._fetch_study, study, mark)

    async def _fetch_study(self, study: Digest, mark: object) -> None:
        try:
            created = self.history.studies[study].created
            await self._exchange.content(created.terms.spec_hash, "spec", MAX_SPEC_BYTES, created.creator)
            await self._core(self.participant.study, study)  # it draws the first model, which is then never fetched
        except NodeError as error:
            log.info("study spec not here yet", study=study.hex()[:8], error=error.message)
        finally:
            self._busy.discard(mark)

    async def _open_machines(self) -> None:
        if not self.ready:
            self._before_us = set(self._unready)
        for round_id in list(self._unready):
            one = self.history.rounds[round_id]
            if one.opened.study not in self.participant.studies:
                continue
            self._unready.discard(round_id)
            if await self._core(self._wanted, round_id):
                await self._core(self._start_machine, round_id)

    def _wanted(self, round_id: Digest) -> bool:
        one = self.history.rounds[round_id]
        if not one.over:
            return True
        return self.participant.me is None and one.final is not None and not self._purged(round_id)

    def _purged(self, round_id: Digest) -> bool:
        """Whether an erasure's plan covers this round: its updates are gone or going everywhere."""
        one = self.history.rounds[round_id]
        plans = [erasure.plan for erasure in self.history.erasures.values() if erasure.plan is not None]
        return any(is_doomed(self.history, plan, one) for plan in plans)

    def _start_machine(self, round_id: Digest) -> None:
        machine, events = self.participant.machine(self.history.rounds[round_id])
        for event in events:
            try:
                machine.restore([event], self._now)
            except (PeerError, LocalError) as error:  # what is kept was genuine; that does not make it sensible
                log.error("not restored", round=round_id.hex()[:8], of=type(event).__name__, error=error.message)
        if not machine.sound:
            log.error("the chain's endpoint hides records: nothing is signed in this round", round=round_id.hex()[:8])
        if events or round_id in self._before_us:  # what we said in it may be in another copy of this home alone
            machine.restore([Restarted()], self._now)
        self._active[round_id] = None
        log.info("round opened", round=round_id.hex()[:8], height=machine.facts.opened.height)

    def _due(self, round_id: Digest, head: Head, final_time: int) -> tuple[Event, ...]:
        """What the look at the chain means for one round: finality, withdrawals, time."""
        machine = self.participant.rounds[round_id]
        self._tell_phase(round_id, machine.phase(self._now))
        events: list[Event] = list(machine.finality(head.final_number, final_time))
        withdrawal = self.participant.new_withdrawals(round_id)
        if withdrawal is not None:
            events.append(withdrawal)
        return (*events, Tick())

    def _tell_phase(self, round_id: Digest, view: PhaseView) -> None:
        """One line in the log for every transition of a round."""
        before = self._phases.get(round_id)
        if before is not None and (before.phase, before.attempt) == (view.phase, view.attempt):
            return
        self._phases[round_id] = view
        if view.phase in (Phase.FINAL, Phase.FAILED):
            self.metrics.ended[view.phase.value] = self.metrics.ended.get(view.phase.value, 0) + 1
        log.info(
            "round moved on",
            round=round_id.hex()[:8],
            height=self.history.rounds[round_id].opened.height,
            before=None if before is None else before.phase.value,
            phase=view.phase.value,
            attempt=view.attempt,
            sealed=list(members_of(view.sealed)),
            deadline=view.deadline,
        )

    def _retire(self) -> None:
        """Forget machines of rounds that ended and have nothing left to do."""
        ended = []
        for round_id in self._active:
            phase = self.participant.rounds[round_id].phase(self._now).phase
            facts = self.participant.rounds[round_id].facts
            if phase not in (Phase.FINAL, Phase.FAILED) or (phase is Phase.FAILED and facts.failed is None):
                continue
            if phase is Phase.FINAL and self.participant.me is None and not self._purged(round_id):
                final = facts.final
                if final is not None and not facts.results and facts.committed & ~facts.held:
                    continue  # the auditor still reads
            ended.append(round_id)
        for round_id in ended[: max(0, len(ended) - KEEP_MACHINES)]:
            del self._active[round_id]
            del self.participant.rounds[round_id]
            self._phases.pop(round_id, None)

    # ----------------------------------------------------------------------------------------------------------------
    # Machines

    async def _step(self, round_id: Digest, *events: Event) -> None:
        """Hand events to a round's machine and start what it asks for."""
        effects = await self._core(self._handle, round_id, events)
        assert self._nursery is not None
        for effect in effects:
            if not isinstance(effect, Wake):
                self._nursery.start_soon(self._perform, round_id, effect)

    def _handle(self, round_id: Digest, events: tuple[Event, ...]) -> list[Effect]:
        machine = self.participant.rounds.get(round_id)
        if machine is None:
            return []
        effects: list[Effect] = []
        for event in events:
            try:
                effects += machine.handle(event, self._now)
            except PeerError as error:
                self.metrics.peer_errors += 1
                log.warning("notice dropped", round=round_id.hex()[:8], error=error.message)
            except LocalError as error:
                log.error("round", round=round_id.hex()[:8], of=type(event).__name__, error=error.message)
        return effects

    async def _perform(self, round_id: Digest, effect: Effect) -> None:
        """Carry one effect out and report how it went. Nothing that fails here may end the node.

        Only to the machine that asked: another one in its place has read another chain.
        """
        asked_by = self.participant.rounds.get(round_id)
        begun = time.monotonic()
        try:
            if isinstance(effect, _COMMITTING):
                self._check_undisputed()
            events = await self._carry_out(round_id, effect)
        except (NodeError, OSError) as error:
            log.info("later", round=round_id.hex()[:8], effect=type(effect).__name__, error=str(error)[:300])
            events = (NotSent(effect, self._now + 1),)
            if isinstance(effect, Train):
                self._training_fault = str(error)[:300]
        seconds, what = round(time.monotonic() - begun, 4), type(effect).__name__
        log.debug("effect", round=round_id.hex()[:8], effect=what, member=getattr(effect, "member", None), s=seconds)
        if self.participant.rounds.get(round_id) is asked_by:
            await self._step(round_id, *events)

    def _faults(self) -> list[str]:
        """What was tried of late and failed, and is tried again."""
        found = {**self.desk.faults, **({"training": self._training_fault} if self._training_fault else {})}
        return [f"{what}: {why}" for what, why in sorted(found.items())]

    def _check_undisputed(self) -> None:
        """Raise what the last look at the chain ended with, if it says that the chain cannot be believed now."""
        if isinstance(self._fault, ChainDisputed):
            raise self._fault

    async def _carry_out(self, round_id: Digest, effect: Effect) -> tuple[Event, ...]:
        node = self.participant
        match effect:
            case Train():
                return await self._train(effect)
            case StopTraining():
                if self._trainer is not None and ("training", effect.round_id, effect.generation) in self._busy:
                    await trio.to_thread.run_sync(self._trainer.stop)
                return (Done(effect),)
            case Share(notice):
                await self._exchange.offer(notice)
                return (Done(effect),)
            case AskPeers():
                return await self._ask_peers(round_id, effect)
            case Prefetch(member) | Fetch(member):
                return await self._fetch(round_id, member, effect, keys=isinstance(effect, Fetch))
            case Judge(member):
                return (await self._long(node.verdict, await self._core(node.contribution, round_id, member)),)
            case Aggregate(members):
                await self._parent_model(round_id)
                mixture = await self._core(node.mixture, round_id, members)
                root = None if mixture is None else await self._long(node.new_model, mixture)
                return (await self._core(node.result, round_id, members, root),)
            case SignAbstain(reason):
                log.info("abstaining", round=round_id.hex()[:8], why=reason)  # the chain is not told why
                return (await self._core(node.sign_abstain, round_id),)
            case SignHave():
                return (await self._core(node.sign_have, round_id, effect),)
            case SignVote():
                head = await self._chain(self._ledger.head)
                if head.time > effect.not_after:
                    return (NotSent(effect, head.time + 1),)
                return (await self._core(node.sign_vote, round_id, effect),)
            case SignClose():
                return (await self._core(node.sign_close, round_id),)
            case PostCommits() | PostAbstentions() | PostHaves() | PostResult() | DeclareFailed():
                return await self._post(round_id, effect)
            case _:
                raise LocalError(f"no way to carry out {type(effect).__name__}")

    async def _parent_model(self, round_id: Digest) -> None:
        opened = self.history.rounds[round_id].opened
        length = self.participant.studies[opened.study].model_length()
        if not await self._core(self._may_have, opened.parent_model):
            raise NotFound("what this replay replaces is not purged here yet")
        await self._exchange.content(opened.parent_model, "model", length)

    async def _train(self, effect: Train) -> tuple[Event, ...]:
        if self._trainer is None:
            return (TrainingFailed(effect.generation),)
        await self._parent_model(effect.round_id)
        async with self._training_turn:
            return await self._train_alone(effect)

    async def _train_alone(self, effect: Train) -> tuple[Event, ...]:
        assert self._trainer is not None
        mark = ("training", effect.round_id, effect.generation)
        kept = await self._core(self.participant.kept_commit, effect.round_id)
        if kept is not None:  # a training for the same round ended while its machine was built anew
            return (Trained(kept, 0), Held(kept.member))
        job = await self._core(self.participant.prepare, effect.round_id, effect.generation)
        if job is None:
            return (BelowMinimum(),)
        self._busy.add(mark)
        begun = time.monotonic()
        try:
            self.metrics.trainings += 1
            trained = await trio.to_thread.run_sync(_local_training, self._trainer, job)
        except TrainingStopped:
            return (TrainingFailed(effect.generation),)
        except Refused as error:
            log.error("training refused by the study's policy", error=error.message)
            return (TrainingFailed(effect.generation),)
        finally:
            self.metrics.training_s += time.monotonic() - begun
            self._busy.discard(mark)
        self._training_fault = ""
        job = job.without_records()
        log.debug("trained", round=effect.round_id.hex()[:8], s=round(time.monotonic() - begun, 4))
        overtaken = await self._overtaken(effect)
        if overtaken:
            return overtaken
        sealed = await self._long(self.participant.seal, job, trained)
        overtaken = await self._overtaken(effect)
        if overtaken:
            await self._core(self.participant.discard, sealed)
            return overtaken
        notice = await self._core(self.participant.commit, job, sealed)
        return (Trained(notice, effect.generation), Held(job.member))

    async def _overtaken(self, effect: Train) -> tuple[Event, ...]:
        """Why what was trained must not be committed: a withdrawal came meanwhile, or the round went on; else empty."""
        # Hours of work are not thrown away because the chain is being read again.
        while self._restarting or self.disputed or effect.round_id in self._unready:  # noqa: ASYNC110 - at our pace
            await trio.sleep(self._poll_s)
        late = await self._core(self.participant.new_withdrawals, effect.round_id)
        if late is not None:
            return (late, TrainingFailed(effect.generation))
        machine = self.participant.rounds.get(effect.round_id)
        if machine is None or machine.facts.withdrawals > effect.generation:
            return (TrainingFailed(effect.generation),)
        return ()

    async def _ask_peers(self, round_id: Digest, effect: AskPeers) -> tuple[Event, ...]:
        machine = self.participant.rounds.get(round_id)
        if machine is None:
            return ()

        async def heard(member: int, notices: tuple[Notice, ...]) -> None:
            events = await self._core(self._take, round_id, notices)
            if self.participant.rounds.get(round_id) is machine:
                await self._step(round_id, *events, PeerAnswered(member))

        await self._exchange.pull(round_id, machine.facts.opened.roster, heard)
        return (Done(effect),)

    def _take(self, round_id: Digest, notices: tuple[Notice, ...]) -> list[Event]:
        """Pulled notices, checked and kept, as events of their round."""
        return [event for notice in notices for event in self._take_one(round_id, notice)]

    def _take_one(self, round_id: Digest, notice: Notice) -> list[Event]:
        if not isinstance(notice, CommitNotice | AbstainNotice | HaveNotice | VoteNotice):
            return []
        if notice.round_id != round_id or standing(notice, self.history) is not Standing.PLACED:
            return []
        try:
            check(notice, self.history, self.participant.domains)
        except PeerError:
            return []
        if notice.member != self.participant.me:
            note_contradiction(self.participant.store, notice)
            if not self.participant.store.knows(notice):
                self.participant.store.remember(notice, own=False)
        return [Received(notice)]

    async def _fetch(self, round_id: Digest, member: int, effect: Effect, *, keys: bool) -> tuple[Event, ...]:
        machine = self.participant.rounds.get(round_id)
        if machine is None:
            return ()
        if self.participant.stands_outside(machine.facts.opened):  # nobody gives us a key; we fetch the final model
            return (Done(effect),)
        notice = machine.facts.opens(member) if keys else machine.facts.commits.get(member)
        if notice is None:
            return (NotSent(effect, self._now + 1),)
        await self._exchange.ciphertexts(notice, self.participant.studies[machine.facts.opened.study].size)
        if not keys:
            return (Done(effect),)
        await self._exchange.keys(notice)
        return (Held(member),)

    async def _post(self, round_id: Digest, effect: Effect) -> tuple[Event, ...]:
        call: Call
        study = self.history.rounds[round_id].opened.study
        match effect:
            case PostCommits(notices):
                entries = tuple(
                    CommitEntry(n.member, n.update_root, n.dataset_root, n.next_dataset_root, n.signature)
                    for n in notices
                    if isinstance(n, CommitNotice)
                )
                call = Commits(study, round_id, entries)
            case PostAbstentions(notices):
                call = Abstentions(study, round_id, tuple((n.member, n.signature) for n in notices))
            case PostHaves(notices, attempt):
                call = Haves(
                    study,
                    round_id,
                    attempt,
                    tuple(HaveEntry(n.member, n.bitmap, n.signature) for n in notices if isinstance(n, HaveNotice)),
                )
            case PostResult(attempt, result, votes):
                # One bad signature refuses them all, and a key may have been revoked since its vote came.
                good = [v for v in votes if counts(v, self.history, self.participant.domains)]
                call = Finalisation(study, round_id, attempt, result, tuple((v.member, v.signature) for v in good))
            case _:
                call = RoundFailure(study, round_id)
        try:
            await self.send(call)
        except CallReverted as error:
            # Somebody else was first, or the phase moved on: the chain's records will say which.
            log.info("reverted", call=type(call).__name__, error=error.message)
            return (NotSent(effect, self._now + 2),)
        return (Done(effect),)

    # ----------------------------------------------------------------------------------------------------------------
    # Notices from peers

    async def _empty_inbox(self) -> None:
        while self._inbox:
            notice = self._inbox.pop(0)
            match notice:
                case CommitNotice() | AbstainNotice() | HaveNotice() | VoteNotice():
                    await self._step(notice.round_id, Received(notice))
                case CloseNotice():
                    one = self.history.round_at(notice.study, notice.branch, notice.height)
                    if one is not None:
                        await self._step(one.opened.round_id, Received(notice))
                case WithdrawalNotice():
                    await self.desk.relayed(self, notice)
                case ErasureNotice():
                    await self.erasing.relayed(self, notice)
                case OpeningNotice() | PlanNotice() | PurgeNotice() | VerdictNotice() | TombstoneNotice():
                    await self.erasing.noticed(self, notice)
                case _:
                    await self.desk.noticed(self, notice)

    # ----------------------------------------------------------------------------------------------------------------
    # Catching up

    async def _models(self) -> None:
        """Fetch models of agreed rounds that are not here: late, restarted and new members need no old updates."""
        for study, arithmetic in list(self.participant.studies.items()):
            found = self.history.studies[study]
            for height, root in sorted(found.head.models.items(), reverse=True):
                mark = ("model", root)
                if mark in self._busy or root in self._settled:
                    continue
                if await self._core(self._has_or_purged, root):
                    self._settled.add(root)
                    continue
                if any(r.opened.height == height and not r.over for r in self.history.rounds.values()):
                    continue
                if not await self._core(self._may_have, root):
                    continue
                self._busy.add(mark)
                assert self._nursery is not None
                self._nursery.start_soon(self._fetch_model, root, arithmetic.model_length(), mark)

    def _openings(self) -> None:
        """An auditor that comes after a round asks for what its members said in it; members need none of that."""
        if self.participant.me is not None:
            return
        for round_id in self._active:
            facts = self.participant.rounds[round_id].facts
            mark = ("openings", round_id)
            whole = facts.final is None or all(facts.opens(m) is not None for m in members_of(facts.committed))
            if whole or mark in self._busy or self._now < self._not_before.get(round_id, 0):
                continue
            self._not_before[round_id] = self._now + RETRY_S
            self._busy.add(mark)
            assert self._nursery is not None
            self._nursery.start_soon(self._ask_openings, round_id, mark)

    async def _ask_openings(self, round_id: Digest, mark: object) -> None:
        try:
            await self._step(round_id, *await self._ask_peers(round_id, AskPeers()))
        except NodeError as error:
            log.info("openings not here yet", round=round_id.hex()[:8], error=error.message)
        finally:
            self._busy.discard(mark)

    def _may_have(self, model: Digest) -> bool:
        return self.participant.me is None or self.participant.may_have(self.participant.me, model)

    def _has_or_purged(self, root: Digest) -> bool:
        return self.participant.store.has(root) or self._server.purged(root)

    async def _fetch_model(self, root: Digest, length: int, mark: object) -> None:
        try:
            await self._exchange.content(root, "model", length)
        except (NotFound, TimedOut, PeerError) as error:
            log.info("model not here yet", root=root.hex()[:8], error=error.message)
            await trio.sleep(2.0)
        finally:
            self._busy.discard(mark)

    # ----------------------------------------------------------------------------------------------------------------
    # For the desk

    async def offer(self, notice: Notice) -> int:
        """Push a notice to every peer; how many took the request."""
        return await self._exchange.offer(notice)

    async def offer_in(self, study: Digest, notice: Notice) -> int:
        """Push a notice to whoever has anything of a study: members who ever joined it, auditors it was opened to."""
        return await self._exchange.offer(notice, self._exchange.concerned(study))

    async def offer_to(self, member: int, notice: Notice) -> bool:
        """Push a notice to one member; whether it took the request."""
        return await self._exchange.offer(notice, [self._exchange.peer_of(member)]) > 0

    async def pull(self, subject: Digest, members: int = 0) -> None:
        """Ask these members (bitmap; none: every active one) for their notices about a subject and take them in."""
        answers = await self._exchange.pull(subject, members or self.history.registry.active)
        for notices in answers.values():
            for notice in notices:
                if notice_key(notice)[0] == subject:  # what nobody asked for is not kept on the quiet
                    await self._core(self._server.accept, notice)
        await self._empty_inbox()

    def status(self) -> dict[str, Any]:
        """What `node status` shows."""
        rounds = []
        for round_id in list(self._active):
            machine = self.participant.rounds.get(round_id)
            if machine is None:
                continue
            view = machine.phase(self._now)
            rounds.append(
                {
                    "round_id": round_id.hex(),
                    "study": machine.facts.opened.study.hex(),
                    "branch": machine.facts.opened.branch,
                    "height": machine.facts.opened.height,
                    "phase": view.phase.value,
                    "attempt": view.attempt,
                    "deadline": view.deadline,
                    "committed": list(members_of(machine.facts.committed)),
                    "held": list(members_of(machine.facts.held)),
                }
            )
        peers = {
            peer.hex(): {"state": s.state.value, "address": s.address, "last_seen": s.last_seen, "error": s.last_error}
            for peer, s in self._transport.connected().items()
        }
        return {
            "ready": self.ready,
            "waiting_for": self.obstacles(),
            "member": self.participant.me,
            "seat": self.participant.seat,
            "peer_id": peer_id_text(self.participant.ring.peer.peer_id),
            "ledger_address": address_text(self.participant.ring.ledger.address),
            "block": self._follower.done,
            "chain_time": self._now,
            "chain_fault": None if self._fault is None else f"{self._fault.kind}: {self._fault.message}",
            "chain_warnings": self._follower.warnings,
            "faults": self._faults(),
            "rounds": rounds,
            "peers": peers,
            "reapplied": int(self.participant.store.meta("reapplied") or 0),
        }


_KIND_OF_FAULT = {
    ChainUnreachable: "unreachable",
    ReplyLost: "unreachable",
    ChainDisputed: "disputed: nothing is signed",
}

_COMMITTING = (
    Train,
    SignAbstain,
    SignHave,
    SignVote,
    SignClose,
    PostCommits,
    PostAbstentions,
    PostHaves,
    PostResult,
    DeclareFailed,
)
"""Effects that commit this node to what it believes of the chain."""


def _local_training(trainer: Trainer, job: TrainingJob) -> LocalTraining:
    if job.carried is not None:
        return carried_over(job.arithmetic, job.model, job.carried, job.member, len(job.rows))
    return trainer.train(
        job.arithmetic,
        job.rows,
        job.x,
        job.y,
        job.model,
        job.beacon,
        job.member,
        unlearner=job.unlearner,
        squared_length=job.squared_length,
    )


def _of_round(record: object) -> bool:
    from node.records import Abstained, Committed, HavePosted, RoundFailed, RoundFinal

    return isinstance(record, Committed | Abstained | HavePosted | RoundFinal | RoundFailed)
