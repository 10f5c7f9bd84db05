"""`koinon chain`: the ledger that a network stands on."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from node.cli.common import FILE, HOME, read_text
from node.cli.output import Noun, answer, json_flag, pairs, progress
from node.errors import InputError

if TYPE_CHECKING:
    from node.records import SeatInput


@click.group(cls=Noun)
def chain() -> None:
    """Serve the embedded chain, look at a chain, put contracts on one, give coin to a newcomer.

    Example: koinon chain status --home NET

    Any Ethereum client by URL serves as well; public chains are refused.
    """


@chain.command()
@click.option("--home", type=HOME, required=True, help="The network's folder, with chain/genesis.json.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind.")
@click.option("--port", type=int, default=0, help="0: any free one.")
@click.option("--allow-remote", is_flag=True, help="Bind an address that other machines can reach.")
@click.option("--token-file", type=FILE, help="File with the bearer token; needed beyond this machine.")
@json_flag
def serve(home: Path, host: str, port: int, allow_remote: bool, token_file: Path | None) -> None:
    """Run the embedded chain until Ctrl-C or SIGTERM; one line on stdout when it answers.

    Example: koinon chain serve --home NET --port 24100

    One process orders everything: members verify what it says, but it can delay. Consortia use their own client.
    """
    from node.chain.server import serve as run

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    token = None if token_file is None else read_text(token_file, "token file", 4096).strip()
    run(
        home,
        host=host,
        port=port,
        token=token,
        allow_remote=allow_remote,
        ready=lambda one: click.echo(one.to_line()),
    )


@chain.command()
@click.option("--home", type=HOME, required=True, help="A network's or a node's home.")
@json_flag
def status(home: Path) -> None:
    """Ask the chain: its id, its newest block, whether the network's contracts are there, what other endpoints say.

    Example: koinon chain status --home NET

    A node's home is asked about as its config.toml says (chain.url, chain.check_urls), a network's home as network.json
    says. Exit code 6 when nothing answers, 3 when another chain or other contracts do, two endpoints differ, or
    chain.url has lacked a block of another for 15 s. Another that lags or is silent is a warning.
    """
    from node import config
    from node.checkup import examine
    from node.cli.common import network_of

    network = network_of(home)
    url, others = network.chain_url, []
    if (home / "config.toml").exists():
        settings = config.load(home / "config.toml")
        url, others = settings["chain", "url"], settings["chain", "check_urls"]
    data = examine(network, url, others)
    shown = {key: one for key, one in data.items() if key not in ("contracts", "check_urls", "warnings")}
    lines = pairs(**shown, **{f"contract_{name}": at for name, at in data["contracts"].items()})
    lines += [f"compared with {one}" for one in others] + [f"warning: {one}" for one in data["warnings"]]
    answer(data, lines)


@chain.command()
@click.option("--url", required=True, help="The chain's JSON-RPC address.")
@click.option("--key-file", type=FILE, required=True, help="Hex key of the account that pays.")
@click.option("--seats", type=FILE, required=True, help="JSON list of applications (`koinon member apply`).")
@click.option("--plan", is_flag=True, help="Only say where the contracts would lie.")
@json_flag
def deploy(url: str, key_file: Path, seats: Path, plan: bool) -> None:
    """Put the four contracts on a chain for founders who hold their keys elsewhere.

    Example: koinon chain deploy --url http://chain:8545 --key-file key --seats seats.json --plan

    Founders sign their seats for the planned Membership address first (--plan says it); then the same command without
    --plan carries it out. `koinon network init --chain URL` does both for a network on one machine.
    """
    from crypto.keys import address_text
    from node.cli.network import deployer_key
    from node.deployment import deploy as carry_out
    from node.deployment import genesis_hash, plan_deployment
    from node.ledger import EthereumClient

    key = deployer_key(key_file)
    client = EthereumClient(url, None)
    planned = plan_deployment(client, key.address)
    places = ("membership", "consent", "training", "unlearning")
    contracts = {name: address_text(getattr(planned.contracts, name)) for name in places}
    data = {"chain_id": planned.contracts.chain_id, "contracts": contracts, "deployed": not plan}
    if not plan:
        inputs = _seats(seats)
        progress(f"deploying four contracts on chain {planned.contracts.chain_id}")
        carry_out(
            client,
            key,
            planned,
            [one for role, one in inputs if role == "member"],
            [one for role, one in inputs if role == "auditor"],
        )
    data["genesis_hash"] = genesis_hash(client).hex()
    answer(data, pairs(chain_id=data["chain_id"], deployed=data["deployed"], **contracts))


def _seats(path: Path) -> list[tuple[str, SeatInput]]:
    import json

    from node.records import SeatInput

    try:
        raw = json.loads(read_text(path, "seats"))
        return [
            (
                str(one.get("role", "member")),
                SeatInput(
                    bytes.fromhex(one["ledger"]),
                    bytes.fromhex(one["peer_id"]),
                    bytes.fromhex(one["sealing_key"]),
                    str(one["name"]),
                    bytes.fromhex(one["signature"]),
                ),
            )
            for one in raw
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"seats {path}: not a list of applications: {type(error).__name__}: {error}") from error


@chain.command()
@click.option("--home", type=HOME, required=True, help="The network's folder that made the chain.")
@click.option("--address", required=True, help="The account that gets coin.")
@click.option("--coin", type=int, default=1000, show_default=True, help="How much, in units of 10^18 wei.")
@json_flag
def fund(home: Path, address: str, coin: int) -> None:
    """Give an account coin, so that it can send transactions on the embedded chain.

    Example: koinon chain fund --home NET --address 0x...

    Coin has no value here; it only pays for gas. It makes nobody a member.
    """
    from crypto.errors import EncodingError
    from crypto.keys import address_text, parse_address
    from node.chain.fund import fund as give

    try:
        account = parse_address(address)
    except EncodingError as error:
        raise InputError(f"--address {address[:80]!r}: {error.problem}") from error
    done = give(home, account, coin * 10**18)
    data = {
        "address": address_text(account),
        "balance_wei": str(done.balance),
        "transaction": done.transaction_hash.hex(),
        "block": done.block_number,
    }
    answer(data, pairs(**data))
