"""A member's log under roots on the chain, in networks of real nodes; and the file that is checked offline."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rfc8785
import trio

from crypto.keys import LedgerKey
from crypto.statements import AnchorLog, sign
from node.errors import VerificationFailed
from node.logbook import DAY_S, check, due, export
from node.records import LogAnchored
from tests.fakes.network import Net, SharedTrainer, network, spec

pytestmark = pytest.mark.slow  # whole networks in memory

LINK = {"role": "dpo", "act": "consent.cards: find", "subject": "cd" * 32, "outcome": "permitted", "why": ""}


def written(net: Net, member: int = 1, **days: str) -> bytes:
    node = net.nodes[member].participant
    found = export(net.network, node.history, node.store, member, **days)
    return b"\n".join(found.lines) + b"\n"


async def next_day(net: Net) -> None:
    net.clock.now += DAY_S + 1
    for node in net.nodes.values():
        await node.desk.work(node)


async def anchored(net: Net, entries: int, member: int = 1) -> None:
    await net.until(lambda: net.nodes[member].history.registry.logged.get(member, 0) >= entries)


def log_some(net: Net, count: int, member: int = 1, **changes: Any) -> None:
    node = net.nodes[member]
    for _ in range(count):
        node.participant.store.log(float(node.now), "link_access", LINK | changes)


async def ready(net: Net, count: int = 3) -> int:
    """A finished study, and member 1's log under a root; how many lines."""
    study = await net.create(spec())
    await net.finish(study)
    log_some(net, count)
    lines = len(net.nodes[1].participant.store.log_entries())
    await next_day(net)
    await anchored(net, lines)
    return lines


