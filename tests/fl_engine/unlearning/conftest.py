"""The small study of `tests.fakes.tables`, learned once."""

from __future__ import annotations

import pytest

from fl_engine.training.probe import ProbedNetwork
from fl_engine.training.sgd import pin_profile
from fl_engine.unlearning import Records
from fl_engine.unlearning.execution import execute
from fl_engine.unlearning.unlearner import federated
from tests.fakes.tables import AGREED, CLASSES, FEATURES, HEIGHTS, MEMBERS, MODEL, Learned, beginning, start, table


@pytest.fixture(scope="session", autouse=True)
def _pinned() -> None:
    pin_profile()


@pytest.fixture(scope="session")
def network() -> ProbedNetwork:
    return ProbedNetwork(MODEL, (FEATURES,), CLASSES)


@pytest.fixture(scope="session")
def learned(network: ProbedNetwork) -> Learned:
    hospitals = {}
    for m in range(MEMBERS):
        data = table(m + 1, 30)
        hospitals[m] = Records(data, data.row_numbers, secret=bytes([m]) * 32)
    case = beginning()
    run = execute(federated(case, AGREED.initial, case.members, 1, HEIGHTS), AGREED, hospitals, network)
    return Learned(hospitals, run, run.past(start()))
