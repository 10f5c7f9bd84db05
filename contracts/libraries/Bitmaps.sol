// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Bitmaps: sets of members, bit i is member index i
library Bitmaps {
    /// @notice Whether member `index` is in `bits`. An index of 32 or more is in no set (a shift beyond the word would
    /// give zero without saying so; here the bound is the rule, not an accident of shifting).
    function has(uint32 bits, uint16 index) internal pure returns (bool) {
        return index < 32 && (bits >> index) & 1 == 1;
    }

    /// @notice The set of `index` alone. The caller has checked `index < 32`.
    function single(uint16 index) internal pure returns (uint32) {
        return uint32(1) << index;
    }

    /// @notice Number of members in `bits`.
    function count(uint32 bits) internal pure returns (uint256 c) {
        uint256 v = bits;
        unchecked {
            v = v - ((v >> 1) & 0x55555555);
            v = (v & 0x33333333) + ((v >> 2) & 0x33333333);
            v = (v + (v >> 4)) & 0x0F0F0F0F;
            c = ((v * 0x01010101) >> 24) & 0xFF; // sum of the four byte counts, gathered in the top byte
        }
    }

    /// @notice Number of set bits of a whole word.
    function countWord(uint256 word) internal pure returns (uint256 c) {
        for (uint256 i; i < 256; i += 32) {
            c += count(uint32(word >> i));
        }
    }
}
