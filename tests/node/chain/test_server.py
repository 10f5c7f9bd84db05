from __future__ import annotations

import json
import re
import socket
import struct
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from web3 import HTTPProvider, Web3
from web3.exceptions import ContractCustomError, Web3RPCError

from node.chain.endpoint import endpoint_file, load_endpoint
from node.chain.journal import journal_file, verify_journal
from node.chain.server import serve
from node.errors import InputError, NotFound
from tests.node.chain.chain_kit import (
    ALICE,
    BOB,
    CHAIN_ID,
    LOGGER,
    REFUSER,
    ChainProcess,
    initcode,
    journal_hashes,
    run_to_end,
    sign,
    word,
)

pytestmark = pytest.mark.slow  # chains in processes of their own


def post(url: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"} | headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def call(url: str, method: str, *params: Any) -> Any:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    status, answer = post(url, body)
    assert status == 200
    return json.loads(answer)


CHAIN_ID_CALL = b'{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}'


def test_a_chain_killed_in_mid_burst_has_every_block_it_told_of(home: Path) -> None:
    running = ChainProcess(home, "--test-clock")
    told: list[str] = []
    enough = threading.Event()

    def burst() -> None:
        try:
            for nonce in range(400):
                told.append(call(running.url, "eth_sendRawTransaction", "0x" + sign(ALICE, nonce).hex())["result"])
                if nonce % 5 == 0:
                    call(running.url, "koinon_increaseTime", 5)
                if nonce == 25:
                    enough.set()
        except OSError:
            return  # killed, as planned

    sender = threading.Thread(target=burst)
    sender.start()
    assert enough.wait(60)
    blocks = [call(running.url, "eth_getBlockByNumber", hex(number), True)["result"] for number in range(15)]
    running.kill()
    sender.join()
    again = ChainProcess(home, "--test-clock")
    try:
        assert again.ready["genesis_hash"] == running.ready["genesis_hash"]
        for number, block in enumerate(blocks):
            assert call(again.url, "eth_getBlockByNumber", hex(number), True)["result"] == block
        for transaction in told:
            assert call(again.url, "eth_getTransactionReceipt", transaction)["result"]["status"] == "0x1"
        height = again.ready["height"]
        assert (
            journal_hashes(journal_file(home).read_text().splitlines())[height - 1]
            == (call(again.url, "eth_getBlockByNumber", "latest", False)["result"]["hash"])
        )
        assert call(again.url, "eth_sendRawTransaction", "0x" + sign(BOB, 0).hex())["result"]
    finally:
        assert again.stop() == 0
    assert verify_journal(home).ok


def test_web3_works_end_to_end(process: ChainProcess) -> None:
    w3 = Web3(HTTPProvider(process.url))
    assert w3.is_connected()
    assert w3.eth.chain_id == CHAIN_ID == process.ready["chain_id"]
    transaction = {"from": ALICE.address, "value": 0, "data": initcode(LOGGER), "nonce": 0, "chainId": CHAIN_ID}
    transaction["gas"] = w3.eth.estimate_gas(transaction)
    priority = w3.eth.max_priority_fee
    base = w3.eth.get_block("latest")["baseFeePerGas"]
    transaction |= {"maxPriorityFeePerGas": priority, "maxFeePerGas": 2 * base + priority}
    signed = ALICE.sign_transaction(transaction)
    receipt = w3.eth.wait_for_transaction_receipt(w3.eth.send_raw_transaction(signed.raw_transaction))
    assert receipt["status"] == 1
    signature = bytes(w3.keccak(text="Seen(uint256,uint256)"))
    raw = sign(ALICE, 1, to=receipt["contractAddress"], value=0, data=signature + word(7) + word(9))
    sent = w3.eth.send_raw_transaction(raw)
    logs = w3.eth.get_logs(
        {"fromBlock": 0, "address": receipt["contractAddress"], "topics": [signature, [word(7), word(8)]]}
    )
    assert [log["transactionHash"] for log in logs] == [sent]
    assert w3.eth.get_transaction(sent)["blockNumber"] == w3.eth.block_number == 2
    block = w3.eth.get_block("latest", full_transactions=True)
    assert block["transactions"][0]["hash"] == sent
    assert w3.eth.get_block("pending")["number"] == 3
    assert w3.eth.fee_history(2, "latest", [50.0])["oldestBlock"] == 1
    assert w3.eth.get_transaction_count(ALICE.address, "pending") == 2
    assert w3.eth.get_storage_at(receipt["contractAddress"], 0) == bytes(32)
    with pytest.raises(Web3RPCError, match="already known"):
        w3.eth.send_raw_transaction(raw)


def test_a_custom_error_reaches_web3_with_its_bytes(process: ChainProcess) -> None:
    w3 = Web3(HTTPProvider(process.url))
    deployment = w3.eth.send_raw_transaction(sign(ALICE, 0, to=b"", value=0, data=initcode(REFUSER)))
    refuser = w3.eth.wait_for_transaction_receipt(deployment)["contractAddress"]
    custom = bytes.fromhex("12345678") + word(5)
    for method in (w3.eth.call, w3.eth.estimate_gas):
        with pytest.raises(ContractCustomError) as caught:
            method({"to": refuser, "data": custom})
        assert caught.value.data == "0x" + custom.hex()


def test_a_second_process_on_one_home_is_refused(home: Path, process: ChainProcess) -> None:
    code, complaint = run_to_end(home)
    assert code == 8
    assert f"already running (process {process.process.pid})" in complaint
    assert call(process.url, "eth_blockNumber")["result"] == "0x0"


def test_sigterm_ends_the_process_cleanly(home: Path) -> None:
    running = ChainProcess(home)
    assert load_endpoint(home).url == running.url
    assert endpoint_file(home).stat().st_mode & 0o777 == 0o600
    assert running.stop() == 0
    with pytest.raises(NotFound):
        load_endpoint(home)


def test_a_damaged_journal_is_refused_by_the_process_and_named(journalled: Path) -> None:
    journal = journal_file(journalled)
    lines = journal.read_text().splitlines(keepends=True)
    lines[1] = re.sub('"timestamp":(\\d+)', lambda found: f'"timestamp":{int(found[1]) + 1}', lines[1])
    journal.write_text("".join(lines))
    code, complaint = run_to_end(journalled)
    assert code == 3
    assert "journal line 2: block hash: expected 0x" in complaint
    assert ", got 0x" in complaint


def test_a_home_without_chain_is_not_found(tmp_path: Path) -> None:
    code, complaint = run_to_end(tmp_path)
    assert code == 4
    assert "is missing" in complaint


def test_a_busy_port_is_said_and_the_home_is_free_again(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, complaint = run_to_end(home, "--port", str(taken.getsockname()[1]))
    assert code == 8
    assert "cannot listen on 127.0.0.1" in complaint


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_only_loopback_is_bound_unless_told(home: Path, host: str) -> None:
    with pytest.raises(InputError, match="--allow-remote"):
        serve(home, host=host)
    with pytest.raises(InputError, match="bearer token"):
        serve(home, host=host, allow_remote=True)
    with pytest.raises(InputError, match="at least 16"):
        serve(home, host=host, allow_remote=True, token="short")


def test_with_a_token_every_call_needs_it(home: Path, tmp_path: Path) -> None:
    token = "a-long-enough-token-for-this"
    (tmp_path / "token").write_text(token + "\n")
    running = ChainProcess(home, "--host", "0.0.0.0", "--allow-remote", "--token-file", str(tmp_path / "token"))
    try:
        url = f"http://127.0.0.1:{running.url.rsplit(':', 1)[1]}"
        assert post(url, CHAIN_ID_CALL)[0] == 401
        assert post(url, CHAIN_ID_CALL, Authorization="Bearer wrong")[0] == 401
        assert post(url, CHAIN_ID_CALL, Authorization=f"Bearer {token}")[0] == 200
        assert load_endpoint(home).token == token
    finally:
        running.kill()


def test_what_a_web_page_or_a_flood_could_send_is_refused(process: ChainProcess) -> None:
    assert post(process.url, CHAIN_ID_CALL)[0] == 200
    assert post(process.url, CHAIN_ID_CALL, Host="evil.example")[0] == 403
    assert post(process.url, CHAIN_ID_CALL, Host=f"localhost:{process.url.rsplit(':', 1)[1]}")[0] == 200
    assert post(process.url, CHAIN_ID_CALL, **{"Content-Type": "text/plain"})[0] == 415
    assert post(process.url, b"[" + b" " * (6 << 20) + b"]")[0] == 413
    assert post(process.url + "/other", CHAIN_ID_CALL)[0] == 404
    assert call(process.url, "eth_blockNumber")["result"] == "0x0"


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_client_cut_off_in_the_middle_of_its_request_leaves_no_alarm_in_the_log(home: Path, reset: bool) -> None:
    process = ChainProcess(home)
    cut_off = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"
    where = urllib.parse.urlsplit(process.url)
    with socket.create_connection((str(where.hostname), where.port or 0)) as client:
        client.sendall(cut_off)
        call(process.url, "eth_blockNumber")  # answered later, so the half request has been read by now
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert call(process.url, "eth_blockNumber")["result"] == "0x0"
    process.process.terminate()
    _, log = process.process.communicate(timeout=30)
    assert "Traceback" not in log, log


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\r\n\r\n", b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\n\r\n"])
def test_what_is_no_http_is_answered_and_leaves_nothing_in_the_log(home: Path, sent: bytes) -> None:
    process = ChainProcess(home)
    where = urllib.parse.urlsplit(process.url)
    with socket.create_connection((str(where.hostname), where.port or 0), timeout=20) as stranger:
        stranger.sendall(sent)
        assert stranger.recv(12) == b"HTTP/1.0 400"
    assert call(process.url, "eth_blockNumber")["result"] == "0x0"
    process.process.terminate()
    _, log = process.process.communicate(timeout=30)
    assert "ERROR" not in log, log[:2000]


