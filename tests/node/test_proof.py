"""A proof answers for every round whether a leaf was in the data, from signatures alone, and shows nobody else."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from crypto.blobs import ROLE_TRAIN, SetEntry, SetPlain, dataset_root, encode_set
from crypto.commitments import ConsentOpening, base_result, lineage, link, round_id, study_id, update_root
from crypto.digest import ZERO, Digest, accumulate, keccak256
from crypto.keys import KeyRing
from crypto.sealing import BlobKind, seal
from crypto.statements import Admit, Close, Commit, CreateStudy, Remove, Seat, Vote, sign, struct_hash
from node import document, proof
from node.errors import NotFound, VerificationFailed
from node.home import Network, network_json, parse_network
from node.home import Seat as NetworkSeat
from node.memory.ledger import memory_contracts
from node.messages import AdmissionNotice, CloseNotice, CommitNotice, RemovalNotice, VoteNotice
from node.notices import hash_of_result
from node.participant import Participant
from node.records import (
    BranchCreated,
    Committed,
    Joined,
    Logged,
    MemberAdmitted,
    MemberRemoved,
    Position,
    Record,
    Result,
    RoundFailed,
    RoundFinal,
    RoundOpened,
    StudyCreated,
)
from node.store import Store

MEMBERS = 4
HOSPITAL = 1


@dataclass
class World:
    """A network whose history is made by hand and signed with real keys; node 0 holds everything."""

    home: Path
    rings: list[KeyRing] = field(default_factory=lambda: [KeyRing.generate() for _ in range(MEMBERS)])
    block: int = 0
    result: Digest = ZERO
    lineage: Digest = ZERO
    model: Digest = ZERO
    epoch: int = 1
    roster: int = (1 << MEMBERS) - 1

    def __post_init__(self) -> None:
        self.contracts = memory_contracts()
        self.domains = self.contracts.domains
        seats = tuple(
            NetworkSeat(i, f"hospital-{i}", ring.ledger.address, ring.peer.peer_id, ring.sealing.public, "")
            for i, ring in enumerate(self.rings)
        )
        self.network: Network = parse_network(
            network_json("hand", "memory", ZERO, self.contracts, seats, (), synthetic=True)
        )
        self.node = Participant(0, None, self.rings[0], self.domains, Store(self.home, bytes(range(32))), None)
        self.history = self.node.history
        for i, ring in enumerate(self.rings):
            self.add(MemberAdmitted(i, ring.ledger.address, ring.peer.peer_id, ring.sealing.public, f"hospital-{i}", 1))
        self.terms = CreateStudy(
            0, keccak256(b"spec"), keccak256(b"w0"), 15, 9, 1, 0, 40, 4, 12, 16, 12, 12, 2, 3, 9999, 0
        )
        self.study = study_id(struct_hash(self.terms))
        self.model = self.terms.initial_model
        self.add(StudyCreated(self.study, 0, self.terms))
        for i in range(MEMBERS):
            self.add(Joined(self.study, i))

    def add(self, record: Record) -> None:
        self.block += 1
        self.history.apply(Logged(Position(self.block, 0), keccak256(bytes([self.block])), self.block, ZERO, record))

    def signed(self, statement: Any, member: int) -> bytes:
        return sign(statement, self.domains.of(statement), self.rings[member].ledger)

    def open(self, height: int, branch: int = 0) -> Digest:
        contracts, previous = self.contracts, keccak256(f"{branch} {height}".encode())
        number = round_id(
            chain_id=contracts.chain_id,
            contract=contracts.training,
            study=self.study,
            branch=branch,
            height=height,
            parent_result=self.lineage,
            parent_model=self.model,
            epoch=self.epoch,
            roster=self.roster,
            suspended=0,
            consent_accumulator=ZERO,
            membership_accumulator=ZERO,
            previous_block=previous,
        )
        self.add(
            RoundOpened(
                number,
                self.study,
                branch,
                height,
                self.lineage,
                self.model,
                self.epoch,
                self.roster,
                0,
                1,
                3,
                ZERO,
                ZERO,
                previous,
                self.block,
            )
        )
        return number

    def round(
        self,
        height: int,
        entries: Sequence[SetEntry],
        *,
        branch: int = 0,
        committed: Sequence[int] = (0, 1, 2, 3),
        included: int | None = None,
        codes: int = 0,
        attempt: int = 0,
        voters: Sequence[int] = (0, 1, 2),
    ) -> Digest:
        """One agreed round in which the hospital's set has these entries."""
        number = self.open(height, branch)
        commit_root = ZERO
        for member in committed:
            mine = tuple(entries) if member == HOSPITAL else ()
            plain = SetPlain(number, member, keccak256(b"salt"), mine)
            blobs = [
                seal(data, number, member, kind)
                for data, kind in ((b"update", BlobKind.UPDATE), (encode_set(plain), BlobKind.SET))
            ]
            root = update_root(number, member, blobs[0].commit.hash, blobs[1].commit.hash)
            statement = Commit(number, member, root, dataset_root(mine), ZERO)
            self.node.store.put("cipher", blobs[1].ciphertext)
            self.node.store.put_key(number, member, BlobKind.SET, blobs[1].key)
            self.node.store.remember(
                CommitNotice(
                    number,
                    member,
                    root,
                    statement.dataset_root,
                    ZERO,
                    blobs[0].commit,
                    blobs[1].commit,
                    self.signed(statement, member),
                ),
                own=member == 0,
            )
            self.add(Committed(number, member, root, statement.dataset_root, ZERO))
            commit_root = accumulate(commit_root, struct_hash(statement))
        everyone = sum(1 << m for m in committed)
        invalid = sum(1 << m for m in range(MEMBERS) if codes >> 4 * m & 15)
        included = everyone & ~invalid if included is None else included
        self.model = keccak256(f"model {branch} {height}".encode())
        result = Result(1, included, codes, self.model, b"\1\2", commit_root, ZERO)
        self.result = hash_of_result(result)
        self.lineage = lineage(self.lineage, link(height, self.model, self.result))
        decided = included | invalid
        for member in voters:
            vote = self.signed(Vote(number, attempt, decided, self.result), member)
            self.node.store.remember(VoteNotice(number, member, attempt, decided, result, ZERO, vote), own=member == 0)
        self.add(RoundFinal(number, self.study, branch, height, attempt, result, self.result, 7))
        return number

    def close(self, height: int, members: Sequence[int], branch: int = 0) -> None:
        for member in members:
            signature = self.signed(Close(self.study, branch, height, self.result), member)
            self.node.store.remember(
                CloseNotice(self.study, branch, height, self.result, member, signature), own=member == 0
            )

    def prove(self, opening: ConsentOpening, start: int = 0, hospital: int = HOSPITAL) -> dict[str, Any]:
        return proof.make(
            self.network,
            self.history,
            self.node,
            study=self.study,
            hospital=hospital,
            opening=opened(opening),
            rounds=proof.agreed_rounds(self.history, self.study, start),
        )

    def check(self, tree: dict[str, Any]) -> dict[str, Any]:
        return proof.check(document.write(tree), self.network)


