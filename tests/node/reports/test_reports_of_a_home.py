"""The three reports by the command line, from the homes of a real network on the disk."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import trio
from prov.model import ProvDocument, ProvEntity

from node.cli.output import moment
from node.events import SHOWN
from node.home import node_homes
from node.ledger import EthereumClient
from node.logbook import DAY_S
from tests.node.audit.audit_kit import running_chain, running_nodes, until
from tests.node.cli.cli_kit import koinon_says

pytestmark = pytest.mark.slow


def data_of(*arguments: object) -> Any:
    code, said, _ = koinon_says(*arguments, "--json")
    assert code == 0, said
    return json.loads(said)["data"]


async def anchor(home: Path, url: str) -> None:
    async with running_nodes(home, url) as nodes:
        await until(lambda: all(set(node.history.logs) == {0, 1, 2} for node in nodes))


@pytest.fixture(scope="module")
def home(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that ran, and a second day on which the nodes anchored their logs."""
    path = Path(shutil.copytree(original, tmp_path_factory.mktemp("reports") / "network"))
    for one in node_homes(path):
        with sqlite3.connect(one / "node.db") as database:
            database.execute("UPDATE events SET time = time - ?", (DAY_S + 1,))
        database.close()
    with running_chain(path) as url:
        trio.run(anchor, path, url)
    return path


def test_the_lineage_of_a_real_study_is_read_back(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "lineage.json"
    assert koinon_says("audit", "provenance", "--home", home, "--out", out)[0] == 0
    document = ProvDocument.deserialize(content=out.read_text(), format="json")
    assert [one for one in document.get_records(ProvEntity) if "model-" in str(one.identifier)]
    assert data_of("audit", "provenance", "--home", home) == json.loads(out.read_text())


def test_the_record_of_processing_is_written_in_three_forms(home: Path, tmp_path: Path) -> None:
    member = home / "member-1"
    found = data_of("audit", "record-of-processing", "--home", member)
    assert found["activities"][0]["name"] == "audited"
    assert len(found["activities"][0]["controllers"]) == 3
    for form, mark in (("json", '"schema"'), ("html", "<h1>"), ("text", "security measures:")):
        code, said, _ = koinon_says("audit", "record-of-processing", "--home", member, "--format", form)
        assert code == 0
        assert mark in said
    assert koinon_says("audit", "record-of-processing", "--home", member, "--study", "99")[0] == 4


def test_events_are_written_checked_and_found_changed(home: Path, tmp_path: Path) -> None:
    out, member = tmp_path / "events.jsonl", home / "member-2"
    assert koinon_says("audit", "events", "--home", member, "--out", out)[0] == 0
    found = data_of("audit", "check", out, "--network", home / "network.json")
    assert found["member"] == 1
    assert found["events"] > 0
    assert found["complete"]
    assert found["issuers_checked"]
    roots = [one["root"] for one in found["anchors"]]
    told = data_of("audit", "trail", "--home", home, "--kind", "log-anchored", "--member", 1)
    assert len(told) == 1
    assert roots[0][:12] in told[0]["what"]
    out.write_bytes(out.read_bytes().replace(b'"outcome":"0"', b'"outcome":"8"', 1))
    assert koinon_says("audit", "check", out, "--network", home / "network.json")[0] == 3
    assert koinon_says("audit", "events", "--home", member, "--from", "yesterday")[0] == 2
    assert koinon_says("audit", "events", "--home", home)[0] == 2


def test_every_row_of_an_audit_leads_to_its_transaction_on_the_chain(home: Path) -> None:
    def rows(*arguments: object) -> list[dict[str, str]]:
        code, said, _ = koinon_says("audit", *arguments, "--home", home, "--csv")
        assert code == 0, said
        return list(csv.DictReader(io.StringIO(said)))

    told = data_of("audit", "trail", "--home", home)
    shown = rows("trail")
    assert [row["transaction"] for row in shown] == [one["transaction"] for one in told]
    places = {(int(row["block"]), row["transaction"]) for row in [*shown, *rows("member", "--member", 0)]}
    one_round = data_of("audit", "round", "--home", home, "--round", 1)
    places |= {(one_round[name]["block"], one_round[name]["transaction"]) for name in ("opened", "sealed", "ended")}
    code, said, _ = koinon_says("audit", "trail", "--home", home)
    assert code == 0
    assert told[0]["transaction"] not in said, "a table shows its beginning"
    assert told[0]["transaction"][:12] in said
    with running_chain(home) as url:
        client = EthereumClient(url, None)
        for block, transaction in places:
            receipt = client.call("eth_getTransactionReceipt", transaction)
            assert int(receipt["blockNumber"], 16) == block


def test_the_parts_of_members_are_rows_too(home: Path) -> None:
    parts = data_of("audit", "round", "--home", home, "--round", 1)["members"]
    code, said, _ = koinon_says("audit", "round", "--home", home, "--round", 1, "--csv")
    shown = list(csv.DictReader(io.StringIO(said)))
    assert code == 0
    assert [row.keys() for row in shown] == [one.keys() for one in parts]
    assert [row["transaction"] for row in shown] == [one["transaction"] for one in parts]
    told = data_of("audit", "participation", "--home", home)
    code, said, _ = koinon_says("audit", "participation", "--home", home, "--csv")
    shown = list(csv.DictReader(io.StringIO(said)))
    assert code == 0
    assert len(shown) == sum(len(one["members"]) for one in told["rounds"])
    for total in told["totals"]:
        mine = [row for row in shown if row["member"] == str(total["member"])]
        assert sum(row["included"] == "yes" for row in mine) == total["included"] > 0


def test_every_audit_says_as_of_which_block_it_speaks(home: Path) -> None:
    member = home / "member-1"
    with sqlite3.connect(f"file:{member / 'node.db'}?mode=ro", uri=True) as database:
        number, stamp = database.execute("SELECT number, timestamp FROM blocks ORDER BY number DESC").fetchone()
    database.close()
    line = f"as of block {number}, {moment(stamp)} UTC\n"
    for command in (
        ("trail",),
        ("trail", "--csv"),
        ("round", "--round", 1),
        ("member", "--member", 0),
        ("erasure",),
        ("participation", "--json"),
        ("consent", "--consent", "00" * 32),
        ("verify",),
    ):
        code, said, words = koinon_says("audit", *command, "--home", member)
        assert code == 0, words
        assert line in words, command
        assert "as of block" not in said


def test_an_audit_of_nothing_has_its_header_as_csv(home: Path) -> None:
    for command in (("erasure",), ("trail", "--kind", "withdrawn"), ("consent", "--consent", "00" * 32)):
        code, said, _ = koinon_says("audit", *command, "--home", home, "--csv")
        assert (code, said) == (0, f"{','.join(SHOWN)}\n"), command


def test_the_audit_of_the_network_still_holds(home: Path) -> None:
    assert koinon_says("audit", "verify", "--home", home)[0] == 0
