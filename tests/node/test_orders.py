"""Orders at a running node of a network that is not synthetic: two persons, and that stopping waits for nobody."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import pytest

from crypto.digest import Digest
from crypto.keys import seal_keystore
from node import config, roles
from node.errors import InputError, NotFound, Refused
from node.home import HomeLock, create_home
from node.runner import Opened, Orders
from tests.fakes.network import Net, SharedTrainer, dataset, network, spec

pytestmark = pytest.mark.slow  # whole networks in memory

ROW = {"form": "f", "signed_on": "2026-01-01", "signer": "patient", "verified_by": "dr.keller", "until": ""}


class Desk:
    """Somebody at a node, in any role."""

    def __init__(self, net: Net, index: int, *, synthetic: bool = False) -> None:
        seating = net.seatings[index]
        home = create_home(seating.home, "member", index)
        home.keystore_path.write_bytes(seal_keystore(seating.ring, "any", log_n=10))
        roles.create(home.path)
        config.write(home.config_path)
        described = dataclasses.replace(net.network, synthetic=synthetic)
        node = net.nodes[index]
        settings = config.load(home.config_path, {})
        lock = HomeLock(home.path)
        lock.release()  # the test ends the node
        # The node's ledger is in memory and no order of these tests asks another: there is no Ethereum client to name.
        ledger, ring = cast(Any, None), node.participant.ring
        self.opened = Opened(home, described, settings, node.participant.store, node, ledger, ring, lock)
        self.orders = Orders(self.opened)

    async def order(self, role: str, name: str, **body: Any) -> dict[str, Any]:
        path = self.opened.home.path
        envelope = roles.Signer(path, role, roles.load(path, role)).sign(name, body, "")
        return await self.orders.carry_out(name, {**body, "authorisation": envelope})


@pytest.fixture
def trainer() -> Any:
    one = SharedTrainer()
    yield one
    one.end()


async def test_grants_of_an_import_wait_for_the_clinician_and_its_ends_for_nobody(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 2) as net:
        await net.create(spec(rounds=1))
        await net.until(lambda: bool(net.rounds(1)))
        desk = Desk(net, 0)
        vault = net.nodes[0].participant.vault
        assert vault is not None
        vault.import_dataset(dataset(9, patients=3))
        rows = [
            {
                "line": line,
                "where": f"f, {line}",
                "patient_id": f"patient-9-{line}",
                "document": "{}",
                **ROW,
                "form": form_name(net),
            }
            for line in (1, 2)
        ]
        end = {"line": 3, "where": "f, 3", "patient_id": "patient-0-3", "form": form_name(net), "mark": "withdrawn"}
        body = {"study": None, "rows": rows, "ends": [end | {"signed_on": "2030-01-01"}]}
        twice = [rows[0], {**rows[0], "line": 2, "where": "f, 2"}]
        with pytest.raises(InputError, match="f, 2: repeats the patient and form of 1"):
            await desk.order("dpo", "consent.import", **{**body, "rows": twice})
        with pytest.raises(Refused, match=r"takes two persons.*What it ends has ended already: 1 consents"):
            await desk.order("dpo", "consent.import", **body)
        assert [one.mark for one in vault.find("patient-0-3")] == ["withdrawn"], "stopping waits for nobody"
        (waiting,) = (await desk.order("operator", "node.pending"))["orders"]
        assert waiting["summary"] == "2 grants from FHIR Consents"
        with pytest.raises(Refused, match="the clinician's to approve"):
            await desk.order("dpo", "node.approve", order=waiting["order_id"])
        await desk.order("clinician", "node.approve", order=waiting["order_id"])
        told = await desk.order("dpo", "consent.import", **body)
        assert (told["granted"], told["refused"]) == (2, [])
        assert (await desk.order("dpo", "node.pending"))["orders"] == []
        told = await desk.order("dpo", "consent.import", **body)
        assert (told["granted"], told["known"]) == (0, 2), "nobody approves what changes nothing"
        gone = {**rows[0], "line": 4, "where": "f, 4", "patient_id": "patient-0-3"}
        absent = {**rows[0], "line": 5, "where": "f, 5", "patient_id": "nobody"}
        told = await desk.order("dpo", "consent.import", **{**body, "rows": [*rows, gone, absent]})
        assert (told["granted"], [one["line"] for one in told["refused"]], told["absent"]) == (0, [4], [5])
        new = {**rows[0], "line": 6, "where": "f, 6", "patient_id": "patient-9-0"}
        with pytest.raises(Refused, match="takes two persons"):
            await desk.order("dpo", "consent.import", **{**body, "rows": [*rows, new]})
        alone = await desk.order("dpo", "consent.import", **{**body, "rows": [new]})
        assert alone["granted"] == 1, "one grant is one person's"


async def test_exports_take_two_and_withdrawals_one(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer, 2) as net:
        await net.create(spec(rounds=1))
        await net.until(lambda: bool(net.rounds(1)))
        desk = Desk(net, 0)
        export = {"study": None, "round": 9}
        with pytest.raises(Refused, match="waits for the dpo"):
            await desk.order("clinician", "model.export", **export)
        order = (await desk.order("clinician", "node.pending"))["orders"][-1]["order_id"]
        await desk.order("dpo", "node.approve", order=order)
        with pytest.raises(NotFound):  # carried out now: there is no such model
            await desk.order("clinician", "model.export", **export)
        told = await desk.order("dpo", "consent.withdraw", patient="patient-0-1")
        assert len(told["consents"]) == 1
        asked = await desk.order("dpo", "erase.request", patient="patient-0-2")
        assert asked["controller"] == 0


async def test_a_refusal_waits_for_a_second_person_also_where_all_is_synthetic(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 2) as net:
        await net.create(spec(rounds=1))
        await net.until(lambda: bool(net.rounds(1)))
        desk, node = Desk(net, 0, synthetic=True), net.nodes[0]
        with pytest.raises(NotFound):
            await desk.order("dpo", "erase.refuse", erasure="ab" * 32, ground=5, authority="DPA")
        assert not (await desk.order("dpo", "node.pending"))["orders"], "nobody is asked to approve what cannot be"
        node.desk.review_s = 10_000
        asked = await desk.order("dpo", "erase.request", patient="patient-0-3")
        batch = Digest.from_hex(asked["erasure"])
        await net.until(lambda: batch in node.history.erasures)
        (consent,) = asked["consents"]
        assert (await desk.order("dpo", "audit.uses", consent=consent))["erasure"] == batch.hex()
        refusal = {"erasure": batch.hex(), "ground": 5, "authority": "DPA"}
        with pytest.raises(Refused, match="waits for the clinician"):
            await desk.order("dpo", "erase.refuse", **refusal)
        (one,) = (await desk.order("operator", "node.pending"))["orders"]
        assert (one["order"], one["second"], one["approved_by"]) == ("erase.refuse", "clinician", None)
        for role in ("dpo", "operator"):
            with pytest.raises(Refused, match="the clinician's to approve"):
                await desk.order(role, "node.approve", order=one["order_id"])
        with pytest.raises(Refused, match="waits for the clinician"):
            await desk.order("dpo", "erase.refuse", **refusal)
        await desk.order("clinician", "node.approve", order=one["order_id"])
        with pytest.raises(Refused, match="waits for the clinician"):
            await desk.order("dpo", "erase.refuse", **{**refusal, "authority": "another"})
        assert "DPA" in (await desk.order("dpo", "erase.refuse", **refusal))["notice"]
        await net.until(lambda: node.history.erasures[batch].refused is not None)


async def test_an_order_without_a_role_is_refused_and_status_needs_none(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer, 2) as net:
        await net.until(lambda: net.nodes[0].ready)
        desk = Desk(net, 0)
        assert (await desk.orders.carry_out("status", {}))["data_shape"]
        for name in set(roles.ORDERS):
            with pytest.raises(Refused):
                await desk.orders.carry_out(name, {})
        with pytest.raises(InputError, match="unknown order"):
            await desk.orders.carry_out("vault.open", {})


async def test_an_order_to_a_node_that_comes_up_waits_until_it_knows_who_it_is(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 2) as net:
        await net.play(spec(rounds=1))
        await net.kill(0)
        node = await net.start(0)
        assert not node.history.registry.members
        asked = await Desk(net, 0).order("dpo", "erase.request", patient="patient-0-2")
        assert (asked["controller"], len(asked["erasures"])) == (0, 1)


def form_name(net: Net) -> str:
    (study,) = net.nodes[0].history.studies
    return str(net.nodes[0].participant.studies[study].study.forms[0]["name"])
