"""Was a consent in the declared data of these rounds? A file that answers it, and the check that needs nothing else.

What may live here: making a proof (`koinon.proof/1`) for whoever opens a leaf, and checking one offline. What this file
does not know: who asks. A proof holds one consent's opening and, of everybody else, leaf keys and hashes that lead
nowhere: no other consent id is in it.

What one round's entry shows, in the order it is checked: the fields that its round id is the hash of (they name the
study, whose id is the hash of its terms, and the whole history before); all commitments in the order the chain took
them; the result; a quorum of votes for that result (it names the commitments' hash, so no commitment can be left out or
exchanged); what the hospital's committed data set says about the leaf. Consecutive rounds name each other's results.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from itertools import pairwise
from typing import Any, Final

from crypto.blobs import dataset_map
from crypto.commitments import base_result, check_consent_id, lineage, link, round_id, study_id
from crypto.digest import ZERO, Digest, accumulate
from crypto.errors import CryptoError
from crypto.keys import address_text
from crypto.merkle import Absence, Inclusion, Neighbour, verify_absent, verify_member
from crypto.statements import Close, Commit, CreateStudy, Vote, struct_hash
from node.document import Fields, read
from node.errors import NodeError, NotFound
from node.history import History, RoundHistory
from node.home import Network
from node.issuers import Issuers, read_issuers, write_issuers
from node.membership import bitmap_of, faults, holders, quorum
from node.messages import CloseNotice, CommitNotice, VoteNotice
from node.notices import hash_of_result
from node.participant import Participant
from node.records import Committed, Result
from node.validity import code_of

SCHEMA: Final = "koinon.proof/1"
MAX_PROOF_BYTES: Final = 1 << 26

ABSENT, PRESENT, NOT_INCLUDED, NO_COMMIT = "absent", "present", "not-included", "no-commit"
"""What a round can say: the committed data had no such leaf; it had one; the commitment did not count; there was none
(an abstention, a suspension or silence)."""
UNKNOWN: Final = "unknown"
"""Of `findings` alone: the set cannot be opened here any more, and nobody noted what it held."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What leads from a leaf key to a consent id: whoever shows it may ask about the leaf."""

    consent_id: Digest
    holder: bytes  # 20-byte address
    holder_salt: Digest
    doc_commit: Digest
    leaf_key: Digest


# --------------------------------------------------------------------------------------------------------------------
# Making


def make(
    network: Network,
    history: History,
    node: Participant,
    *,
    study: Digest,
    hospital: int,
    opening: Opening,
    rounds: Sequence[RoundHistory],
) -> dict[str, Any]:
    """A proof over these agreed rounds, by a node that can open the hospital's sets.

    Raises:
        NotFound: a round is not agreed, or a set, a vote or a commit that the proof needs is not in this home.
    """
    entries = [round_entry(history, node, one, hospital, opening.leaf_key) for one in rounds]
    return assemble(network, history, node, study=study, hospital=hospital, opening=opening, entries=entries)


def assemble(
    network: Network,
    history: History,
    node: Participant,
    *,
    study: Digest,
    hospital: int,
    opening: Opening,
    entries: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """A proof from entries that were made before (`round_entry`)."""
    return {
        "schema": SCHEMA,
        "issuers": write_issuers(network, history, node.store),
        "study": {"id": study.hex(), "terms": write_terms(history.studies[study].created.terms)},
        "hospital": hospital,
        "opening": {
            "consent_id": opening.consent_id.hex(),
            "doc_commit": opening.doc_commit.hex(),
            "holder": address_text(opening.holder),
            "holder_salt": opening.holder_salt.hex(),
            "leaf_key": opening.leaf_key.hex(),
        },
        "rounds": list(entries),
    }


def agreed_rounds(history: History, study: Digest, start: int) -> list[RoundHistory]:
    """The rounds with a result on the study's present line, from height `start` on."""
    path = history.path(study, history.studies[study].active_branch)
    return [one for one in path if one.final is not None and one.opened.height >= start]


def write_terms(terms: CreateStudy) -> dict[str, Any]:
    """CreateStudy's fields: hashes as digits, numbers as numbers."""
    values = ((field.name, getattr(terms, field.name)) for field in dataclass_fields(terms))
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in values}


