// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {MerkleMap} from "../../libraries/MerkleMap.sol";
import {Checks} from "../support/Checks.sol";

/// @notice The library against a builder written from the definition (recursive split), for any keys.
contract MerkleMapTest is Checks {
    bytes32[] internal keys;

    function prepare(uint256 seed, uint256 count) internal {
        delete keys;
        bytes32 last;
        for (uint256 i; i < count; ++i) {
            // strictly increasing, gaps of at least two, so that there is room for absent keys
            last = bytes32(uint256(last) + 2 + uint256(keccak256(abi.encode(seed, i))) % (1 << 240));
            keys.push(last);
        }
    }

    function value(bytes32 key) internal pure returns (bytes32) {
        return keccak256(abi.encode("value", key));
    }

    function split(uint256 n) internal pure returns (uint256 k) {
        k = 1;
        while (k << 1 < n) k <<= 1;
    }

    function top(uint256 from, uint256 n) internal view returns (bytes32) {
        if (n == 0) return 0;
        if (n == 1) return MerkleMap.hashLeaf(keys[from], value(keys[from]));
        uint256 k = split(n);
        return MerkleMap.hashNode(top(from, k), top(from + k, n - k));
    }

    function path(uint256 from, uint256 n, uint256 index) internal view returns (bytes32[] memory p) {
        if (n == 1) return new bytes32[](0);
        uint256 k = split(n);
        bool left = index < k;
        bytes32[] memory below = left ? path(from, k, index) : path(from + k, n - k, index - k);
        p = new bytes32[](below.length + 1);
        for (uint256 i; i < below.length; ++i) {
            p[i] = below[i];
        }
        p[below.length] = left ? top(from + k, n - k) : top(from, k);
    }

    function root() internal view returns (bytes32) {
        return MerkleMap.hashRoot(keys.length, top(0, keys.length));
    }

    function leaf(uint256 index) internal view returns (MerkleMap.Leaf memory) {
        return MerkleMap.Leaf(index, keys[index], value(keys[index]), path(0, keys.length, index));
    }

    function pair(uint256 i, uint256 j) internal view returns (MerkleMap.Leaf[] memory n) {
        n = new MerkleMap.Leaf[](2);
        n[0] = leaf(i);
        n[1] = leaf(j);
    }

    function one(uint256 i) internal view returns (MerkleMap.Leaf[] memory n) {
        n = new MerkleMap.Leaf[](1);
        n[0] = leaf(i);
    }

    function test_fuzz_everyKeyIsIncludedAndNoOtherPositionIsBelieved(uint256 seed, uint8 size, uint8 at, uint8 other)
        public
    {
        uint256 n = uint256(size) % 40 + 1;
        prepare(seed, n);
        uint256 index = at % n;
        MerkleMap.Leaf memory l = leaf(index);
        holds(MerkleMap.includes(root(), n, l), "included");
        holds(!MerkleMap.includes(root(), n + 1, l), "another count");
        holds(!MerkleMap.includes(root(), 0, l), "no count");
        l.index = uint256(other);
        if (l.index != index) holds(!MerkleMap.includes(root(), n, l), "another index");
        l.index = index;
        l.valueHash = keccak256("other");
        holds(!MerkleMap.includes(root(), n, l), "another value");
    }

    function test_fuzz_brokenPathsAreRefused(uint256 seed, uint8 size, uint8 at, uint8 level, uint256 flip) public {
        uint256 n = uint256(size) % 40 + 2;
        prepare(seed, n);
        MerkleMap.Leaf memory l = leaf(at % n);
        uint256 i = level % l.path.length;
        bytes32 old = l.path[i];
        l.path[i] = bytes32(uint256(old) ^ (flip == 0 ? 1 : flip));
        holds(!MerkleMap.includes(root(), n, l), "a changed node");
        l.path[i] = old;
        bytes32[] memory longer = new bytes32[](l.path.length + 1);
        bytes32[] memory shorter = new bytes32[](l.path.length - 1);
        for (uint256 k; k < l.path.length; ++k) {
            longer[k] = l.path[k];
            if (k < shorter.length) shorter[k] = l.path[k];
        }
        bytes32[] memory whole = l.path;
        l.path = longer;
        holds(!MerkleMap.includes(root(), n, l), "a longer path");
        l.path = shorter;
        holds(!MerkleMap.includes(root(), n, l), "a shorter path");
        l.path = whole;
        holds(MerkleMap.includes(root(), n, l), "the whole path");
    }

    function test_fuzz_absentKeysAreExcludedByTheirNeighbours(uint256 seed, uint8 size, uint8 at) public {
        uint256 n = uint256(size) % 40 + 1;
        prepare(seed, n);
        uint256 i = at % n;
        bytes32 absent = bytes32(uint256(keys[i]) + 1);
        if (i + 1 == n) {
            holds(MerkleMap.excludes(root(), n, absent, one(i)), "behind the last");
        } else {
            holds(MerkleMap.excludes(root(), n, absent, pair(i, i + 1)), "between two");
            holds(!MerkleMap.excludes(root(), n, absent, one(i)), "a lone neighbour in the middle");
            holds(!MerkleMap.excludes(root(), n, absent, one(i + 1)), "a lone neighbour in the middle");
            holds(!MerkleMap.excludes(root(), n, absent, pair(i + 1, i)), "swapped");
        }
        holds(MerkleMap.excludes(root(), n, bytes32(uint256(keys[0]) - 1), one(0)), "before the first");
    }

    function test_fuzz_presentKeysAreNeverExcluded(uint256 seed, uint8 size, uint8 at, uint8 a, uint8 b) public {
        uint256 n = uint256(size) % 40 + 1;
        prepare(seed, n);
        bytes32 present = keys[at % n];
        holds(!MerkleMap.excludes(root(), n, present, one(a % n)), "one leaf");
        holds(!MerkleMap.excludes(root(), n, present, pair(a % n, b % n)), "two leaves");
        holds(!MerkleMap.excludes(root(), n, present, new MerkleMap.Leaf[](0)), "no leaf");
        holds(!MerkleMap.excludes(root(), 0, present, new MerkleMap.Leaf[](0)), "an empty map");
    }

    function test_emptyMapExcludesEverything() public {
        prepare(0, 0);
        MerkleMap.Leaf[] memory none = new MerkleMap.Leaf[](0);
        holds(MerkleMap.excludes(root(), 0, keccak256("any"), none), "excluded");
        holds(!MerkleMap.excludes(bytes32(0), 0, keccak256("any"), none), "another root");
    }
}
