// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Tags} from "./Tags.sol";

/// @title MerkleMap: a sorted map under one root, with proofs that a key is in it and that it is not
/// @notice Entries in strictly increasing key order; leaf = H(map-leaf, key, valueHash), node = H(map-node, left, right);
/// the tree has the shape of RFC 9162 section 2.1.1 (split at the largest power of two below the count); root =
/// H(map, count, top), and the top of an empty map is zero. The count is bound in the root, so "the last leaf" is provable.
/// Non-membership is one or two neighbouring leaves. It holds for a tree whose builder sorted it: whoever accepts a root
/// rebuilds it from the leaves first (koinon's members do, rule TREE).
library MerkleMap {
    /// @notice One leaf and its way to the top.
    /// @param index Position of the leaf, from 0.
    /// @param key The leaf's key.
    /// @param valueHash Hash of its value, opaque here.
    /// @param path Sibling hashes, lowest first.
    struct Leaf {
        uint256 index;
        bytes32 key;
        bytes32 valueHash;
        bytes32[] path;
    }

    /// @notice The hash of one entry.
    function hashLeaf(bytes32 key, bytes32 valueHash) internal pure returns (bytes32) {
        return keccak256(abi.encode(Tags.MAP_LEAF, key, valueHash));
    }

    /// @notice The hash of two subtrees.
    function hashNode(bytes32 left, bytes32 right) internal pure returns (bytes32) {
        return keccak256(abi.encode(Tags.MAP_NODE, left, right));
    }

    /// @notice The root of a map of `count` entries whose tree ends in `top`.
    function hashRoot(uint256 count, bytes32 top) internal pure returns (bytes32) {
        return keccak256(abi.encode(Tags.MAP, count, top));
    }

    /// @notice Whether `leaf` lies in the map `root` of `count` entries.
    function includes(bytes32 root, uint256 count, Leaf memory leaf) internal pure returns (bool) {
        if (leaf.index >= count) return false;
        (bool whole, bytes32 top) = climb(hashLeaf(leaf.key, leaf.valueHash), leaf.index, count, leaf.path);
        return whole && hashRoot(count, top) == root;
    }

    /// @notice Whether `key` is provably not in the map `root` of `count` entries.
    /// @param neighbours None for an empty map; the first leaf when `key` lies before it, the last when it lies behind
    /// it; else the two leaves around it, left one first.
    function excludes(bytes32 root, uint256 count, bytes32 key, Leaf[] memory neighbours) internal pure returns (bool) {
        if (count == 0) return neighbours.length == 0 && hashRoot(0, bytes32(0)) == root;
        if (neighbours.length == 1) {
            Leaf memory only = neighbours[0];
            bool before = only.index == 0 && key < only.key;
            bool behind = only.index + 1 == count && only.key < key;
            return (before || behind) && includes(root, count, only);
        }
        if (neighbours.length != 2) return false;
        Leaf memory left = neighbours[0];
        Leaf memory right = neighbours[1];
        if (left.index >= count || left.index + 1 != right.index) return false;
        if (left.key >= key || key >= right.key) return false;
        return includes(root, count, left) && includes(root, count, right);
    }

    /// @notice RFC 9162 section 2.1.3.2 without its last comparison: the top that `path` leads to.
    /// @return whole False when the path is too long or too short for `index` and `count`.
    function climb(bytes32 node, uint256 index, uint256 count, bytes32[] memory path)
        internal
        pure
        returns (bool whole, bytes32)
    {
        uint256 last = count - 1;
        for (uint256 i; i < path.length; ++i) {
            if (last == 0) return (false, node);
            if (index & 1 == 1 || index == last) {
                node = hashNode(path[i], node);
                while (index & 1 == 0 && index != 0) {
                    index >>= 1; // the right edge: this node has no sibling until its level's last index is odd
                    last >>= 1;
                }
            } else {
                node = hashNode(node, path[i]);
            }
            index >>= 1;
            last >>= 1;
        }
        return (last == 0, node);
    }
}
