"""Rotation, revocation, recovery, the end of an auditor's term, consents of hospitals that left: on every ledger."""

from __future__ import annotations

import pytest

from crypto.digest import Digest
from crypto.keys import LedgerKey
from crypto.statements import (
    AuditAccess,
    EndAuditor,
    Remove,
    WithdrawByHospital,
    WithdrawByQuorum,
    sign,
)
from node.errors import CallReverted
from node.membership import Registry, accumulate
from node.records import (
    ZERO,
    AuditAnnouncement,
    AuditorEnded,
    AuditorEnding,
    EntrySkipped,
    Grants,
    HospitalWithdrawal,
    MemberRecovered,
    MemberRevoked,
    MemberRotated,
    QuorumWithdrawal,
    Removal,
    RoundOpened,
    Withdrawn,
)
from tests.node.ledger.conftest import WorldMaker
from tests.node.ledger.world import World, kinds, one_of, word


def registry_of(world: World) -> Registry:
    registry = Registry()
    for one in world.logged():
        if type(one.record).__name__.startswith(("Member", "Auditor")):
            registry.apply(one.record)  # type: ignore[arg-type]
    return registry


def test_a_member_rotates_with_its_old_and_its_new_key(world: World) -> None:
    key, before = LedgerKey.generate(), world.ledger.accumulators()[0]
    rotated = one_of(world.send(world.rotation(1, key, 1)), MemberRotated)
    assert (rotated.index, rotated.ledger, rotated.epoch) == (1, key.address, 2)
    assert world.ledger.accumulators()[0] == accumulate(before, rotated)
    registry = registry_of(world)
    assert registry.accumulator == world.ledger.accumulators()[0]
    assert registry.members[1].ledger == key.address
    assert registry.members[1].ledger_at(1) == world.keys[1].address, "history keeps the key of the epoch"
    assert registry.members[1].ledger_at(2) == key.address


def test_a_rotation_by_another_key_or_for_another_epoch_is_refused(world: World) -> None:
    key = LedgerKey.generate()
    with pytest.raises(CallReverted) as refused:
        world.send(world.rotation(1, key, 2))
    assert refused.value.error == "KeysNotSigned"
    good, other = world.rotation(1, key, 1), world.rotation(2, key, 1)
    with pytest.raises(CallReverted) as refused:
        world.send(type(good)(1, good.keys, other.signature))
    assert refused.value.error == "KeysNotSigned"
    assert refused.value.operands["expected"] == world.keys[1].address
    with pytest.raises(CallReverted) as refused:
        world.send(world.rotation(1, world.keys[2], 1))
    assert (refused.value.error, refused.value.operands) == ("LedgerTaken", {"ledger": world.keys[2].address})


def test_a_member_rotates_once_in_seven_days(world: World) -> None:
    first = LedgerKey.generate()
    at = one_of(world.send(world.rotation(1, first, 1)), MemberRotated).at
    world.keys[1] = first
    with pytest.raises(CallReverted) as refused:
        world.send(world.rotation(1, LedgerKey.generate(), 2))
    assert (refused.value.error, refused.value.operands) == (
        "RotatedLately",
        {"index": 1, "next": at + 7 * 86_400},
    )


def test_an_open_round_keeps_the_keys_it_opened_with_and_the_next_takes_the_new_ones(world: World) -> None:
    _, opened = world.study()
    old, new = world.keys[1], LedgerKey.generate()
    world.send(world.rotation(1, new, 1))
    registry = registry_of(world)
    assert registry.ledgers_of_round(1, opened.opened_at, None) == (old.address,)
    world.keys[1] = new
    skipped = one_of(world.commit(opened.round_id, [1]), EntrySkipped)
    assert (skipped.member, skipped.reason) == (1, 2)
    world.keys[1] = old
    following = one_of(world.finish(opened.round_id), RoundOpened)
    assert registry.ledgers_of_round(1, following.opened_at, None) == (new.address,)
    assert one_of(world.commit(following.round_id, [1]), EntrySkipped).reason == 2
    world.keys[1] = new
    assert "RoundFinal" in kinds(world.finish(following.round_id))


def test_a_revoked_key_counts_for_nothing_at_once_and_the_others_go_on(world: World) -> None:
    _, opened = world.study()
    revoked = one_of(world.send(world.revocation(3, [0, 1, 2], 1)), MemberRevoked)
    assert (revoked.index, revoked.epoch) == (3, 2)
    assert one_of(world.commit(opened.round_id, [3]), EntrySkipped).reason == 2
    assert registry_of(world).ledgers_of_round(3, opened.opened_at, None) == ()
    world.commit(opened.round_id, [0, 1, 2])
    world.pass_time(opened.opened_at + 120)
    result = world.result(opened.round_id, 7)
    with pytest.raises(CallReverted) as refused:
        world.send(world.finalisation(opened.round_id, 0, 7, result, [0, 1, 2, 3]))
    assert refused.value.error == "BadSignature"
    following = one_of(world.send(world.finalisation(opened.round_id, 0, 7, result, [0, 1, 2])), RoundOpened)
    assert following.roster == 7
    with pytest.raises(CallReverted) as refused:
        world.send(world.admission(LedgerKey.generate(), [0, 3], 2))
    assert refused.value.error == "NotOnRoster"


