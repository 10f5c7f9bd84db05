"""What a peer may have, and what it is told when it may not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from crypto.digest import Digest
from crypto.sealing import BlobKind, unwrap
from node import card as cards
from node.errors import ChainUnreachable, OutcomeUnknown, Refused
from node.messages import (
    AbstainNotice,
    Accepted,
    ChunkReply,
    CloseNotice,
    CommitNotice,
    GetChunk,
    GetKeys,
    GetMap,
    HaveNotice,
    Hello,
    KeysReply,
    MapReply,
    Notice,
    Notices,
    Offer,
    PlanNotice,
    Pull,
    Refusal,
    Reply,
    Request,
    VoteNotice,
    Welcome,
)
from node.records import ZERO, AuditAnnouncement, AuditOpened, AuditOpening, AuditorEnded, Result
from node.serving import MAX_EARLY, Standing, standing
from tests.fakes.byzantine import Mute, signed
from tests.fakes.network import Net, SharedTrainer, WatchedNode, network, spec

pytestmark = pytest.mark.slow  # whole networks in memory

UNKNOWN = Digest(b"\x17" * 32)
RESULT = Result(1, 3, 0, UNKNOWN, b"", UNKNOWN, UNKNOWN)


async def ask(net: Net, who: int, request: Request, of: int = 0) -> Reply:
    """What node `of` answers to a request that its transport brings from `who`."""
    return await net.nodes[of]._answer(net.peer_id(who), request)


def code(reply: Reply) -> str:
    assert isinstance(reply, Refusal), reply
    return reply.code


async def test_after_the_seal_every_member_gets_every_key_under_its_own_sealing_key(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 3) as net:
        await net.play(spec())
        round_id = net.rounds(0)[0].opened.round_id
        store = net.nodes[0].participant.store
        notices = {n.member: n for n in store.notices(round_id, "CommitNotice") if isinstance(n, CommitNotice)}
        for member, notice in notices.items():
            for kind, blob in ((BlobKind.UPDATE, notice.update), (BlobKind.SET, notice.set)):
                reply = await ask(net, 1, GetKeys(round_id, member, 1 << kind))
                both = await ask(net, 1, GetKeys(round_id, member, 3))
                assert isinstance(reply, KeysReply)
                assert isinstance(both, KeysReply)
                ring = net.seatings[1].ring
                for wrap in (reply.wraps[0], both.wraps[kind]):
                    key = unwrap(wrap, ring.sealing, blob.key_commit, round_id, member, kind)
                    assert key == store.key(round_id, member, kind)
        assert store.meta(f"revealed {round_id.hex()}") is not None, "that our key left is written down"


async def test_no_key_leaves_before_the_seal_is_final(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer, 3, makers={2: Mute}) as net:
        await net.create(spec())
        await net.until(lambda: len(net.rounds(0)) == 1)
        net.hold = True  # one member says nothing and time stands still: the round stays open
        round_id = net.rounds(0)[0].opened.round_id
        store = net.nodes[0].participant.store
        await net.until(lambda: store.own_notice(round_id, "CommitNotice") is not None)
        for kinds in (1, 2, 3):
            assert code(await ask(net, 1, GetKeys(round_id, 0, kinds))) == "not-yet"
        assert store.meta(f"revealed {round_id.hex()}") is None


async def test_an_auditor_reads_what_its_announced_access_covers_and_nothing_else(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 2, auditor=True) as net:
        study = await net.play(spec())
        round_id = net.rounds(0)[0].opened.round_id
        await net.until(lambda: net.nodes[0].participant.audit_open(study, 0))
        assert isinstance(await ask(net, 2, GetKeys(round_id, 0, 1)), KeysReply)
        found = net.nodes[0].history.studies[study]
        access, found.access = found.access, []
        assert code(await ask(net, 2, GetKeys(round_id, 0, 1))) == "not-allowed"
        (logged, record) = access[0]
        found.access = [(logged, replace(record, from_height=2))]
        assert code(await ask(net, 2, GetKeys(round_id, 0, 1))) == "not-allowed"


def attended(node: WatchedNode) -> None:
    """The node of a hospital whose officer's password does not lie beside it: it opens nothing by itself."""
    node.desk._open_unattended = lambda now: None  # type: ignore[method-assign]


