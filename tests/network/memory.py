"""What a process of a network may hold in memory, and what it holds.

The bounds are those of docs/BENCHMARKS.md: they grow with the model, not with the members, the rounds or the requests.
"""

from __future__ import annotations

from pathlib import Path

NODE_BYTES, WORKER_BYTES, MODELS = 200_000_000, 400_000_000, 6
"""A node may hold so much and six models, a training worker so much and six models."""


def node_bound(model_bytes: int) -> int:
    """Bytes that a node may hold at its peak, from its start's key derivation on."""
    return NODE_BYTES + MODELS * model_bytes


def worker_bound(model_bytes: int) -> int:
    """Bytes that a training worker may hold at its peak."""
    return WORKER_BYTES + MODELS * model_bytes


def peak(pid: int) -> int:
    """Bytes that a process had resident at most."""
    lines = Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def forget_peak(pid: int) -> None:
    """Begin `peak` anew: the key derivation at a node's start takes 128 MiB once."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def children(pid: int) -> list[int]:
    """Process ids of a process's children, whichever of its threads has started them."""
    found = [path.read_text("ascii").split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(one) for part in found for one in part]
