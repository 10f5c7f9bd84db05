// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// @title Signers: who signed in the governance of members, by a key or by a contract wallet (ERC-1271)
/// @notice A key signs with 65 bytes (r, s, v), low s. An address with code may also be asked `isValidSignature`: by a
/// static call, so that it can change nothing and enter nowhere, with a bounded allowance of gas, and reading 32 bytes of
/// its answer whatever it returns. A wallet that reverts, burns its gas or answers anything but the magic value has not
/// signed; that harms nobody but itself.
library Signers {
    /// @notice Most gas one wallet is given.
    uint256 internal constant WALLET_GAS = 150_000;
    /// @dev ERC-1271: bytes4(keccak256("isValidSignature(bytes32,bytes)")), the selector and the answer.
    bytes4 private constant MAGIC = 0x1626ba7e;

    /// @notice Whether `ledger` signed `digest`.
    /// @return signed A zero address never did.
    /// @return recovered Whose key made the signature; zero: nobody's.
    function check(address ledger, bytes32 digest, bytes memory signature)
        internal
        view
        returns (bool signed, address recovered)
    {
        (recovered,,) = ECDSA.tryRecover(digest, signature);
        if (recovered != address(0) && recovered == ledger) return (true, recovered);
        signed = ledger.code.length != 0 && _wallet(ledger, digest, signature);
    }

    function _wallet(address ledger, bytes32 digest, bytes memory signature) private view returns (bool valid) {
        bytes memory question = abi.encodeWithSelector(MAGIC, digest, signature);
        uint256 allowance = WALLET_GAS;
        bytes32 answer;
        bool whole;
        assembly ("memory-safe") {
            // the answer goes to scratch space: 32 bytes, however long it is
            let ok := staticcall(allowance, ledger, add(question, 32), mload(question), 0, 32)
            whole := and(ok, gt(returndatasize(), 31))
            answer := mload(0)
        }
        valid = whole && answer == bytes32(MAGIC);
    }
}
