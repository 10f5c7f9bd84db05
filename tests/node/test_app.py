"""The node among liars, losses and withdrawals: what each may cost, and that nobody honest is ever split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
import trio

from crypto.digest import Digest
from crypto.statements import Domains, Leave, sign
from node import card as cards
from node import exchange, keystore
from node.app import Node
from node.cli.study import _summary
from node.desk import Desk
from node.errors import ChainUnreachable, InputError, LocalError, OutcomeUnknown
from node.events import EventIndex
from node.history import RoundHistory
from node.membership import members_of
from node.messages import (
    AbstainNotice,
    Accepted,
    CloseNotice,
    CommitNotice,
    GetMap,
    HaveNotice,
    Hello,
    Notice,
    Offer,
    Pull,
    Reply,
    Request,
    VoteNotice,
)
from node.notices import statement_of
from node.participant import Mixture, Participant, TrainingJob
from node.records import (
    Commits,
    Equivocated,
    EquivocationReport,
    Finalisation,
    HavePosted,
    Joined,
    Joining,
    Leaving,
    Result,
    Resumption,
    RoundOpened,
    Withdrawn,
)
from node.round import Effect, Event, Round, Tick
from node.simulate import roots
from node.trail import participation, tell, trail
from node.training import LocalTraining, model_root
from node.validity import Code
from node.vault import Vault
from tests.fakes import byzantine
from tests.fakes.byzantine import serve_with, signed, speak_with
from tests.fakes.network import Net, SharedTrainer, dataset, network, spec

pytestmark = pytest.mark.slow  # whole networks in memory

LIAR = 3
HONEST = 0b0111


def result(one: RoundHistory) -> Result:
    assert one.final is not None, f"round {one.opened.height} has no result"
    return one.final.result


def attempt(one: RoundHistory) -> int:
    assert one.final is not None, f"round {one.opened.height} has no result"
    return one.final.attempt


async def agree(net: Net, study: Digest, members: range | list[int] = range(4)) -> dict[int, str]:
    """The roots on chain; every one of these members comes to hold their models, computed or fetched."""
    found = roots(net.nodes[members[0]], study)
    for member in members:
        assert roots(net.nodes[member], study) == found
        has = net.nodes[member].participant.store.has
        await net.until(lambda has=has: all(has(Digest.from_hex(root)) for root in found.values()))
    return found


# --------------------------------------------------------------------------------------------------------------------
# Contributions that break a rule of validity


async def test_a_forged_contribution_moves_no_model(tmp_path: Path, trainer: SharedTrainer) -> None:
    async def without(kind: Callable[..., Participant]) -> dict[int, str]:
        async with network(tmp_path / kind.__name__, trainer, makers={LIAR: kind}) as net:
            return await agree(net, await net.play(spec(rounds=2)), range(3))

    assert await without(byzantine.BeyondTheGrid) == await without(byzantine.Heavy)


async def test_a_member_that_keeps_a_withdrawn_leaf_is_left_out_by_rule_on_chain(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(
        tmp_path, trainer, makers={LIAR: byzantine.KeepsWithdrawn}, arms={LIAR: byzantine.keeps_copies}
    ) as net:
        study = await net.create(spec(rounds=3, suspend_after=15))
        await net.until(lambda: len(net.rounds(0)) == 2)
        consent = await withdraw_by_card(net, study, LIAR, at=0)
        await net.finish(study)
        (record,) = net.of(Withdrawn)
        assert record.consent_id == consent
        for one in net.rounds(0):
            kept = one.position > net.nodes[0].history.withdrawals[consent][1] or sealed_after(net, one, consent)
            expected = (HONEST, Code.CONSENT << 4 * LIAR) if kept else (0b1111, 0)
            assert (result(one).included, result(one).codes) == expected
        assert result(net.rounds(0)[-1]).codes == Code.CONSENT << 4 * LIAR
        await agree(net, study, range(3))


def sealed_after(net: Net, one: RoundHistory, consent: Digest) -> bool:
    position, _ = net.nodes[0].history.seal(one)
    return position is None or position > net.nodes[0].history.withdrawals[consent][1]


class Spoilt(Participant):
    """A home whose disk alters the parent of round 2: where `place` reads it."""

    place = ""

    def spoil(self, opened: RoundOpened, place: str) -> None:
        path = self.store._path(opened.parent_model)
        if (opened.height, place, path.exists()) == (2, self.place, True):
            self.place = ""  # once
            path.write_bytes(path.read_bytes()[:-1] + b"\x7f")

    def prepare(self, round_id: Digest, generation: int) -> TrainingJob | None:
        self.spoil(self.history.rounds[round_id].opened, "prepare")
        return super().prepare(round_id, generation)

    def new_model(self, mixture: Mixture) -> Digest:
        self.spoil(self.history.rounds[mixture.round_id].opened, "new_model")
        return super().new_model(mixture)


@pytest.mark.parametrize("place", ["prepare", "new_model"])
async def test_a_model_that_the_disk_altered_is_fetched_again_and_parts_nobody(
    place: str, tmp_path: Path, trainer: SharedTrainer
) -> None:
    made = type("Spoilt", (Spoilt,), {"place": place})
    async with network(tmp_path, trainer, makers={2: made}) as net:
        study = await net.play(spec(rounds=3))
        spoilt = net.nodes[2].participant
        assert isinstance(spoilt, Spoilt)
        assert spoilt.place == ""
        for one in net.rounds(0):
            assert result(one).included == 0b1111
            vote = spoilt.store.own_notice(one.opened.round_id, "VoteNotice", attempt(one))
            assert vote is None or (isinstance(vote, VoteNotice) and vote.result.model_root == result(one).model_root)
        for root in (await agree(net, study)).values():
            assert model_root(spoilt.store.get(Digest.from_hex(root))).hex() == root


# --------------------------------------------------------------------------------------------------------------------
# Keys


@pytest.mark.parametrize("kind", [byzantine.OtherKey, byzantine.GarbageWrap, byzantine.LyingServer])
async def test_a_wrong_key_for_one_recipient_splits_nobody(
    kind: type[byzantine.LyingServer], tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, arms={LIAR: serve_with(kind, 0)}) as net:
        study = await net.play(spec(rounds=2))
        for one in net.rounds(0):
            assert (result(one).included, result(one).codes) == (0b1111, 0), "the victim asks another holder"
        await agree(net, study)


async def test_a_key_that_only_one_member_got_reaches_all(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer, arms={LIAR: serve_with(byzantine.OtherKey, 0, 1)}) as net:
        study = await net.play(spec())
        assert (result(net.rounds(0)[0]).included, result(net.rounds(0)[0]).codes) == (0b1111, 0)
        await agree(net, study)


@pytest.mark.parametrize("kind", [byzantine.Unserving, byzantine.OtherKey, byzantine.GarbageWrap])
async def test_keys_that_nobody_gets_leave_their_member_out_as_unavailable(
    kind: type[byzantine.LyingServer], tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, arms={LIAR: serve_with(kind)}) as net:
        study = await net.play(spec(rounds=2, suspend_after=15))
        for one in net.rounds(0):
            assert one.commits.keys() == {0, 1, 2, 3}
            assert attempt(one) == 1
            assert (result(one).included, result(one).codes) == (HONEST, 0), "unavailable is no code: nobody is blamed"
        await agree(net, study, range(3))


@pytest.mark.parametrize("pairs", [{(0, 1), (2, 3)}, {(1, 2), (1, 3), (2, 3)}, {(0, 2), (0, 3), (1, 3)}])
async def test_members_who_never_reach_each_other_go_on_through_the_others(
    pairs: set[tuple[int, int]], tmp_path: Path, trainer: SharedTrainer
) -> None:
    """Hospitals behind NAT, without a port that is open to the outside: whoever reaches both hands everything on."""
    async with network(tmp_path, trainer) as net:
        for one, other in pairs:
            net.peers.cut(net.peer_id(one), net.peer_id(other))
        study = await net.play(spec(rounds=3))
        for one in net.rounds(0):
            assert (result(one).included, result(one).codes, attempt(one)) == (0b1111, 0, 0), "nobody is missed"
        await agree(net, study)


async def test_unavailable_twice_is_suspended(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer, arms={LIAR: serve_with(byzantine.Unserving)}) as net:
        await net.play(spec(rounds=3, suspend_after=2))
        assert [one.opened.suspended for one in net.rounds(0)] == [0, 0, 1 << LIAR]
        assert [attempt(one) for one in net.rounds(0)] == [1, 1, 0], "a suspended member costs nobody time"


def longer(participant: Participant, notice: Notice) -> Notice:
    """The same signed commit with another length of its ciphertext, which no hash of the commit covers."""
    if not isinstance(notice, CommitNotice):
        return notice
    return replace(notice, update=replace(notice.update, length=notice.update.length + 1))


def shorter(participant: Participant, notice: Notice) -> Notice:
    """Likewise, too short for what the root stands for."""
    if not isinstance(notice, CommitNotice):
        return notice
    return replace(notice, update=replace(notice.update, length=notice.update.length - 1))


@pytest.mark.parametrize("face", [longer, shorter])
async def test_a_length_told_to_one_member_only_splits_nobody(
    face: Callable[[Participant, Notice], Notice], tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, arms={LIAR: speak_with(face, 1)}) as net:
        study = await net.play(spec(rounds=2))
        for one in net.rounds(0):
            assert (result(one).included, result(one).codes) == (0b1111, 0)
            votes = net.nodes[0].participant.store.notices(one.opened.round_id, "VoteNotice")
            assert len({v.result for v in votes if isinstance(v, VoteNotice)}) == 1
        await agree(net, study)


# --------------------------------------------------------------------------------------------------------------------
# Statements


async def test_a_wrong_vote_is_outvoted_and_kept_as_evidence(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer, makers={LIAR: byzantine.WrongVote}) as net:
        study = await net.play(spec(rounds=2))
        for one in net.rounds(0):
            assert (attempt(one), result(one).included, result(one).codes) == (0, 0b1111, 0)
            final = one.final
            assert final is not None
            assert not final.signers >> LIAR & 1
        await agree(net, study, range(3))
        deviant = [v for m in net.nodes[0].participant.rounds.values() for v in m.deviant_votes()]
        assert {v.member for v in deviant} <= {LIAR}


async def test_a_member_that_says_nothing_costs_the_commit_window_and_is_suspended(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, makers={LIAR: byzantine.Mute}) as net:
        study = await net.play(spec(rounds=4, suspend_after=2, suspend_rounds=1))
        for one in net.rounds(0):
            assert one.commits.keys() == {0, 1, 2}
            assert LIAR not in one.abstained
            assert (attempt(one), result(one).included, result(one).codes) == (0, HONEST, 0)
        assert [one.opened.suspended for one in net.rounds(0)] == [0, 0, 1 << LIAR, 0]
        await agree(net, study)


async def test_a_frozen_member_is_missed_by_rule_and_catches_up(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer) as net:
        study = await net.create(spec(rounds=4))
        await net.until(lambda: len(net.rounds(0)) == 2)
        net.freeze(1)
        await net.until(lambda: len(net.rounds(0)) == 4)
        net.thaw(1)
        await net.finish(study)
        missed = [one for one in net.rounds(0) if 1 not in one.commits]
        assert missed
        assert all(result(one).included & ~0b1101 == 0 and attempt(one) == 0 for one in missed)
        await net.until(
            lambda: all(
                net.nodes[1].participant.store.has(Digest.from_hex(root))
                for root in roots(net.nodes[0], study).values()
            )
        )
        await agree(net, study)


async def test_a_member_and_the_auditor_that_come_back_days_later_hold_everything_and_take_part_again(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, auditor=True) as net:
        study = await net.create(spec(rounds=2))
        await net.until(lambda: len(net.rounds(0)) == 1)
        await net.kill(1)
        await net.kill(4)
        await net.finish(study)
        net.clock.now += 9 * 86_400
        await net.start(4)
        await net.start(1)
        await net.finish(study)
        for index in (1, 4):
            store = net.nodes[index].participant.store
            await net.until(
                lambda store=store: all(store.has(Digest.from_hex(r)) for r in roots(net.nodes[0], study).values())
            )
        audited = net.nodes[4].participant

        def opened(one: RoundHistory) -> set[int]:
            notices = audited.store.notices(one.opened.round_id, "CommitNotice")
            return {n.member for n in notices if isinstance(n, CommitNotice) and audited.holds(n)}

        await net.until(lambda: all(set(members_of(result(one).included)) <= opened(one) for one in net.rounds(0)))
        await agree(net, study)
        second = await net.play(spec("another"))
        (one,) = (one for one in net.rounds(0) if one.opened.study == second)
        assert result(one).included == 0b1111


async def test_a_member_that_comes_up_beside_a_silent_one_hears_the_others_at_once(
    tmp_path: Path, trainer: SharedTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "PULL_TIMEOUT_S", 600.0)

    def deaf(node: Node) -> None:
        """What it asks member 3 to tell is never answered."""
        ask = node._transport.request

        async def request(peer: bytes, message: Request, timeout_s: float) -> Reply:
            if isinstance(message, Pull) and peer == net.peer_id(3):
                await trio.sleep_forever()
            return await ask(peer, message, timeout_s)

        node._transport.request = request  # type: ignore[method-assign]

    async with network(tmp_path, trainer, 5, arms={1: deaf}) as net:
        await net.create(spec())
        await net.until(lambda: len(net.rounds(0)) == 1)
        first = net.rounds(0)[0].opened.round_id
        net.hold = True
        net.freeze(2)  # so that the round waits
        await net.until(lambda: net.nodes[1].participant.store.own_notice(first, "CommitNotice") is not None)
        await net.kill(1)
        await net.start(1)
        rounds = net.nodes[1].participant.rounds
        await net.until(lambda: first in rounds and {0, 4} <= rounds[first].facts.answered)


async def test_a_member_outside_a_round_takes_its_model_and_asks_for_no_update(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer) as net:
        study = await net.create(spec(rounds=4))
        await net.until(lambda: len(net.rounds(0)) > 0)
        await net.nodes[3].desk.leave(net.nodes[3], study)
        await net.finish(study)
        await agree(net, study)
        theirs, others = net.nodes[3].participant.store, net.nodes[0].participant.store
        outside = [one for one in net.rounds(0) if one.opened.roster == HONEST]
        assert outside
        commits = [n for one in outside for n in others.notices(one.opened.round_id) if isinstance(n, CommitNotice)]
        assert len(commits) == 3 * len(outside)
        assert all(others.has(n.update.cipher_root) and not theirs.has(n.update.cipher_root) for n in commits)


async def test_the_frozen_scribe_delays_and_does_not_stop_a_round(tmp_path: Path, trainer: SharedTrainer) -> None:
    for scribe in range(4):
        async with network(tmp_path / str(scribe), trainer) as net:
            study = await net.create(spec())
            await net.until(lambda net=net: len(net.rounds(0)) == 1)
            net.freeze(scribe)
            await net.finish(study)
            (one,) = net.rounds()
            assert result(one).included & ~(1 << scribe) == 0b1111 & ~(1 << scribe)


@pytest.mark.parametrize("victims", [(0,), (0, 1), (0, 1, 2)])
async def test_two_commits_of_one_member_end_in_one_result(
    victims: tuple[int, ...], tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, arms={LIAR: speak_with(byzantine.second_commit, *victims)}) as net:
        study = await net.play(spec(rounds=2, suspend_after=15, suspend_rounds=1))
        for one in net.rounds(0):
            assert result(one).included & HONEST == HONEST
            assert result(one).codes == 0, "whichever stands on the chain is either whole or unavailable"
        await agree(net, study, range(3))
        # Whoever holds both versions reports them: once for each round, whoever else does.
        first = net.rounds(0)[0].opened.round_id
        await net.until(lambda: any(one.round_id == first for one in net.of(Equivocated)))
        told = net.of(Equivocated)
        assert {(one.member, one.kind) for one in told} == {(LIAR, 1)}
        assert len({one.round_id for one in told}) == len(told)
        index = EventIndex()
        index.extend(tell(net.ledger.records(0, net.ledger.head().number)))
        entries = trail(index, kind="equivocated")
        assert all("signed two different commits" in one["what"] for one in entries)

        def counted() -> int:
            return int(participation(net.nodes[0].history, study)["totals"][LIAR]["contradicted"])

        await net.until(lambda: counted() == len(net.of(Equivocated)))


async def vote_twice(net: Net) -> tuple[Digest, Digest]:
    """A study, and a round of it in which members 0 and 2 hold two votes of member 1."""
    study = await net.create(spec(rounds=3))

    def voted() -> list[VoteNotice]:
        """Of member 1, and known to both; where three others were quicker, there is none in that round."""
        store = net.nodes[1].participant.store
        kept = (store.own_notice(one.opened.round_id, "VoteNotice") for one in net.rounds(0) if one.over)
        others = [net.nodes[holder].participant.store for holder in (0, 2)]
        return [vote for vote in kept if isinstance(vote, VoteNotice) and all(one.knows(vote) for one in others)]

    await net.until(lambda: bool(voted()))
    vote = voted()[0]
    other = replace(vote, result=replace(vote.result, trust=b"\0" * 8))
    second = signed(net.nodes[1].participant, other)  # by a copy of member 1's key
    # Persist, then speak: two members hold the pair; it may come again.
    for holder in (0, 2):
        for _ in range(2):
            assert not net.nodes[holder]._server.accept(second), "it is not new where one vote counts"
        assert net.nodes[holder].participant.store.contradictions() == [(vote, second)]
    return study, vote.round_id


def reports(net: Net) -> list[EquivocationReport]:
    return [call for door in net.doors.values() for call in door.sent if isinstance(call, EquivocationReport)]


async def test_two_votes_of_one_attempt_are_kept_and_reported_by_one_member(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer) as net:
        study, round_id = await vote_twice(net)
        await net.finish(study)
        await net.until(lambda: bool(net.of(Equivocated)))
        assert net.of(Equivocated) == [Equivocated(round_id, 1, 2)]
        assert len(reports(net)) == 1, "one member's report is enough"


async def test_an_equivocation_is_reported_once_though_its_reporter_crashes_after_the_transaction(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer) as net:
        crashed: list[int] = []

        def dies(at: int, call: Any) -> BaseException | None:
            if not isinstance(call, EquivocationReport) or crashed:
                return None
            crashed.append(at)
            net.scopes[at].cancel()  # nothing of this process runs on: it hears no reply and looks at no block
            return OutcomeUnknown("the process is gone")

        for at, door in net.doors.items():
            door.lose = lambda call, at=at: trio.from_thread.run_sync(dies, at, call)  # type: ignore[misc]
        study, round_id = await vote_twice(net)
        await net.until(lambda: bool(crashed) and crashed[0] not in net.nodes)
        assert net.of(Equivocated) == [Equivocated(round_id, 1, 2)]
        await net.start(crashed[0])
        store = net.nodes[crashed[0]].participant.store
        assert store.contradictions(), "it still has what it would report"
        await net.finish(study)
        assert net.of(Equivocated) == [Equivocated(round_id, 1, 2)]
        assert len(reports(net)) == 1


async def test_a_study_that_nothing_opened_is_resumed_by_a_member(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer) as net:
        net.freeze(3)
        study = await net.create(spec(rounds=1))
        await net.until(lambda: len(net.of(Joined)) == 3)
        assert not net.of(RoundOpened), "an invited member is waited for"
        leave = Leave(study, 3)
        participant = net.nodes[3].participant
        net.ledger.send(Leaving(study, 3, sign(leave, participant.domains.of(leave), participant.ring.ledger)))
        await net.finish(study, at=[0, 1, 2])
        sent = [call for door in net.doors.values() for call in door.sent if isinstance(call, Resumption)]
        assert sent == [Resumption(study)]
        assert net.of(RoundOpened)[0].roster == HONEST


@pytest.mark.parametrize("kind", [byzantine.HavesNothing, byzantine.HavesEverything])
async def test_false_haves_change_no_set(kind: type[Participant], tmp_path: Path, trainer: SharedTrainer) -> None:
    arms = {LIAR: serve_with(byzantine.Unserving)}
    async with network(tmp_path, trainer, makers={LIAR: kind}, arms=arms) as net:
        study = await net.play(spec(rounds=1, suspend_after=15))
        for one in net.rounds(0):
            assert (attempt(one), result(one).included, result(one).codes) == (1, HONEST, 0)
        posted = net.of(HavePosted)
        assert {have.member for have in posted if not have.bitmap & ~0b1111} >= {0, 1, 2}
        assert not [have for have in posted if have.bitmap & ~0b1111], "the contract takes no have beyond C"
        await agree(net, study, range(3))


# --------------------------------------------------------------------------------------------------------------------
# Notices


def domains_like(domains: Domains, **changed: Any) -> Domains:
    return replace(domains, **changed)


def bad_notices(net: Net) -> dict[str, Notice]:
    """One notice for each way to be wrong, all sent by the liar."""
    liar = net.nodes[LIAR].participant
    one = net.rounds(0)[0]
    round_id, study = one.opened.round_id, one.opened.study
    unknown = Digest(b"\x17" * 32)
    fresh = signed(liar, AbstainNotice(round_id, LIAR, b""))
    foreign = domains_like(liar.domains, chain_id=liar.domains.chain_id + 1)
    plain = AbstainNotice(round_id, LIAR, b"")
    statement = statement_of(plain)
    assert statement is not None
    elsewhere = replace(plain, signature=sign(statement, foreign.of(statement), liar.ring.ledger))
    contradictory = Result(1, HONEST, 7, unknown, b"\0" * 8, unknown, unknown)
    return {
        "junk signature": replace(fresh, signature=b"\x01" * 65),
        "zero signature": replace(fresh, signature=bytes(65)),
        "signed by another member": signed(liar, AbstainNotice(round_id, 0, b"")),
        "signed for another chain": elsewhere,
        "of a member that does not exist": signed(liar, AbstainNotice(round_id, 31, b"")),
        "of an unknown round": signed(liar, AbstainNotice(unknown, LIAR, b"")),
        "have of no attempt": signed(liar, HaveNotice(round_id, LIAR, 9, 0, b"")),
        "have of attempt 0": signed(liar, HaveNotice(round_id, LIAR, 0, 0, b"")),
        "vote of attempt 200": signed(liar, VoteNotice(round_id, LIAR, 200, 15, contradictory, unknown, b"")),
        "vote that includes whom it blames": signed(
            liar, VoteNotice(round_id, LIAR, 0, 15, contradictory, unknown, b"")
        ),
        "close of another result": signed(liar, CloseNotice(study, 0, 1, unknown, LIAR, b"")),
        "close of a height to come": signed(liar, CloseNotice(study, 5, 4_000_000, unknown, LIAR, b"")),
        "close of an unknown study": signed(liar, CloseNotice(unknown, 0, 1, unknown, LIAR, b"")),
    }


async def test_bad_notices_get_nowhere_and_survive_no_restart(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer, 4) as net:
        study = await net.create(spec(rounds=3, suspend_after=15))
        await net.until(lambda: len(net.rounds(0)) == 1 and net.nodes[0].participant.rounds != {})
        transport = net.nodes[LIAR]._transport
        refused = {
            "junk signature",
            "zero signature",
            "signed by another member",
            "signed for another chain",
            "of a member that does not exist",
        }
        net.hold = True
        for what, notice in bad_notices(net).items():
            reply = await transport.request(net.peer_id(0), Offer((notice,)), 10.0)
            assert isinstance(reply, Accepted)
            if what in refused:
                assert reply.new == 0, what
        assert 0 in net.nodes, "a notice ended a node"
        await net.kill(0)
        await net.start(0)
        net.hold = False
        await net.until(lambda: net.nodes[0].ready)
        await net.finish(study)
        for one in net.rounds(0):
            assert result(one).included & HONEST == HONEST
            assert result(one).codes == 0


async def test_a_flood_of_genuine_notices_of_unknown_rounds_fills_no_disk(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 2) as net:
        await net.until(lambda: net.nodes[0].ready and bool(net.nodes[1]._transport.connected()))
        liar = net.nodes[1].participant
        flood = tuple(signed(liar, AbstainNotice(Digest(i.to_bytes(32, "big")), 1, b"")) for i in range(1, 101))
        transport = net.nodes[1]._transport
        await net.until(lambda: all(s.state.value == "connected" for s in transport.connected().values()))
        await transport.request(net.peer_id(0), Offer(flood[:50]), 10.0)
        await transport.request(net.peer_id(0), Offer(flood[50:]), 10.0)
        kept = net.nodes[0].participant.store.notices_of_kind("AbstainNotice")
        assert len(kept) == 0, "what is about no round of this chain is not kept"


async def test_a_stranger_reaches_no_handler(tmp_path: Path, trainer: SharedTrainer) -> None:
    from crypto.keys import KeyRing
    from node.memory.transport import MemoryTransport

    async with network(tmp_path, trainer, 2) as net:
        await net.until(lambda: net.nodes[0].ready)
        contracts = net.ledger.contracts
        stranger = MemoryTransport(
            net.peers,
            KeyRing.generate().peer.peer_id,
            lambda: Hello(contracts.chain_id, contracts.membership, 0),
        )

        async def answer(peer: bytes, request: Request) -> Reply:
            raise AssertionError("nobody asks a stranger")

        stranger.serve(answer)
        stranger.set_allowed({net.peer_id(0): "memory"})
        await net.nursery.start(stranger.run)
        await net.until(lambda: net.nodes[0].counters.strangers > 0)
        assert stranger.connected()[net.peer_id(0)].state.value != "connected"


async def test_a_member_of_another_network_is_refused_by_name(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer, 2) as net:
        await net.until(lambda: net.nodes[0].ready)
        node = net.nodes[0]
        contracts = net.ledger.contracts
        reply = await node._answer(net.peer_id(1), Hello(contracts.chain_id + 1, contracts.membership, 0))
        assert getattr(reply, "code", None) == "wrong-network"


async def test_a_study_whose_creator_never_answers_stops_no_other_study(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer) as net:
        study = await net.create(spec("good", rounds=2))
        await net.until(lambda: len(net.rounds(0)) == 1)
        liar, hidden = net.nodes[LIAR], spec("hidden")
        hangs = liar._answer

        async def hang(peer_id: bytes, request: Request) -> Reply:
            if isinstance(request, GetMap) and request.root == hidden.spec_hash:
                await trio.sleep_forever()
            return await hangs(peer_id, request)

        liar._transport.serve(hang)
        await net.create(hidden, by=LIAR)
        with trio.fail_after(60):
            await net.finish(study, at=[0, 1, 2])


# --------------------------------------------------------------------------------------------------------------------
# Withdrawal in flight


async def withdraw_by_card(net: Net, study: Digest, hospital: int, *, at: int, which: int = 0) -> Digest:
    """A patient of `hospital` hands the card in at another member; the consent."""
    vault = net.nodes[hospital].participant.vault
    assert vault is not None
    holding = vault.holdings(study)[which]
    paper = cards.encode(vault.card(holding.consent_id))
    node = net.nodes[at]
    done = await node.desk.withdraw(node, card=paper)
    assert done["posted"]
    assert done["consents"] == [holding.consent_id.hex()]
    return holding.consent_id


def uses(net: Net, at: int, one: RoundHistory, consent: Digest) -> bool:
    """Whether an included set of this round has the consent, as a member that holds the sets sees it."""
    node = net.nodes[at].participant
    for notice in node.store.notices(one.opened.round_id, "CommitNotice"):
        assert isinstance(notice, CommitNotice)
        included = one.final is not None and one.final.result.included >> notice.member & 1
        if included and any(entry.consent_id == consent for entry in node.open_set(notice).entries):
            return True
    return False


async def test_a_card_handed_in_elsewhere_while_the_hospital_is_frozen_counts_from_the_running_round(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer) as net:
        study = await net.create(spec(rounds=4))
        await net.until(lambda: len(net.rounds(0)) == 2)
        net.hold = True
        net.freeze(2)
        running = net.rounds(0)[-1].opened.round_id
        consent = await withdraw_by_card(net, study, 2, at=0)
        net.hold = False
        await net.until(lambda: len(net.rounds(0)) == 4)
        net.thaw(2)
        await net.finish(study)
        rounds = net.rounds(0)
        withdrawn = net.nodes[0].history.withdrawals[consent][1]
        after = [one for one in rounds if (net.nodes[0].history.seal(one)[0] or one.ended or withdrawn) > withdrawn]
        assert running in [one.opened.round_id for one in after]
        assert not any(uses(net, 0, one, consent) for one in after)
        assert any(uses(net, 0, one, consent) for one in rounds if one not in after), "it was in use before"
        await agree(net, study)
        again = [one for one in after if 2 in one.commits]
        assert all(result(one).codes == 0 for one in again), "the hospital itself never used it again"


async def test_a_withdrawal_at_home_while_training_is_not_in_the_running_round(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer) as net:
        study = await net.create(spec(rounds=3))
        node = net.nodes[1]
        await net.until(lambda: len(net.rounds(0)) == 2)
        vault = node.participant.vault
        assert vault is not None
        consent = vault.holdings(study)[0].consent_id
        await node.desk.withdraw(node, consent=consent)
        await net.finish(study)
        withdrawn = net.nodes[0].history.withdrawals[consent][1]
        for one in net.rounds(0):
            seal, _ = net.nodes[0].history.seal(one)
            if seal is not None and seal > withdrawn:
                assert not uses(net, 0, one, consent)
                assert result(one).codes == 0, "the hospital leaves it out itself or abstains"
        await agree(net, study)


async def test_the_gate_works_while_the_chain_is_out_of_reach(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer) as net:
        study = await net.create(spec(rounds=3))
        node = net.nodes[1]
        await net.until(lambda: len(net.rounds(0)) == 2)
        net.hold = True
        net.doors[1].away = True
        vault = node.participant.vault
        assert vault is not None
        consent = vault.holdings(study)[0].consent_id
        done = await node.desk.withdraw(node, consent=consent)
        assert done["posted"] is False
        assert node.participant.withdrawn(consent)
        assert not net.of(Withdrawn), "nothing reached the chain"
        position = net.ledger.head().number
        net.doors[1].away = False
        net.hold = False
        await net.finish(study)
        assert consent in net.nodes[0].history.withdrawals, "it was posted as soon as the chain answered"
        for one in net.rounds(0):
            mine = one.commits.get(1)
            committed = [x for x in one.logged if getattr(x.record, "member", None) == 1 and mine is x.record]
            if committed and committed[0].position.block > position:
                assert not uses(net, 0, one, consent)
        await agree(net, study)


async def test_withdrawing_twice_is_withdrawing_once(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer) as net:
        study = await net.create(spec(rounds=2))
        await net.until(lambda: len(net.rounds(0)) == 1)
        one = await withdraw_by_card(net, study, 2, at=0)
        assert one == await withdraw_by_card(net, study, 2, at=1)
        await net.finish(study)
        assert [x.consent_id for x in net.of(Withdrawn)] == [one]


async def test_withdrawals_below_the_minimum_end_in_abstention_not_in_use(
    tmp_path: Path, trainer: SharedTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with network(tmp_path, trainer) as net:
        study = await net.create(spec(rounds=4, min_consents=8))
        await net.until(lambda: len(net.rounds(0)) == 2)
        await withdraw_by_card(net, study, 2, at=2)
        told = structlog.testing.CapturingLogger()
        monkeypatch.setattr("node.app.log", told)
        await net.finish(study)
        last = net.rounds(0)[-1]
        assert last.abstained == {2}
        of_it = {"round": last.opened.round_id.hex()[:8], "why": "below-minimum"}
        assert of_it in [one.kwargs for one in told.calls if one.args == ("abstaining",)], "the chain is not told why"
        assert (result(last).included, result(last).codes) == (0b1011, 0)


# --------------------------------------------------------------------------------------------------------------------
# The ledger's replies


@pytest.mark.parametrize("error", [OutcomeUnknown("the reply was lost"), ChainUnreachable("the line broke")])
async def test_lost_replies_of_every_call_change_nothing(
    error: Exception, tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path / "plain", trainer) as net:
        plain = await agree(net, await net.play(spec(rounds=2)))
    async with network(tmp_path / "lossy", trainer) as net:
        kinds: set[type] = set()

        def lose(call: Any) -> BaseException | None:
            if type(call) in kinds:
                return None
            kinds.add(type(call))
            return error

        for door in net.doors.values():
            door.lose = lose
        study = await create_again(net, 2)
        await net.finish(study)
        assert kinds >= {Joining, Commits, Finalisation}
        assert await agree(net, study) == plain
        assert len(net.rounds(0)) == 2


async def create_again(net: Net, rounds: int) -> Digest:
    """As a person would: order it again until it is answered."""
    node = net.nodes[0]
    await net.until(lambda: node.ready)
    for _ in range(5):
        try:
            return await node.desk.create_study(node, spec(rounds=rounds))
        except (OutcomeUnknown, ChainUnreachable):
            continue
    raise AssertionError("a study cannot be created on a lossy chain")


async def test_every_reply_of_one_member_is_lost_and_the_study_completes(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer) as net:
        net.doors[1].lose = lambda call: OutcomeUnknown("the reply was lost")
        study = await net.play(spec(rounds=2))
        for one in net.rounds(0):
            assert (result(one).included, result(one).codes) == (0b1111, 0)
        await agree(net, study)


async def test_an_unreachable_chain_is_waited_for(
    tmp_path: Path, trainer: SharedTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with network(tmp_path, trainer) as net:
        study = await net.create(spec(rounds=2))
        await net.until(lambda: len(net.rounds(0)) == 1)
        told = structlog.testing.CapturingLogger()
        monkeypatch.setattr("node.app.log", told)
        for door in net.doors.values():
            door.away = True
        await net.until(lambda: all(node.metrics.chain_errors > 2 for node in net.nodes.values()))
        assert not any(node.ready for node in net.nodes.values())
        outages = [one for one in told.calls if one.args == ("chain unreachable",)]
        assert len(outages) == len(net.nodes), "once each, not at every look"
        for door in net.doors.values():
            door.away = False
        await net.finish(study)
        await agree(net, study)


def test_a_member_whose_dpo_attends_joins_by_itself_once_its_patients_are_enrolled(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async def play() -> None:
        async with network(tmp_path, trainer, start=(0, 1, 2)) as net:
            seating, officer = net.seatings[3], bytes(range(32))
            seating.home.mkdir(parents=True)
            key = keystore.at_rest_key(seating.ring)
            vault = Vault.create(seating.home / "vault", key, officer)
            vault.import_dataset(dataset(3))
            vault.close()
            await net.start(3)
            study = await net.create(spec())
            node = net.nodes[3]
            await net.until(
                lambda: study in node.participant.studies and node.history.studies[study].joined == {0, 1, 2}
            )
            assert not net.rounds(0), "the study waits for it"
            assert _summary(node.history, study, node.history.studies[study])["awaited"] == [3]
            opened = node.participant.vault
            assert opened is not None
            with opened.unlocked(officer, lambda act, consents: None):
                await node.desk.grant(node, study, None, True)
            await net.finish(study)
            assert result(net.rounds(0)[0]).included == 0b1111
            assert _summary(node.history, study, node.history.studies[study])["awaited"] == []

    trio.run(play)


class FailingTrainer(SharedTrainer):
    """Member 1's worker fails, as often as it is told to."""

    failures = 3

    def train(self, *given: Any, **named: Any) -> LocalTraining:
        if given[-1] == 1 and self.failures:
            self.failures -= 1
            raise LocalError("training failed: the disk of the worker is full")
        return super().train(*given, **named)


