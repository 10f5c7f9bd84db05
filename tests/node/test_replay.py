"""L3: what an executor at the hospital repeats, what it finds, and which reports an auditor's signature may rest on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio

from crypto.digest import ZERO, Digest
from crypto.sealing import BlobKind
from node import document, keystore, methods
from node.audit.home import Fault, HomeReader
from node.consent import last_deadline, usable_next
from node.erasure import state_of
from node.errors import NotFound, Refused, VerificationFailed
from node.executor import Executor, local_replay
from node.history import ErasureHistory, History, RoundHistory
from node.messages import CommitNotice
from node.replay import check_report, rounds_of
from node.store import Store
from node.study import Study
from node.training import Arithmetic, LocalTraining
from node.vault import Vault
from tests.fakes.network import Net, SharedTrainer, network, spec

pytestmark = pytest.mark.slow  # whole networks in memory

HOSPITAL = 1
NETWORK = "ab" * 32


def nothing(root: Digest) -> bytes:
    """A checker without models: a study without shards needs none."""
    raise NotFound(f"model {root.hex()}")


@dataclass
class Erased:
    """A network's erasure, at rest."""

    home: Path
    key: bytes
    history: History
    erasure: ErasureHistory
    study: Study
    arithmetic: Arithmetic

    def report(self, trainer: SharedTrainer, home: Path | None = None) -> bytes:
        """The local replay at the hospital's home, or at a copy of it."""
        home = self.home if home is None else home
        with ExitStack() as opened:
            store = opened.enter_context(closing(HomeReader(home, self.key)))
            vault = opened.enter_context(closing(Vault.read(home / "vault", self.key)))
            executor = Executor(self.history, HOSPITAL, self.arithmetic, store, vault, trainer)
            return local_replay(executor, NETWORK, self.erasure, self.told.append)

    def __post_init__(self) -> None:
        self.told: list[str] = []

    def check(self, data: bytes) -> None:
        """Check a report against the chain."""
        check_report(data, self.history, self.erasure, self.arithmetic, NETWORK, nothing)

    def rounds(self) -> list[RoundHistory]:
        """Those of the replay."""
        return rounds_of(self.history, self.erasure)


class LyingTrainer(SharedTrainer):
    """The hospital trains on other labels than its records have, and declares the set all the same."""

    def train(self, *given: Any, **named: Any) -> LocalTraining:
        arithmetic, rows, x, y, model, beacon, member = given
        told = 1 - y if member == HOSPITAL else y
        return super().train(arithmetic, rows, x, told, model, beacon, member, **named)


async def erase(folder: Path, trainer: SharedTrainer, **policy: Any) -> Erased:
    async with network(folder, trainer, 4) as net:
        study = await net.play(spec(rounds=3, **policy))
        node = net.nodes[HOSPITAL]
        asked = await node.erasing.request(node, patient="patient-1-2")
        batch = Digest.from_hex(asked["erasure"])
        await ready(net, batch)
        net.hold = True
        arithmetic = node.participant.study(study)
        key = keystore.at_rest_key(net.seatings[HOSPITAL].ring)
        erasure = node.history.erasures[batch]
        return Erased(net.seatings[HOSPITAL].home, key, node.history, erasure, arithmetic.study, arithmetic)


async def ready(net: Net, batch: Digest) -> None:
    await net.until(lambda: net.certified(batch, HOSPITAL), 240)


@pytest.fixture(scope="module")
def erased(tmp_path_factory: pytest.TempPathFactory, trainer: SharedTrainer) -> Erased:
    async def play() -> Erased:
        return await erase(tmp_path_factory.mktemp("replay"), trainer, sets_ahead=True)

    return trio.run(play)


@pytest.fixture(scope="module")
def report(erased: Erased, trainer: SharedTrainer) -> bytes:
    return erased.report(trainer)


def copied(erased: Erased, folder: Path) -> Path:
    """A copy of the hospital's home, to be damaged."""
    import shutil

    return Path(shutil.copytree(erased.home, folder / "copy"))