def round_entry(history: History, node: Participant, one: RoundHistory, hospital: int, key: Digest) -> dict[str, Any]:
    """One round's part of a proof about the leaf `key` of a hospital."""
    result, opened = write_result(history, node, one), one.opened
    final, notice = one.final, standing(node, one, hospital)
    assert final is not None
    entry: dict[str, Any] = {**result, "signature": None, "path": None}
    if notice is not None:
        entry["signature"] = notice.signature.hex()
    if hospital not in one.commits:
        entry["finding"] = NO_COMMIT
    elif not final.result.included >> hospital & 1:
        entry["finding"] = NOT_INCLUDED
    else:
        if notice is None:
            raise NotFound(f"the commit of member {hospital} in round {opened.height} is not in this home")
        tree = dataset_map(node.open_set(notice).entries)
        if key in tree:
            entry["finding"] = PRESENT
            entry["path"] = {**_inclusion(tree.prove(key)), "value_hash": tree.value_hash(key).hex()}
        else:
            entry["finding"] = ABSENT
            entry["path"] = _absence(tree.prove_absent(key))
    return entry


def write_result(history: History, node: Participant, one: RoundHistory) -> dict[str, Any]:
    """A round's opening, commitments, result and votes: what shows that this result was agreed."""
    opened, final = one.opened, one.final
    if final is None:
        raise NotFound(f"round {opened.height} of branch {opened.branch} has no result")
    votes: dict[int, VoteNotice] = {}
    for notice in node.store.notices(opened.round_id, "VoteNotice"):
        if (
            isinstance(notice, VoteNotice)
            and notice.attempt == final.attempt
            and hash_of_result(notice.result) == final.result_hash
        ):
            votes[notice.member] = notice
    if len(votes) < opened.quorum:
        raise NotFound(f"{len(votes)} of {opened.quorum} votes for round {opened.height} are in this home")
    closes = [
        n
        for n in node.store.notices(opened.study, "CloseNotice")
        if isinstance(n, CloseNotice)
        and (n.branch, n.height, n.result_hash) == (opened.branch, opened.height, final.result_hash)
    ]
    commits = [logged.record for logged in one.logged if isinstance(logged.record, Committed)]
    result = final.result
    branch = history.studies[opened.study].branches[opened.branch]
    forked = branch.base_result == opened.parent_result and branch.parent is not None
    return {
        "opened": {
            "branch": opened.branch,
            "height": opened.height,
            "parent_result": opened.parent_result.hex(),
            "parent_model": opened.parent_model.hex(),
            "epoch": opened.epoch,
            "roster": opened.roster,
            "suspended": opened.suspended,
            "consent_acc": opened.consent_acc.hex(),
            "membership_acc": opened.membership_acc.hex(),
            "previous_block": opened.previous_block.hex(),
        },
        "fork": {
            "batch": branch.batch.hex(),
            "parent_branch": branch.parent,
            "base_height": branch.base_height,
            "base_model": branch.base_model.hex(),
            "origin": history.origin(opened.study, opened.branch).hex(),
        }
        if forked
        else None,
        "commits": [
            {
                "member": c.member,
                "update_root": c.update_root.hex(),
                "dataset_root": c.dataset_root.hex(),
                "next_dataset_root": c.next_dataset_root.hex(),
            }
            for c in commits
        ],
        "attempt": final.attempt,
        "set": next(iter(votes.values())).set,
        "result": {
            "outcome": result.outcome,
            "included": result.included,
            "codes": str(result.codes),
            "model_root": result.model_root.hex(),
            "trust": result.trust.hex(),
            "consent_acc": result.consent_acc.hex(),
        },
        "votes": [{"member": m, "signature": n.signature.hex()} for m, n in sorted(votes.items())],
        "closes": [{"member": n.member, "signature": n.signature.hex()} for n in closes],
    }


def standing(node: Participant, one: RoundHistory, member: int) -> CommitNotice | None:
    """The openings of what this member has on the chain in a round, if they are in this home."""
    record = one.commits.get(member)
    for notice in node.store.notices(one.opened.round_id, "CommitNotice"):
        if (
            record is not None
            and isinstance(notice, CommitNotice)
            and (notice.member, notice.update_root) == (member, record.update_root)
        ):
            return notice
    return None