def test_time_moves_only_through_the_test_clock(home: Path) -> None:
    running = ChainProcess(home)
    try:
        assert "test-clock" in call(running.url, "koinon_increaseTime", 10)["error"]["message"]
    finally:
        running.kill()


def test_a_clock_that_is_set_back_far_holds_blocks_back_until_it_has_caught_up(process: ChainProcess) -> None:
    def send(nonce: int) -> str:
        return str(call(process.url, "eth_sendRawTransaction", "0x" + sign(ALICE, nonce).hex())["result"])

    def receipts(*sent: str) -> list[Any]:
        return [call(process.url, "eth_getTransactionReceipt", one)["result"] for one in sent]

    first = send(0)
    stamp = int(call(process.url, "eth_getBlockByNumber", "latest", False)["result"]["timestamp"], 16)
    call(process.url, "koinon_setTime", hex(stamp - 3600))
    held = send(1), send(2)
    assert receipts(*held) == [None, None]
    call(process.url, "koinon_setTime", hex(stamp + 1))
    heights = [receipt["blockNumber"] for receipt in receipts(first, *held, send(3))]
    assert heights[:3] == ["0x1", "0x2", "0x2"], "what had to wait shares a block"


def test_a_full_disk_ends_the_process_and_the_next_start_has_what_was_told(home: Path) -> None:
    running = ChainProcess(home, "--test-clock", file_limit=3000)
    told = []
    while "result" in (answer := call(running.url, "eth_sendRawTransaction", "0x" + sign(ALICE, len(told)).hex())):
        told.append(answer["result"])
    assert "stopping" in answer["error"]["message"] or "internal" in answer["error"]["message"]
    _, complaint = running.process.communicate(timeout=30)
    assert running.process.returncode == 8
    assert "cannot write to" in complaint
    again = ChainProcess(home, "--test-clock")
    try:
        assert told
        for transaction in told:
            assert call(again.url, "eth_getTransactionReceipt", transaction)["result"]["status"] == "0x1"
    finally:
        again.kill()