async def test_an_auditor_reads_nothing_before_a_hospital_says_on_the_chain_that_it_may(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 2, auditor=True, arms={0: attended}) as net:
        study = await net.play(spec())
        node, round_id = net.nodes[0], net.rounds(0)[0].opened.round_id
        found = node.history.studies[study]
        await net.until(lambda: bool(found.access) and net.nodes[1].participant.audit_open(study, 0))
        assert code(await ask(net, 2, GetKeys(round_id, 0, 1))) == "not-allowed", "another hospital's word is not ours"
        access, found.access = found.access, []
        with pytest.raises(Refused, match="announced no access"):
            await node.desk.open_audit(node, study, 0)
        found.access = access
        with pytest.raises(Refused, match="no auditor has seat 1"):
            await node.desk.open_audit(node, study, 1)
        # The officer's word, whose way to the chain is cut, and whose reply is lost: it gets there once.
        net.doors[0].away = True
        with pytest.raises(ChainUnreachable):
            await node.desk.open_audit(node, study, 0)
        assert code(await ask(net, 2, GetKeys(round_id, 0, 1))) == "not-allowed", "nobody can read it yet"
        net.doors[0].lose = lambda call: OutcomeUnknown("lost") if isinstance(call, AuditOpening) else None
        net.doors[0].away = False
        await net.until(lambda: node.participant.audit_open(study, 0))
        await node.desk.open_audit(node, study, 0)  # said again, nothing changes
        assert isinstance(await ask(net, 2, GetKeys(round_id, 0, 1)), KeysReply)
        assert {(one.member, one.seat, one.study) for one in net.of(AuditOpened)} == {(0, 0, study), (1, 0, study)}
        assert len(net.of(AuditOpened)) == 2
        logs = [one.participant.store.log_entries("audit_opened") for one in (node, net.nodes[1])]
        assert [[body["role"] for _, _, body in lines] for lines in logs] == [["dpo"], ["unattended"]]
        # The members end the seat's term, and with it what it may read.
        for at in (0, 1):
            await net.nodes[at].desk.governance.end_auditor(net.nodes[at], 0)
        await net.until(lambda: bool(net.of(AuditorEnded)) and node.history.registry.epoch == 2)
        await net.until(lambda: node.now > net.of(AuditorEnded)[0].term_end)
        assert code(await ask(net, 2, GetKeys(round_id, 0, 1))) == "not-allowed"
        with pytest.raises(Refused, match="no auditor has seat 0"):
            await node.desk.open_audit(node, study, 0)
        # It asks for no study that its seat is not for: that would be refused, and hold up those that it is for.
        await net.until(lambda: net.nodes[2].now >= node.now)
        later = await net.play(spec("later"))
        await net.until(lambda: later in net.nodes[2].history.studies and net.nodes[2].history.finished(later))
        tried = [call.study for call in net.doors[2].tried if isinstance(call, AuditAnnouncement)]
        assert set(tried) == {study}  # twice, where the chain had not shown the first yet


async def test_requests_about_nothing_are_answered_with_not_found(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer, 2) as net:
        await net.play(spec())
        round_id = net.rounds(0)[0].opened.round_id
        for request in (
            GetMap(UNKNOWN),
            GetChunk(UNKNOWN, 0),
            GetKeys(UNKNOWN, 0, 1),
            GetKeys(round_id, 0, 0),
            GetKeys(round_id, 31, 1),
        ):
            assert code(await ask(net, 1, request)) in ("not-found", "not-yet"), request
        reply = await ask(net, 1, Pull(UNKNOWN))
        assert reply == Notices(())


async def test_content_is_served_whole_and_no_chunk_beyond(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer, 2) as net:
        await net.play(spec())
        store = net.nodes[0].participant.store
        for root, _, length in store.contents():
            described = await ask(net, 1, GetMap(root))
            assert isinstance(described, MapReply)
            assert described.length == length
            assert described.first == store.get(root)
            chunk = await ask(net, 1, GetChunk(root, 0))
            assert isinstance(chunk, ChunkReply)
            assert chunk.data == store.get(root)
            assert code(await ask(net, 1, GetChunk(root, 1))) == "not-found"


async def test_only_registered_peers_of_the_same_network_are_welcome(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer, 2) as net:
        await net.until(lambda: net.nodes[0].ready)
        contracts = net.ledger.contracts
        hello = Hello(contracts.chain_id, contracts.membership, 0)
        assert isinstance(await ask(net, 1, hello), Welcome)
        assert code(await ask(net, 1, replace(hello, chain_id=1))) == "wrong-network"
        assert code(await ask(net, 1, replace(hello, membership=bytes(20)))) == "wrong-network"
        assert code(await net.nodes[0]._answer(b"\x00\x24" + bytes(36), hello)) == "not-allowed"


