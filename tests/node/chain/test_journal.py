from __future__ import annotations

import json
import logging
import resource
from pathlib import Path

import pytest

from node.chain.engine import Engine
from node.chain.errors import JournalError
from node.chain.journal import journal_file, replay, verify_journal
from node.errors import LocalFault
from tests.node.chain.chain_kit import BOB, LOGGER, Chain, StandingClock, sign, word


def lines_of(home: Path) -> list[bytes]:
    return journal_file(home).read_bytes().splitlines(keepends=True)


def write_lines(home: Path, lines: list[bytes]) -> None:
    journal_file(home).write_bytes(b"".join(lines))


def test_replay_gives_identical_blocks(home: Path, clock: StandingClock) -> None:
    engine = Engine.open(home, clock)
    chain = Chain(engine)
    logger = chain.deploy(LOGGER)
    for i in range(5):
        clock.time += 30 * i
        chain.send(BOB)
        chain.mine(to=logger, value=0, data=word(i) + word(2) + word(3))
    before = [engine.index.block(number) for number in range(engine.index.height + 1)]
    engine.close()
    again = Engine.open(home, clock)
    assert [again.index.block(number) for number in range(again.index.height + 1)] == before
    again.close()


def test_a_line_is_on_the_disk_before_mine_returns(home: Path, clock: StandingClock) -> None:
    engine = Engine.open(home, clock)
    block = Chain(engine).mine()
    assert json.loads(lines_of(home)[-1]) == {
        "v": 1,
        "number": 1,
        "timestamp": block.header.timestamp,
        "transactions": ["0x" + block.transactions[0].raw.hex()],
        "hash": "0x" + block.header.hash.hex(),
    }
    engine.close()


@pytest.mark.parametrize("kept", [1, 30, 200], ids=lambda kept: f"{kept}-bytes")
def test_a_torn_last_line_is_cut_off_with_a_warning(
    journalled: Path, clock: StandingClock, caplog: pytest.LogCaptureFixture, kept: int
) -> None:
    lines = lines_of(journalled)
    write_lines(journalled, [*lines[:3], lines[3][:kept]])
    with caplog.at_level(logging.WARNING):
        engine = Engine.open(journalled, clock)
    assert engine.head.number == 3
    assert f"{kept} bytes" in caplog.text
    assert lines_of(journalled) == lines[:3]
    Chain(engine).mine()
    engine.close()
    assert verify_journal(journalled).ok


def test_zeros_after_a_power_cut_are_cut_off(journalled: Path, clock: StandingClock) -> None:
    lines = lines_of(journalled)
    write_lines(journalled, [*lines, lines[3][:20] + bytes(300)])
    engine = Engine.open(journalled, clock)
    assert engine.head.number == 4
    engine.close()
    assert lines_of(journalled) == lines


def test_a_last_line_that_lacks_only_its_line_break_is_kept(journalled: Path, clock: StandingClock) -> None:
    lines = lines_of(journalled)
    write_lines(journalled, [*lines[:3], lines[3][:-1]])
    assert len(verify_journal(journalled).blocks) == 4
    engine = Engine.open(journalled, clock)
    assert engine.head.number == 4
    engine.close()
    assert lines_of(journalled) == lines


def test_a_corrupted_line_break_of_the_last_line_is_not_taken_for_a_crash(
    journalled: Path, clock: StandingClock
) -> None:
    lines = lines_of(journalled)
    write_lines(journalled, [*lines[:3], lines[3][:-1] + b"x"])
    with pytest.raises(JournalError, match="journal line 4"):
        Engine.open(journalled, clock)
    assert not verify_journal(journalled).ok


def test_a_changed_hash_is_named_with_its_line_and_both_values(journalled: Path, clock: StandingClock) -> None:
    lines = lines_of(journalled)
    real = json.loads(lines[1])["hash"]
    false = "0x" + "ab" * 32
    write_lines(journalled, [lines[0], lines[1].replace(real.encode(), false.encode()), *lines[2:]])
    with pytest.raises(JournalError) as caught:
        Engine.open(journalled, clock)
    assert (caught.value.line, caught.value.expected, caught.value.got) == (2, false, real)
    report = verify_journal(journalled)
    assert report.first_failure is not None
    assert (report.first_failure.line, report.first_failure.expected, report.first_failure.got) == (2, false, real)
    assert [block.number for block in report.blocks] == [1]


