"""What only a real machine has: contract wallets (ERC-1271), contracts that tell their signing domain (ERC-5267)."""

from __future__ import annotations

import pytest
from eth_abi import abi

from crypto.digest import Digest
from crypto.keys import address_text
from crypto.statements import (
    Admit,
    AuditAccess,
    Domain,
    EndAuditor,
    Remove,
    Seat,
    Verdict,
    WithdrawByHospital,
    struct_hash,
)
from node.account import MemorySentStore, SendingAccount
from node.errors import CallReverted
from node.records import Admission, AuditorEnded, AuditorEnding, MemberAdmitted, SeatInput
from tests.node.ledger.conftest import Chain, WorldMaker
from tests.node.ledger.world import World, one_of, word

YES = bytes.fromhex("631626ba7e60e01b5f5260205ff3")
"""Runtime code of a wallet that takes every signature: returns the magic value of ERC-1271."""
BURNS = bytes.fromhex("5b5f56")
"""Runtime code that runs in a circle until its gas is gone."""


def deployed(chain: Chain, runtime: bytes) -> bytes:
    """Put code on a chain; its address."""
    # PUSH1 len, DUP1, PUSH1 9, PUSH0, CODECOPY, PUSH0, RETURN
    init = bytes([0x60, len(runtime), 0x80, 0x60, 0x09, 0x5F, 0x39, 0x5F, 0xF3]) + runtime
    account = SendingAccount(chain.client(), chain.operator, MemorySentStore(), mine_timeout_s=20)
    receipt = account.transact(None, init, lambda: 200_000)
    return bytes.fromhex(receipt["contractAddress"][2:])


def wallet_seat(world: World, wallet: bytes) -> SeatInput:
    return SeatInput(wallet, b"peer of " + wallet, word("sealing"), "wallet", b"any signature")


def admit_wallet(world: World, wallet: bytes, voters: list[int]) -> None:
    seat = wallet_seat(world, wallet)
    seat_hash = struct_hash(Seat("member", seat.peer_id, Digest(seat.sealing_key), seat.name))
    world.send(Admission(seat, world.votes(voters, Admit(1, wallet, seat_hash))))


@pytest.fixture(params=["embedded", "anvil"])
def kind(request: pytest.FixtureRequest) -> str:
    """Only the real machines run code."""
    return str(request.param)


def test_a_wallet_votes_by_its_own_word(make_world: WorldMaker, kind: str, request: pytest.FixtureRequest) -> None:
    world, chain = make_world(3), request.getfixturevalue(kind)
    admit_wallet(world, deployed(chain, YES), [0, 1, 2])
    votes = (*world.votes([0, 1], EndAuditor(2, 0, world.auditors[0].address)), (3, b"what this wallet takes"))
    assert one_of(world.send(AuditorEnding(0, votes)), AuditorEnded).epoch == 3


def test_a_wallet_that_burns_its_gas_is_not_seated(
    make_world: WorldMaker, kind: str, request: pytest.FixtureRequest
) -> None:
    world, chain = make_world(3), request.getfixturevalue(kind)
    with pytest.raises(CallReverted) as refused:
        admit_wallet(world, deployed(chain, BURNS), [0, 1, 2])
    assert refused.value.error == "SeatNotSigned"
    assert len(world.all(MemberAdmitted)) == 3


def test_every_contract_tells_the_domain_that_nodes_sign_in(
    make_world: WorldMaker, kind: str, request: pytest.FixtureRequest
) -> None:
    """ERC-5267."""
    world, chain = make_world(2), request.getfixturevalue(kind)
    contracts = world.contracts
    for name, statement in (
        ("membership", Remove),
        ("consent", WithdrawByHospital),
        ("training", AuditAccess),
        ("unlearning", Verdict),
    ):
        domain = world.domains.of(statement)
        question = {"to": address_text(getattr(contracts, name)), "data": "0x84b0196e"}
        told = bytes.fromhex(chain.client().call("eth_call", question, "latest")[2:])
        fields, title, version, chain_id, where, salt, extensions = abi.decode(
            ["bytes1", "string", "string", "uint256", "address", "bytes32", "uint256[]"], told
        )
        assert (fields, salt, extensions) == (b"\x0f", bytes(32), ())
        assert (title, version, chain_id) == (Domain.NAME, Domain.VERSION, domain.chain_id)
        assert bytes.fromhex(where[2:]) == domain.contract