def opened(one: ConsentOpening) -> proof.Opening:
    return proof.Opening(one.consent_id, one.holder, one.holder_salt, one.doc_commit, one.leaf_key)


def consent(number: int) -> ConsentOpening:
    return ConsentOpening.fresh(bytes([number + 1]) * 20, keccak256(b"form"))


def entries(consents: Sequence[ConsentOpening]) -> list[SetEntry]:
    made = [
        SetEntry(
            one.leaf_key,
            keccak256(one.leaf_key),
            ROLE_TRAIN,
            2,
            one.consent_id,
            one.holder,
            one.holder_salt,
            one.doc_commit,
            keccak256(b"form"),
            None,
        )
        for one in consents
    ]
    return sorted(made, key=lambda entry: entry.leaf_key)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


PATIENTS = [consent(i) for i in range(6)]
ERASED, OTHERS = PATIENTS[0], PATIENTS[1:]


def test_each_round_gives_its_own_answer(world: World) -> None:
    world.round(1, entries(PATIENTS))
    world.round(2, entries(OTHERS))
    world.round(3, entries(PATIENTS), codes=7 << 4 * HOSPITAL)
    world.round(4, entries(PATIENTS), attempt=1, included=0b1101)
    world.round(5, [], committed=(0, 2, 3))
    world.round(6, [])
    found = world.check(world.prove(ERASED))
    assert [(one["height"], one["finding"], one["reason"]) for one in found["rounds"]] == [
        (1, "present", ""),
        (2, "absent", ""),
        (3, "not-included", "CONSENT"),
        (4, "not-included", "UNAVAILABLE"),
        (5, "no-commit", ""),
        (6, "absent", ""),
    ]
    assert found["used"] is True
    assert found["complete"] is True
    assert found["issuers"] == "checked"
    assert found["hospital"] == {"index": HOSPITAL, "name": "hospital-1"}
    since = world.check(world.prove(ERASED, start=2))
    assert since["used"] is False
    assert [one["height"] for one in since["rounds"]] == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("place", range(6))
def test_absence_holds_wherever_the_key_would_lie(place: int, world: World) -> None:
    ordered = sorted(PATIENTS, key=lambda one: one.leaf_key)
    world.round(1, entries([one for i, one in enumerate(ordered) if i != place]))
    assert world.check(world.prove(ordered[place]))["rounds"][0]["finding"] == "absent"


