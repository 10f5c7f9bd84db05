"""Reading the chain block by block: what could not be read is read again, whatever kind of ledger stands behind it.

What an Ethereum client may do to a reader is in `ledger/test_endpoints.py` and `ledger/test_reorganisations.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from node.errors import ChainUnreachable
from node.follower import Follower
from node.store import Store
from tests.fakes.network import Door
from tests.node.consent_kit import found_network


def test_records_of_a_ledger_that_went_away_while_it_was_read_are_read_when_it_is_back(tmp_path: Path) -> None:
    ledger, _, _ = found_network()
    head = ledger.head()
    everything = list(ledger.records(0, head.final_number))
    assert everything
    door = Door(ledger)
    follower = Follower(door, Store(tmp_path, bytes(32)), None)
    door.away = True
    with pytest.raises(ChainUnreachable):
        follower.step(head)
    assert follower.done == -1
    door.away = False
    found = []
    while follower.done < head.final_number:
        found += follower.step(head)
    assert found == everything
