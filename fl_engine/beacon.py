"""The beacon of a round: 32 bytes from which every member's batch order follows.

It binds what is trained and from where, and nothing of the chain, of identities or of the calendar, so a simulation of
the same study has the same beacons. All fields are hashed with their length in front; integers are little-endian.

    beacon      = SHA-256("koinon.beacon/1" || sections || initial model hash || branch seed || u64 height || parent)
    seal beacon = SHA-256("koinon.seal-beacon/1" || beacon || hashes of the included updates' integers in member order)
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from fl_engine.errors import ShapeMismatch

ROOT_BRANCH_SEED = bytes(32)
"""The branch seed of a study's first branch; an erasure branch draws its own."""


def round_beacon(sections: bytes, initial_model: bytes, branch_seed: bytes, height: int, parent_model: bytes) -> bytes:
    """The 32 bytes of a round.

    `sections`: canonical bytes of the spec's model, training, aggregation and task sections. The initial model's hash,
    the branch seed and the parent model's root have 32 bytes each (else ShapeMismatch).
    """
    for what, value in (("initial model hash", initial_model), ("branch seed", branch_seed), ("parent", parent_model)):
        if len(value) != 32:
            raise ShapeMismatch(f"length of the {what}", 32, len(value))
    return _hash("koinon.beacon/1", sections, initial_model, branch_seed, struct.pack("<Q", height), parent_model)


def seal_beacon(beacon: bytes, update_hashes: Sequence[bytes]) -> bytes:
    """32 bytes nobody could know before the commitments: for permutations that an attacker must not foresee."""
    return _hash("koinon.seal-beacon/1", beacon, *update_hashes)


def _hash(tag: str, *fields: bytes) -> bytes:
    framed = b"".join(struct.pack("<I", len(field)) + field for field in (tag.encode(), *fields))
    return hashlib.sha256(framed).digest()