def test_a_proof_holds_no_other_consent_id_and_nothing_of_another_leafs_value(world: World) -> None:
    world.round(1, entries(PATIENTS))
    world.round(2, entries(OTHERS))
    text = document.write(world.prove(ERASED)).decode()
    assert ERASED.consent_id.hex() in text
    for one in OTHERS:
        for secret in (one.consent_id, one.holder_salt, one.leaf_secret, one.doc_commit, one.holder):
            assert secret.hex() not in text.lower()
    assert ERASED.leaf_secret.hex() not in text
    assert ERASED.doc_salt.hex() not in text


def test_consecutive_rounds_name_each_other_and_a_gap_is_told(world: World) -> None:
    for height in (1, 2, 3):
        world.round(height, entries(OTHERS))
    whole = world.prove(ERASED)
    gap = {**whole, "rounds": [whole["rounds"][0], whole["rounds"][2]]}
    assert world.check(whole)["complete"] is True
    assert world.check(gap)["complete"] is False


def test_a_failed_round_between_two_breaks_no_chain(world: World) -> None:
    world.round(1, entries(OTHERS))
    failed = world.open(2)
    world.add(RoundFailed(failed, world.study, 0, 2, 1))
    world.round(3, entries(OTHERS))
    assert world.check(world.prove(ERASED))["complete"] is True


def test_a_line_that_forked_is_complete_from_its_checkpoint_on(world: World) -> None:
    world.round(1, entries(OTHERS))
    base, batch, origin = world.model, keccak256(b"batch"), world.lineage
    world.round(2, entries(PATIENTS))
    world.lineage = base_result(world.study, batch, 0, 1, base, origin)
    world.model = base
    world.add(BranchCreated(world.study, 1, 0, 1, base, world.lineage, ZERO, 2, batch))
    world.round(2, entries(OTHERS), branch=1)
    tree = world.prove(ERASED)
    found = world.check(tree)
    assert [(one["branch"], one["height"]) for one in found["rounds"]] == [(0, 1), (1, 2)]
    assert found["complete"] is True
    assert found["used"] is False
    tree["rounds"][1]["fork"]["base_height"] = 0
    with pytest.raises(VerificationFailed, match="leads to"):
        world.check(tree)


def test_two_closes_show_that_a_result_was_final(world: World) -> None:
    world.round(1, entries(OTHERS))
    world.close(1, (0, 2))
    world.round(2, entries(OTHERS))
    assert [one["final"] for one in world.check(world.prove(ERASED))["rounds"]] == ["closed", "voted"]


def test_without_a_network_file_the_issuers_are_unchecked_and_another_network_is_refused(
    world: World, tmp_path: Path
) -> None:
    world.round(1, entries(OTHERS))
    data = document.write(world.prove(ERASED))
    found = proof.check(data, None)
    assert found["issuers"] == "unchecked"
    assert found["fingerprint"] == world.network.fingerprint
    with pytest.raises(VerificationFailed, match="made on network"):
        proof.check(data, World(tmp_path / "other").network)


def test_a_proof_cannot_be_made_without_a_quorum_of_votes_or_without_the_set(world: World) -> None:
    world.round(1, entries(OTHERS), voters=(0, 1))
    with pytest.raises(NotFound, match="2 of 3 votes"):
        world.prove(ERASED)
    with pytest.raises(NotFound, match="no result"):
        proof.round_entry(world.history, world.node, world.history.rounds[world.open(2)], HOSPITAL, ERASED.leaf_key)


def test_a_set_that_was_purged_cannot_be_proved_about(world: World) -> None:
    number = world.round(1, entries(PATIENTS))
    world.node.store.forget_keys(number, HOSPITAL, BlobKind.SET)
    with pytest.raises(NotFound, match="no content key"):
        world.prove(ERASED)


# --------------------------------------------------------------------------------------------------------------------
# Faults


def _drop_vote(tree: dict[str, Any]) -> None:
    del tree["rounds"][0]["votes"][0]


def _vote_twice(tree: dict[str, Any]) -> None:
    tree["rounds"][0]["votes"][2] = tree["rounds"][0]["votes"][0]


def _other_study(tree: dict[str, Any]) -> None:
    tree["study"]["terms"]["f"] = 0


def _leave_a_commit_out(tree: dict[str, Any]) -> None:
    del tree["rounds"][0]["commits"][3]


def _exchange_roots(tree: dict[str, Any]) -> None:
    commits = tree["rounds"][0]["commits"]
    commits[1]["dataset_root"] = commits[0]["dataset_root"]


def _other_hospital(tree: dict[str, Any]) -> None:
    tree["hospital"] = 2


def _call_it_absent(tree: dict[str, Any]) -> None:
    tree["rounds"][0]["finding"] = "absent"


