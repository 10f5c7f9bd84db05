"""Up to f members against the rest: the rest agree, finish, say on the chain what happened and hold no more than they
must.

One network bears many attacks, one a round, so that a row more in a table costs a second. Attacks on sockets are in
tests/node/transport/test_floods.py; the table of all attacks is in node/THREATS.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from crypto.digest import Digest
from node.history import RoundHistory
from node.messages import AbstainNotice, GetMap, Offer, Pull, Refusal, TombstoneNotice
from node.records import Equivocated
from node.serving import EXTRA_BURST, MAX_EARLY
from node.simulate import roots
from node.study import Study
from node.validity import Code
from node.wire import MAX_OFFERED
from tests.fakes import byzantine
from tests.fakes.byzantine import Forger, censor, programme, serve_with, serving_programme, signed
from tests.fakes.network import Net, SharedTrainer, network, spec

pytestmark = pytest.mark.slow  # whole networks in memory

LIAR = 3
HONEST = 0b0111
ALL = 0b1111


def outcome(one: RoundHistory) -> tuple[int, int, int]:
    """Attempt, included set, codes."""
    assert one.final is not None, f"round {one.opened.height} has no result"
    return one.final.attempt, one.final.result.included, one.final.result.codes


async def agree(net: Net, study: Digest) -> None:
    """The honest have the roots that the chain has, and come to hold every model."""
    found = roots(net.nodes[0], study)
    for member in (0, 1, 2):
        assert roots(net.nodes[member], study) == found
        has = net.nodes[member].participant.store.has
        await net.until(lambda has=has: all(has(Digest.from_hex(root)) for root in found.values()))


async def play(net: Net, study: Study) -> Digest:
    """A whole study; patience is for each round, since attacks cost windows."""
    number = await net.create(study)
    for count in range(1, study["", "rounds"] + 1):
        await net.until(lambda count=count: len([one for one in net.rounds(0) if one.over]) >= count)
    await net.finish(number)
    return number


CONTRIBUTIONS: tuple[tuple[type[Forger], Code], ...] = (
    (Forger, Code.VALID),  # honest for two rounds
    (Forger, Code.VALID),
    (byzantine.Garbage, Code.HEADER),
    (byzantine.GarbageCiphertext, Code.BAD_SEAL),
    (byzantine.WrongPlainHash, Code.BAD_SEAL),
    (byzantine.Copyist, Code.HEADER),
    (byzantine.DeepMetrics, Code.HEADER),
    (byzantine.Announces, Code.SHAPE),
    (byzantine.AnnouncesLeaves, Code.HEADER),
    (byzantine.TooManyIntegers, Code.SHAPE),
    (byzantine.BeyondTheGrid, Code.RANGE),
    (byzantine.OtherTree, Code.TREE),
    (byzantine.SwapsLeaves, Code.TREE),
    (byzantine.RepeatsLeaf, Code.TREE),
    (byzantine.Heavy, Code.COUNT),
    (byzantine.NoLeaves, Code.COUNT),
    (byzantine.OthersConsents, Code.CONSENT),
    (byzantine.MintedRecords, Code.POLICY),
)


async def test_a_contribution_that_breaks_a_rule_is_left_out_by_its_code_on_chain(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    liar = programme(*(kind for kind, _ in CONTRIBUTIONS))
    async with network(tmp_path, trainer, makers={LIAR: liar}) as net:
        study = await play(net, spec(rounds=len(CONTRIBUTIONS), suspend_after=15))
        for one, (kind, code) in zip(net.rounds(0), CONTRIBUTIONS, strict=True):
            assert one.commits.keys() == {0, 1, 2, 3}, kind
            # A rule that everybody can check costs no extension.
            assert outcome(one) == (0, HONEST if code else ALL, code << 4 * LIAR), kind
        await agree(net, study)


async def test_blobs_of_others_or_beyond_what_the_chain_allows_are_unavailable(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    liar = programme(byzantine.Thief, byzantine.Replayer, byzantine.Padded)
    arms = {LIAR: serve_with(byzantine.HandsOnOthersKeys)}
    async with network(tmp_path, trainer, makers={LIAR: liar}, arms=arms) as net:
        study = await play(net, spec(rounds=3, suspend_after=15))
        # A key is committed to for its round and member, so none fits; no set has more leaves than the chain has
        # consents. Unavailable is a fact, and nobody is blamed.
        assert [outcome(one) for one in net.rounds(0)] == [(1, HONEST, 0)] * 3
        padded = 40_000_000
        for member in (0, 1, 2):
            assert all(length < padded for _, _, length in net.nodes[member].participant.store.contents())
        await agree(net, study)


# --------------------------------------------------------------------------------------------------------------------
# What it answers


async def test_a_server_that_lies_to_one_member_splits_nobody_and_costs_no_extension(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    acts = (
        byzantine.SpoiledChunks,
        byzantine.WrongMap,
        byzantine.OtherKey,
        byzantine.GarbageWrap,
        byzantine.OtherReply,
        byzantine.JunkNotices,
    )
    async with network(tmp_path, trainer, arms={LIAR: serve_with(serving_programme(*acts), 0)}) as net:
        study = await play(net, spec(rounds=len(acts), suspend_after=15))
        assert [outcome(one) for one in net.rounds(0)] == [(0, ALL, 0)] * len(acts)
        await agree(net, study)


async def test_keys_that_come_in_the_last_second_cost_the_windows_and_split_nobody(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, arms={LIAR: serve_with(byzantine.LateReveal)}) as net:
        study = await play(net, spec(suspend_after=15))
        (one,) = net.rounds(0)
        found = outcome(one)
        assert found[0] <= 1
        assert found[1] in (ALL, HONEST)
        assert found[2] == 0
        assert one.ended_at is not None
        assert one.ended_at - one.opened.opened_at <= whole_round(net, study)
        await agree(net, study)


def whole_round(net: Net, study: Digest) -> int:
    """The published windows of a round that ends in attempt 1, in seconds."""
    terms = net.nodes[0].history.studies[study].created.terms
    windows = (terms.scribe_seconds, terms.grace_seconds, terms.reveal_seconds, terms.have_seconds, terms.vote_seconds)
    return sum(windows)


# --------------------------------------------------------------------------------------------------------------------
# What it says


async def test_two_of_every_statement_are_all_recorded_and_change_no_set(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    def arm(node: Any) -> None:
        serve_with(byzantine.Unserving)(node)  # so that there are haves and votes of attempt 1
        byzantine.speak_with(byzantine.second_of_everything, 0)(node)

    async with network(tmp_path, trainer, arms={LIAR: arm}) as net:
        study = await play(net, spec(suspend_after=15))
        (one,) = net.rounds(0)
        assert outcome(one) == (1, HONEST, 0)
        await agree(net, study)
        said = {Equivocated(one.opened.round_id, LIAR, kind) for kind in (1, 2, 3)}
        await net.until(lambda: set(net.of(Equivocated)) >= said)
        assert len(net.of(Equivocated)) == len(said), "each once"


# --------------------------------------------------------------------------------------------------------------------
# What it carries


@pytest.mark.parametrize("victim", [0, 1])
async def test_a_scribe_that_leaves_a_member_out_and_posts_junk_at_the_last_second_stops_nobody(
    victim: int, tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, arms={LIAR: censor(victim)}) as net:
        study = await play(net, spec(rounds=4))  # each member is scribe once
        for one in net.rounds(0):
            assert one.commits.keys() >= {0, 1, 2}
            assert outcome(one)[1] & HONEST == HONEST
            assert outcome(one)[2] == 0
            assert one.ended_at is not None
            assert one.ended_at - one.opened.opened_at <= whole_round(net, study)
        await agree(net, study)


# --------------------------------------------------------------------------------------------------------------------
# What it sends too much of


async def test_a_flood_of_notices_and_requests_delays_no_round_and_fills_no_store(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer) as net:
        study = await net.create(spec())
        await net.until(lambda: len(net.rounds(0)) == 1)
        liar = net.nodes[LIAR].participant
        round_id = net.rounds(0)[0].opened.round_id
        forged = AbstainNotice(round_id, 1, b"\x01" * 65)
        unknown = [signed(liar, AbstainNotice(Digest(i.to_bytes(32, "big")), LIAR, b"")) for i in range(MAX_OFFERED)]
        stones = [signed(liar, TombstoneNotice(LIAR, Digest(i.to_bytes(32, "big")), 1, study, b"")) for i in range(400)]
        offers = [Offer((forged,) * MAX_OFFERED), Offer(tuple(unknown))]
        offers += [Offer(tuple(stones[i : i + MAX_OFFERED])) for i in range(0, len(stones), MAX_OFFERED)]
        requests = [*offers, Pull(round_id), Pull(study), GetMap(net.rounds(0)[0].opened.parent_model)]
        refused = 0

        async def flood(victim: int, turn: int) -> None:
            nonlocal refused
            while True:
                for request in requests[turn:] + requests[:turn]:
                    reply = await net.nodes[LIAR]._transport.request(net.peer_id(victim), request, 60.0)
                    refused += isinstance(reply, Refusal) and reply.code == "busy"

        async with trio.open_nursery() as nursery:
            for victim in (0, 1, 2):
                for turn in range(5):  # more than are answered at once
                    nursery.start_soon(flood, victim, turn)
            await net.finish(study)
            nursery.cancel_scope.cancel()
        assert refused > 0
        (one,) = net.rounds(0)
        assert outcome(one) == (0, ALL, 0)
        assert one.ended_at is not None
        assert one.ended_at - one.opened.opened_at <= whole_round(net, study)
        for node in (net.nodes[i] for i in (0, 1, 2)):
            assert len(node.participant.store.notices_of_kind("AbstainNotice")) == 0
            assert len(node.participant.store.notices_of_kind("TombstoneNotice")) <= EXTRA_BURST + 60
            assert sum(len(waiting) for waiting in node._server._early.values()) <= MAX_EARLY
        await agree(net, study)


async def test_a_tombstone_of_another_buries_nothing_here(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer) as net:
        study = await net.create(spec(rounds=2))
        await net.until(lambda: len(net.rounds(0)) == 1)
        net.freeze(1)
        await net.until(lambda: len(net.rounds(0)) == 2 and net.rounds(0)[-1].over)
        model = Digest.from_hex(roots(net.nodes[0], study)[2])
        late, liar = net.nodes[1], net.nodes[LIAR].participant
        assert not late.participant.store.has(model)
        stone = signed(liar, TombstoneNotice(LIAR, model, 1, study, b""))
        assert late._server.accept(stone, late._server._asker(net.peer_id(LIAR), late.now))
        net.thaw(1)
        await net.until(lambda: late.participant.store.has(model))