def test_every_round_of_the_replay_is_repeated_bit_for_bit_and_earns_the_claim(erased: Erased, report: bytes) -> None:
    tree = json.loads(report)
    assert [one["height"] for one in tree["rounds"]] == [1, 2, 3]
    assert [one["differing"] for one in tree["rounds"]] == [0, 0, 0]
    assert [one["announced"] for one in tree["rounds"]] == [None, True, True], "the first has no round before it"
    assert tree["left_out"] == []
    assert tree["why_not"] == ""
    assert len({one["beacon"] for one in tree["rounds"]}) == 3
    erased.check(report)
    assert any("round 3 on branch 1" in line and "(3 of 3)" in line for line in erased.told)


def test_the_statistics_of_a_ridge_head_are_repeated_with_the_hospital_s_noise(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    study = {"method": "ridge", "noise": 0.3}
    found = trio.run(lambda: erase(tmp_path, trainer, sets_ahead=True, training=study))
    tree = json.loads(found.report(trainer))
    assert [one["differing"] for one in tree["rounds"]] == [0, 0, 0]
    assert tree["why_not"] == ""
    found.check(document.write(tree))
    other = SharedTrainer(secret=b"another hospital's own 32 bytes.")
    try:
        rounds = json.loads(found.report(other))["rounds"]
    finally:
        other.end()
    assert all(one["differing"] for one in rounds), "nobody else can draw its noise"


def test_reading_a_home_changes_no_byte_of_it(erased: Erased, report: bytes, trainer: SharedTrainer) -> None:
    def files() -> dict[str, bytes]:
        found = (path for path in erased.home.rglob("*") if path.is_file() and not path.name.endswith("-shm"))
        return {str(path): path.read_bytes() for path in found}

    before = files()
    assert erased.report(trainer) == report
    assert files() == before


def test_a_report_with_anything_changed_is_refused(erased: Erased, report: bytes) -> None:
    tree = json.loads(report)
    free = {"announced", "output", "profile", "records", "parameters"}  # the executor's own word

    def changes(value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key not in free:
                    yield from ({**value, key: one} for one in changes(inner))
            yield {**value, "further": 1}
        elif isinstance(value, list):
            yield [*value, {"height": 9, "why": "x"}]
            for place, inner in enumerate(value):
                yield from ([*value[:place], one, *value[place + 1 :]] for one in changes(inner))
                yield [*value[:place], *value[place + 1 :]]
        elif isinstance(value, str):
            yield value[:-1] + ("0" if value[-1:] != "0" else "1")
        else:
            yield 7 if value is None or value != 7 else 8

    count = 0
    for changed in changes(tree):
        with pytest.raises(VerificationFailed):
            erased.check(document.write(changed))
        count += 1
    assert count > 40
    with pytest.raises(VerificationFailed, match="canonical"):
        erased.check(json.dumps(tree, indent=1).encode())


def test_a_hospital_that_trains_on_other_than_it_declares_is_found_out(tmp_path: Path) -> None:
    lying = LyingTrainer()
    honest = SharedTrainer()

    async def play() -> Erased:
        return await erase(tmp_path, lying, sets_ahead=True)

    try:
        found = trio.run(play)
        data = found.report(honest)
    finally:
        lying.end()
        honest.end()
    tree = json.loads(data)
    assert all(one["differing"] > tree["parameters"] // 2 for one in tree["rounds"])
    assert tree["why_not"] == "3 of 3 repeated rounds gave other integers"
    with pytest.raises(VerificationFailed, match="why_not"):
        found.check(data)
    with pytest.raises(VerificationFailed, match="other integers"):
        found.check(document.write({**tree, "why_not": ""}))
    assert state_of(found.erasure, found.history).value == "recipients_attested", "no other member could see it"


def test_without_sets_committed_ahead_the_training_is_repeated_and_nothing_claimed(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async def play() -> Erased:
        return await erase(tmp_path, trainer)

    found = trio.run(play)
    tree = json.loads(found.report(trainer))
    assert [one["differing"] for one in tree["rounds"]] == [0, 0, 0]
    assert [one["announced"] for one in tree["rounds"]] == [None, False, False]
    assert all(one.commits[HOSPITAL].next_dataset_root == ZERO for one in found.rounds())
    assert "sets_ahead" in tree["why_not"]
    with pytest.raises(VerificationFailed, match="sets_ahead"):
        found.check(document.write({**tree, "why_not": ""}))


def test_what_is_gone_is_named_and_costs_the_claim(erased: Erased, trainer: SharedTrainer, tmp_path: Path) -> None:
    home = copied(erased, tmp_path)
    first, second, third = erased.rounds()
    store = Store(home, erased.key)
    notice = store.own_notice(first.opened.round_id, "CommitNotice")
    assert isinstance(notice, CommitNotice)
    store.remove(notice.set.cipher_root)
    store.forget_keys(second.opened.round_id, HOSPITAL, BlobKind.UPDATE)
    store.close()
    tree = json.loads(erased.report(trainer, home))
    assert [(one["height"], one["why"]) for one in tree["left_out"]] == [
        (1, "its set was deleted at the end of its retention"),
        (2, "its update is gone"),
    ]
    assert [one["height"] for one in tree["rounds"]] == [third.opened.height]
    assert tree["why_not"] == "2 rounds could not be repeated"


def test_records_deleted_since_cannot_be_repeated(erased: Erased, trainer: SharedTrainer, tmp_path: Path) -> None:
    home = copied(erased, tmp_path)
    vault = Vault.open(home / "vault", erased.key)
    vault.delete_copy(vault.find("patient-1-3")[0].consent_id)
    vault.close()
    tree = json.loads(erased.report(trainer, home))
    assert {one["why"] for one in tree["left_out"]} == {"records that it used have been deleted since"}
    assert tree["rounds"] == []


def test_a_blob_that_is_not_what_was_committed_is_a_fault(
    erased: Erased, trainer: SharedTrainer, tmp_path: Path
) -> None:
    home = copied(erased, tmp_path)
    first = erased.rounds()[0]
    with closing(HomeReader(home, erased.key)) as reader:
        notice = reader.own_notice(first.opened.round_id, "CommitNotice")
        assert isinstance(notice, CommitNotice)
        path = home / reader.place(notice.update.cipher_root)
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
    with pytest.raises(Fault, match="content root"):
        erased.report(trainer, home)


def test_only_an_exact_replay_that_has_caught_up_can_be_repeated(erased: Erased) -> None:
    plan = erased.erasure.plan
    assert plan is not None
    approximate = replace(plan, method=methods.NUMBERS["federaser"])
    with pytest.raises(Refused, match="federaser: no such method can ever show L3"):
        rounds_of(erased.history, replace(erased.erasure, plan=approximate))
    nothing = replace(plan, method=methods.NOTHING, rounds=0, target_height=plan.base_height)
    with pytest.raises(Refused, match="replayed nothing"):
        rounds_of(erased.history, replace(erased.erasure, plan=nothing))
    with pytest.raises(NotFound, match="not caught up"):
        rounds_of(erased.history, replace(erased.erasure, plan=replace(plan, rounds=9)))
    with pytest.raises(NotFound, match="no plan yet"):
        rounds_of(erased.history, replace(erased.erasure, plan=None))


async def test_a_set_takes_what_the_commit_of_the_round_before_announced_and_no_more(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        study = await net.play(spec(rounds=2, sets_ahead=True))
        participant = net.nodes[HOSPITAL].participant
        first, second = net.nodes[HOSPITAL].history.path(study, 0)
        announced = first.commits[HOSPITAL].next_dataset_root
        assert announced == second.commits[HOSPITAL].dataset_root != ZERO
        # the round after the last may use what could be used now
        deadline = last_deadline(participant.history.studies[study].created.terms, second.opened.opened_at)
        assert participant.vault is not None
        leaves = participant.vault.leaves(study)
        assert any(usable_next(leaf, participant.history, second, deadline) for leaf in leaves)

        whole = participant.prepare(second.opened.round_id, 0)
        assert whole is not None
        name = f"announced {study.hex()}"
        _, kept = participant._announce(first)
        tree = json.loads(kept)
        missing = next(iter(tree["leaves"]))
        del tree["leaves"][missing]
        participant.store.set_meta(name, json.dumps(tree))
        fewer = participant.prepare(second.opened.round_id, 0)
        assert fewer is not None
        assert len(fewer.leaves) == len(whole.leaves) - 1, "granted since: it waits a round"
        # announced of another round than the one before: nothing was announced of this set
        participant.store.set_meta(name, json.dumps({**tree, "round": second.opened.round_id.hex()}))
        again = participant.prepare(second.opened.round_id, 0)
        assert again is not None
        assert len(again.leaves) == len(whole.leaves)
