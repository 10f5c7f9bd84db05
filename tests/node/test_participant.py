"""Crashes: a node ends at every step it writes down, starts again from its home, and never says two things."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crypto.digest import Digest
from node.errors import LocalFault
from node.messages import CommitNotice, Notice
from node.notices import statement_of
from node.participant import Participant, TrainingJob
from node.simulate import roots
from node.store import Store, notice_key
from tests.fakes.network import Net, SharedTrainer, network, spec

pytestmark = pytest.mark.slow  # whole networks in memory

VICTIM = 1


class Killed(Exception):
    """The process ended here."""


class CrashingStore(Store):
    """A store whose process ends right after the write that `armed` counts down to; afterwards nothing works."""

    armed = 0
    dead = False
    written = 0

    def execute(self, sql: str, *arguments: Any) -> int:
        self._step()
        done = super().execute(sql, *arguments)
        type(self).written += 1
        if self.armed:
            self.armed -= 1
            if not self.armed:
                self.dead = True
                raise Killed
        return done

    def query(self, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        self._step()
        return super().query(sql, *arguments)

    def _step(self) -> None:
        if self.dead:
            raise Killed


class Witness(Participant):
    """Fails the test if it is asked to train in a round in which it has already committed."""

    def prepare(self, round_id: Digest, generation: int) -> TrainingJob | None:
        assert self.store.own_notice(round_id, "CommitNotice") is None, "a training after the commit was stored"
        return super().prepare(round_id, generation)


def statements(net: Net, member: int) -> dict[tuple[Digest, str, int], set[object]]:
    """Everything any node keeps that this member signed, by what it may be said only once about."""
    said: dict[tuple[Digest, str, int], set[object]] = defaultdict(set)
    for node in net.nodes.values():
        store = node.participant.store
        for kind in ("CommitNotice", "AbstainNotice", "HaveNotice", "VoteNotice", "CloseNotice"):
            for notice in store.notices_of_kind(kind):
                if getattr(notice, "member", None) == member:
                    subject, name, turn, _ = notice_key(notice)
                    said[subject, name, turn].add(statement_of(notice))
    return said


async def test_a_node_that_dies_after_any_write_never_contradicts_itself(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    points = range(1, 26)
    async with network(tmp_path, trainer, 3, makers={VICTIM: Witness}, stores={VICTIM: CrashingStore}) as net:
        study = await net.create(spec(rounds=len(points), suspend_after=15))
        killed = []
        for point in points:
            await net.until(lambda: bool(net.rounds(0)) and (not net.rounds(0)[-1].over or net.finished(study, 0)))
            if net.finished(study, 0):
                break
            height = len(net.rounds(0))
            store = net.nodes[VICTIM].participant.store
            assert isinstance(store, CrashingStore)
            store.armed = point
            await net.until(
                lambda height=height: VICTIM not in net.nodes or len(net.rounds(0)) > height or net.finished(study, 0),
                ends=True,
            )
            while VICTIM not in net.nodes or not (len(net.rounds(0)) > height or net.finished(study, 0)):
                if VICTIM not in net.nodes:  # at its point, or in a write that was under way when it was disarmed
                    error = net.broken.pop(VICTIM)
                    assert _has(error, Killed), repr(error)
                    killed.append(point)
                    await net.start(VICTIM)
                store = net.nodes[VICTIM].participant.store
                assert isinstance(store, CrashingStore)
                store.armed = 0
                await net.until(
                    lambda height=height: (
                        VICTIM not in net.nodes or len(net.rounds(0)) > height or net.finished(study, 0)
                    ),
                    ends=True,
                )
            store = net.nodes[VICTIM].participant.store
            assert isinstance(store, CrashingStore)
            store.armed = 0
        await net.finish(study)
        assert len(killed) >= 12, f"only {killed} of the kill points were reached"
        for key, said in statements(net, VICTIM).items():
            assert len(said) == 1, f"two statements about {key}"
        for one in net.rounds(0):
            assert one.final is None or one.final.result.codes == 0
            assert one.failed is None
        assert roots(net.nodes[0], study) == roots(net.nodes[VICTIM], study)


def _has(error: BaseException, kind: type[BaseException]) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(_has(one, kind) for one in error.exceptions)
    return isinstance(error, kind)


async def test_a_kill_between_commit_and_chain_is_finished_after_the_restart(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 3, makers={VICTIM: Witness}) as net:
        study = await net.create(spec(rounds=2))
        await net.until(lambda: len(net.rounds(0)) == 1)
        first = net.rounds(0)[0].opened.round_id

        def stored() -> Notice | None:
            return net.nodes[VICTIM].participant.store.own_notice(first, "CommitNotice")

        net.hold = True
        await net.until(lambda: stored() is not None)
        notice = stored()
        await net.kill(VICTIM)
        net.hold = False
        await net.start(VICTIM)
        await net.finish(study)
        one = net.rounds(0)[0]
        assert isinstance(notice, CommitNotice)
        assert one.commits[VICTIM].update_root == notice.update_root, "the stored commit, not another one"
        assert one.final is not None
        assert one.final.result.included == 0b111


@pytest.mark.parametrize("lost", ["notices WHERE own = 1", "notices"])
async def test_a_store_from_a_backup_says_nothing_new_about_a_round_it_answered(
    tmp_path: Path, trainer: SharedTrainer, lost: str
) -> None:
    """The home comes back without what it signed in the running round: peers tell it, and it does not train again."""
    async with network(tmp_path, trainer, 4) as net:
        study = await net.create(spec(rounds=2))
        await net.until(lambda: len(net.rounds(0)) == 1)
        first = net.rounds(0)[0].opened.round_id
        net.hold = True
        await net.until(
            lambda: all(
                any(n.member == VICTIM for n in net.nodes[m].participant.store.notices(first, "CommitNotice"))  # type: ignore[union-attr]
                for m in (0, 2, 3)
            )
        )
        kept = net.nodes[VICTIM].participant.store.home / "node.db"
        await net.kill(VICTIM)
        with closing(sqlite3.connect(kept)) as database, database:
            database.execute(f"DELETE FROM {lost}")
            database.execute("DELETE FROM content_keys")
        net.hold = False
        await net.start(VICTIM)
        await net.finish(study)
        said = statements(net, VICTIM)
        assert all(len(one) == 1 for one in said.values())


async def test_a_ciphertext_that_this_disk_changed_is_our_fault_and_no_verdict(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 3) as net:
        study = await net.play(spec())
        node = net.nodes[0].participant
        (one,) = net.rounds(0)
        notices = node.store.notices(one.opened.round_id, "CommitNotice")
        notice = next(n for n in notices if isinstance(n, CommitNotice) and n.member == 2)
        assert study in node.studies
        path = node.store._path(notice.set.cipher_root)
        data = bytearray(path.read_bytes())
        data[5] ^= 1
        path.write_bytes(bytes(data))
        with pytest.raises(LocalFault, match="altered in this home"):
            node.open_set(notice)
        with pytest.raises(LocalFault, match="altered in this home"):
            node.judge(one.opened.round_id, 2)


async def test_the_length_a_notice_tells_decides_nothing(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer, 2) as net:
        await net.play(spec())
        node = net.nodes[0].participant
        (one,) = net.rounds(0)
        for notice in node.store.notices(one.opened.round_id, "CommitNotice"):
            assert isinstance(notice, CommitNotice)
            for length in (notice.set.length - 1, notice.set.length + 1, 16):
                told = replace(notice, set=replace(notice.set, length=length))
                assert node.open_set(told) == node.open_set(notice)
