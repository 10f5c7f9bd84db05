// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {Bitmaps} from "./Bitmaps.sol";
import {RosterCode} from "./RosterCode.sol";

/// @title PackedSignatures: signatures of members, single or many over one digest
/// @notice EIP-2098 form, 64 bytes each: `r`, then `vs` (s with the parity of the key in its top bit). Low s only, so a
/// signature has one form. Many over one digest: concatenated in ascending member order of a bitmap.
library PackedSignatures {
    /// @notice The signature of `member` recovers to another address.
    error BadSignature(uint16 member, address expected, address recovered);
    /// @notice `signers` needs 64 bytes for each of its members.
    error SignaturesLength(uint256 length, uint256 expected);
    /// @notice `strangers` sign, but have no vote here.
    error NotOnRoster(uint32 strangers);
    /// @notice `votes` equal votes where `needed` decide.
    error QuorumNotReached(uint256 votes, uint256 needed);

    /// @notice Whether `ledger` signed `digest`. A zero address never did.
    function signedBy(address ledger, bytes32 digest, bytes32 r, bytes32 vs) internal pure returns (bool) {
        (address recovered,,) = ECDSA.tryRecover(digest, r, vs);
        return recovered != address(0) && recovered == ledger;
    }

    /// @notice Reverts unless `ledger`, the key of `member`, signed `digest`.
    function check(uint16 member, address ledger, bytes32 digest, bytes32 r, bytes32 vs) internal pure {
        (address recovered,,) = ECDSA.tryRecover(digest, r, vs);
        if (recovered == address(0) || recovered != ledger) revert BadSignature(member, ledger, recovered);
    }

    /// @notice Reverts unless there are 64 bytes for each of `count` signers.
    function checkLength(bytes calldata signatures, uint256 count) internal pure {
        if (signatures.length != count * 64) revert SignaturesLength(signatures.length, count * 64);
    }

    /// @notice Signature number `k`. The caller has checked the length.
    function at(bytes calldata signatures, uint256 k) internal pure returns (bytes32 r, bytes32 vs) {
        assembly ("memory-safe") {
            let offset := add(signatures.offset, mul(k, 64))
            r := calldataload(offset)
            vs := calldataload(add(offset, 32))
        }
    }

    /// @notice Reverts unless at least `needed` members, all of `voters`, signed `digest`. Every signature given is
    /// checked, also those beyond `needed`.
    /// @param roster The blob of RosterCode.
    /// @param voters Who may sign. A bit outside it is refused before any memory is read by index.
    /// @param signers Who signed.
    /// @param signatures 64 bytes for each of `signers`, ascending.
    function checkQuorum(
        bytes memory roster,
        uint32 voters,
        uint32 signers,
        bytes calldata signatures,
        bytes32 digest,
        uint256 needed
    ) internal pure {
        if (signers & ~voters != 0) revert NotOnRoster(signers & ~voters);
        uint256 votes = Bitmaps.count(signers);
        if (votes < needed) revert QuorumNotReached(votes, needed);
        checkLength(signatures, votes);
        uint256 k;
        uint256 left = signers;
        for (uint256 i; left != 0; (++i, left >>= 1)) {
            if (left & 1 == 0) continue;
            (bytes32 r, bytes32 vs) = at(signatures, k++);
            check(uint16(i), RosterCode.ledgerAt(roster, i), digest, r, vs);
        }
    }
}