def findings(history: History, node: Participant, study: Digest, hospital: int, key: Digest) -> list[dict[str, Any]]:
    """In which rounds, on every line, the leaf `key` was in the set that a hospital committed to: what a proof would
    say, without its evidence; included or not. By the sets, and by what the hospital noted of its own that are gone.
    Notes lose the leaves of erased consents: that one is not in them says nothing, unless its consent is here.

    Returns:
        {round_id, branch, height, finding: present, absent or unknown} of every round it committed in, as they opened.
    """
    found = []
    here = node.vault.leaf_keys() if node.vault is not None and hospital == node.me else frozenset()
    for one in history.rounds.values():
        if one.opened.study != study or hospital not in one.commits:
            continue
        opened, leaves = one.opened, _set_of(node, one, hospital)
        if leaves is None and key in here:
            leaves = _noted(node, one, hospital)
        finding = UNKNOWN if leaves is None else PRESENT if key in leaves else ABSENT
        place = {"round_id": opened.round_id.hex(), "branch": opened.branch, "height": opened.height}
        found.append({**place, "finding": finding})
    return found


def leaves_of(node: Participant, one: RoundHistory, hospital: int) -> Set[Digest] | None:
    """The leaves of a hospital's set, of the set itself or of what it noted of it; None where neither is here."""
    leaves = _set_of(node, one, hospital)
    return _noted(node, one, hospital) if leaves is None else leaves


def _set_of(node: Participant, one: RoundHistory, hospital: int) -> Set[Digest] | None:
    notice = standing(node, one, hospital)
    if notice is None:
        return None
    try:
        return {entry.leaf_key for entry in node.open_set(notice).entries}
    except NodeError:
        return None  # purged, or its retention is over


def _noted(node: Participant, one: RoundHistory, hospital: int) -> Set[Digest] | None:
    ours = node.vault is not None and hospital == node.me
    return node.vault.noted_set(one.opened.round_id) if ours and node.vault is not None else None


def _inclusion(proof: Inclusion) -> dict[str, Any]:
    return {"index": proof.index, "count": proof.count, "path": [step.hex() for step in proof.path]}


def _absence(proof: Absence) -> dict[str, Any]:
    def side(one: Neighbour | None) -> dict[str, Any] | None:
        if one is None:
            return None
        return {
            "key": one.key.hex(),
            "value_hash": one.value_hash.hex(),
            "index": one.index,
            "path": [step.hex() for step in one.path],
        }

    return {"count": proof.count, "left": side(proof.left), "right": side(proof.right)}


# --------------------------------------------------------------------------------------------------------------------
# Checking


@dataclass(frozen=True, slots=True)
class RoundFound:
    """What a checked entry shows."""

    round_id: Digest
    branch: int
    height: int
    parent_result: Digest
    result_hash: Digest
    model_root: Digest
    roster: int
    quorum: int
    votes: int
    closed: bool
    base: tuple[int, Digest] | None
    finding: str
    reason: str


def check(data: bytes, network: Network | None) -> dict[str, Any]:
    """Check a proof offline.

    Args:
        data: the file.
        network: the network whose founders count; None: the file's own, unchecked.

    Returns:
        `used` (whether any round's data had the leaf), `rounds` (one finding each), `complete` (no agreed round between
        the first and the last is left out), `issuers` ("checked" or "unchecked"), `fingerprint`, `consent_id`, `study`,
        `hospital`, `keys` (which key of whom signed what, and in which epochs it counts).

    Raises:
        VerificationFailed: something in it does not hold, or it is another network's.
    """
    return check_tree(read(data, SCHEMA, MAX_PROOF_BYTES), network)


def check_tree(tree: dict[str, Any], network: Network | None) -> dict[str, Any]:
    """`check` of a proof that is already decoded from its canonical bytes."""
    top = Fields("proof", tree)
    top.take("schema", str)
    issuers = _issuers(top, network)
    study, terms = read_study(top.fields("study"))
    hospital = top.uint("hospital", 5)
    opening = _opening(top.fields("opening"))
    found = top.each("rounds", lambda one: _check_round(one, issuers, study, terms, hospital, opening.leaf_key))
    top.done()
    return {
        "consent_id": opening.consent_id.hex(),
        "study": study.hex(),
        "hospital": {"index": hospital, "name": issuers.names.get(hospital, "")},
        "used": any(one.finding == PRESENT for one in found),
        "complete": _is_complete(found),
        "issuers": "checked" if issuers.checked else "unchecked",
        "fingerprint": issuers.network.fingerprint,
        "keys": issuers.keys_used(),
        "rounds": [
            {
                "round_id": one.round_id.hex(),
                "branch": one.branch,
                "height": one.height,
                "finding": one.finding,
                "reason": one.reason,
                "votes": one.votes,
                "quorum": one.quorum,
                "final": "closed" if one.closed else "voted",
            }
            for one in found
        ],
    }


