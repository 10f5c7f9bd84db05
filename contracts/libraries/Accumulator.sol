// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Accumulator: a registry's rolling hash over its own records
/// @notice An endpoint that hides or reorders one event is found out: a reader's own accumulator then differs.
abstract contract Accumulator {
    bytes32 private _accumulator;

    function _accumulated() internal view returns (bytes32) {
        return _accumulator;
    }

    /// @dev acc' = keccak256(abi.encode(acc, recordHash)). recordHash = keccak256(abi.encode(TAG, fields of the event in
    /// order)), bytes and strings by their keccak256.
    function _record(bytes32 recordHash) internal {
        _accumulator = _rolled(_accumulator, recordHash);
    }

    /// @dev For batches: the records are rolled in memory in the order of their events and the slot is written once.
    function _store(bytes32 accumulator_) internal {
        _accumulator = accumulator_;
    }

    /// @dev acc' of one record, without writing it.
    function _rolled(bytes32 acc, bytes32 recordHash) internal pure returns (bytes32 next) {
        assembly ("memory-safe") {
            mstore(0x00, acc)
            mstore(0x20, recordHash)
            next := keccak256(0x00, 0x40)
        }
    }
}