async def test_what_fails_and_is_tried_again_is_told_in_the_status_until_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = FailingTrainer()
    try:
        async with network(tmp_path, trainer, 4) as net:
            node = net.nodes[1]

            async def _work_audit(self: Desk, of: Node) -> None:
                raise InputError("register, line 1: unknown column 'patient'")

            await net.until(lambda: node.ready)
            with monkeypatch.context() as patched:
                patched.setattr(Desk, "_work_audit", _work_audit)
                told = structlog.testing.CapturingLogger()
                patched.setattr("node.desk.log", told)
                await net.until(lambda: bool(node.status()["faults"]))
                assert node.status()["faults"] == ["audit: register, line 1: unknown column 'patient'"]
                tries, end = node.desk._again_at, net.clock.now + 10
                await net.until(lambda: net.clock.now >= end)
                assert node.desk._again_at > tries
                of_it = [one for one in told.calls if one.kwargs.get("duty") == "_work_audit"]
                assert len(of_it) == len(net.nodes), "once each"
            await net.until(lambda: not node.status()["faults"])
            study = await net.create(spec(rounds=1))
            await net.until(lambda: any("the disk of the worker is full" in one for one in node.status()["faults"]))
            assert not net.nodes[0].status()["faults"], "it is this node's own"
            await net.finish(study)
            assert not node.status()["faults"]
    finally:
        trainer.end()


async def test_an_event_that_a_machine_refuses_is_logged_and_ends_no_node(
    tmp_path: Path, trainer: SharedTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(machine: Round, event: Event, now: int) -> list[Effect]:
        raise LocalError("a second commit of ours")

    async with network(tmp_path, trainer, 3) as net:
        await net.play(spec())
        node = net.nodes[0]
        (round_id,) = node.participant.rounds
        with monkeypatch.context() as broken, structlog.testing.capture_logs() as told:
            broken.setattr(Round, "handle", refuses)
            assert node._handle(round_id, (Tick(),)) == []
        assert [(one["of"], one["error"]) for one in told] == [("Tick", "a second commit of ours")]
