"""Putting the four contracts on a chain: addresses first, then the founders' statements, then the transactions.

Theory of operation. A contract's address follows from its deployer's address and nonce. The founders sign their seats
for Membership's address before it exists, and Membership names the other three before they exist; so a deployment is
planned (`plan_deployment`), signed by the founders elsewhere, and carried out (`deploy`) with exactly the planned
nonces. If another transaction took one of them, nothing fits any more: plan again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import rlp

from crypto.digest import Digest, keccak256
from crypto.keys import LedgerKey, address_text
from node.abi import (
    ARTIFACTS,
    CONTRACTS,
    Artifact,
    continuation_argument,
    encode_arguments,
    load_artifact,
    seat_argument,
)
from node.account import MemorySentStore, SendingAccount
from node.errors import LedgerError, VerificationFailed
from node.jsonrpc import data, quantity, word
from node.ledger import EthereumClient
from node.records import Continuation, Contracts, SeatInput

ORDER: Final = ("membership", "consent", "training", "unlearning")
"""Deployment order, one nonce each: Membership first, because it names the others."""


TRANSFER_GAS: Final = 21_000
CREATION_GAS: Final = 1 << 24
"""Gas limit of a creation: the most that Ethereum takes in one transaction (EIP-7825). The largest needs a third."""


@dataclass(frozen=True, slots=True)
class PlannedDeployment:
    """A deployment whose addresses are known and whose transactions are not sent yet.

    Attributes:
        deployer: 20-byte address.
        nonce: of the first of its four transactions.
        contracts: where the four will lie.
    """

    deployer: bytes
    nonce: int
    contracts: Contracts


def created_address(deployer: bytes, nonce: int) -> bytes:
    """Where the contract lies that `deployer` creates with this nonce (Yellow Paper, section 7)."""
    return bytes(keccak256(cast(bytes, rlp.encode([deployer, nonce])))[12:])


def plan_deployment(client: EthereumClient, deployer: bytes, before: Contracts | None = None) -> PlannedDeployment:
    """The addresses that a deployment by this account would have if it were its next four transactions.

    Args:
        before: the deployment on this chain that it will continue, if it does.

    Raises:
        ChainUnreachable, LedgerError: as :class:`EthereumClient`.
    """
    nonce = quantity(client.call("eth_getTransactionCount", address_text(deployer), "pending"))
    addresses = {field: created_address(deployer, nonce + place) for place, field in enumerate(ORDER)}
    return PlannedDeployment(deployer, nonce, Contracts(client.chain_id, **addresses, before=before))


def deploy(
    client: EthereumClient,
    key: LedgerKey,
    planned: PlannedDeployment,
    members: Sequence[SeatInput],
    auditors: Sequence[SeatInput] = (),
    *,
    studies: Sequence[Continuation] = (),
    artifacts: Sequence[Artifact] | None = None,
) -> None:
    """Carry out a planned deployment and check that the contracts lie where they were planned.

    One that was interrupted goes on where it ended.

    Args:
        client: the chain.
        key: the deployer's.
        planned: what the founders signed for.
        members: founders in index order, each with its own Seat statement for the planned Membership.
        auditors: founding auditors likewise.
        studies: of the deployment before (`planned.contracts.before`), if there is one: those that go on here.
        artifacts: others than those that come with this package.

    Raises:
        LedgerError: the deployer's nonce is not the planned one any more, or a creation failed.
        ChainUnreachable, OutcomeUnknown: as :class:`SendingAccount`; plan again.
    """
    if key.address != planned.deployer:
        raise LedgerError(f"planned for {address_text(planned.deployer)}, the key is {address_text(key.address)}")
    by_name = {one.name: one for one in artifacts or [load_artifact(name, ARTIFACTS) for name in CONTRACTS.values()]}
    account = SendingAccount(client, key, MemorySentStore())
    contracts = planned.contracts
    done = _created(client, planned, account.nonce())
    founding = {
        "members": [seat_argument(seat) for seat in members],
        "auditors": [seat_argument(seat) for seat in auditors],
        "consent_": contracts.consent,
        "training_": contracts.training,
        "unlearning_": contracts.unlearning,
        "predecessor_": bytes(20) if contracts.before is None else contracts.before.membership,
    }
    for place, field in list(enumerate(ORDER))[done:]:
        artifact = by_name[CONTRACTS[field]]
        arguments = founding if field == "membership" else {"membership": contracts.membership}
        if field == "training":
            arguments = {**arguments, "continued": [continuation_argument(one) for one in studies]}
        code = artifact.bytecode + encode_arguments(_constructor_inputs(artifact), arguments)
        _create(client, account, artifact.name, code, planned.nonce + place)
    check_deployment(client, contracts)


def pay(client: EthereumClient, key: LedgerKey, addresses: Sequence[bytes], wei: int) -> None:
    """Send each address `wei` unless it has as much already: what a member's account needs to carry statements."""
    account = SendingAccount(client, key, MemorySentStore())
    for address in addresses:
        if quantity(client.call("eth_getBalance", address_text(address), "latest")) < wei:
            account.transact(address, b"", lambda: TRANSFER_GAS, value=wei)


def check_deployment(client: EthereumClient, contracts: Contracts) -> None:
    """Check that Membership lies where `contracts` says and names the other three as `contracts` does.

    Raises:
        VerificationFailed: no contract there, or another network's.
    """
    for field in ORDER:
        address = getattr(contracts, field)
        if data(client.call("eth_getCode", address_text(address), "latest")) == b"":
            raise VerificationFailed(f"no contract {CONTRACTS[field]} at {address_text(address)} on this chain")
    for field in ORDER[1:]:
        question = {"to": address_text(contracts.membership), "data": "0x" + keccak256(f"{field}()".encode())[:4].hex()}
        found = data(client.call("eth_call", question, "latest"))[-20:]
        if found != getattr(contracts, field):
            raise VerificationFailed(
                f"Membership says {CONTRACTS[field]} is at 0x{found.hex()}, "
                f"expected {address_text(getattr(contracts, field))}"
            )


def genesis_hash(client: EthereumClient) -> Digest:
    """Hash of block 0: with the chain id, what tells one chain from another."""
    return word(client.block(0)["hash"])


def _created(client: EthereumClient, planned: PlannedDeployment, nonce: int) -> int:
    """How many of the planned contracts an interrupted deployment made already."""
    done = nonce - planned.nonce
    made = [getattr(planned.contracts, field) for field in ORDER[: max(0, done)]]
    codes = (client.call("eth_getCode", address_text(address), "latest") for address in made)
    if not 0 <= done <= len(ORDER) or any(data(code) == b"" for code in codes):
        raise LedgerError(f"nonce {planned.nonce} was planned for, {nonce} is next: plan the deployment again")
    return done


def _create(client: EthereumClient, account: SendingAccount, name: str, code: bytes, nonce: int) -> None:
    gas = min(CREATION_GAS, quantity(client.block("latest")["gasLimit"]))
    receipt = account.transact(None, code, lambda: gas, nonce=nonce)
    if quantity(receipt["status"]) != 1:
        raise LedgerError(f"{name} was not created: transaction {receipt['transactionHash']} failed")


def _constructor_inputs(artifact: Artifact) -> list[dict[str, object]]:
    return next(entry["inputs"] for entry in artifact.abi if entry["type"] == "constructor")
