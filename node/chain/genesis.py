"""The first state of an embedded chain: its id, its first second, and who owns how much. Written once, read strictly.

`chain/genesis.json` (format 1) is canonical: two-space indented JSON with sorted keys and a last line break, amounts
as decimal strings (they exceed what a JSON reader may keep exact). Any other bytes are refused, so that one changed
byte is noticed even where it would not change a block.
"""

from __future__ import annotations

import json
import secrets
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from crypto.keys import LedgerKey
from node import jsontext
from node.chain.errors import GenesisError
from node.chain.files import write_private
from node.errors import NotFound

FORMAT = 1
# A random id is above every id in public use that we know of and below the largest that wallets hold exactly.
MIN_CHAIN_ID = 2**40
MAX_CHAIN_ID = 4_503_599_627_370_476
MAX_WEI = 2**128
MAX_TIMESTAMP = 2**40

OPERATOR_WEI = 10**27
"""What the operator's account holds at genesis: a billion coins, to fund whoever joins later."""


@dataclass(frozen=True)
class ChainGenesis:
    """Everything the first block follows from.

    Attributes:
        chain_id: EIP-155 id, random per network, small enough for a 52-bit float.
        timestamp: stamp of block 0, seconds since 1970.
        allocation: wei by 20-byte address.
    """

    chain_id: int
    timestamp: int
    allocation: Mapping[bytes, int]

    def to_bytes(self) -> bytes:
        """The one encoding of this genesis."""
        document = {
            "allocation": {"0x" + address.hex(): str(wei) for address, wei in self.allocation.items()},
            "chain_id": self.chain_id,
            "format": FORMAT,
            "timestamp": self.timestamp,
        }
        return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode("ascii")

    @staticmethod
    def from_bytes(data: bytes) -> ChainGenesis:
        """Read the encoding of :meth:`to_bytes`, and nothing else.

        Raises:
            GenesisError: another format, a missing or extra field, a value out of range, or bytes that are not
                canonical.
        """
        try:
            document = jsontext.loads(data)
        except ValueError as error:
            raise GenesisError(f"genesis.json is not JSON: {error}") from None
        if not isinstance(document, dict):
            raise GenesisError(f"genesis.json holds a {type(document).__name__}, not an object")
        if document.get("format") != FORMAT:
            raise GenesisError(f"genesis.json is of format {document.get('format')!r}; this koinon reads {FORMAT}")
        wanted = {"allocation", "chain_id", "format", "timestamp"}
        if set(document) != wanted:
            raise GenesisError(f"genesis.json has the fields {sorted(document)}, expected {sorted(wanted)}")
        amounts = document["allocation"]
        if not isinstance(amounts, dict):
            raise GenesisError("genesis.json: allocation is not an object")
        genesis = ChainGenesis(
            chain_id=_bounded("chain_id", document["chain_id"], 1, MAX_CHAIN_ID),
            timestamp=_bounded("timestamp", document["timestamp"], 1, MAX_TIMESTAMP),
            allocation={_address(key): _wei(key, amount) for key, amount in amounts.items()},
        )
        if genesis.to_bytes() != data:
            raise GenesisError("genesis.json is not in its canonical form: it was edited or damaged")
        return genesis


def chain_folder(home: Path) -> Path:
    """Where the chain of a network home lies."""
    return home / "chain"


def operator_key_file(home: Path) -> Path:
    """The file of the operator's private key, for its owner's eyes only."""
    return chain_folder(home) / "operator.key"


def create_genesis(
    home: Path,
    members: Mapping[bytes, int],
    *,
    chain_id: int | None = None,
    timestamp: int | None = None,
) -> ChainGenesis:
    """Make the chain of a new network: a random id, an operator account, and coin for `members`.

    Args:
        home: the network home; `chain/` is made inside it.
        members: wei by 20-byte address, beside the operator's.
        chain_id: instead of a random one.
        timestamp: instead of now, seconds since 1970.

    Raises:
        GenesisError: a genesis is there already, or a value is out of range.
    """
    folder = chain_folder(home)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / "genesis.json"
    if path.exists():
        raise GenesisError(f"{path} is there already: a chain is made once")
    operator = LedgerKey.generate()
    allocation = {_address("0x" + bytes(key).hex()): _wei(bytes(key).hex(), str(wei)) for key, wei in members.items()}
    allocation[operator.address] = OPERATOR_WEI
    genesis = ChainGenesis(
        chain_id=_bounded("chain_id", chain_id or _random_chain_id(), 1, MAX_CHAIN_ID),
        timestamp=_bounded("timestamp", int(time.time()) if timestamp is None else timestamp, 1, MAX_TIMESTAMP),
        allocation=allocation,
    )
    # The key first: a chain whose operator key is missing cannot fund anyone, a key without a chain is only litter.
    write_private(operator_key_file(home), (operator.to_bytes().hex() + "\n").encode("ascii"))
    write_private(path, genesis.to_bytes())
    return genesis


def load_genesis(home: Path) -> ChainGenesis:
    """Read `chain/genesis.json` of a network home.

    Raises:
        NotFound: there is none.
        GenesisError: it cannot be used; the message says why.
    """
    path = chain_folder(home) / "genesis.json"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"no chain in {home}: {path} is missing") from None
    return ChainGenesis.from_bytes(data)


def load_operator_key(home: Path) -> bytes:
    """The operator's 32-byte private key.

    Raises:
        NotFound: there is none in this home.
        GenesisError: it is not 32 bytes of hex, or others than its owner may read it.
    """
    path = operator_key_file(home)
    try:
        text = path.read_text(encoding="ascii").strip()
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        raise NotFound(f"no operator key in {home}: only the home that made the chain can fund accounts") from None
    except UnicodeDecodeError:
        raise GenesisError(f"{path} is not hex") from None
    if mode & 0o077:
        raise GenesisError(f"{path} can be read by others (mode {mode:04o}); make it 0600")
    try:
        key = bytes.fromhex(text)
    except ValueError:
        raise GenesisError(f"{path} is not hex") from None
    if len(key) != 32:
        raise GenesisError(f"{path} holds {len(key)} bytes, a private key has 32")
    return key


def _random_chain_id() -> int:
    return MIN_CHAIN_ID + secrets.randbelow(MAX_CHAIN_ID - MIN_CHAIN_ID)


def _bounded(name: str, value: object, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise GenesisError(f"genesis: {name} is {value!r}, expected a whole number from {low} to {high}")
    return value


def _address(text: str) -> bytes:
    try:
        address = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        address = b""
    if len(address) != 20:
        raise GenesisError(f"genesis: {text!r} is not a 20-byte address")
    return address


def _wei(key: str, amount: object) -> int:
    if not isinstance(amount, str) or not amount.isascii() or not amount.isdigit() or len(amount) > 40:
        raise GenesisError(f"genesis: the amount of {key} is {amount!r}, expected decimal digits in a string")
    wei = int(amount)
    if wei > MAX_WEI:
        raise GenesisError(f"genesis: the amount of {key} is {wei}, the most is {MAX_WEI}")
    return wei
