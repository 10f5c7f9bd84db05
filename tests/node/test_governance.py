"""Members that change, lose and revoke keys, in running studies of real nodes; and the offline proof of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from crypto.digest import Digest
from crypto.keys import KeyRing
from crypto.statements import AuditAccess, Seat, WithdrawByHospital, sign
from node import keystore
from node.desk import AUDIT_GROUND
from node.document import Fields
from node.errors import (
    CallReverted,
    ChainUnreachable,
    InputError,
    LocalFault,
    NodeError,
    NotFound,
    OutcomeUnknown,
    Refused,
    VerificationFailed,
)
from node.governance import KINDS_OF_KEYS, recovery_statement
from node.history import History
from node.home import create_home
from node.issuers import Issuers, lacking, read_issuers, shows_seat, write_issuers
from node.membership import ROTATION_INTERVAL_S
from node.messages import Notice, RotationNotice
from node.notices import counts
from node.records import (
    AuditAnnouncement,
    AuditOpened,
    AuditorEnded,
    AuditorSeated,
    Call,
    MemberRecovered,
    MemberRevoked,
    MemberRotated,
    Rotation,
    Withdrawn,
)
from node.store import Store, notice_key
from tests.fakes.network import Net, SharedTrainer, network, spec

pytestmark = pytest.mark.slow  # whole networks in memory


def renewed(net: Net, member: int) -> KeyRing:
    """Further keys in a member's hands; its peer key stays, so that its node need not start again."""
    new = replace(KeyRing.generate(), peer=net.nodes[member].participant.ring.peer)
    net.keep(member, new)
    return new


def issuers(net: Net, at: int) -> dict[str, Any]:
    node = net.nodes[at]
    return write_issuers(net.network, node.history, node.participant.store)


def read(net: Net, tree: dict[str, Any]) -> Issuers:
    return read_issuers(Fields("issuers", tree), net.network)


def application(net: Net, index: int, ring: KeyRing) -> dict[str, Any]:
    statement = recovery_statement(index, ring)
    signature = sign(statement, net.nodes[0].participant.domains.of(statement), ring.ledger)
    ledger, peer_id, sealing = keystore.public_keys(ring)
    return {
        "member": index,
        "ledger": ledger.hex(),
        "peer_id": peer_id.hex(),
        "sealing_key": sealing.hex(),
        "signature": signature.hex(),
    }


async def epoch(net: Net, number: int, at: range | list[int] = range(4)) -> None:
    await net.until(lambda: all(net.nodes[i].history.registry.epoch >= number for i in at))


def test_a_rotation_in_the_middle_of_a_study_costs_nobody_anything(tmp_path: Path, trainer: SharedTrainer) -> None:
    async def play() -> None:
        async with network(tmp_path, trainer) as net:
            study = await net.create(spec(rounds=6))
            await net.until(lambda: len(net.rounds(1)) > 0)
            node = net.nodes[1]
            old = node.participant.ring
            new, _, _ = await net.rotate(1)
            await epoch(net, 2)
            assert node.participant.ring == new
            await net.finish(study)
            rotated = net.of(MemberRotated)[0]
            finals = [one for one in net.rounds(0) if one.final is not None]
            assert len(finals) == len(net.rounds(0)) == 6, "no round failed"
            for one in finals:
                assert one.final is not None
                assert one.final.result.included == 15, "nobody was left out"
            before = [one for one in finals if one.opened.opened_at <= rotated.at]
            assert 0 < len(before) < 6, "rounds of both keys"
            # A certificate made now shows the keys of every epoch, and only those.
            found = read(net, issuers(net, 0))
            assert [one.ledger for one in found.terms[1]] == [old.ledger.address, new.ledger.address]
            stranger = WithdrawByHospital(1, Digest(bytes(32)))
            signature = sign(stranger, found.domains.of(stranger), old.ledger)
            found.signed(stranger, 1, signature, "a statement of the first epoch", 1)
            with pytest.raises(VerificationFailed):
                found.signed(stranger, 1, signature, "a statement of a later epoch", 2)

    trio.run(play)