def _call_it_no_commit(tree: dict[str, Any]) -> None:
    tree["rounds"][0]["finding"], tree["rounds"][0]["path"] = "no-commit", None


def _unsigned(tree: dict[str, Any]) -> None:
    tree["rounds"][0]["signature"] = None


def _other_leaf(tree: dict[str, Any]) -> None:
    tree["opening"]["leaf_key"] = OTHERS[0].leaf_key.hex()


def _other_opening(tree: dict[str, Any]) -> None:
    one = opened(OTHERS[0])
    tree["opening"] |= {"consent_id": one.consent_id.hex(), "leaf_key": one.leaf_key.hex()}


def _smaller_roster(tree: dict[str, Any]) -> None:
    tree["rounds"][0]["opened"]["roster"] = 7


def _unknown_field(tree: dict[str, Any]) -> None:
    tree["rounds"][0]["remark"] = "trust me"


def _other_included(tree: dict[str, Any]) -> None:
    tree["rounds"][0]["result"]["included"] = 0b1101


FAULTS: dict[str, Callable[[dict[str, Any]], None]] = {
    "1 votes|2 votes|votes of": _drop_vote,
    "is named twice": _vote_twice,
    "the terms are those of": _other_study,
    "does not decide over|expected a signature|first attempt": _leave_a_commit_out,
    "expected a signature|found": _exchange_roots,
    "commit, member 2|map root": _other_hospital,
    "field count|is missing|path": _call_it_absent,
    "allows absent or present": _call_it_no_commit,
    "own signature is missing": _unsigned,
    "consentId": _other_leaf,
    "consentId: expected": _other_opening,
    "expected a signature|roster": _smaller_roster,
    "unknown field": _unknown_field,
    "decide|signature": _other_included,
}


@pytest.mark.parametrize("message", FAULTS)
def test_a_changed_proof_is_refused(message: str, world: World) -> None:
    world.round(1, entries(PATIENTS))
    tree = json.loads(document.write(world.prove(ERASED)))
    FAULTS[message](tree)
    with pytest.raises(VerificationFailed, match=message):
        proof.check(rfc8785.dumps(tree), world.network)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"schema":"koinon.proof/2"}',
        b'{"schema":"koinon.proof/1"}',
        b'{"schema":"koinon.proof/1","study":1e400}',
        b'{ "schema":"koinon.proof/1"}',
    ],
)
def test_what_is_no_proof_is_refused(data: bytes, world: World) -> None:
    with pytest.raises(VerificationFailed):
        proof.check(data, world.network)


# --------------------------------------------------------------------------------------------------------------------
# Members that came and went


def admitted(world: World, voters: Sequence[int]) -> KeyRing:
    """A fifth member, voted in at epoch 1."""
    ring = KeyRing.generate()
    seat = Seat("member", ring.peer.peer_id, ring.sealing.public, "hospital-4")
    own = sign(seat, world.domains.of(seat), ring.ledger)
    for member in voters:
        vote = Admit(1, ring.ledger.address, struct_hash(seat))
        world.node.store.remember(
            AdmissionNotice(
                1,
                ring.ledger.address,
                ring.peer.peer_id,
                ring.sealing.public,
                "hospital-4",
                own,
                member,
                world.signed(vote, member),
            ),
            own=member == 0,
        )
    world.add(MemberAdmitted(4, ring.ledger.address, ring.peer.peer_id, ring.sealing.public, "hospital-4", 2))
    world.rings.append(ring)
    world.epoch, world.roster = 2, 31
    return ring


def test_a_later_members_vote_counts_by_the_votes_that_let_it_in(world: World) -> None:
    admitted(world, (0, 1, 2))
    world.round(1, entries(OTHERS), voters=(0, 2, 3, 4))
    assert world.check(world.prove(ERASED))["rounds"][0]["votes"] == 4


def test_a_member_without_a_quorum_behind_it_is_refused(world: World) -> None:
    admitted(world, (0, 1))
    world.round(1, entries(OTHERS), voters=(0, 2, 3, 4))
    with pytest.raises(VerificationFailed, match="2 votes of 4 members"):
        world.check(world.prove(ERASED))


def test_a_removal_carries_its_votes_too_and_missing_ones_make_no_proof(world: World) -> None:
    vote = Remove(1, 3, world.rings[3].ledger.address)
    world.add(MemberRemoved(3, 2))
    world.epoch, world.roster = 2, 7
    world.round(1, entries(OTHERS), committed=(0, 1, 2))
    with pytest.raises(NotFound, match="removed member 3"):
        world.prove(ERASED)
    for member in (0, 1, 2):
        world.node.store.remember(
            RemovalNotice(1, 3, world.rings[3].ledger.address, member, world.signed(vote, member)), own=member == 0
        )
    assert world.check(world.prove(ERASED))["used"] is False
