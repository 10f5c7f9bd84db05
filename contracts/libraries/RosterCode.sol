// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title RosterCode: every member's ledger address, kept as the code of a small contract
/// @notice One EXTCODECOPY reads all addresses (2,600 gas) where a mapping costs 2,100 for each. The blob is `0x00`
/// followed by 20 bytes for each index ever given; indexes are never reused, so a later blob only adds to an earlier one.
library RosterCode {
    error RosterNotStored();

    /// @notice Write `addresses` (20 bytes each, packed) as code.
    /// @return pointer Where it lies.
    function store(bytes memory addresses) internal returns (address pointer) {
        // 61 LEN 80 60 0a 3d 39 3d f3 returns the LEN bytes after it; 00 (STOP) first, so that nobody can run the data
        bytes memory init = abi.encodePacked(hex"61", uint16(addresses.length + 1), hex"80600a3d393df300", addresses);
        assembly ("memory-safe") {
            pointer := create(0, add(init, 32), mload(init))
        }
        if (pointer == address(0)) revert RosterNotStored();
    }

    /// @notice The blob at `pointer`, its leading zero byte included.
    function load(address pointer) internal view returns (bytes memory) {
        return pointer.code;
    }

    /// @notice Address of member `index`, zero when no such index was given.
    function ledgerAt(bytes memory roster, uint256 index) internal pure returns (address ledger) {
        unchecked {
            if (index > type(uint16).max || index * 20 + 21 > roster.length) return address(0);
        }
        assembly ("memory-safe") {
            // data begins 32 bytes after `roster`, the addresses one byte later
            ledger := shr(96, mload(add(roster, add(33, mul(index, 20)))))
        }
    }
}
