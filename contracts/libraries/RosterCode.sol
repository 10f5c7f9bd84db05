// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title RosterCode: every member's ledger address, kept as the code of a small contract
/// @notice One EXTCODECOPY reads all addresses (2,600 gas) where a mapping costs 2,100 for each. The blob is `0x00`
/// followed by 20 bytes for each index ever given. Indexes are never reused: a later blob adds to an earlier one, or has
/// another key for an index that it knew.
library RosterCode {
    /// @notice Stands where a revoked key stood. No key has this address (it is a precompile's), so nobody signs for it;
    /// unlike zero it says that the index was given.
    address internal constant NOBODY = address(1);

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

    /// @notice The blob `roster` (its leading zero byte included) as addresses, with another one for member `index`.
    function replaced(bytes memory roster, uint256 index, address ledger)
        internal
        pure
        returns (bytes memory addresses)
    {
        addresses = new bytes(roster.length - 1);
        for (uint256 i; i < addresses.length; ++i) {
            addresses[i] = i / 20 == index ? bytes20(ledger)[i % 20] : roster[i + 1];
        }
    }

    /// @notice Address of member `index`, zero when no such index was given.
    function ledgerAt(bytes memory roster, uint256 index) internal pure returns (address ledger) {
        if (index > type(uint16).max) return address(0);
        assembly ("memory-safe") {
            let end := add(mul(index, 20), 21)
            // data begins 32 bytes after `roster`, the addresses one byte later; nothing is read beyond the end
            if iszero(gt(end, mload(roster))) { ledger := shr(96, mload(add(roster, add(12, end)))) }
        }
    }
}
