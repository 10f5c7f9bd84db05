"""The executor of L3: trains the rounds of an erasure's replay again, at the hospital, and compares the integers.

What may live here: from a hospital's home, opened for reading, to the report. What this file does not know: what a
report must hold to count (`node/replay.py`), and who executed it; an auditor's signature over the report's hash is what
counts (`node/attestation.py`). It trains in a process of its own, so no running node imports it.

Theory of operation. The chain, from the executor's own home if it has one, says which rounds the replay is made of and
what the hospital committed to. The hospital's home has the blobs, their keys and the records. For each round: the set
and the update open to what was committed; the set's leaves are looked up in the vault; from the parent model, the
beacon and these records the pinned worker trains again; the integers must be those of the update. Where the study
commits its sets ahead (`policy.sets_ahead`), the set is compared with what the commit of the round before announced,
when the beacon could not be known. The executor believes no hospital and no chain endpoint, but its own machine and
this program.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crypto.blobs import ROLE_TRAIN, SetEntry, UpdatePlain, check_entry, dataset_root, decode_set, decode_update
from crypto.commitments import update_root
from crypto.digest import ZERO, Digest
from crypto.errors import CryptoError
from crypto.sealing import BlobKind, open_blob
from fl_engine.params import view_ints
from fl_engine.training import get_method
from node import document, hospital, methods
from node.audit.home import Fault, HomeReader
from node.consent import Leaf
from node.erasure import method_of
from node.history import ErasureHistory, History, RoundHistory
from node.messages import CommitNotice
from node.participant import beacon_of
from node.replay import NOTICE, SCHEMA, rounds_of, why_no_claim
from node.round import Seal
from node.training import Arithmetic, Trainer
from node.validity import ended_by
from node.vault import Vault

Tell = Callable[[str], None]


class _LeftOut(Exception):
    """A round that cannot be repeated any more, for a reason that is nobody's fault."""


@dataclass(frozen=True, slots=True)
class Repeated:
    """One round trained again.

    Attributes:
        one: the round.
        beacon: 32 bytes, of which the batch order was made.
        records: n_k.
        output: sha256 of the integers that the repetition gave.
        differing: how many of the model's integers are others than those of the committed update.
        profile: hash of the profile that the hospital says it trained in.
        announced: whether the commit of the round before announced this set; None: there was none on this branch.
    """

    one: RoundHistory
    beacon: bytes
    records: int
    output: bytes
    differing: int
    profile: Digest
    announced: bool | None


@dataclass(slots=True)
class Executor:
    """What a repetition needs: the chain as the executor knows it, the hospital's home, and a worker of its own."""

    history: History
    member: int
    arithmetic: Arithmetic
    store: HomeReader
    vault: Vault
    trainer: Trainer

    def repeat(self, one: RoundHistory) -> Repeated:
        """Train one round again.

        Raises:
            Fault: what lies in the home is not what the hospital committed to.
        """
        opened = one.opened
        notice = self._commit(one)
        update = self._update(one, notice)
        entries = self._entries(one, notice)
        rows = np.array(sorted(self._rows(entries, opened.study)), dtype=np.int64)
        parent = self.store.content(opened.parent_model, "model")
        if parent is None:
            raise _LeftOut("the model that it began at is not in this home")
        x, y = self.vault.rows((int(row) for row in rows), ROLE_TRAIN)
        seed = self.history.studies[opened.study].branches[opened.branch].seed
        beacon = beacon_of(self.history, self.arithmetic, one, seed, self.member, lambda root: parent)
        unlearner = method_of(self.history, one)
        trained = self.trainer.train(self.arithmetic, rows, x, y, parent, beacon, self.member, unlearner)
        ours, theirs = (view_ints(values, self.arithmetic.size) for values in (trained.values, update.values))
        differing = int(np.count_nonzero(ours != theirs))
        if trained.records != update.records:
            differing = self.arithmetic.size
        output = hashlib.sha256(trained.values).digest()
        announced = self._announced(one, entries)
        return Repeated(one, beacon, trained.records, output, differing, update.profile_hash, announced)

    def _commit(self, one: RoundHistory) -> CommitNotice:
        record = one.commits[self.member]
        for notice in self.store.notices(one.opened.round_id, "CommitNotice"):
            if not isinstance(notice, CommitNotice) or notice.member != self.member:
                continue
            if (notice.update_root, notice.dataset_root) == (record.update_root, record.dataset_root):
                got = update_root(one.opened.round_id, self.member, notice.update.hash, notice.set.hash)
                if got != record.update_root:
                    raise Fault("update root", _where(one), record.update_root, got)
                return notice
        raise _LeftOut("its commit is not in this home")

    def _open(self, one: RoundHistory, notice: CommitNotice, kind: BlobKind) -> bytes:
        blob = notice.update if kind is BlobKind.UPDATE else notice.set
        data = self.store.content(blob.cipher_root, "cipher")
        key = self.store.content_key(one.opened.round_id, self.member, kind)
        if data is None or key is None:
            why = "its set was deleted at the end of its retention" if kind is BlobKind.SET else "its update is gone"
            raise _LeftOut(why)
        try:
            return open_blob(data, key, blob, one.opened.round_id, self.member, kind)
        except CryptoError as error:
            raise Fault(kind.name.lower(), _where(one), "what was committed", error) from None

    def _update(self, one: RoundHistory, notice: CommitNotice) -> UpdatePlain:
        try:
            return decode_update(self._open(one, notice, BlobKind.UPDATE), self.arithmetic.size)
        except CryptoError as error:
            raise Fault("update", _where(one), f"{self.arithmetic.size} integers", error) from None

    def _entries(self, one: RoundHistory, notice: CommitNotice) -> tuple[SetEntry, ...]:
        """The leaves of a set, whose consents had not ended when the round was sealed."""
        seal = Seal(*self.history.seal(one))
        try:
            entries = decode_set(self._open(one, notice, BlobKind.SET)).entries
            root = dataset_root(entries)
            for entry in entries:
                check_entry(entry)
        except CryptoError as error:
            raise Fault("set", _where(one), "a well-formed set", error) from None
        if root != one.commits[self.member].dataset_root:
            raise Fault("dataset root", _where(one), one.commits[self.member].dataset_root, root)
        for place, entry in enumerate(entries):
            ended = self.history.withdrawal(entry.consent_id)
            if ended is not None and ended_by(ended, seal):
                raise Fault("consent", f"{_where(one)}, leaf {place}", "active at the seal", "withdrawn")
        return entries

    def _rows(self, entries: tuple[SetEntry, ...], study: Digest) -> Iterator[int]:
        leaves = {leaf.leaf_key: leaf for leaf in self.vault.leaves(study)}
        for entry in entries:
            if entry.role == ROLE_TRAIN:
                yield from _rows_of(entry, leaves.get(entry.leaf_key))

    def _announced(self, one: RoundHistory, entries: tuple[SetEntry, ...]) -> bool | None:
        """Whether the commit of the round before announced this set, but for consents that ended in between."""
        before = self.history.round_before(one)
        if before is None or self.member not in before.commits:
            return None
        announced = before.commits[self.member].next_dataset_root
        if announced in (ZERO, dataset_root(entries)):
            return announced != ZERO
        try:
            earlier = self._entries(before, self._commit(before))
        except (_LeftOut, Fault):
            return False
        now = {entry.leaf_key for entry in entries}
        ended = [e for e in earlier if e.leaf_key not in now and self.history.withdrawal(e.consent_id) is not None]
        return bool(dataset_root(sorted((*entries, *ended), key=lambda entry: entry.leaf_key)) == announced)