def test_every_single_changed_byte_is_found(journalled: Path) -> None:
    data = journal_file(journalled).read_bytes()
    first_line = data.index(b"\n")
    for position in [*range(0, first_line + 1, 7), first_line, len(data) - 1, len(data) - 2]:
        for flip in (1, 0x20):  # 0x20 turns a hex digit's case: another spelling of the same value
            changed = bytearray(data)
            changed[position] ^= flip
            journal_file(journalled).write_bytes(bytes(changed))
            assert not verify_journal(journalled).ok, (position, flip)


def test_a_missing_line_is_named(journalled: Path) -> None:
    lines = lines_of(journalled)
    write_lines(journalled, [lines[0], *lines[2:]])
    failure = verify_journal(journalled).first_failure
    assert failure is not None
    assert (failure.line, failure.what, failure.expected, failure.got) == (2, "block number", "2", "3")


@pytest.mark.parametrize(
    "fault, change",
    [
        ("version", {"v": 2}),
        ("stamp-behind-parent", {"timestamp": 1}),
        ("no-transactions", {"transactions": []}),
        ("transactions-not-a-list", {"transactions": "0x"}),
        ("transaction-not-hex", {"transactions": ["0xzz"]}),
        ("number-is-text", {"number": "3"}),
        ("transaction-of-another-chain", {"transactions": ["0x" + sign(BOB, 0, chainId=5).hex()]}),
        ("transaction-of-another-nonce", {"transactions": ["0x" + sign(BOB, 9).hex()]}),
    ],
)
def test_a_line_with_a_fault_is_fatal_and_named(
    journalled: Path, clock: StandingClock, fault: str, change: dict[str, object]
) -> None:
    lines = lines_of(journalled)
    document = json.loads(lines[2]) | change
    lines[2] = json.dumps(document, separators=(",", ":")).encode() + b"\n"
    write_lines(journalled, lines)
    with pytest.raises(JournalError, match="journal line 3"):
        Engine.open(journalled, clock)
    assert lines_of(journalled) == lines, "a damaged journal is evidence and stays as it is"


@pytest.mark.parametrize(
    "junk", [b"\n", b"[]\n", b"\xff\xfe\n", b"[" * 50_000 + b"\n"], ids=["empty", "list", "binary", "deep"]
)
def test_junk_between_lines_is_fatal_and_named(journalled: Path, junk: bytes) -> None:
    lines = lines_of(journalled)
    write_lines(journalled, [*lines[:2], junk, *lines[2:]])
    failure = verify_journal(journalled).first_failure
    assert failure is not None
    assert failure.line == 3


def test_an_auditor_gets_the_receipts_and_logs_of_every_block(home: Path, clock: StandingClock) -> None:
    engine = Engine.open(home, clock)
    chain = Chain(engine)
    logger = chain.deploy(LOGGER)
    recorded = chain.mine(to=logger, value=0, data=word(7) + word(8) + word(9)).receipts[0].logs
    engine.close()
    blocks = list(replay(home))
    assert [block.header.number for block in blocks] == [1, 2]
    assert blocks[1].receipts[0].logs == recorded
    assert (recorded[0].address, recorded[0].topics, recorded[0].data) == (logger, (word(7), word(8)), word(9))


def test_verification_reads_only(journalled: Path) -> None:
    torn = journal_file(journalled).read_bytes() + b'{"v":1,"num'
    journal_file(journalled).write_bytes(torn)
    report = verify_journal(journalled)
    assert report.ok
    assert (len(report.blocks), report.torn_bytes) == (4, 11)
    assert journal_file(journalled).read_bytes() == torn


def test_a_full_disk_stops_the_chain_and_loses_nothing_that_was_said(home: Path, clock: StandingClock) -> None:
    engine = Engine.open(home, clock)
    chain = Chain(engine)
    said = chain.mine()
    chain.send()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal_file(home).stat().st_size + 10, hard))
    try:
        with pytest.raises(LocalFault, match="cannot write"):
            engine.mine()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert engine.failed
    engine.close()
    again = Engine.open(home, clock)
    assert again.head == said.header
    again.close()