def test_a_log_is_anchored_within_a_day_and_only_when_there_is_something_new(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async def play() -> None:
        async with network(tmp_path, trainer) as net:
            study = await net.create(spec())
            await net.finish(study)
            node = net.nodes[1]
            granted = node.participant.store.log_entries("consent_granted")
            assert len(granted) == len(node.desk.consents(node.now))
            log_some(net, 2)
            assert net.of(LogAnchored) == []  # younger than a day
            await next_day(net)
            await anchored(net, len(granted) + 2)
            mine = [one for one in net.of(LogAnchored) if one.member == 1]
            assert [one.entries for one in mine] == [len(granted) + 2]
            await next_day(net)
            assert due(node.participant, node.now) is None
            assert [one for one in net.of(LogAnchored) if one.member == 1] == mine
            log_some(net, 1)
            await next_day(net)
            await anchored(net, len(granted) + 3)
            found = check(written(net), net.network)
            assert (found["events"], found["complete"], len(found["anchors"])) == (len(granted) + 3, True, 2)

    trio.run(play)


def test_a_segment_is_kept_before_it_is_sent_and_sent_until_the_chain_has_it(
    tmp_path: Path, trainer: SharedTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        async with network(tmp_path, trainer) as net:
            study = await net.create(spec())
            await net.finish(study)
            log_some(net, 2)
            node = net.nodes[1].participant
            later = net.clock.now + 2 * DAY_S
            first = due(node, later)
            assert first is not None
            kept = node.store.last_segment()
            assert kept is not None
            assert (kept.root, kept.entries, kept.signature) == (first.root, first.entries, first.signature)
            log_some(net, 1)  # what comes after belongs to the next segment
            assert due(node, later) == first
            assert len(node.store.segments()) == 1
            net.ledger.send(first)
            await anchored(net, first.entries)
            second = due(node, later)
            assert second is not None
            assert second.entries == first.entries + 1

    trio.run(play)


def test_every_line_is_shown_with_its_proof_and_days_choose(tmp_path: Path, trainer: SharedTrainer) -> None:
    async def play() -> None:
        async with network(tmp_path, trainer) as net:
            lines = await ready(net)
            found = check(written(net), net.network)
            assert (found["events"], found["complete"], found["issuers_checked"]) == (lines, True, True)
            assert found["name"] == net.nodes[1].history.registry.members[1].name
            assert not check(written(net), None)["issuers_checked"]
            nothing = check(written(net, start="2999-01-01"), net.network)
            assert (nothing["events"], nothing["anchors"]) == (0, [])
            assert check(written(net, end="2999-01-01"), net.network)["events"] == lines

    trio.run(play)


def test_a_changed_missing_or_invented_byte_is_found(tmp_path: Path, trainer: SharedTrainer) -> None:
    async def play() -> None:
        async with network(tmp_path, trainer) as net:
            await ready(net)
            data = written(net)
            head, *rest = data.splitlines()
            line = json.loads(rest[-1])

            def with_line(changed: Any) -> bytes:
                return b"\n".join([head, *rest[:-1], rfc8785.dumps(changed)]) + b"\n"

            def with_head(change: Callable[[Any], Any]) -> bytes:
                tree = json.loads(head)
                change(tree)
                return b"\n".join([rfc8785.dumps(tree), *rest]) + b"\n"

            other = json.loads(json.dumps(line))
            other["event"]["outcomeDesc"] = "nothing happened"
            stranger = LedgerKey.generate()
            domain = net.nodes[1].participant.domains
            faults: dict[str, bytes] = {
                "an event was changed": with_line(other),
                "another place": with_line(line | {"index": line["index"] - 1}),
                "a place beyond": with_line(line | {"index": 10_000}),
                "a step was left out": with_line(line | {"path": line["path"][:-1]}),
                "an anchor that is not there": with_line(line | {"anchor": 1}),
                "a field more": with_line(line | {"more": 1}),
                "twice": data + rest[-1] + b"\n",
                "cut": data[:-1],
                "spaces": data.replace(b'"index":', b'"index": ', 1),
                "a root": with_head(lambda t: t["anchors"][0].update(root="00" * 32)),
                "a count": with_head(lambda t: t["anchors"][0].update(entries="999")),
                "another member": with_head(lambda t: t.update(member=2)),
                "no member": with_head(lambda t: t.update(member=9)),
                "junk": b"\xff\xfe\n",
                "nothing": b"",
            }
            root = bytes.fromhex(json.loads(head)["anchors"][0]["root"])
            entries = int(json.loads(head)["anchors"][0]["entries"])
            forged = AnchorLog(1, root, entries)  # type: ignore[arg-type]
            signature = sign(forged, domain.of(forged), stranger).hex()
            faults["a stranger's signature"] = with_head(lambda t: t["anchors"][0].update(signature=signature))
            for name, given in faults.items():
                try:
                    found = check(given, net.network)
                except VerificationFailed:
                    continue
                pytest.fail(f"{name}: {found}")
            partial = b"\n".join([head, *rest[1:]]) + b"\n"
            assert not check(partial, net.network)["complete"]

    trio.run(play)


def test_a_file_of_another_network_is_refused(tmp_path: Path, trainer: SharedTrainer) -> None:
    async def play() -> None:
        async with network(tmp_path, trainer) as net:
            await ready(net)
            raw = json.loads(json.dumps(net.network.raw))
            raw["chain"]["chain_id"] += 1
            other = replace(net.network, raw=raw)
            with pytest.raises(VerificationFailed, match="made on network"):
                check(written(net), other)

    trio.run(play)


def test_consent_decisions_are_in_the_log_and_no_patient(tmp_path: Path, trainer: SharedTrainer) -> None:
    async def play() -> None:
        async with network(tmp_path, trainer) as net:
            study = await net.create(spec(rounds=2))
            node = net.nodes[1]
            await net.until(lambda: bool(node.desk.consents(node.now)))
            consent = node.participant.vault.holdings()[0].consent_id  # type: ignore[union-attr]
            await node.desk.withdraw(node, consent=consent)
            await net.finish(study)
            store = node.participant.store
            assert [body["subject"] for _, _, body in store.log_entries("consent_withdrawn")] == [consent.hex()]
            refused = [body["subject"] for _, _, body in store.log_entries("consent_refused")]
            assert refused == [consent.hex()], "once, not once a round"
            await next_day(net)
            await anchored(net, len(store.log_entries()))
            found = check(written(net), net.network)
            assert found["events"] == len(store.log_entries())

    trio.run(play)
