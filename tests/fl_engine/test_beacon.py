"""The beacon binds every field, by length, and nothing else."""

import pytest

from fl_engine.beacon import ROOT_BRANCH_SEED, round_beacon, seal_beacon
from fl_engine.errors import ShapeMismatch

A, B = b"a" * 32, b"b" * 32


def test_every_field_changes_the_beacon():
    beacons = {
        round_beacon(b"spec", A, ROOT_BRANCH_SEED, 1, B),
        round_beacon(b"spec2", A, ROOT_BRANCH_SEED, 1, B),
        round_beacon(b"spec", B, ROOT_BRANCH_SEED, 1, B),
        round_beacon(b"spec", A, A, 1, B),
        round_beacon(b"spec", A, ROOT_BRANCH_SEED, 2, B),
        round_beacon(b"spec", A, ROOT_BRANCH_SEED, 1, A),
    }
    assert len(beacons) == 6
    assert (
        round_beacon(b"spec", A, ROOT_BRANCH_SEED, 1, B).hex()
        == "221aa5746cf2b8e6b136c3a25d7488167e705e00b43863b2a2398126a90d1f63"
    )


def test_a_hash_of_another_length_is_refused():
    with pytest.raises(ShapeMismatch, match="branch seed"):
        round_beacon(b"", A, b"", 1, B)


def test_the_seal_beacon_depends_on_the_order_of_the_updates():
    assert seal_beacon(A, [A, B]) != seal_beacon(A, [B, A])
    assert seal_beacon(A, [A + B]) != seal_beacon(A, [A, B])
