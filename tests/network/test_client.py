"""A study on a client by URL, with a block time, through what such clients do: reorganisations, outages, lies.

Five real node processes; the chain is anvil, which makes a block each second and takes blocks back when told. One
member reaches it through an endpoint that can lie.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from crypto.keys import LedgerKey
from node import control
from node.founding import Plan, found_network
from node.ledger import EthereumClient
from tests.anvil import anvil as anvil_process
from tests.fakes.endpoint import Endpoint, endpoint, hide_logs
from tests.fakes.network import dataset
from tests.network.conftest import MEMBERS, NAMES, Processes, free_ports, wait

pytestmark = [pytest.mark.network, pytest.mark.timeout(300)]
LIED_TO = "member-4"


class OnClient(Processes):
    """Processes whose chain is a client by URL."""

    client: EthereumClient

    def rpc(self, method: str, *parameters: object) -> object:
        return self.client.call(method, *parameters)

    def status(self, name: str) -> dict[str, object]:
        return control.ask(self.homes[name] / "control.json", "status", {}, 5.0)


@pytest.fixture(scope="module")
def anvil() -> Iterator[str]:
    with anvil_process("--block-time", "1") as url:
        yield url


@pytest.fixture(scope="module")
def liar(anvil: str) -> Iterator[Endpoint]:
    with endpoint(anvil) as made:
        yield made


@pytest.fixture(scope="module")
def net(anvil: str, liar: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnClient]:
    home = tmp_path_factory.mktemp("client") / "net"
    client, deployer = EthereumClient(anvil, None), LedgerKey.generate()
    client.call("anvil_setBalance", "0x" + deployer.address.hex(), hex(10**24))
    data = tuple(dataset(i) for i in range(MEMBERS))
    base = free_ports(MEMBERS + 2)
    found_network(home, Plan("client", data, "npz-classification", chain=anvil, base_port=base, deployer=deployer))
    processes = OnClient(home)
    processes.client = client
    settings = processes.homes[LIED_TO] / "config.toml"
    text = settings.read_text().replace(f'url = "{anvil}"', f'url = "{liar.url}"')
    settings.write_text(text.replace("check_urls = []", f'check_urls = ["{anvil}"]'))
    try:
        for name in NAMES:
            processes.start(name)
        for name in NAMES:
            processes.wait_ready(name)
        yield processes
    finally:
        processes.stop()


def test_a_study_survives_reorganisations_during_its_rounds(net: OnClient) -> None:
    def reorganise(depth: int) -> None:
        before = {name: net.metric(name, "reorganisations_total") for name in NAMES}
        net.rpc("anvil_reorg", depth, [])
        # A slow one may not have read that far yet.
        wait(
            lambda: any(net.metric(name, "reorganisations_total") > before[name] for name in NAMES), "somebody notices"
        )

    study = net.create("reorganised", rounds=2, scribe_s=30)
    for name in NAMES:
        wait(lambda name=name: study in net.history(name).studies, f"{name} reads of the study")
    reorganise(4)  # with the study itself: what says that it exists falls out, and what members say about it
    net.wait_round(study, 1)
    reorganise(3)
    net.wait_finished(study)
    net.agree(study)


def test_a_member_whose_endpoint_hides_a_block_s_logs_waits_and_comes_back(net: OnClient, liar: Endpoint) -> None:
    study = net.create("hidden", rounds=2, scribe_s=12)
    net.wait_round(study, 1)
    trained = net.metric(LIED_TO, "trainings_total")
    liar.faults.append(hide_logs(lambda log: True))
    wait(lambda: net.metric(LIED_TO, "chain_disputed") == 1, "the lie is noticed")
    assert "receipts root" in str(net.status(LIED_TO)["chain_fault"])
    assert not net.status(LIED_TO)["ready"]
    net.wait_round(study, 2, at="member-1")
    assert net.metric(LIED_TO, "trainings_total") <= trained + 1, "nothing of a round it cannot see is trained"
    liar.faults.clear()
    net.wait_finished(study)
    net.agree(study)
    assert net.status(LIED_TO)["chain_fault"] is None


def test_a_study_survives_an_outage_and_a_restart(net: OnClient, liar: Endpoint) -> None:
    study = net.create("outage", rounds=2, scribe_s=30)
    net.wait_round(study, 1)
    liar.raw["*"] = (502, "text/html", b"<html>Bad Gateway</html>")
    wait(lambda: "HTTP 502" in str(net.status(LIED_TO)["chain_fault"]), "the fault is named")
    net.send(LIED_TO, signal.SIGKILL)
    liar.raw.clear()
    net.start(LIED_TO)
    net.wait_finished(study)
    net.agree(study)