def test_recovery_puts_new_keys_on_the_old_seat(world: World) -> None:
    _, opened = world.study()
    world.send(world.revocation(3, [0, 1, 2], 1))
    key = LedgerKey.generate()
    with pytest.raises(CallReverted) as refused:
        world.send(world.recovery(3, key, [0], 2))
    assert refused.value.error == "QuorumNotReached"
    recovery = world.recovery(3, key, [0, 1], 2)
    recovered = one_of(world.send(recovery), MemberRecovered)
    assert (recovered.index, recovered.ledger, recovered.epoch) == (3, key.address, 3)
    registry = registry_of(world)
    assert registry.active == 15
    assert registry.accumulator == world.ledger.accumulators()[0]
    assert [registry.members[3].ledger_at(epoch) for epoch in (1, 2, 3)] == [world.keys[3].address, None, key.address]
    assert registry.ledgers_of_round(3, opened.opened_at, None) == (key.address,)
    with pytest.raises(CallReverted) as refused:
        world.send(recovery)
    assert refused.value.error == "LedgerTaken"
    assert one_of(world.commit(opened.round_id, [3]), EntrySkipped).reason == 2
    world.keys[3] = key
    assert one_of(world.finish(opened.round_id), RoundOpened).roster == 15


def test_a_lost_key_is_replaced_without_a_revocation(world: World) -> None:
    key = LedgerKey.generate()
    world.send(world.recovery(3, key, [0, 1, 2], 1))
    assert registry_of(world).members[3].ledger == key.address


def test_votes_of_an_earlier_epoch_or_another_act_are_refused(world: World) -> None:
    stale = world.revocation(3, [0, 1, 2], 1)
    world.send(world.admission(LedgerKey.generate(), [0, 1, 2], 1))
    with pytest.raises(CallReverted):
        world.send(stale)
    removal = world.votes([0, 1, 2, 3], Remove(2, 3, world.keys[3].address))
    with pytest.raises(CallReverted) as refused:
        world.send(type(stale)(3, removal))
    assert refused.value.error == "BadSignature"


def test_a_revoked_member_is_removed_for_good(world: World) -> None:
    world.send(world.revocation(3, [0, 1, 2], 1))
    nobody = bytes(19) + b"\1"
    world.send(Removal(3, world.votes([0, 1], Remove(2, 3, nobody))))
    with pytest.raises(CallReverted) as refused:
        world.send(world.recovery(3, LedgerKey.generate(), [0, 1], 3))
    assert (refused.value.error, refused.value.operands) == ("NotActive", {"index": 3})


def test_two_members_cannot_revoke_each_other(make_world: WorldMaker) -> None:
    world = make_world(2)
    with pytest.raises(CallReverted) as refused:
        world.send(world.revocation(1, [0, 1], 1))
    assert refused.value.error == "LastMembers"


def test_an_auditors_term_is_ended_by_votes(world: World) -> None:
    study, _ = world.study()
    ending = AuditorEnding(0, world.votes([0, 1, 2], EndAuditor(1, 0, world.auditors[0].address)))
    ended = one_of(world.send(ending), AuditorEnded)
    assert (ended.seat, ended.epoch) == (0, 2)
    assert registry_of(world).auditors_of(study, ended.term_end) == ()
    assert len(registry_of(world).auditors_of(study, ended.term_end - 1)) == 1
    access = AuditAccess(study, 0, 1, 2, word("ground"))
    signature = sign(access, world.domains.of(access), world.auditors[0])
    with pytest.raises(CallReverted) as refused:
        world.send(AuditAnnouncement(study, 0, 1, 2, word("ground"), signature))
    assert refused.value.error == "NoSuchSeat"
    with pytest.raises(CallReverted) as refused:
        world.send(ending)
    assert refused.value.error == "TermOver"


def granted(world: World) -> Digest:
    study, _ = world.study()
    form_id = world.register(world.form(study), 3)
    consent = word("consent")
    world.send(Grants((world.grant_entry(form_id, 3, consent),)))
    return consent


def hospital_withdrawal(world: World, consent: Digest) -> HospitalWithdrawal:
    return HospitalWithdrawal(3, consent, ZERO, 0, (), world.sign(3, WithdrawByHospital(3, consent)))


def test_a_hospital_that_rotated_withdraws_with_the_key_it_has(world: World) -> None:
    consent, key = granted(world), LedgerKey.generate()
    world.send(world.rotation(3, key, 1))
    with pytest.raises(CallReverted):
        world.send(hospital_withdrawal(world, consent))
    world.keys[3] = key
    assert one_of(world.send(hospital_withdrawal(world, consent)), Withdrawn).consent_id == consent


@pytest.mark.parametrize("how", ["removed", "revoked"])
def test_a_quorum_withdraws_for_a_hospital_that_left(world: World, how: str) -> None:
    consent = granted(world)

    def withdrawal(epoch: int, voters: list[int]) -> QuorumWithdrawal:
        return QuorumWithdrawal(3, consent, world.votes(voters, WithdrawByQuorum(epoch, 3, consent)))

    with pytest.raises(CallReverted) as refused:
        world.send(withdrawal(1, [0, 1, 2]))
    assert (refused.value.error, refused.value.operands) == ("StillMember", {"index": 3})
    if how == "removed":
        world.send(Removal(3, world.votes([0, 1, 2], Remove(1, 3, world.keys[3].address))))
    else:
        world.send(world.revocation(3, [0, 1, 2], 1))
        with pytest.raises(CallReverted) as refused:
            world.send(hospital_withdrawal(world, consent))
        assert refused.value.error == "BadSignature"
    with pytest.raises(CallReverted) as refused:
        world.send(withdrawal(2, [0]))
    assert refused.value.error == "QuorumNotReached"
    assert one_of(world.send(withdrawal(2, [0, 1])), Withdrawn).consent_id == consent
