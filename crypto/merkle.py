"""Two trees: the sorted map (membership and non-membership) and the anchor tree.

The sorted map keeps strictly increasing 32-byte keys with one 32-byte value hash each, in the tree shape of RFC 9162
section 2.1 (each split at the largest power of two below the count). Its root binds the count, so the position of
every leaf is known and two neighbours can be *seen* to be neighbours: a key that would lie between them is absent.
A proof of absence says something only of a map that is sorted; whoever votes on a dataset rebuilds its map from all
leaves, which is where unsorted ones are refused.

The anchor tree is a full binary tree over consent ids (a power of two, 32 or more), with its own tags.
`MerkleMap.sol` verifies both alike; the shared vectors are tests/vectors/crypto/merkle/valid-*.json.
Layouts: FORMATS.md, "Sorted map" and "Anchor tree".
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Self

from crypto.digest import ZERO, Digest, hash_words
from crypto.errors import EncodingError, ProofMismatch, RootMismatch, UnsortedKeys

__all__ = [
    "MAX_ANCHOR_COUNT",
    "MAX_COUNT",
    "MIN_ANCHOR_COUNT",
    "Absence",
    "AnchorTree",
    "Inclusion",
    "MerkleMap",
    "Neighbour",
    "anchor_count",
    "anchor_root_of",
    "requests_root",
    "root_of_inclusion",
    "verify_absent",
    "verify_anchored",
    "verify_member",
]

MAX_COUNT: Final = 1 << 20
"""Most leaves a map may have; a path is then at most 20 hashes long."""

MIN_ANCHOR_COUNT: Final = 32
MAX_ANCHOR_COUNT: Final = 1 << 20


def _leaf(key: bytes, value_hash: bytes) -> Digest:
    return hash_words("map-leaf", key, value_hash)


def _node(left: bytes, right: bytes) -> Digest:
    return hash_words("map-node", left, right)


def _root(count: int, top: bytes) -> Digest:
    return hash_words("map", count, top)


def _digests(path: Iterable[bytes]) -> tuple[Digest, ...]:
    return tuple(Digest(step) for step in path)


def _levels(leaves: Sequence[Digest], node_tag: str) -> list[list[Digest]]:
    """All levels from the leaves up. A last node without a partner moves up unchanged, which gives RFC 9162's tree."""
    levels = [list(leaves)]
    while len(levels[-1]) > 1:
        below = levels[-1]
        above = [hash_words(node_tag, below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)]
        if len(below) % 2:
            above.append(below[-1])
        levels.append(above)
    return levels


def _path(levels: Sequence[Sequence[Digest]], index: int) -> tuple[Digest, ...]:
    path = []
    for level in levels[:-1]:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        index >>= 1
    return tuple(path)


