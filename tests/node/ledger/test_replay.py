"""What was signed for something else, comes twice, too early or too late, or is no signature: refused, on every ledger.

Each is refused under its own name, and in a batch it harms only itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from crypto.commitments import study_id
from crypto.digest import Digest
from crypto.statements import Abstain, Commit, Domain, Have, Join, Leave, Remove, Statement, Vote, sign, struct_hash
from node.errors import CallReverted
from node.history import History
from node.memory.machine import Skip
from node.memory.training import hash_of
from node.records import (
    ZERO,
    Abstentions,
    CommitEntry,
    Commits,
    Committed,
    EntrySkipped,
    Equivocated,
    EquivocationReport,
    Evidence,
    HaveEntry,
    HavePosted,
    Haves,
    Joining,
    Leaving,
    Opening,
    Removal,
    Resumption,
    RoundFailed,
    RoundFailure,
    RoundOpened,
    StudyCreation,
)
from tests.node.ledger.world import World, one_of, records_of, word

ALL = 0b1111


def entry(opened: RoundOpened, member: int, signature: bytes, text: str = "") -> CommitEntry:
    return CommitEntry(member, word(f"update {member}{text}"), word(f"dataset {member}"), ZERO, signature)


def statement(opened: RoundOpened, member: int, round_id: Digest | None = None) -> Commit:
    said = entry(opened, member, b"")
    return Commit(round_id or opened.round_id, member, said.update_root, said.dataset_root, ZERO)


ELSEWHERE: dict[str, Callable[[World], Domain]] = {
    "another chain": lambda world: Domain(world.contracts.chain_id + 1, world.contracts.training),
    "another contract": lambda world: Domain(world.contracts.chain_id, world.contracts.consent),
}


@pytest.mark.parametrize("where", ELSEWHERE)
def test_a_statement_of_another_domain_is_skipped_and_the_rest_counts(world: World, where: str) -> None:
    _, opened = world.study()
    signature = sign(statement(opened, 1), ELSEWHERE[where](world), world.keys[1])
    batch = (
        world.commit_entry(opened.round_id, 0),
        entry(opened, 1, signature),
        world.commit_entry(opened.round_id, 2),
    )
    sent = world.send(Commits(opened.study, opened.round_id, batch))
    assert [one.member for one in records_of(sent, Committed)] == [0, 2]
    assert records_of(sent, EntrySkipped) == [EntrySkipped(opened.round_id, 1, Skip.BAD_SIGNATURE)]


def wrong_parity(signature: bytes) -> bytes:
    return signature[:64] + bytes([55 - signature[64]])  # 27 <-> 28


def high_s(signature: bytes) -> bytes:
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    s = order - int.from_bytes(signature[32:64], "big")
    return signature[:32] + s.to_bytes(32, "big") + bytes([55 - signature[64]])


@pytest.mark.parametrize("form", [wrong_parity, high_s, lambda signature: signature[:64], lambda signature: b""])
def test_another_form_of_a_signature_is_no_signature(world: World, form: Callable[[bytes], bytes]) -> None:
    _, opened = world.study()
    good = world.commit_entry(opened.round_id, 1)
    batch = (replace(good, signature=form(good.signature)), world.commit_entry(opened.round_id, 2))
    sent = world.send(Commits(opened.study, opened.round_id, batch))
    assert records_of(sent, EntrySkipped) == [EntrySkipped(opened.round_id, 1, Skip.BAD_SIGNATURE)]
    assert [one.member for one in records_of(sent, Committed)] == [2]
    assert [one.member for one in records_of(world.commit(opened.round_id, [1]), Committed)] == [1]


def test_statements_of_another_round_do_not_count_in_this_one(world: World) -> None:
    _, first = world.study()
    second = one_of(world.finish(first.round_id), RoundOpened)
    old = world.sign(1, statement(first, 1, first.round_id))
    batch = (entry(second, 1, old), world.commit_entry(second.round_id, 0))
    sent = world.send(Commits(second.study, second.round_id, batch))
    assert records_of(sent, EntrySkipped) == [EntrySkipped(second.round_id, 1, Skip.BAD_SIGNATURE)]
    sent = world.send(
        Abstentions(
            second.study,
            second.round_id,
            ((2, world.sign(2, Abstain(first.round_id, 2))), (3, world.abstention(second.round_id, 3))),
        )
    )
    assert records_of(sent, EntrySkipped) == [EntrySkipped(second.round_id, 2, Skip.BAD_SIGNATURE)]
    # the whole old batch, to the old round
    with pytest.raises(CallReverted) as stale:
        world.commit(first.round_id, [0, 1])
    operands = {"study": first.study, "roundId": first.round_id, "open": second.round_id}
    assert (stale.value.error, stale.value.operands) == ("RoundNotOpen", operands)


def test_statements_of_another_study_do_not_count_in_this_one(world: World) -> None:
    one, opened = world.study()
    other, elsewhere = world.study(spec_hash=word("another spec"))
    with pytest.raises(CallReverted) as mixed:
        world.send(Commits(other, opened.round_id, (world.commit_entry(opened.round_id, 0),)))
    operands = {"study": other, "roundId": opened.round_id, "open": elsewhere.round_id}
    assert (mixed.value.error, mixed.value.operands) == ("RoundNotOpen", operands)
    with pytest.raises(CallReverted) as ended:
        world.send(RoundFailure(other, opened.round_id))
    assert ended.value.error == "RoundNotOpen"
    third = world.terms(spec_hash=word("a third"))

    world.send(StudyCreation(third, world.sign(0, third)))
    fresh = study_id(struct_hash(third))
    with pytest.raises(CallReverted) as joined:
        world.send(Joining(fresh, 1, world.sign(1, Join(one, 1))))
    assert joined.value.error == "BadSignature"


def test_votes_of_another_attempt_or_round_decide_nothing(world: World) -> None:
    _, opened = world.study()
    world.commit(opened.round_id, range(4))
    result = world.result(opened.round_id, ALL)
    good = world.finalisation(opened.round_id, 0, ALL, result, [0, 1, 2])
    for wrong in (
        Vote(opened.round_id, 1, ALL, hash_of(result)),
        Vote(word("another round"), 0, ALL, hash_of(result)),
        Vote(opened.round_id, 0, 0b0111, hash_of(result)),
        Vote(opened.round_id, 0, ALL, hash_of(replace(result, model_root=word("another model")))),
    ):
        votes = (*good.votes[:2], (2, world.sign(2, wrong)))
        with pytest.raises(CallReverted) as refused:
            world.send(replace(good, votes=votes))
        assert (refused.value.error, refused.value.operands["member"]) == ("BadSignature", 2)
    world.send(good)


def test_votes_too_early_are_refused_with_the_phase(world: World) -> None:
    _, opened = world.study()
    world.commit(opened.round_id, [0, 1, 2])
    with pytest.raises(CallReverted) as early:
        world.send(world.finalisation(opened.round_id, 0, 0b0111, world.result(opened.round_id, 0b0111), [0, 1, 2]))
    assert (early.value.error, early.value.operands["phase"]) == ("WrongPhase", 1)


def test_haves_of_another_attempt_are_skipped_and_the_rest_counts(world: World) -> None:
    _, opened = world.study()
    world.commit(opened.round_id, range(4))
    world.pass_time(opened.opened_at + 61)
    wrong = HaveEntry(1, ALL, world.sign(1, Have(opened.round_id, 1, 2, ALL)))
    good = world.have_entry(opened.round_id, 1, 0, ALL)
    sent = world.send(Haves(opened.study, opened.round_id, 1, (wrong, good, good)))
    assert records_of(sent, EntrySkipped) == [
        EntrySkipped(opened.round_id, 1, Skip.BAD_SIGNATURE),
        EntrySkipped(opened.round_id, 0, Skip.DUPLICATE),
    ]
    assert [one.member for one in records_of(sent, HavePosted)] == [0]


def test_a_removed_members_statements_do_not_count_in_the_next_round(world: World) -> None:
    _, first = world.study()
    world.send(Removal(3, world.votes([0, 1, 2], Remove(1, 3, world.keys[3].address))))
    second = one_of(world.finish(first.round_id), RoundOpened)
    sent = world.commit(second.round_id, [0, 3])
    assert records_of(sent, EntrySkipped) == [EntrySkipped(second.round_id, 3, Skip.UNKNOWN_MEMBER)]
    world.commit(second.round_id, [1, 2])
    result = world.result(second.round_id, 0b0111)
    with pytest.raises(CallReverted) as voted:
        world.send(world.finalisation(second.round_id, 0, 0b0111, result, [0, 1, 3]))
    assert (voted.value.error, voted.value.operands) == ("NotOnRoster", {"strangers": 8})


@pytest.mark.parametrize("member", [4, 31, 32, 255, 65_535])
def test_an_index_beyond_the_roster_is_nobody(world: World, member: int) -> None:
    _, opened = world.study()
    good = world.commit_entry(opened.round_id, 0)
    sent = world.send(Commits(opened.study, opened.round_id, (replace(good, member=member), good)))
    assert records_of(sent, EntrySkipped) == [EntrySkipped(opened.round_id, member, Skip.UNKNOWN_MEMBER)]
    assert [one.member for one in records_of(sent, Committed)] == [0]


# --------------------------------------------------------------------------------------------------------------------
# Contradictions


def report(world: World, opened: RoundOpened, a: Statement, b: Statement, member: int = 2) -> EquivocationReport:
    kind = {Commit: 1, Vote: 2, Have: 3}[type(a)]
    assert isinstance(a, Commit | Vote | Have)
    assert isinstance(b, Commit | Vote | Have)
    evidence = [Evidence(one, world.sign(member, one)) for one in (a, b)]
    return EquivocationReport(opened.study, Opening.of(opened), kind, member, *evidence)


def two_commits(opened: RoundOpened) -> tuple[Commit, Commit]:
    one = statement(opened, 2)
    return one, replace(one, update_root=word("another update"))


def test_a_contradiction_is_reportable_long_after_its_round_and_once(world: World) -> None:
    _, first = world.study()
    second = one_of(world.finish(first.round_id), RoundOpened)
    world.finish(second.round_id)
    call = report(world, first, *two_commits(first))
    assert records_of(world.send(call), Equivocated) == [Equivocated(first.round_id, 2, 1)]
    with pytest.raises(CallReverted) as again:
        world.send(replace(call, a=call.b, b=call.a))
    assert again.value.error == "AlreadyKnown"
    third = world.all(RoundOpened)[-1]
    fourth = one_of(world.finish(third.round_id), RoundOpened)
    assert fourth.suspended == 0b0100, "from the next open on"


def test_votes_and_haves_are_evidence_too(world: World) -> None:
    _, opened = world.study()
    votes = [Vote(opened.round_id, 0, ALL, word(text)) for text in ("x", "y")]
    haves = [Have(opened.round_id, 2, 1, held) for held in (1, 3)]
    assert one_of(world.send(report(world, opened, *votes)), Equivocated).kind == 2
    assert one_of(world.send(report(world, opened, *haves)), Equivocated).kind == 3


def test_evidence_about_something_else_is_none(world: World) -> None:
    _, opened = world.study()
    other, elsewhere = world.study(spec_hash=word("another spec"))
    good = report(world, opened, *two_commits(opened))
    a, b = two_commits(opened)
    cases = {
        "another study's round": (replace(good, study=other), "OffSubject"),
        "another round": (replace(good, opening=Opening.of(elsewhere)), "OffSubject"),
        "a made-up roster": (replace(good, opening=replace(good.opening, roster=0b11111)), "OffSubject"),
        "not on the roster": (replace(good, member=9), "NotActive"),
        "no such kind": (replace(good, kind=4), "BadKind"),
        "another kind": (replace(good, kind=2), "BadEvidence"),
        "another member": (replace(good, member=1), "OffSubject"),
        "the same twice": (replace(good, b=good.a), "NoContradiction"),
        "not signed by it": (replace(good, b=Evidence(b, world.sign(1, b))), "BadSignature"),
        "signed for another chain": (
            replace(good, a=Evidence(a, sign(a, ELSEWHERE["another chain"](world), world.keys[2]))),
            "BadSignature",
        ),
        "two attempts": (
            report(world, opened, Vote(opened.round_id, 0, ALL, word("x")), Vote(opened.round_id, 1, 7, word("y"))),
            "OffSubject",
        ),
    }
    for what, (call, error) in cases.items():
        with pytest.raises(CallReverted) as refused:
            world.send(call)
        assert refused.value.error == error, what
    world.send(good)


# --------------------------------------------------------------------------------------------------------------------
# Rounds that nothing opened


def test_a_study_whose_last_invitation_was_declined_is_resumed_by_anyone(world: World) -> None:

    def could_open() -> bool:
        history = History()
        history.apply_all(world.logged())
        return history.could_open(study)

    terms = world.terms()
    study = study_id(struct_hash(terms))
    world.send(StudyCreation(terms, world.sign(0, terms)))
    for member in range(3):
        world.send(Joining(study, member, world.sign(member, Join(study, member))))
    with pytest.raises(CallReverted) as waits:
        world.send(Resumption(study))
    assert (waits.value.error, waits.value.operands) == ("NothingToOpen", {"study": study})
    assert not could_open()
    world.send(Leaving(study, 3, world.sign(3, Leave(study, 3))))
    assert could_open()
    opened = one_of(world.send(Resumption(study)), RoundOpened)
    assert (opened.height, opened.roster) == (1, 0b0111)
    assert not could_open()
    with pytest.raises(CallReverted):
        world.send(Resumption(study))


def test_a_failure_that_comes_twice_ends_one_round(world: World) -> None:
    _, opened = world.study()
    world.pass_time(opened.opened_at + 121)
    assert one_of(world.send(RoundFailure(opened.study, opened.round_id)), RoundFailed).round_id == opened.round_id
    with pytest.raises(CallReverted) as twice:
        world.send(RoundFailure(opened.study, opened.round_id))
    assert twice.value.error == "RoundNotOpen"
