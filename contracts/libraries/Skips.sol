// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Skips: why an entry of a batch was left out
/// @notice Reasons of `EntrySkipped`. An entry that does not count harms itself only.
library Skips {
    uint8 internal constant DUPLICATE = 1;
    uint8 internal constant BAD_SIGNATURE = 2;
    uint8 internal constant UNKNOWN_MEMBER = 3;
    uint8 internal constant WRONG_PHASE = 4;
    uint8 internal constant UNKNOWN_SUBJECT = 5;
    uint8 internal constant MALFORMED = 6;

    /// @dev `member` of an entry that no member signs (a patient's withdrawal).
    uint16 internal constant NO_MEMBER = type(uint16).max;
}
