"""What every room is given: the books that it looks things up in, and what the running node around it can do.

What may live here: lookups in the chain as read, the store and the vault that several rooms share, and two of the ways
in which a node speaks under its signature: a notice, which is kept first, and steps, which go to the chain. What this
file does not know: any duty.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from crypto.digest import Digest
from crypto.statements import ErasureSteps, Statement
from node import proof
from node.desk import Desk
from node.erasure import PlanTerms, terms_of
from node.errors import NotFound
from node.history import ErasureHistory, History, RoundHistory
from node.messages import (
    CommitNotice,
    ErasureNotice,
    Notice,
    OpeningNotice,
    PlanNotice,
    PurgeNotice,
    TombstoneNotice,
    VerdictNotice,
    VoteNotice,
)
from node.notices import statement_of
from node.participant import Participant
from node.records import NO_STEPS, Call, ErasureProgress, Sent, Steps
from node.store import Store
from node.study import Study
from node.vault import Vault

N = TypeVar(
    "N",
    CommitNotice,
    ErasureNotice,
    OpeningNotice,
    PlanNotice,
    PurgeNotice,
    TombstoneNotice,
    VerdictNotice,
    VoteNotice,
)
Said = TypeVar("Said", PlanNotice, PurgeNotice, TombstoneNotice, VerdictNotice)


class Surroundings(Protocol):
    """What the running node gives (`node.app.Node`): its turn on the state, the chain, the peers, tasks."""

    @property
    def now(self) -> int:
        """Chain time at the last look."""
        ...

    @property
    def history(self) -> History:
        """The chain as read."""
        ...

    async def core(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """One blocking call on the node's state, in turn."""
        ...

    async def send(self, call: Call) -> Sent:
        """Carry a call to the chain."""
        ...

    async def offer(self, notice: Notice) -> int:
        """Push a notice to every peer."""
        ...

    async def offer_in(self, study: Digest, notice: Notice) -> int:
        """Push a notice to whoever has anything of a study: how many took it."""
        ...

    async def offer_to(self, member: int, notice: Notice) -> bool:
        """Push a notice to one member."""
        ...

    async def pull(self, subject: Digest, members: int = 0) -> None:
        """Take in what these members (bitmap; none: every one) know about a subject."""
        ...

    async def fetch_set(self, notice: CommitNotice) -> None:
        """Fetch the set of a commit and its key; `NotFound` when nobody gives them."""
        ...

    async def trainer_forget(self) -> None:
        """Drop the records that are not in the vault any more from the training worker."""
        ...

    def spawn(self, function: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Run a task beside the node's own."""
        ...


class Books:
    """The books that lie open to every room: the chain, the store, the vault.

    Args:
        participant: the node's state.
        desk: withdraws for us, and knows the network and our name.
    """

    def __init__(self, participant: Participant, desk: Desk) -> None:
        self.participant, self.desk = participant, desk

    @property
    def me(self) -> int | None:
        """Our member index; None at an auditor."""
        return self.participant.me

    @property
    def member(self) -> int:
        """Our member index; `Refused` at an auditor."""
        return self.desk.member

    @property
    def store(self) -> Store:
        """What this home keeps."""
        return self.participant.store

    @property
    def history(self) -> History:
        """The chain as read."""
        return self.participant.history

    @property
    def vault(self) -> Vault:
        """Our vault; `Refused` at an auditor."""
        return self.desk.vault

    def about(self, subject: Digest, kind: type[N]) -> list[N]:
        """Notices about a subject."""
        return [n for n in self.store.notices(subject, kind.__name__) if isinstance(n, kind)]

    def all_of(self, kind: type[N], *, own: bool | None = None) -> list[N]:
        """Notices of a kind."""
        return [n for n in self.store.notices_of_kind(kind.__name__, own=own) if isinstance(n, kind)]

    def signed(self, statement: Statement) -> bytes:
        """Our signature on a statement."""
        return self.participant.sign(statement)

    def say(self, notice: Said) -> Said:
        """Sign and keep; what comes back is what was kept first under this notice's key."""
        statement = statement_of(notice)
        assert statement is not None
        kept = self.store.remember(replace(notice, signature=self.signed(statement)), own=True)
        assert isinstance(kept, type(notice))
        return kept

    def standing_commit(self, one: RoundHistory, member: int) -> CommitNotice | None:
        """The commit of a member in a round that stands on the chain, where it is here."""
        return proof.standing(self.participant, one, member)

    def spec(self, study: Digest) -> Study | None:
        """A study's specification, which decides the methods that may be chosen in it. None: it is not here."""
        try:
            return self.participant.study(study).study
        except NotFound:
            return None

    def kept_requests(self, consents: list[Digest]) -> list[ErasureNotice]:
        """The requests for the erasure of these consents that are kept here."""
        return [one for consent in consents for one in self.about(consent, ErasureNotice)]

    def erasure(self, batch: Digest) -> ErasureHistory:
        """What the chain has of a batch."""
        found = self.history.erasures.get(batch)
        if found is None:
            raise NotFound(f"no erasure {batch.hex()} on this ledger")
        return found

    def opening(self, batch: Digest) -> OpeningNotice | None:
        """Which requests are in a batch; None while nobody has shown us."""
        found = self.about(batch, OpeningNotice)
        return found[0] if found else None

    def drop_votes_against(self, terms: PlanTerms, batch: Digest, *, ours: bool) -> None:
        """Drop votes for other plans of a batch, `ours` too or those of others alone.

        A member has one place here: a vote that it gave before the line changed, or to us alone, would keep out its
        vote for this plan.
        """
        kept = self.about(batch, PlanNotice)
        staying = [one for one in kept if terms_of(one) == terms or (one.member == self.me and not ours)]
        if len(staying) < len(kept):
            self.store.forget_notices(batch, "PlanNotice")
            for one in staying:
                self.store.remember(one, own=one.member == self.me)

    def consents(self, batch: Digest) -> tuple[Digest, ...]:
        """The consents of a batch, as far as its opening is here."""
        opening = self.opening(batch)
        return () if opening is None else tuple(consent for consent, _ in opening.requests)

    async def state_steps(self, node: Surroundings, batch: Digest, evidence: dict[int, Digest]) -> None:
        """State under one signature those of these steps that are not on the chain, which are in order."""
        erasure = self.erasure(batch)
        missing = {number: found for number, found in evidence.items() if number not in erasure.steps}
        if missing:
            await node.send(ErasureProgress(erasure.opening, self.member, self.signed_steps(batch, missing)))

    def signed_steps(self, batch: Digest, evidence: dict[int, Digest]) -> Steps:
        """Steps of ours under one signature."""
        if not evidence:
            return NO_STEPS
        first, found = min(evidence), tuple(evidence.values())
        return Steps(first, found, self.signed(ErasureSteps(batch, self.member, first, found)))

    def is_linked(self, consent: Digest) -> bool:
        """Whether a consent of ours still leads to its person."""
        try:
            self.vault.find(consent)
        except NotFound:
            return False
        return True