# --- sorted map -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Inclusion:
    """Where a leaf is: its index in a map of `count` leaves, and the sibling hashes from the leaf up."""

    index: int
    count: int
    path: tuple[Digest, ...]

    def __post_init__(self) -> None:
        """Raise `EncodingError` unless 0 <= index < count <= MAX_COUNT and every step has 32 bytes."""
        if not 0 < self.count <= MAX_COUNT:
            raise EncodingError("count", f"{self.count} is not between 1 and {MAX_COUNT}")
        if not 0 <= self.index < self.count:
            raise EncodingError("index", f"{self.index} is not below the count {self.count}")
        object.__setattr__(self, "path", _digests(self.path))


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A leaf shown in a proof of absence. Its value stays hidden behind `value_hash`."""

    key: Digest
    value_hash: Digest
    index: int
    path: tuple[Digest, ...]

    def __post_init__(self) -> None:
        """Raise `EncodingError` for a width."""
        object.__setattr__(self, "key", Digest(self.key))
        object.__setattr__(self, "value_hash", Digest(self.value_hash))
        object.__setattr__(self, "path", _digests(self.path))


@dataclass(frozen=True, slots=True)
class Absence:
    """Why a key is in no leaf of a map of `count` leaves: the leaves directly before and after where it would be.

    `left` is None if the key comes before the first leaf, `right` if it comes after the last, both if the map is empty.
    """

    count: int
    left: Neighbour | None
    right: Neighbour | None

    def __post_init__(self) -> None:
        """Raise `EncodingError` for a count out of bounds."""
        if not 0 <= self.count <= MAX_COUNT:
            raise EncodingError("count", f"{self.count} is not between 0 and {MAX_COUNT}")


class MerkleMap:
    """A sorted map with its tree. Made from (key, value hash) pairs that are already strictly increasing by key."""

    __slots__ = ("_keys", "_levels", "_values")

    def __init__(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Raise `UnsortedKeys` for an unsorted or repeated key, `EncodingError` for a width or too many leaves."""
        pairs = [(Digest(key), Digest(value)) for key, value in items]
        if len(pairs) > MAX_COUNT:
            raise EncodingError("count", f"{len(pairs)} leaves, at most {MAX_COUNT} allowed")
        self._keys = [key for key, _ in pairs]
        self._values = [value for _, value in pairs]
        for i in range(1, len(pairs)):
            if self._keys[i] <= self._keys[i - 1]:
                raise UnsortedKeys("map", i, self._keys[i - 1], self._keys[i])
        self._levels = _levels([_leaf(key, value) for key, value in pairs], "map-node")

    @classmethod
    def sorting(cls, items: Iterable[tuple[bytes, bytes]]) -> Self:
        """The map of pairs in any order; `UnsortedKeys` if a key repeats."""
        return cls(sorted(items))

    def __len__(self) -> int:
        """The number of leaves."""
        return len(self._keys)

    def __contains__(self, key: object) -> bool:
        """Whether `key` (32 bytes) has a leaf."""
        return isinstance(key, bytes) and self._find(key) is not None

    @property
    def root(self) -> Digest:
        """hash_words("map", count, top of the tree); the top of an empty map is zero."""
        return _root(len(self), self._levels[-1][0] if self._keys else ZERO)

    def _find(self, key: bytes) -> int | None:
        at = bisect_left(self._keys, key)
        return at if at < len(self._keys) and self._keys[at] == key else None

    def value_hash(self, key: bytes) -> Digest:
        """The value hash under `key`; `KeyError` if absent."""
        at = self._find(key)
        if at is None:
            raise KeyError(key.hex())
        return self._values[at]

    def prove(self, key: bytes) -> Inclusion:
        """The proof that `key` has its leaf; `KeyError` if it has none."""
        at = self._find(key)
        if at is None:
            raise KeyError(key.hex())
        return Inclusion(at, len(self), _path(self._levels, at))

    def prove_absent(self, key: bytes) -> Absence:
        """The proof that `key` has no leaf; `KeyError` if it has one. Shows at most two neighbours."""
        at = bisect_left(self._keys, Digest(key))
        if at < len(self._keys) and self._keys[at] == key:
            raise KeyError(key.hex())
        return Absence(
            len(self),
            self._neighbour(at - 1) if at > 0 else None,
            self._neighbour(at) if at < len(self) else None,
        )

    def _neighbour(self, at: int) -> Neighbour:
        return Neighbour(self._keys[at], self._values[at], at, _path(self._levels, at))


def root_of_inclusion(key: bytes, value_hash: bytes, proof: Inclusion) -> Digest:
    """The root that this leaf at this place leads to (RFC 9162 section 2.1.3.2, with the count bound in the root).

    Raises `ProofMismatch` if the path is too long or too short for the index and count.
    """
    here, last = proof.index, proof.count - 1
    top = _leaf(Digest(key), Digest(value_hash))
    for step in proof.path:
        if last == 0:
            raise ProofMismatch(f"path has {len(proof.path)} steps, too many for leaf {proof.index} of {proof.count}")
        if here & 1 or here == last:
            top = _node(step, top)
            while not here & 1 and here:  # levels at which this last node had no partner
                here >>= 1
                last >>= 1
        else:
            top = _node(top, step)
        here >>= 1
        last >>= 1
    if last != 0:
        raise ProofMismatch(f"path has {len(proof.path)} steps, too few for leaf {proof.index} of {proof.count}")
    return _root(proof.count, top)


def verify_member(root: bytes, key: bytes, value_hash: bytes, proof: Inclusion) -> None:
    """Raise `ProofMismatch` (shape) or `RootMismatch` (content) unless the map with this root has this leaf."""
    got = root_of_inclusion(key, value_hash, proof)
    if got != root:
        raise RootMismatch("map root", root, got)