def test_a_revoked_members_votes_are_dropped_and_recovery_brings_it_back(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async def play() -> None:
        async with network(tmp_path, trainer) as net:
            await net.create(spec(rounds=20))  # more than it waits for
            await net.until(lambda: len(net.rounds(0)) > 0)
            for voter in (0, 1, 2):
                node = net.nodes[voter]
                if net.of(MemberRevoked):
                    break
                found = await node.desk.governance.revoke(node, 3)
            assert found["needed"] == 3
            await epoch(net, 2)
            assert [one.index for one in net.of(MemberRevoked)] == [3]
            store = net.nodes[0].participant.store
            notices = [n for one in net.rounds(0) for n in store.notices(one.opened.round_id) if n.member == 3]  # type: ignore[union-attr]
            open_ones = [n for n in notices if not net.nodes[0].history.rounds[n.round_id].over]  # type: ignore[union-attr]
            assert not any(counts(n, net.nodes[0].history, net.nodes[0].participant.domains) for n in open_ones)
            new = renewed(net, 3)
            for voter in (0, 1):
                node = net.nodes[voter]
                if net.of(MemberRecovered):
                    break
                await node.desk.governance.recover(node, application(net, 3, new))
            await epoch(net, 3)
            assert net.nodes[3].participant.ring == new
            # The seat is back under its index, in rounds that end well.
            await net.until(
                lambda: any(
                    one.opened.epoch == 3 and one.opened.roster == 15 and one.final is not None for one in net.rounds(0)
                )
            )
            for at in (0, 1):
                assert len(read(net, issuers(net, at)).terms[3]) == 2
            # A store with nothing, or with one vote of three, knows what to ask for.
            history, vote = net.nodes[0].history, store.notices_of_kind("RevocationNotice")[0]
            poor = Store(tmp_path / "poor", bytes(32))
            subject = notice_key(vote)[0]
            assert subject in lacking(net.network, history, poor)
            for notice in (vote, *store.notices_of_kind("RecoveryNotice")):
                poor.remember(notice, own=False)
            assert subject in lacking(net.network, history, poor)
            assert lacking(net.network, history, store) == []
            poor.close()

    trio.run(play)


def test_votes_given_while_the_others_were_away_come_together_when_they_are_back(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async def play() -> None:
        async with network(tmp_path, trainer, 4) as net:
            for voter in (0, 1):  # each is alone when it votes
                net.cut(voter)
                node = net.nodes[voter]
                found = await node.desk.governance.revoke(node, 3)
                assert (found["votes"], found["needed"], found["decided"]) == ([voter], 3, False)
                net.heal(voter)
            net.cut(2)
            await net.kill(0)  # what it voted for is on its disk
            found = await net.nodes[2].desk.governance.revoke(net.nodes[2], 3)
            assert found["votes"] == [2]
            await net.start(0)
            net.heal(2)
            await epoch(net, 2)
            assert [one.index for one in net.of(MemberRevoked)] == [3]

    trio.run(play)


def test_a_forged_change_of_keys_is_no_issuer(tmp_path: Path, trainer: SharedTrainer) -> None:
    async def play() -> None:
        async with network(tmp_path, trainer) as net:
            await net.until(lambda: net.nodes[1].ready)
            await net.rotate(1)
            await epoch(net, 2)
            tree = issuers(net, 0)
            assert read(net, tree).checked
            for field, value in (("ledger", "11" * 20), ("sealing_key", "22" * 32), ("index", 2), ("kind", "recover")):
                change = {**tree["changes"][0], field: value}
                with pytest.raises(VerificationFailed):
                    read(net, {**tree, "changes": [change]})

    trio.run(play)


def keys_on_chain(net: Net) -> list[tuple[bytes, bytes, bytes]]:
    return [(one.ledger, one.peer_id, one.sealing_key) for one in net.of(MemberRotated)]


def test_a_rotation_whose_answer_was_lost_is_answered_and_makes_no_further_keys(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async def play() -> None:
        async with network(tmp_path, trainer) as net:
            study = await net.create(spec(rounds=3))
            await net.until(lambda: len(net.rounds(1)) > 0)
            lost: list[Call] = []

            def lose(call: Call) -> BaseException | None:
                if not isinstance(call, Rotation):
                    return None
                lost.append(call)
                return OutcomeUnknown("the reply was lost")

            net.doors[1].lose = lose
            with pytest.raises(OutcomeUnknown):
                await net.rotate(1, KINDS_OF_KEYS)
            net.doors[1].lose = lambda call: None
            # At once, and when the change has been read here: the same keys, for the chain has them.
            for waits in (0, 2):
                await epoch(net, waits)
                new, since, resumed = await net.rotate(1, KINDS_OF_KEYS)
                assert (net.seatings[1].later, since, resumed) == ((new,), 2, True)
            assert keys_on_chain(net) == [keystore.public_keys(new)]
            assert len(lost) == 1
            # Started again, as a node is whose keys changed, it takes part under its new name to the end of the study.
            await net.kill(1)
            await net.start(1)
            assert net.peer_id(1) == new.peer.peer_id
            await net.until(lambda: net.nodes[1].ready)
            assert (await net.rotate(1, KINDS_OF_KEYS))[1:] == (2, True)
            await net.finish(study)
            assert all(one.final is not None for one in net.rounds(0))
            # Other keys than those: not for a week, and none are made meanwhile.
            with pytest.raises(Refused, match=r"changed its keys lately; it may again at 20\d\d-"):
                await net.rotate(1, {"sealing"})
            assert net.seatings[1].later == (new,)
            net.clock.now += ROTATION_INTERVAL_S
            await net.until(lambda: net.nodes[1].now > net.of(MemberRotated)[0].at + ROTATION_INTERVAL_S)
            second, since, resumed = await net.rotate(1, {"sealing"})
            assert (second.ledger, since, resumed) == (new.ledger, 3, False)
            assert keys_on_chain(net)[1:] == [keystore.public_keys(second)]

    trio.run(play)


class Died(Exception):
    """Stands for the end of the process at this point."""


class DiesAfterNotice(Store):
    """A store whose process ends once, right after it kept its own member's rotation."""

    died = False

    def remember(self, notice: Notice, *, own: bool) -> None:
        super().remember(notice, own=own)
        if own and isinstance(notice, RotationNotice) and not DiesAfterNotice.died:
            DiesAfterNotice.died = True
            raise Died


@pytest.mark.parametrize("point", ["keys made", "keys kept", "statement kept", "chain away", "mined"])
def test_a_rotation_that_breaks_off_at_any_step_goes_on_with_the_same_keys(
    point: str, tmp_path: Path, trainer: SharedTrainer
) -> None:
    async def play() -> None:
        DiesAfterNotice.died = point != "statement kept"
        async with network(tmp_path, trainer, stores={1: DiesAfterNotice}) as net:
            await net.until(lambda: net.nodes[1].ready)
            node = net.nodes[1]
            made: list[KeyRing] = []

            def keep(ring: KeyRing) -> None:
                made.append(ring)
                if point != "keys made":
                    net.keep(1, ring)
                if point.startswith("keys"):
                    raise Died

            net.doors[1].lose = lambda call: Died() if point == "mined" and isinstance(call, Rotation) else None
            net.doors[1].away = point == "chain away"
            with pytest.raises((Died, ChainUnreachable)):
                await node.desk.governance.rotate(node, KINDS_OF_KEYS, keep)
            await net.kill(1)
            net.doors[1].lose = lambda call: None
            net.doors[1].away = False
            assert len(net.of(MemberRotated)) == (point == "mined")
            await net.start(1)
            await net.until(lambda: net.nodes[1].ready)
            new, since, resumed = await net.rotate(1, KINDS_OF_KEYS)
            if point == "keys made":  # nobody heard of them, and they are nowhere
                assert (resumed, new == made[0]) == (False, False)
            else:
                assert (resumed, new) == (True, made[0])
            assert since == 2
            assert net.seatings[1].later == (new,)
            assert keys_on_chain(net) == [keystore.public_keys(new)]
            await epoch(net, 2)
            for at in (0, 2, 3):  # every member can show by whose word the keys changed
                await net.until(lambda at=at: shows(net, at, new))  # type: ignore[misc]

    trio.run(play)


def shows(net: Net, at: int, ring: KeyRing) -> bool:
    """Whether a member has what proves offline that member 1 changed its keys to these."""
    try:
        return read(net, issuers(net, at)).terms[1][-1].ledger == ring.ledger.address
    except NotFound:
        return False


def test_members_end_a_consent_of_a_hospital_that_was_removed(tmp_path: Path, trainer: SharedTrainer) -> None:
    async def play() -> None:
        async with network(tmp_path, trainer) as net:
            await net.create(spec(rounds=3))
            await net.until(lambda: len(net.rounds(0)) > 0)
            vault = net.nodes[3].participant.vault
            assert vault is not None
            consent = vault.holdings()[0].consent_id
            first = net.nodes[0]
            with pytest.raises(Refused, match="is active"):
                await first.desk.governance.withdraw_left(first, 3, consent)
            for voter in (0, 1, 2):
                node = net.nodes[voter]
                if node.history.registry.members[3].removed is None:
                    await node.desk.governance.remove(node, 3)
            await epoch(net, 2, [0, 1, 2])
            for voter in (0, 1):
                node = net.nodes[voter]
                found = await node.desk.governance.withdraw_left(node, 3, consent)
            assert found["needed"] == 2
            await net.until(lambda: any(one.consent_id == consent for one in net.of(Withdrawn)))
            with pytest.raises(NotFound):
                await first.desk.governance.revoke(first, 3)

    trio.run(play)


def test_members_seat_an_auditor_for_one_study_and_a_term(tmp_path: Path, trainer: SharedTrainer) -> None:
    async def play() -> None:
        async with network(tmp_path, trainer, 3) as net:
            own, other = await net.play(spec("own")), await net.play(spec("other"))
            ring, domains = KeyRing.generate(), net.ledger.contracts.domains
            seat = Seat("auditor", ring.peer.peer_id, ring.sealing.public, "Audit Ltd")
            ledger, peer_id, sealing = keystore.public_keys(ring)
            letter = {
                "name": "Audit Ltd",
                "ledger": ledger.hex(),
                "peer_id": peer_id.hex(),
                "sealing_key": sealing.hex(),
                "signature": sign(seat, domains.of(seat), ring.ledger).hex(),
            }
            node = net.nodes[0]
            end = node.now + 3600
            with pytest.raises(InputError, match="ends in the past"):
                await node.desk.governance.seat_auditor(node, letter, own, node.now)
            with pytest.raises(NotFound, match="no study"):
                await node.desk.governance.seat_auditor(node, letter, Digest(b"\x01" * 32), end)
            with pytest.raises(NodeError, match="AdmissionNotice"):  # it is no member's seat that was signed for
                await node.desk.governance.approve(node, letter)
            # Votes for another study or another day are other votes.
            for at, study, until in ((0, own, end), (1, other, end), (1, own, end + 1)):
                found = await net.nodes[at].desk.governance.seat_auditor(net.nodes[at], letter, study, until)
                assert (found["votes"], found["decided"]) == ([at], False)
            found = await net.nodes[1].desk.governance.seat_auditor(net.nodes[1], letter, own, end)
            assert (found["votes"], found["needed"], found["decided"]) == ([0, 1], 2, True)
            await epoch(net, 2, range(3))
            (seated,) = net.of(AuditorSeated)
            assert (seated.ledger, seated.study, seated.term_end, seated.seat) == (ledger, own, end, 0)

            # A document that rests on the auditor's word shows the votes for the seat, and no others.
            voter = net.nodes[1]
            tree = write_issuers(net.network, voter.history, voter.participant.store, (0,))
            assert [one["kind"] for one in tree["changes"]] == ["seat"]
            assert read(net, tree).auditors == {0: (ledger, "Audit Ltd")}
            assert read(net, issuers(net, 1)).auditors == {}, "only where it is needed"
            (change,) = tree["changes"]
            for key, value in (("name", "Other Ltd"), ("term_end", end + 1), ("votes", change["votes"][:1])):
                with pytest.raises(VerificationFailed):
                    read(net, {**tree, "changes": [{**change, key: value}]})

            # Every member comes to keep the votes for a seat, also who gave none; an early end changes nothing of that.
            silent = net.nodes[2]
            await net.until(lambda: lacking(net.network, silent.history, silent.participant.store) == [])
            assert write_issuers(net.network, silent.history, silent.participant.store, (0,)) == tree
            poor = Store(tmp_path / "poor", bytes(32))
            (asked,) = lacking(net.network, voter.history, poor)
            kept = voter.participant.store.notices(asked, "AuditorSeatNotice")
            poor.remember(kept[0], own=False)
            assert asked in lacking(net.network, voter.history, poor), "one vote is no quorum"
            poor.remember(kept[1], own=False)
            assert lacking(net.network, voter.history, poor) == []
            ended = History()
            for logged in net.ledger.records(0, net.ledger.head().number):
                ended.apply(logged)
            later = replace(logged.position, block=logged.position.block + 1)
            ended.apply(replace(logged, position=later, record=AuditorEnded(0, node.now, ended.registry.epoch + 1)))
            assert ended.registry.auditors[0].term_end == node.now
            assert shows_seat(ended, poor, 0)
            poor.close()

            def announced(study: Digest) -> AuditAnnouncement:
                statement = AuditAccess(study, 0, 1, 1, AUDIT_GROUND)
                signature = sign(statement, domains.of(statement), ring.ledger)
                return AuditAnnouncement(study, 0, 1, 1, AUDIT_GROUND, signature)

            with pytest.raises(CallReverted, match="NoSuchSeat"):
                net.ledger.send(announced(other))
            net.ledger.send(announced(own))
            with pytest.raises(Refused, match="no auditor has seat 0 for study"):
                await node.desk.open_audit(node, other, 0)
            # No officer's password is needed here: the hospitals' nodes say the second word themselves.
            await net.until(lambda: len(net.of(AuditOpened)) == 3)
            assert {one.study for one in net.of(AuditOpened)} == {own}
            net.clock.now = end + 1
            await net.until(lambda: node.now > end)
            with pytest.raises(Refused, match="no auditor has seat 0 for study"):
                await node.desk.open_audit(node, own, 0)

    trio.run(play)


# --------------------------------------------------------------------------------------------------------------------
# Keys on disk


def public(rings: tuple[KeyRing, ...]) -> list[tuple[bytes, bytes, bytes]]:
    return [keystore.public_keys(ring) for ring in rings]


def test_keys_are_added_never_replaced_and_what_is_at_rest_stays_open(tmp_path: Path) -> None:
    home = create_home(tmp_path / "home", "member", 0)
    first = keystore.create(home, "password", log_n=10)
    second = KeyRing.generate()
    keystore.add(home, "password", second, log_n=10)
    rings = keystore.load_all(home, "password")
    assert public(rings) == public((first, second))
    assert keystore.at_rest_key(rings[0]) == keystore.at_rest_key(first)
    had = [keystore.public_keys(first)]
    assert keystore.current_ring(rings, []) is rings[0]
    assert keystore.current_ring(rings, had) is rings[0], "made, and not yet on the chain"
    assert keystore.current_ring(rings, [*had, keystore.public_keys(second)]) is rings[1]


def test_a_change_of_password_broken_off_half_way_is_finished_by_repeating_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = create_home(tmp_path / "home", "member", 0)
    rings = (keystore.create(home, "old", log_n=10), KeyRing.generate(), KeyRing.generate())
    for ring in rings[1:]:
        keystore.add(home, "old", ring, log_n=10)
    written, write = [], keystore.write_file

    def fails_at_the_second(path: Path, data: bytes, mode: int) -> None:
        written.append(path)
        if len(written) == 2:
            raise OSError("disk full")
        write(path, data, mode)

    monkeypatch.setattr(keystore, "write_file", fails_at_the_second)
    with pytest.raises(OSError, match="disk full"):
        keystore.change_password(home, "old", "new", log_n=10)
    monkeypatch.setattr(keystore, "write_file", write)
    keystore.change_password(home, "old", "new", log_n=10)
    assert public(keystore.load_all(home, "new")) == public(rings)
    with pytest.raises(LocalFault):
        keystore.load_all(home, "old")