def _issuers(top: Fields, network: Network | None) -> Issuers:
    inner = top.fields("issuers")
    issuers = read_issuers(inner, network)
    inner.done()
    return issuers


def read_study(given: Fields) -> tuple[Digest, CreateStudy]:
    """A study's terms; `VerificationFailed` unless its id is their hash."""
    stated, inner = given.digest("id"), given.fields("terms")
    values: dict[str, Any] = {}
    for name, solidity in CreateStudy.layout():
        values[name] = inner.digest(name) if solidity == "bytes32" else inner.uint(name, int(solidity[4:]))
    inner.done()
    given.done()
    terms = CreateStudy(**values)
    if study_id(struct_hash(terms)) != stated:
        given.fault(f"the terms are those of study {study_id(struct_hash(terms)).hex()}, not of {stated.hex()}")
    return stated, terms


def _opening(given: Fields) -> Opening:
    opening = Opening(
        given.digest("consent_id"),
        given.address("holder"),
        given.digest("holder_salt"),
        given.digest("doc_commit"),
        given.digest("leaf_key"),
    )
    given.done()
    try:
        check_consent_id(opening.consent_id, opening.holder, opening.holder_salt, opening.doc_commit, opening.leaf_key)
    except CryptoError as error:
        given.fault(str(error))
    return opening


def _check_round(
    one: Fields, issuers: Issuers, study: Digest, terms: CreateStudy, hospital: int, key: Digest
) -> RoundFound:
    finding = one.take("finding", str)
    signature = one.signature("signature") if one.has("signature") else None
    path = one.fields("path") if one.has("path") else None
    agreed = check_result(one, issuers, study, terms)
    commit = next((c for c in agreed.commits if c.member == hospital), None)
    if commit is not None and signature is not None:
        issuers.signed(commit, hospital, signature, f"{one.where}: commit", agreed.epoch, of_round=True)
    included = agreed.included >> hospital & 1
    reason = ""
    expected = (NO_COMMIT,) if commit is None else (ABSENT, PRESENT) if included else (NOT_INCLUDED,)
    if finding not in expected:
        one.fault(f"finding {finding!r:.40}, the result allows {' or '.join(expected)}")
    if finding == NOT_INCLUDED:
        code = agreed.codes >> 4 * hospital & 15
        reason = code_of(agreed.codes, hospital).name if 0 < code <= 8 else "UNAVAILABLE"
    if (path is not None) != (finding in (ABSENT, PRESENT)):
        one.fault(f"finding {finding} {'has' if path is not None else 'lacks'} a path")
    if path is not None and commit is not None:
        if signature is None:
            one.fault("the hospital's own signature is missing")
        _check_path(path, finding, commit.dataset_root, key)
    found = agreed.found
    return RoundFound(
        **{field.name: getattr(found, field.name) for field in dataclass_fields(found)}
        | {"finding": finding, "reason": reason}
    )


def _check_path(path: Fields, finding: str, root: Digest, key: Digest) -> None:
    try:
        if finding == PRESENT:
            shown = Inclusion(path.uint("index", 32), path.uint("count", 32), path.digests("path"))
            verify_member(root, key, path.digest("value_hash"), shown)
        else:
            count = path.uint("count", 32)
            verify_absent(root, key, Absence(count, _neighbour(path, "left"), _neighbour(path, "right")))
    except CryptoError as error:
        path.fault(str(error))
    path.done()


def _neighbour(path: Fields, name: str) -> Neighbour | None:
    if not path.has(name):
        return None
    one = path.fields(name)
    found = Neighbour(one.digest("key"), one.digest("value_hash"), one.uint("index", 32), one.digests("path"))
    one.done()
    return found


@dataclass(frozen=True, slots=True)
class Agreed:
    """A result with its quorum of votes, checked. `found.finding` is empty."""

    found: RoundFound
    epoch: int
    commits: tuple[Commit, ...]
    included: int
    codes: int


