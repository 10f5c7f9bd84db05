from __future__ import annotations

import random
import time

import pytest

from node.chain.evm import Log
from node.chain.index import Index, LogFilter
from tests.node.chain.chain_kit import ALICE, BOB, LOGGER, Chain, StandingClock, word

TOPICS = [word(i) for i in range(4)]


@pytest.fixture
def busy(chain: Chain, clock: StandingClock) -> tuple[Index, list[Log], list[bytes]]:
    """Forty blocks of one to four logs by three contracts."""
    chance = random.Random(7)
    contracts = [chain.deploy(LOGGER) for _ in range(3)]
    for _ in range(40):
        clock.time += 2
        for _ in range(chance.randint(0, 3)):
            data = chance.choice(TOPICS) + chance.choice(TOPICS) + word(chance.randrange(99))
            chain.send(chance.choice((ALICE, BOB)), to=chance.choice(contracts), value=0, data=data)
        chain.mine()
    index = chain.engine.index
    blocks = [index.block(number) for number in range(index.height + 1)]
    everything = [log for block in blocks if block for receipt in block.receipts for log in receipt.logs]
    return index, everything, contracts


def brute_force(logs: list[Log], wanted: LogFilter) -> list[Log]:
    found = []
    for log in logs:
        if not wanted.first_block <= log.block_number <= wanted.last_block:
            continue
        if wanted.addresses and log.address not in wanted.addresses:
            continue
        if len(wanted.topics) > len(log.topics):
            continue
        if any(any_of and topic not in any_of for any_of, topic in zip(wanted.topics, log.topics, strict=False)):
            continue
        found.append(log)
    return found


def test_filters_give_what_looking_through_everything_gives(busy: tuple[Index, list[Log], list[bytes]]) -> None:
    index, everything, contracts = busy
    chance = random.Random(11)
    sizes = set()
    for _ in range(500):
        first = chance.randint(0, index.height + 2)
        wanted = LogFilter(
            first_block=first,
            last_block=chance.randint(first, index.height + 5),
            addresses=tuple(chance.sample([*contracts, b"\x99" * 20], chance.randint(0, 3))),
            topics=tuple(
                tuple(chance.sample([*TOPICS, word(77)], chance.randint(0, 3))) for _ in range(chance.randint(0, 3))
            ),
        )
        found = list(index.logs(wanted))
        assert found == brute_force(everything, wanted)
        sizes.add(len(found))
    assert len(sizes) > 15


def test_logs_are_numbered_within_their_block(busy: tuple[Index, list[Log], list[bytes]]) -> None:
    index, _, _ = busy
    for number in range(index.height + 1):
        block = index.block(number)
        assert block is not None
        numbers = [log.log_index for receipt in block.receipts for log in receipt.logs]
        assert numbers == list(range(len(numbers)))


def test_a_rare_log_among_many_is_found_without_walking_through_all(chain: Chain) -> None:
    block = chain.mine(to=chain.deploy(LOGGER), value=0, data=word(1) + word(2) + word(3))
    index = chain.engine.index
    common, rare = block.receipts[0].logs[0], word(99)
    # The lists that a query walks are what the cost hangs on: 200 000 logs that do not match must not be looked at.
    for _ in range(200_000):
        number = len(index._logs)
        index._logs.append(common)
        index._by_topic[(0, word(1))].append(number)
        index._by_address[common.address].append(number)
    started = time.perf_counter()
    for _ in range(100):
        assert list(index.logs(LogFilter(0, index.height, (common.address,), ((rare,),)))) == []
    assert time.perf_counter() - started < 1.0


def test_unknown_things_are_none(chain: Chain) -> None:
    index = chain.engine.index
    assert index.block(1) is None
    assert index.block(-1) is None
    assert index.block_by_hash(bytes(32)) is None
    assert index.receipt(bytes(32)) is None
