"""Endpoints that lie, lag, hide, stutter or break, and chains that take blocks back: what the node notices, and says.

Each lie is told by a real HTTP endpoint in front of a real chain; the node's own follower and store read it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import rlp

from crypto.digest import keccak256
from node import ledger as door
from node.abi import Codec
from node.account import SendingAccount
from node.checkup import examine
from node.errors import ChainDisputed, ChainUnreachable, LedgerError, LocalFault, VerificationFailed
from node.evidence import hash_of_header
from node.follower import PATIENCE_S, Follower, Reorganised
from node.history import History
from node.home import Network, network_json, parse_network
from node.jsonrpc import header_rlp
from node.ledger import EthereumClient, EthereumLedger
from node.records import Withdrawals
from node.store import SentTransactions, Store
from node.witnesses import PATIENCE_S as LACKS_S
from node.witnesses import Witnesses
from tests.fakes.endpoint import alter_logs, endpoint, hide_logs, in_block, lag, older_state
from tests.node.ledger.conftest import Chain
from tests.node.ledger.world import World

ZERO = "0x" + "00" * 32


@dataclass
class Reader:
    """What a node does to read a chain: its ledger, its store, its follower, its history; a clock the test moves."""

    home: Path
    world: World
    codec: Codec
    url: str
    others: tuple[str, ...] = ()
    confirmations: int = 0
    from_start: bool = False
    now: float = 0.0
    history: History = field(default_factory=History)

    def __post_init__(self) -> None:
        self.store = Store(self.home, bytes(32))
        contracts = self.world.contracts
        client = EthereumClient(self.url, contracts.chain_id, timeout_s=2)
        account = SendingAccount(client, self.world.keys[0], SentTransactions(self.store))
        self.ledger = EthereumLedger(client, contracts, account, self.codec, confirmations=self.confirmations)
        others = [EthereumClient(url, contracts.chain_id, timeout_s=2) for url in self.others]
        witnesses = Witnesses(self.url, others, lambda: self.now)
        self.follower = Follower(self.ledger, self.store, self.codec, witnesses, lambda: self.now)
        self.history.apply_all(self.follower.stored())
        if self.follower.done < 0 and not self.from_start:  # the chains of the suite hold many networks by now
            self.follower._next = self.world.first_block

    def look(self) -> None:
        """One look at the chain, as `node/app.py` does it."""
        head = self.ledger.head()
        self.follower.check_head(head)
        while self.follower.done < head.final_number:
            self.history.apply_all(self.follower.step(head))
        history = self.history
        self.follower.compare(head, (history.registry.accumulator, history.consent_acc, history.unlearning_acc))

    def again(self) -> None:
        """After a reorganisation: read what is kept anew."""
        self.history = History()
        self.history.apply_all(self.follower.stored())


ReaderMaker = Callable[..., Reader]


@pytest.fixture
def world(real: World) -> World:
    return real


@pytest.fixture
def reader(world: World, codec: Codec, tmp_path: Path) -> Iterator[ReaderMaker]:
    """A maker of readers, each with a home of its own unless one is named."""
    made: list[Reader] = []

    def make(
        url: str, *others: str, home: str | None = None, confirmations: int = 0, from_start: bool = False
    ) -> Reader:
        path = tmp_path / (home or f"home-{len(made)}")
        made.append(Reader(path, world, codec, url, others, confirmations, from_start))
        return made[-1]

    yield make
    for one in made:
        one.store.close()


def withdrawal(world: World) -> tuple[int, str]:
    """Withdraw a consent of somebody; the block, and the address of the contract that logged it."""
    _, entry = world.patient("somebody")
    return world.send(Withdrawals((entry,))).block, "0x" + world.contracts.consent.hex()


# --- lies about logs


@pytest.mark.parametrize("lie", ["hides one log", "hides a block's logs", "alters a log"])
def test_a_withdrawal_that_is_hidden_or_altered_is_noticed_by_its_block_and_no_round_opens(
    chain: Chain, world: World, reader: ReaderMaker, lie: str
) -> None:
    with endpoint(chain.url) as liar:
        node = reader(liar.url)
        node.look()
        block, consent = withdrawal(world)
        later = world.study()[1].round_id
        liar.faults.append(
            {
                "hides one log": hide_logs(lambda log: in_block(block)(log) and log["address"] == consent),
                "hides a block's logs": hide_logs(in_block(block)),
                "alters a log": alter_logs(lambda log: in_block(block)(log) and log["address"] == consent),
            }[lie]
        )
        for _ in range(2):
            with pytest.raises(
                ChainDisputed, match=rf"block {block}: receipts root: expected \w{{64}}, computed \w{{64}}"
            ):
                node.look()
        assert node.follower.done == block - 1
        assert later not in node.history.rounds, "no round that follows the withdrawal is known, so none is trained in"
        liar.faults.clear()
        node.look()
        assert len(node.history.withdrawals) == 1
        assert later in node.history.rounds


def test_an_older_state_is_noticed_by_the_accumulator(chain: Chain, world: World, reader: ReaderMaker) -> None:
    with endpoint(chain.url) as liar:
        node = reader(liar.url)
        block, _ = withdrawal(world)
        liar.faults.append(older_state(liar, lambda: block - 1))
        said = rf"block {block}: ConsentRegistry's accumulator: stated \w{{64}}, computed from the records \w{{64}}"
        with pytest.raises(ChainDisputed, match=said):
            node.look()
        liar.faults.clear()
        node.look()


def test_a_state_that_is_not_kept_any_more_proves_nothing(chain: Chain, world: World, reader: ReaderMaker) -> None:
    with endpoint(chain.url) as pruned:
        pruned.answers["eth_call"] = {"error": {"code": -32000, "message": "missing trie node"}}
        node = reader(pruned.url)
        node.look()
        assert node.follower.done == world.ledger.head().number


def test_a_header_that_was_altered_is_noticed_by_its_hash(chain: Chain, world: World, reader: ReaderMaker) -> None:
    def altering(method: str, params: list[Any], answer: dict[str, Any]) -> dict[str, Any]:
        if method == "eth_getBlockByNumber" and params[0] == hex(number):
            answer["result"]["timestamp"] = hex(int(answer["result"]["timestamp"], 16) + 1)
        return answer

    world.study()
    number = world.ledger.head().number - 1
    with endpoint(chain.url) as liar:
        liar.faults.append(altering)
        node = reader(liar.url)
        with pytest.raises(ChainDisputed, match=rf"block {number}: header hash: stated \w{{64}}, computed \w{{64}}"):
            node.look()


def test_a_forged_block_that_does_not_stand_on_its_predecessor_is_noticed(
    chain: Chain, world: World, reader: ReaderMaker
) -> None:
    def forging(method: str, params: list[Any], answer: dict[str, Any]) -> dict[str, Any]:
        if method == "eth_getBlockByNumber" and params[0] == hex(number):
            answer["result"]["parentHash"] = "0x" + "99" * 32
            answer["result"]["hash"] = "0x" + hash_of_header(header_rlp(answer["result"])).hex()
        return answer

    world.study()
    number = world.ledger.head().number - 1
    before = world.ledger.block_hash(number - 1).hex()
    with endpoint(chain.url) as liar:
        liar.faults.append(forging)
        node = reader(liar.url)
        with pytest.raises(ChainDisputed, match=f"block {number}: parent hash: expected {before}, found {'99' * 32}"):
            node.look()
        liar.faults.clear()
        node.look()


# --- lagging


def test_an_endpoint_that_falls_behind_what_it_gave_is_disputed_and_goes_on_afterwards(
    chain: Chain, world: World, reader: ReaderMaker
) -> None:
    world.study()
    with endpoint(chain.url) as lagging:
        node = reader(lagging.url)
        node.look()
        done = node.follower.done
        lagging.faults.append(lag(lagging, lambda: 2))
        with pytest.raises(ChainDisputed, match=f"newest block is {done - 2}, but it gave us block {done}"):
            node.look()
        assert node.follower.done == done, "nothing that was read is forgotten"
        lagging.faults.clear()
        node.look()


def test_an_endpoint_that_stays_behind_is_told_from_a_chain_that_was_set_back_by_another_endpoint(
    chain: Chain, world: World, reader: ReaderMaker
) -> None:
    world.study()
    with endpoint(chain.url) as lagging:
        alone, watched = reader(lagging.url), reader(lagging.url, chain.url)
        for node in (alone, watched):
            node.look()
        done = alone.follower.done
        lagging.faults.append(lag(lagging, lambda: 2))
        for node in (alone, watched):
            with pytest.raises(ChainDisputed):
                node.look()
            node.now += PATIENCE_S
        with pytest.raises(Reorganised, match=f"blocks after {done - 2} are read again"):
            alone.look()
        with pytest.raises(ChainDisputed, match=re.escape(chain.url)):
            watched.look()
        assert watched.follower.done == done


def test_an_endpoint_that_lags_from_the_start_is_noticed_by_another(
    chain: Chain, world: World, reader: ReaderMaker
) -> None:
    world.study()
    with endpoint(chain.url) as lagging:
        lagging.faults.append(lag(lagging, lambda: 3))
        node = reader(lagging.url, chain.url)
        node.look()
        node.now += 20
        with pytest.raises(ChainDisputed, match=rf"{re.escape(lagging.url)} still stands at block \d+, .*lags"):
            node.look()


# --- two endpoints


def test_two_endpoints_that_differ_are_both_quoted(chain: Chain, world: World, reader: ReaderMaker) -> None:
    world.study()
    number = world.ledger.head().number

    def other_chain(method: str, params: list[Any], answer: dict[str, Any]) -> dict[str, Any]:
        if method == "eth_getBlockByNumber" and params[0] == hex(number):
            answer["result"]["hash"] = "0x" + "ab" * 32
        return answer

    with endpoint(chain.url) as second:
        second.faults.append(other_chain)
        node = reader(chain.url, second.url)
        ours = world.ledger.block_hash(number).hex()
        with pytest.raises(ChainDisputed) as found:
            node.look()
        assert found.value.message == f"block {number}: {chain.url} says {ours}, {second.url} says {'ab' * 32}"
        assert found.value.exit_code == 3
        second.faults.clear()
        node.look()


def test_a_second_endpoint_that_does_not_answer_is_a_warning(chain: Chain, reader: ReaderMaker) -> None:
    node = reader(chain.url, "http://127.0.0.1:9")
    node.look()
    assert len(node.follower.warnings) == 1
    assert "127.0.0.1:9" in node.follower.warnings[0]


def test_a_second_endpoint_of_another_chain_is_a_warning_with_both_ids(chain: Chain, reader: ReaderMaker) -> None:
    with endpoint(chain.url) as other:
        other.answers["eth_chainId"] = {"result": "0x7"}
        node = reader(chain.url, other.url)
        node.look()
        assert "has id 7, expected" in node.follower.warnings[0]


# --- broken answers


BROKEN = {
    "429": ((429, "text/html", b"<html>slow down</html>"), "HTTP 429"),
    "502": ((502, "text/html", b"<html>Bad Gateway</html>"), "HTTP 502"),
    "401": ((401, "text/plain", b"who are you"), "HTTP 401"),
    "redirect": ((302, "text/plain", b""), "HTTP 302"),
    "HTML": ((200, "text/html", b"<html>welcome to the hotel network</html>"), "not JSON"),
    "truncated": ((200, "application/json", b'{"jsonrpc":"2.0","id":1,"result":{"numb'), "not JSON"),
    "no result": ((200, "application/json", b'{"jsonrpc":"2.0","id":1}'), "neither a result nor an error"),
    "a list": ((200, "application/json", b"[]"), "neither a result nor an error"),
    "deep": ((200, "application/json", b"[" * 100_000), "not JSON"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_an_answer_that_is_none_is_named_and_the_node_goes_on_afterwards(
    chain: Chain, reader: ReaderMaker, what: str
) -> None:
    reply, said = BROKEN[what]
    with endpoint(chain.url) as broken:
        node = reader(broken.url)
        broken.raw["*"] = reply
        with pytest.raises(ChainUnreachable, match=said) as found:
            node.look()
        assert broken.url in found.value.message
        broken.raw.clear()
        node.look()


def test_an_answer_is_bounded_in_bytes_and_in_time(
    chain: Chain, reader: ReaderMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "MAX_ANSWER_BYTES", 1 << 20)
    with endpoint(chain.url) as huge:
        node = reader(huge.url)
        huge.raw["*"] = (200, "application/json", b'"' + b"a" * (3 << 20) + b'"')
        with pytest.raises(ChainUnreachable, match="more than 1 MiB"):
            node.look()
        huge.raw.clear()
        huge.trickle = 0.2  # each byte comes long before the reader's patience with a silent line ends
        with pytest.raises(ChainUnreachable, match="not within 2 s"):
            node.look()
        huge.trickle = None
        node.look()


@pytest.mark.parametrize("gone", ["hash", "number", "timestamp", "receiptsRoot", "transactions"])
def test_a_block_without_a_field_is_an_error_of_the_ledger(chain: Chain, reader: ReaderMaker, gone: str) -> None:
    def without(method: str, params: list[Any], answer: dict[str, Any]) -> dict[str, Any]:
        if method == "eth_getBlockByNumber" and isinstance(answer.get("result"), dict):
            answer["result"].pop(gone)
        return answer

    with endpoint(chain.url) as broken:
        broken.faults.append(without)
        if gone == "transactions":
            broken.answers["eth_getBlockReceipts"] = {"error": {"code": -32601, "message": "no such method"}}
        with pytest.raises(LedgerError):
            reader(broken.url).look()


def test_records_read_before_a_fault_in_the_middle_of_a_step_are_not_lost(
    chain: Chain, world: World, reader: ReaderMaker
) -> None:
    study, _ = world.study()
    with endpoint(chain.url) as breaking:
        node = reader(breaking.url)
        last = hex(world.ledger.head().number)

        def gone(method: str, params: list[Any], answer: dict[str, Any]) -> dict[str, Any]:
            return {} if method == "eth_getBlockByNumber" and params[0] == last else answer

        breaking.faults.append(gone)
        with pytest.raises(ChainUnreachable):
            node.look()
        assert study in node.history.studies
        assert node.follower.done == int(last, 16) - 1
        breaking.faults.clear()
        node.look()
        assert node.history.studies[study].joined == {0, 1, 2, 3}


def test_another_chain_that_comes_up_at_the_address_is_refused_with_both_ids(
    chain: Chain, world: World, reader: ReaderMaker
) -> None:
    with endpoint(chain.url) as moved:
        node = reader(moved.url)
        node.look()
        moved.lose_requests["eth_getBlockByNumber"] = 1
        with pytest.raises(ChainUnreachable):
            node.look()
        moved.answers["eth_chainId"] = {"result": "0x7"}
        with pytest.raises(LedgerError, match=f"id 7, expected {world.contracts.chain_id}"):
            node.look()
        moved.answers.clear()
        node.look()


def test_a_chain_of_the_same_id_with_another_first_block_is_no_reorganisation(
    chain: Chain, world: World, reader: ReaderMaker
) -> None:
    def another(method: str, params: list[Any], answer: dict[str, Any]) -> dict[str, Any]:
        if method == "eth_getBlockByNumber" and isinstance(answer.get("result"), dict):
            answer["result"]["hash"] = "0x" + "cd" * 32
        return answer

    with endpoint(chain.url) as swapped:
        node = reader(swapped.url, from_start=True)
        node.look()
        swapped.faults.append(another)
        with pytest.raises(ChainDisputed, match=r"block 0 is not .* another chain"):
            node.look()
        assert node.store.last_block() == node.follower.done, "the evidence of our chain is kept"


# --- headers of authority chains


def _header(**changes: str) -> bytes:
    empty = "0x56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421"
    fields = {
        "parentHash": ZERO,
        "sha3Uncles": "0x1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347",
        "miner": "0x" + "00" * 20,
        "stateRoot": "0x5d6cded585e73c4e322c30c2f782a336316f17dd85a4863b9d838d2d4b8b3008",
        "transactionsRoot": empty,
        "receiptsRoot": empty,
        "logsBloom": "0x" + "00" * 256,
        "difficulty": "0x1",
        "number": "0x0",
        "gasLimit": "0xa00000",
        "gasUsed": "0x0",
        "timestamp": "0x5c51a607",
        "extraData": "0x22466c6578692069732061207468696e6722202d204166726900000000000000"
        "e0a2bd4258d2768837baa26a28fe71dc079f84c7" + "00" * 65,
        "mixHash": ZERO,
        "nonce": "0x" + "00" * 8,
    }
    return header_rlp({**fields, **changes})


def test_a_clique_header_hashes_as_it_is_with_its_seal() -> None:
    """Block 0 of Goerli, a Clique chain: 117 bytes of extra data; its hash is published."""
    assert hash_of_header(_header()).hex() == "bf7e331f7f7c1dd2e05159666b3bf8bc7a8a3a9eb1d518969eab529dd9b88c1a"


def test_a_qbft_header_hashes_without_its_round_and_its_commit_seals() -> None:
    bft = "0x63746963616c2062797a616e74696e65206661756c7420746f6c6572616e6365"
    validators = [bytes([i]) * 20 for i in range(1, 5)]

    def extra(round_: int, seals: list[bytes], vote: list[bytes] | None = None) -> str:
        return "0x" + bytes(rlp.encode([bytes(32), validators, vote or [], round_, seals])).hex()

    bare = hash_of_header(_header(mixHash=bft, extraData=extra(0, [])))
    assert hash_of_header(_header(mixHash=bft, extraData=extra(3, [b"\x01" * 65, b"\x02" * 65]))) == bare
    assert hash_of_header(_header(mixHash=bft, extraData=extra(3, [], [b"\x09" * 20, b"\xff"]))) != bare
    assert bare == keccak256(_header(mixHash=bft, extraData=extra(0, [])))
    # The same extra data under another mix hash are just extra data.
    plain = _header(extraData=extra(3, [b"\x01" * 65]))
    assert hash_of_header(plain) == keccak256(plain)


# --- what the command line says


@pytest.fixture
def described(chain: Chain, world: World) -> Network:
    genesis = chain.client().hash_of(0)
    return parse_network(network_json("test", chain.url, genesis, world.contracts, (), (), synthetic=True))


def test_a_checkup_names_each_fault(chain: Chain, described: Network) -> None:
    assert examine(described, chain.url, (chain.url,), lambda: 4e9)["warnings"] == []
    with pytest.raises(LocalFault, match="ahead of this machine's clock"):
        examine(described, chain.url, (), lambda: 1e9)
    with pytest.raises(ChainUnreachable, match=r"127\.0\.0\.1:9"):
        examine(described, "http://127.0.0.1:9")
    with endpoint(chain.url) as faulty:
        faulty.raw["*"] = BROKEN["502"][0]
        with pytest.raises(ChainUnreachable, match="HTTP 502"):
            examine(described, faulty.url)
        faulty.raw.clear()
        faulty.answers["eth_chainId"] = {"result": "0x7"}
        with pytest.raises(VerificationFailed, match=r"has id 7, network\.json says"):
            examine(described, faulty.url)
        said = examine(described, chain.url, (faulty.url,), lambda: 4e9)["warnings"]
        assert len(said) == 1
        assert "has id 7" in said[0]
        faulty.answers = {"eth_getCode": {"result": "0x"}}
        with pytest.raises(VerificationFailed, match="no contract Membership"):
            examine(described, faulty.url)
        faulty.answers.clear()
        faulty.faults.append(other_hashes)
        with pytest.raises(ChainDisputed, match=re.escape(faulty.url)):
            examine(described, chain.url, (faulty.url,), lambda: 4e9)
        with pytest.raises(VerificationFailed, match="block 0"):
            examine(described, faulty.url, (), lambda: 4e9)


def test_a_checkup_tells_which_endpoint_lags_and_fails_where_it_is_our_own(
    chain: Chain, world: World, described: Network
) -> None:
    world.study()
    client = chain.client()
    with endpoint(chain.url) as lagging:
        lagging.faults.append(lag(lagging, lambda: 2))
        missing = int(client.block(client.height() - 1)["timestamp"], 16)
        (said,) = examine(described, chain.url, (lagging.url,), lambda: missing + LACKS_S)["warnings"]
        assert re.search(rf"{re.escape(lagging.url)} stands at block \d+, .* of 15 s ago: the first one lags", said)
        with pytest.raises(ChainDisputed, match=rf"{re.escape(lagging.url)} stands at block") as found:
            examine(described, lagging.url, (chain.url,), lambda: missing + LACKS_S)
        assert found.value.exit_code == 3
        assert examine(described, lagging.url, (chain.url,), lambda: missing + 14)["warnings"] == [], "it is on its way"


def other_hashes(method: str, params: list[Any], answer: dict[str, Any]) -> dict[str, Any]:
    if method == "eth_getBlockByNumber" and isinstance(answer.get("result"), dict):
        answer["result"]["hash"] = "0x" + "ef" * 32
    return answer
