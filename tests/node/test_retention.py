"""Others' sets go when their time is over, others' updates beyond the budget of a history; never more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from crypto.digest import Digest
from crypto.sealing import BlobKind
from node.errors import LocalFault
from node.history import RoundHistory
from node.messages import RETENTION, CommitNotice, GetKeys, Refusal, TombstoneNotice
from node.retention import DAY_S, LEAST_S, Retention
from node.store import Store
from tests.fakes.network import Net, SharedTrainer, network, spec

pytestmark = pytest.mark.slow  # whole networks in memory

ROUNDS = 3
MEMBERS = 3


@asynccontextmanager
async def played(folder: Path, trainer: SharedTrainer) -> AsyncIterator[Net]:
    """A network after a study of three rounds; its time stands still."""
    async with network(folder, trainer, MEMBERS, auditor=True) as net:
        await net.play(spec(rounds=ROUNDS))
        store = net.nodes[0].participant.store
        await net.until(
            lambda: all(has(store, one, m, kind) for one in net.rounds(0) for m in range(MEMBERS) for kind in BlobKind)
        )
        net.hold = True
        yield net


def notice_of(store: Store, one: RoundHistory, member: int) -> CommitNotice:
    notices = store.notices(one.opened.round_id, "CommitNotice")
    return next(n for n in notices if isinstance(n, CommitNotice) and n.member == member)


def root_of(store: Store, one: RoundHistory, member: int, kind: BlobKind) -> Digest:
    notice = notice_of(store, one, member)
    return (notice.update if kind is BlobKind.UPDATE else notice.set).cipher_root


def has(store: Store, one: RoundHistory, member: int, kind: BlobKind) -> bool:
    """Whether a node can read a blob: ciphertext and key."""
    try:
        there = store.has(root_of(store, one, member, kind))
    except StopIteration:
        return False
    return there and store.key(one.opened.round_id, member, kind) is not None


def gone(store: Store, one: RoundHistory, member: int, kind: BlobKind) -> bool:
    """Whether neither the ciphertext nor the key is left."""
    there = store.has(root_of(store, one, member, kind))
    return not there and store.key(one.opened.round_id, member, kind) is None


def rest(retention: Retention, now: int) -> int:
    """Take all steps that are due; how many there were."""
    taken = 0
    while retention.step(now):
        taken += 1
    return taken


async def test_others_sets_go_after_the_days_of_the_study_and_ours_stay(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with played(tmp_path, trainer) as net:
        node = net.nodes[0].participant
        rounds, store, retention = net.rounds(0), node.store, Retention(node, 0)
        days = next(iter(node.studies.values())).study["policy", "set_retention_days"] * DAY_S
        assert rest(retention, rounds[0].opened.opened_at + days) == 0, "the last day counts"
        assert rest(retention, rounds[0].opened.opened_at + days + 1) == 1
        assert [[gone(store, one, m, BlobKind.SET) for m in range(MEMBERS)] for one in rounds] == [
            [False, True, True],
            [False, False, False],
            [False, False, False],
        ]
        assert all(has(store, one, m, BlobKind.UPDATE) for one in rounds for m in range(MEMBERS))
        stones = store.notices(root_of(store, rounds[0], 1, BlobKind.SET), "TombstoneNotice")
        assert [(n.member, n.reason, n.subject) for n in stones if isinstance(n, TombstoneNotice)] == [
            (0, RETENTION, rounds[0].opened.round_id)
        ]
        assert rest(retention, rounds[-1].opened.opened_at + days + 1) == ROUNDS - 1
        assert rest(Retention(node, 0), rounds[-1].opened.opened_at + days + 1) == 0, "after a restart nothing is left"


async def test_over_the_budget_the_oldest_updates_of_others_go_until_it_is_kept(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with played(tmp_path, trainer) as net:
        node = net.nodes[0].participant
        rounds, store = net.rounds(0), node.store
        old = max(one.ended_at or 0 for one in rounds) + LEAST_S + 1
        before = store.content_bytes()
        assert rest(Retention(node, 0), old) == 0, "without a budget everything stays"
        assert rest(Retention(node, before), old) == 0, "what fits stays"
        assert rest(Retention(node, before - 1), old) == 1
        assert [[gone(store, one, m, BlobKind.UPDATE) for m in range(MEMBERS)] for one in rounds] == [
            [False, True, True],
            [False, False, False],
            [False, False, False],
        ]
        models = [root for root, kind, _ in store.contents() if kind == "model"]
        assert rest(Retention(node, 1), old) == ROUNDS - 1, "a budget that cannot be kept deletes no more than it may"
        assert [root for root, kind, _ in store.contents() if kind == "model"] == models
        assert all(has(store, one, 0, BlobKind.UPDATE) for one in rounds), "our own stay"
        assert all(has(store, one, m, BlobKind.SET) for one in rounds for m in range(MEMBERS))
        asked = await net.nodes[0]._answer(net.peer_id(2), GetKeys(rounds[0].opened.round_id, 1, 1))
        assert isinstance(asked, Refusal)
        assert asked.code == "purged"


async def test_a_round_keeps_its_updates_for_a_day_whatever_the_budget(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with played(tmp_path, trainer) as net:
        node = net.nodes[0].participant
        first = net.rounds(0)[0].ended_at
        assert first is not None
        assert rest(Retention(node, 1), first + LEAST_S) == 0
        assert rest(Retention(node, 1), first + LEAST_S + 1) == 1


async def test_a_deletion_that_was_interrupted_is_ended_by_the_next_look(
    tmp_path: Path, trainer: SharedTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with played(tmp_path, trainer) as net:
        node = net.nodes[0].participant
        rounds, store = net.rounds(0), node.store
        old = max(one.ended_at or 0 for one in rounds) + LEAST_S + 1

        def full(root: Digest) -> bool:
            raise LocalFault("the disk broke")

        with monkeypatch.context() as patch:
            patch.setattr(store, "remove", full)
            with pytest.raises(LocalFault):
                Retention(node, 1).step(old)
        roots = {m: root_of(store, rounds[0], m, BlobKind.UPDATE) for m in (1, 2)}
        (said,) = [m for m in roots if store.notices(roots[m], "TombstoneNotice")]
        assert store.has(roots[said]), "said before it is done"
        assert store.key(rounds[0].opened.round_id, said, BlobKind.UPDATE) is None, "unreadable from here on"
        assert rest(Retention(node, 1), old) == ROUNDS
        assert all(gone(store, one, m, BlobKind.UPDATE) for one in rounds for m in (1, 2))
        assert [len(store.notices(root, "TombstoneNotice")) for root in roots.values()] == [1, 1]


async def test_an_auditor_keeps_sets_and_deletes_by_its_budget_alone(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with played(tmp_path, trainer) as net:
        node = net.nodes[MEMBERS].participant
        rounds, store = net.rounds(MEMBERS), node.store
        await net.until(lambda: all(has(store, one, m, BlobKind.UPDATE) for one in rounds for m in range(MEMBERS)))
        far = rounds[-1].opened.opened_at + 36_500 * DAY_S
        assert rest(Retention(node, 0), far) == 0
        assert rest(Retention(node, store.content_bytes() - 1), far) == 1
        assert all(gone(store, rounds[0], m, BlobKind.UPDATE) for m in range(MEMBERS))