async def test_a_card_is_kept_for_the_chain_and_handed_to_nobody_who_asks(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 3) as net:
        study = await net.create(spec(rounds=1))
        await net.until(lambda: len(net.rounds(0)) == 1)
        vault = net.nodes[2].participant.vault
        assert vault is not None
        consent = vault.holdings(study)[0].consent_id
        notice = cards.withdrawal_notice(vault.card(consent))
        net.nodes[0].participant.store.remember(notice, own=False)
        assert await ask(net, 1, Pull(consent)) == Notices(())
        await net.until(lambda: consent in net.nodes[0].history.withdrawals)


def placed(net: Net, notice: Notice) -> Standing:
    return standing(notice, net.nodes[0].history)


async def test_a_notice_has_its_place_by_the_chain_alone(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer, 2) as net:
        study = await net.play(spec())
        round_id = net.rounds(0)[0].opened.round_id
        assert placed(net, AbstainNotice(round_id, 1, b"")) is Standing.PLACED
        assert placed(net, AbstainNotice(round_id, 2, b"")) is Standing.WRONG
        assert placed(net, AbstainNotice(round_id, 40, b"")) is Standing.WRONG
        assert placed(net, AbstainNotice(UNKNOWN, 1, b"")) is Standing.EARLY
        for attempt, stands in ((0, Standing.WRONG), (1, Standing.PLACED), (3, Standing.PLACED), (4, Standing.WRONG)):
            assert placed(net, HaveNotice(round_id, 1, attempt, 0, b"")) is stands
        for attempt, stands in ((0, Standing.PLACED), (3, Standing.PLACED), (4, Standing.WRONG)):
            assert placed(net, VoteNotice(round_id, 1, attempt, 3, RESULT, UNKNOWN, b"")) is stands
        assert placed(net, CloseNotice(study, 0, 1, UNKNOWN, 1, b"")) is Standing.PLACED
        assert placed(net, CloseNotice(study, 0, 1, UNKNOWN, 9, b"")) is Standing.WRONG
        assert placed(net, CloseNotice(study, 0, 2, UNKNOWN, 1, b"")) is Standing.EARLY
        assert placed(net, CloseNotice(study, 1, 1, UNKNOWN, 1, b"")) is Standing.EARLY
        assert placed(net, CloseNotice(UNKNOWN, 0, 1, UNKNOWN, 1, b"")) is Standing.EARLY
        assert placed(net, PlanNotice(UNKNOWN, 1, 0, 0, UNKNOWN, UNKNOWN, 0, 0, 0, b"")) is Standing.EARLY


async def test_what_comes_early_waits_in_memory_and_counts_once_the_chain_names_its_round(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 2) as net:
        study = await net.create(spec(rounds=2))
        await net.until(lambda: net.finished(study, 0) and net.finished(study, 1))
        node = net.nodes[0]
        # Once both closes of both rounds are with it, nothing is left for it to do in the round that is hidden from it.
        await net.until(lambda: len(node.participant.store.notices_of_kind("CloseNotice")) == 4)
        last = net.rounds(0)[-1].opened.round_id
        hidden = node.history.rounds.pop(last)
        late = signed(net.nodes[1].participant, HaveNotice(last, 1, 3, 0, b""))
        net.hold = True
        reply = await ask(net, 1, Offer((late,)))
        assert reply == Accepted(0)
        assert not node.participant.store.knows(late)
        node.history.rounds[last] = hidden
        net.hold = False
        await net.until(lambda: node.participant.store.knows(late))


async def test_a_peer_can_make_only_so_much_wait(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer, 2) as net:
        await net.until(lambda: net.nodes[0].ready)
        liar = net.nodes[1].participant
        for i in range(1, MAX_EARLY + 40, 20):
            rounds = [Digest(n.to_bytes(32, "big")) for n in range(i, i + 20)]
            offered = tuple(signed(liar, AbstainNotice(one, 1, b"")) for one in rounds)
            assert await ask(net, 1, Offer(offered)) == Accepted(0)
        waiting = net.nodes[0]._server._early
        assert sum(len(one) for one in waiting.values()) == MAX_EARLY
        assert not net.nodes[0].participant.store.notices_of_kind("AbstainNotice")
        assert ZERO not in net.nodes[0].history.rounds
