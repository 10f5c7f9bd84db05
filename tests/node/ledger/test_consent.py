"""ConsentRegistry's rules, on every ledger."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crypto.digest import Digest
from crypto.merkle import AnchorTree
from crypto.statements import Form, RegisterForm, Remove, WithdrawByHospital, struct_hash
from node.duo import CODES
from node.errors import CallReverted
from node.membership import accumulate
from node.records import (
    ZERO,
    Anchored,
    Anchoring,
    EntrySkipped,
    FormRegistered,
    FormRegistration,
    Granted,
    Grants,
    HospitalWithdrawal,
    Removal,
    Withdrawals,
    Withdrawn,
)
from tests.node.ledger.world import JUNK, QUARTER, World, kinds, one_of, word

STUDY = word("a study")
NO_MEMBER = 0xFFFF


@pytest.fixture
def form_id(world: World) -> Digest:
    """A registered form of STUDY."""
    return world.register(world.form(STUDY))


def test_a_form_is_registered_with_all_its_fields(world: World) -> None:
    form = world.form(STUDY)
    sent = world.send(FormRegistration(form, 2, world.sign(2, RegisterForm(2, struct_hash(form)))))
    assert sent.records == (FormRegistered(struct_hash(form), STUDY, 5, word("text"), 3, 1, QUARTER, 3),)
    with pytest.raises(CallReverted) as refused:
        world.register(form)
    assert (refused.value.error, refused.value.operands) == ("FormKnown", {"formId": struct_hash(form)})


@pytest.mark.parametrize(
    "changes, field, got",
    [
        ({"custody": 4}, "custody", 4),
        ({"basis": 0}, "basis", 0),
        ({"on_withdrawal": 9}, "onWithdrawal", 9),
        ({"valid_to": QUARTER + 86_400}, "validTo", QUARTER + 86_400),
        ({"text_hash": ZERO}, "textHash", 0),
    ],
)
def test_a_form_field_outside_its_list_is_refused(
    world: World, changes: dict[str, object], field: str, got: int
) -> None:
    form: Form = world.form(STUDY, **changes)
    with pytest.raises(CallReverted) as refused:
        world.register(form)
    assert (refused.value.error, refused.value.operands) == ("FormField", {"field": field, "got": got})


def test_a_form_needs_the_signature_of_an_active_member(world: World) -> None:
    form = world.form(STUDY)
    with pytest.raises(CallReverted) as wrong_signer:
        world.send(FormRegistration(form, 2, world.sign(1, RegisterForm(2, struct_hash(form)))))
    assert wrong_signer.value.error == "BadSignature"
    assert wrong_signer.value.operands["expected"] == world.keys[2].address
    assert wrong_signer.value.operands["recovered"] == world.keys[1].address
    with pytest.raises(CallReverted) as stranger:
        world.send(FormRegistration(form, 9, world.sign(1, RegisterForm(9, struct_hash(form)))))
    assert (stranger.value.error, stranger.value.operands) == ("NotActive", {"index": 9})


def test_grants_are_recorded_and_accumulated_in_their_order(world: World, form_id: Digest) -> None:
    before = world.ledger.accumulators()[1]
    consents = [world.patient(str(i))[0] for i in range(3)]
    sent = world.send(Grants(tuple(world.grant_entry(form_id, 1, one) for one in consents)))
    assert sent.records == tuple(Granted(one, form_id, 1) for one in consents)
    for record in sent.records:
        before = accumulate(before, record)
    assert world.ledger.accumulators()[1] == before


def test_junk_in_a_batch_of_grants_harms_only_itself(world: World, form_id: Digest) -> None:
    consents = [world.patient(str(i))[0] for i in range(6)]
    good = [world.grant_entry(form_id, 0, one) for one in consents]
    batch = (
        good[0],
        good[0],
        replace(good[1], signature=good[2].signature),
        replace(good[1], signature=JUNK),
        replace(good[1], signature=b"short"),
        replace(good[2], member=9),
        replace(good[3], form_id=word("no form")),
        good[5],
    )
    sent = world.send(Grants(batch))
    assert sent.records == (
        Granted(consents[0], form_id, 0),
        EntrySkipped(consents[0], 0, 1),
        EntrySkipped(consents[1], 0, 2),
        EntrySkipped(consents[1], 0, 2),
        EntrySkipped(consents[1], 0, 2),
        EntrySkipped(consents[2], 9, 3),
        EntrySkipped(consents[3], 0, 5),
        Granted(consents[5], form_id, 0),
    )


def test_a_withdrawal_before_the_grant_makes_the_grant_void(world: World, form_id: Digest) -> None:
    consent, withdrawal = world.patient("early")
    sent = world.send(Withdrawals((withdrawal,)))
    stamp = world.ledger.head().timestamp
    assert sent.records == (Withdrawn(consent, stamp),)
    late = world.send(Grants((world.grant_entry(form_id, 0, consent),)))
    assert late.records == (EntrySkipped(consent, 0, 4),)


def test_a_withdrawal_after_the_grant_counts_once(world: World, form_id: Digest) -> None:
    consent, withdrawal = world.patient("later")
    world.send(Grants((world.grant_entry(form_id, 0, consent),)))
    sent = world.send(Withdrawals((withdrawal, withdrawal)))
    assert kinds(sent) == ["EntrySkipped", "Withdrawn"]
    assert sent.records[0] == EntrySkipped(consent, NO_MEMBER, 1)
    again = world.send(Withdrawals((withdrawal,)))
    assert again.records == (EntrySkipped(consent, NO_MEMBER, 1),)


def test_withdrawals_of_one_transaction_are_a_record_each(world: World) -> None:
    before = world.ledger.accumulators()[1]
    one, two = world.patient("one"), world.patient("two")
    sent = world.send(Withdrawals((one[1], replace(two[1], signature=JUNK), two[1])))
    stamp = world.ledger.head().timestamp
    ended = (Withdrawn(one[0], stamp), Withdrawn(two[0], stamp))
    assert sent.records == (EntrySkipped(two[0], NO_MEMBER, 2), *ended)
    assert world.ledger.accumulators()[1] == accumulate(accumulate(before, ended[0]), ended[1])


def test_only_the_holder_s_key_withdraws(world: World) -> None:
    consent, withdrawal = world.patient("mine")
    _, other = world.patient("other")
    sent = world.send(Withdrawals((replace(withdrawal, signature=other.signature), replace(other, signature=JUNK))))
    assert kinds(sent) == ["EntrySkipped", "EntrySkipped"]
    assert sent.records[0] == EntrySkipped(consent, NO_MEMBER, 2)


def test_a_hospital_withdraws_what_it_granted_and_nothing_else(world: World, form_id: Digest) -> None:
    consent, _ = world.patient("card lost")
    world.send(Grants((world.grant_entry(form_id, 1, consent),)))

    def by(member: int) -> HospitalWithdrawal:
        signature = world.sign(member, WithdrawByHospital(member, consent))
        return HospitalWithdrawal(member, consent, ZERO, 0, (), signature)

    with pytest.raises(CallReverted) as refused:
        world.send(by(2))
    assert (refused.value.error, refused.value.operands) == ("NotGrantedBy", {"consentId": consent, "member": 2})
    # Also after its removal: the consent is its patient's.
    world.send(Removal(1, world.votes([0, 2, 3], Remove(1, 1, world.keys[1].address))))
    assert one_of(world.send(by(1)), Withdrawn).consent_id == consent
    with pytest.raises(CallReverted) as twice:
        world.send(by(1))
    assert twice.value.error == "AlreadyWithdrawn"


def test_an_anchored_consent_is_withdrawn_by_its_path(world: World, form_id: Digest) -> None:
    consents = [world.patient(f"anchored {i}")[0] for i in range(32)]
    tree = AnchorTree(consents)
    anchoring = Anchoring((world.anchor_entry(STUDY, form_id, 3, 32, tree.root),))
    assert world.send(anchoring).records == (Anchored(STUDY, form_id, 3, 32, (tree.root,)),)
    assert world.send(anchoring).records == (EntrySkipped(tree.root, 3, 1),)
    signature = world.sign(3, WithdrawByHospital(3, consents[7]))
    with pytest.raises(CallReverted) as refused:
        world.send(HospitalWithdrawal(3, consents[7], tree.root, 8, tree.prove(7), signature))
    assert refused.value.error == "NotGrantedBy"
    sent = world.send(HospitalWithdrawal(3, consents[7], tree.root, 7, tree.prove(7), signature))
    assert one_of(sent, Withdrawn).consent_id == consents[7]


def test_many_roots_of_many_hospitals_are_one_transaction(world: World, form_id: Digest) -> None:
    roots = [word(f"root {i}") for i in range(5)]
    before = world.ledger.accumulators()[1]
    sent = world.send(
        Anchoring(
            (
                world.anchor_entry(STUDY, form_id, 3, 32, *roots[:3]),
                world.anchor_entry(STUDY, form_id, 1, 64, roots[3], roots[0], roots[4]),
            )
        )
    )
    assert sent.records == (
        Anchored(STUDY, form_id, 3, 32, tuple(roots[:3])),
        EntrySkipped(roots[0], 1, 1),
        Anchored(STUDY, form_id, 1, 64, (roots[3], roots[4])),
    )
    for record in sent.records:
        if isinstance(record, Anchored):
            before = accumulate(before, record)
    assert world.ledger.accumulators()[1] == before


def test_junk_in_a_batch_of_anchors_harms_only_itself(world: World, form_id: Digest) -> None:
    root, good = word("root"), world.anchor_entry(STUDY, form_id, 0, 32, word("good"))
    entry = world.anchor_entry(STUDY, form_id, 0, 32, root)
    batch = (
        world.anchor_entry(STUDY, form_id, 0, 48, root),
        world.anchor_entry(STUDY, form_id, 0, 16, root),
        world.anchor_entry(STUDY, form_id, 0, 32, ZERO),
        replace(entry, count=64),
        replace(entry, signature=JUNK),
        replace(entry, member=9),
        replace(entry, form_id=word("no form")),
        replace(entry, study=word("another study")),
        good,
    )
    assert world.send(Anchoring(batch)).records == (
        EntrySkipped(root, 0, 6),
        EntrySkipped(root, 0, 6),
        EntrySkipped(ZERO, 0, 6),
        EntrySkipped(root, 0, 2),
        EntrySkipped(root, 0, 2),
        EntrySkipped(root, 9, 3),
        EntrySkipped(root, 0, 5),
        EntrySkipped(root, 0, 5),
        Anchored(STUDY, form_id, 0, 32, (word("good"),)),
    )


@pytest.mark.parametrize(
    "purposes, error, operands",
    [
        (CODES["NMDS"] | CODES["IRB"], "FormWithoutPermission", {"purposes": CODES["NMDS"] | CODES["IRB"]}),
        (CODES["GRU"] | 1 << 31 | 1 << 5, "FormUnknownPurposes", {"bits": 1 << 31 | 1 << 5}),
    ],
)
def test_a_form_has_a_permission_and_no_unknown_bit(
    world: World, purposes: int, error: str, operands: dict[str, int]
) -> None:
    with pytest.raises(CallReverted) as refused:
        world.register(world.form(STUDY, purposes=purposes))
    assert (refused.value.error, refused.value.operands) == (error, operands)