def check_result(one: Fields, issuers: Issuers, study: Digest, terms: CreateStudy) -> Agreed:
    """Check what `write_result` wrote: the round id, the commitments, the result and a quorum of votes."""
    opened = one.fields("opened")
    branch, height = opened.uint("branch", 32), opened.uint("height", 32)
    parent_result, roster = opened.digest("parent_result"), opened.uint("roster", 32)
    epoch = opened.uint("epoch", 53)
    number = round_id(
        chain_id=issuers.contracts.chain_id,
        contract=issuers.contracts_in(epoch).training,
        study=study,
        branch=branch,
        height=height,
        parent_result=parent_result,
        parent_model=opened.digest("parent_model"),
        epoch=epoch,
        roster=roster,
        suspended=opened.uint("suspended", 32),
        consent_accumulator=opened.digest("consent_acc"),
        membership_accumulator=opened.digest("membership_acc"),
        previous_block=opened.digest("previous_block"),
    )
    opened.done()
    base = _check_fork(one.fields("fork"), study, parent_result) if one.has("fork") else None
    commits = tuple(
        one.each(
            "commits",
            lambda c: Commit(
                number,
                c.uint("member", 5),
                c.digest("update_root"),
                c.digest("dataset_root"),
                c.digest("next_dataset_root"),
            ),
        )
    )
    commit_root = ZERO
    for commit in commits:
        commit_root = accumulate(commit_root, struct_hash(commit))
    result = _result(one.fields("result"), commit_root)
    attempt, decided = one.uint("attempt", 8), one.uint("set", 32)
    invalid = bitmap_of(i for i in range(32) if result.codes >> 4 * i & 15)
    committed = bitmap_of(c.member for c in commits)
    if result.included & invalid or result.included | invalid != decided or decided & ~committed:
        one.fault("the result does not decide over the commitments it names")
    if attempt == 0 and decided != committed:
        one.fault("the first attempt decides over every commitment")
    hashed = hash_of_result(result)
    voters = _voters(one, "votes", Vote(number, attempt, decided, hashed), roster, issuers, epoch)
    n = roster.bit_count()
    needed = quorum(n, faults(n, terms.f)) if n else 1
    if voters.bit_count() < needed:
        one.fault(f"{voters.bit_count()} votes of {n} members, {needed} needed")
    closers = _voters(one, "closes", Close(study, branch, height, hashed), (1 << 32) - 1, issuers, epoch)
    closed = closers.bit_count() >= holders(faults(n, terms.f))
    found = RoundFound(
        number,
        branch,
        height,
        parent_result,
        hashed,
        result.model_root,
        roster,
        needed,
        voters.bit_count(),
        closed,
        base,
        "",
        "",
    )
    return Agreed(found, epoch, commits, result.included, result.codes)


def _check_fork(fork: Fields, study: Digest, parent_result: Digest) -> tuple[int, Digest]:
    """(height, model) of the checkpoint that a branch's first round goes on from."""
    batch, parent = fork.digest("batch"), fork.uint("parent_branch", 32)
    height, model, origin = fork.uint("base_height", 32), fork.digest("base_model"), fork.digest("origin")
    fork.done()
    expected = base_result(study, batch, parent, height, model, origin)
    if expected != parent_result:
        fork.fault(f"leads to {expected.hex()}, the round names {parent_result.hex()}")
    return height, model


def _result(given: Fields, commit_root: Digest) -> Result:
    result = Result(
        given.uint("outcome", 8),
        given.uint("included", 32),
        given.uint("codes", 128),
        given.digest("model_root"),
        given.hexes("trust"),
        commit_root,
        given.digest("consent_acc"),
    )
    given.done()
    return result


def _voters(one: Fields, name: str, statement: Vote | Close, roster: int, issuers: Issuers, epoch: int) -> int:
    voters = 0
    for member, signature in one.each(name, lambda v: (v.uint("member", 5), v.signature("signature"))):
        if not roster >> member & 1 or voters >> member & 1:
            one.fault(f"{name}: member {member} is not on the roster, or is named twice")
        issuers.signed(statement, member, signature, f"{one.where}: {name}", epoch, of_round=True)
        voters |= 1 << member
    return voters


def _is_complete(found: Iterable[RoundFound]) -> bool:
    """Whether each round names the result of the one before, or forks from exactly its model."""
    rounds = list(found)
    return all(
        later.parent_result
        == lineage(earlier.parent_result, link(earlier.height, earlier.model_root, earlier.result_hash))
        or later.base == (earlier.height, earlier.model_root)
        for earlier, later in pairwise(rounds)
    )


__all__ = ["ABSENT", "NOT_INCLUDED", "NO_COMMIT", "PRESENT", "SCHEMA", "Opening", "check", "make"]