def verify_absent(root: bytes, key: bytes, proof: Absence) -> None:
    """Raise `ProofMismatch` or `RootMismatch` unless the map with this root, being sorted, has no leaf for `key`.

    That it is sorted is checked where all of its leaves are seen (`MerkleMap`), not here.
    """
    key, left, right = Digest(key), proof.left, proof.right
    if proof.count == 0:
        if left is not None or right is not None:
            raise ProofMismatch("an empty map has no neighbours to show")
        if root != _root(0, ZERO):
            raise RootMismatch("map root", root, _root(0, ZERO))
        return
    if left is None and right is None:
        raise ProofMismatch(f"no neighbour shown in a map of {proof.count} leaves")
    if left is not None and not left.key < key:
        raise ProofMismatch("the left neighbour's key is not below the key")
    if right is not None and not key < right.key:
        raise ProofMismatch("the right neighbour's key is not above the key")
    if left is None and right is not None and right.index != 0:
        raise ProofMismatch(f"only a right neighbour is shown, and it is leaf {right.index}, not the first")
    if right is None and left is not None and left.index != proof.count - 1:
        raise ProofMismatch(
            f"only a left neighbour is shown, and it is leaf {left.index} of {proof.count}, not the last"
        )
    if left is not None and right is not None and right.index != left.index + 1:
        raise ProofMismatch(f"leaves {left.index} and {right.index} are not adjacent")
    for side in (left, right):
        if side is not None:
            verify_member(root, side.key, side.value_hash, Inclusion(side.index, proof.count, side.path))


def requests_root(request_ids: Iterable[bytes]) -> Digest:
    """The root of an erasure batch: a sorted map of request ids, every value hash zero. Ids may come in any order."""
    return MerkleMap.sorting((request, ZERO) for request in request_ids).root


# --- anchor tree ------------------------------------------------------------------------------------------------------


def _anchor_depth(count: int) -> int:
    if not MIN_ANCHOR_COUNT <= count <= MAX_ANCHOR_COUNT or count & (count - 1):
        raise EncodingError("count", f"{count} is not a power of two from {MIN_ANCHOR_COUNT} to {MAX_ANCHOR_COUNT}")
    return count.bit_length() - 1


def anchor_count(consents: int) -> int:
    """The number of leaves an anchor for this many consents has: the next power of two, at least 32."""
    if not 0 < consents <= MAX_ANCHOR_COUNT:
        raise EncodingError("count", f"{consents} consents is not between 1 and {MAX_ANCHOR_COUNT}")
    return max(MIN_ANCHOR_COUNT, 1 << (consents - 1).bit_length())


class AnchorTree:
    """The full tree over consent ids and dummies, in the order given. Pad with random ids to `anchor_count` leaves."""

    __slots__ = ("_levels",)

    def __init__(self, consent_ids: Sequence[bytes]) -> None:
        """Raise `EncodingError` unless the count is a power of two from 32 and the ids are distinct."""
        _anchor_depth(len(consent_ids))
        if len(set(consent_ids)) != len(consent_ids):
            raise EncodingError("consentId", "one id appears twice")
        self._levels = _levels([hash_words("anchor-leaf", Digest(consent)) for consent in consent_ids], "anchor-node")

    def __len__(self) -> int:
        """The number of leaves, dummies included."""
        return len(self._levels[0])

    @property
    def root(self) -> Digest:
        """The root, as an Anchor statement carries it together with the count."""
        return self._levels[-1][0]

    def prove(self, index: int) -> tuple[Digest, ...]:
        """The path of leaf `index` from the leaf up: log2(count) hashes."""
        if not 0 <= index < len(self):
            raise EncodingError("index", f"{index} is not below the count {len(self)}")
        return _path(self._levels, index)


def anchor_root_of(consent_id: bytes, index: int, path: Sequence[bytes]) -> Digest:
    """The root to which this consent leads as leaf `index` of 2^len(path); `EncodingError` for the shape."""
    depth = _anchor_depth(1 << len(path)) if len(path) < 32 else -1
    if depth < 0 or not 0 <= index < 1 << depth:
        raise EncodingError("index", f"{index} with a path of {len(path)} steps")
    return _anchor_root(Digest(consent_id), index, _digests(path))


@lru_cache(maxsize=4096)  # the same consents come with the same paths in every round; some 4 MB
def _anchor_root(consent_id: Digest, index: int, path: tuple[Digest, ...]) -> Digest:
    top = hash_words("anchor-leaf", consent_id)
    for level, step in enumerate(path):
        top = hash_words("anchor-node", step, top) if index >> level & 1 else hash_words("anchor-node", top, step)
    return top


def verify_anchored(root: bytes, count: int, consent_id: bytes, index: int, path: Sequence[bytes]) -> None:
    """Raise unless `consent_id` is leaf `index` of the anchor with this root and count (both from the chain).

    `ProofMismatch` for a path that does not fit the count, `RootMismatch` for another root.
    """
    if len(path) != _anchor_depth(count):
        raise ProofMismatch(f"path has {len(path)} steps, {_anchor_depth(count)} expected for {count} leaves")
    if not 0 <= index < count:
        raise ProofMismatch(f"index {index} is not below the count {count}")
    got = anchor_root_of(consent_id, index, path)
    if got != root:
        raise RootMismatch("anchor root", root, got)
