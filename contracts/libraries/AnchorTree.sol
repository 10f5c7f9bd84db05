// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Tags} from "./Tags.sol";

/// @title AnchorTree: many consents under one root
/// @notice A full binary tree over `count` leaves, a power of two of at least 32 (dummies fill it, so the root does not
/// tell how many patients there are). leaf = H(anchor-leaf, consentId), node = H(anchor-node, left, right).
library AnchorTree {
    /// @notice Fewest leaves of an anchor.
    uint32 internal constant LEAST = 32;
    /// @notice Most leaves of an anchor: a path of 20 hashes.
    uint32 internal constant MOST = 1 << 20;

    /// @notice Whether `count` is a number of leaves that an anchor may have.
    function isCount(uint32 count) internal pure returns (bool) {
        return count >= LEAST && count <= MOST && count & (count - 1) == 0;
    }

    /// @notice Whether `consentId` is leaf `index` of the anchor.
    /// @param path Sibling hashes, lowest first; its length must be log2(count).
    function contains(bytes32 root, uint32 count, bytes32 consentId, uint256 index, bytes32[] calldata path)
        internal
        pure
        returns (bool)
    {
        if (!isCount(count) || index >= count || uint256(1) << path.length != count) return false;
        bytes32 node = keccak256(abi.encode(Tags.ANCHOR_LEAF, consentId));
        for (uint256 level; level < path.length; ++level) {
            node = (index >> level) & 1 == 0
                ? keccak256(abi.encode(Tags.ANCHOR_NODE, node, path[level]))
                : keccak256(abi.encode(Tags.ANCHOR_NODE, path[level], node));
        }
        return node == root;
    }
}
