"""The benchmark of enrolment runs, end to end and at a small size, and its memory does not grow out of hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow  # a real chain
def test_a_small_enrolment_is_one_transaction_and_is_confirmed() -> None:
    command = [sys.executable, ROOT / "scripts/bench/consents", "--patients", "100", "--json"]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["schema"] == "koinon.bench-consents/1"
    assert (found["data"]["patients"], found["data"]["transactions"]) == (100, 1)
    assert found["data"]["gas_each"] < 1000
    assert found["data"]["peak_mib"] < 1024