def _rows_of(entry: SetEntry, leaf: Leaf | None) -> tuple[int, ...]:
    if leaf is None or len(leaf.rows) < entry.records:
        raise _LeftOut("records that it used have been deleted since")
    return leaf.rows[: entry.records]


def _where(one: RoundHistory) -> str:
    return f"round {one.opened.height} on branch {one.opened.branch}"


def local_replay(executor: Executor, network: str, erasure: ErasureHistory, tell: Tell = lambda _: None) -> bytes:
    """Repeat every round of an erasure's replay that includes the hospital; the report as canonical JSON.

    Args:
        network: the network's fingerprint.
        tell: told after each round.

    Raises:
        NotFound, Refused: as `rounds_of`.
        Fault: what lies in the home is not what the hospital committed to.
    """
    history, opened, plan = executor.history, erasure.opened, erasure.plan
    rounds = rounds_of(history, erasure)
    assert plan is not None
    repeated: list[Repeated] = []
    left_out: list[dict[str, Any]] = []
    for place, one in enumerate(rounds, 1):
        try:
            found = executor.repeat(one)
        except _LeftOut as why:
            left_out.append({"height": one.opened.height, "why": str(why)})
            tell(f"{_where(one)}: {why} ({place} of {len(rounds)})")
            continue
        repeated.append(found)
        result = f"{found.differing} integers differ" if found.differing else "the same integers"
        tell(f"{_where(one)}: {found.records} records, {result} ({place} of {len(rounds)})")
    study = executor.arithmetic.study
    body: dict[str, Any] = {
        "schema": SCHEMA,
        "notice": NOTICE,
        "network": network,
        "study": opened.study.hex(),
        "hospital": {"index": opened.controller, "name": history.registry.members[opened.controller].name},
        "erasure": opened.batch.hex(),
        "branch": plan.branch,
        "method": methods.name_of(plan.method),
        "profile": executor.trainer.profile() | {"dtype": get_method(study["training", "method"]).precision},
        "parameters": executor.arithmetic.size,
        "rounds": [_row(one, executor.member) for one in repeated],
        "left_out": left_out,
        "why_not": why_no_claim(study, [one.differing for one in repeated], len(left_out)),
    }
    return document.write(body)


def _row(found: Repeated, member: int) -> dict[str, Any]:
    opened, commit = found.one.opened, found.one.commits[member]
    return {
        "height": opened.height,
        "round": opened.round_id.hex(),
        "parent_model": opened.parent_model.hex(),
        "dataset_root": commit.dataset_root.hex(),
        "update_root": commit.update_root.hex(),
        "announced": found.announced,
        "beacon": found.beacon.hex(),
        "records": found.records,
        "output": found.output.hex(),
        "differing": found.differing,
        "profile": found.profile.hex(),
    }


def replay_home(home: Path, ledger: Path, erasure: str, tell: Tell = lambda _: None) -> bytes:
    """`local_replay` of an erasure (its id or the beginning of it) at the hospital whose home this is.

    Args:
        home: the hospital's; its node may be running, nothing is written.
        ledger: the home whose copy of the chain is believed, of any member or auditor.

    Raises:
        NotFound, LocalFault, InputError: a home, its password, keys or vault.
        Refused: the home of another hospital than that whose patients asked; or as `rounds_of`.
        VerificationFailed: what lies in the home is not what the hospital committed to.
    """
    with (
        hospital.opened(home, erasure, ledger) as here,
        closing(Trainer(here.timeout_s, secret=here.noise_secret)) as trainer,
    ):
        executor = Executor(here.history, here.index, here.arithmetic, here.store, here.vault, trainer)
        return local_replay(executor, here.network.fingerprint, here.erasure, tell)
