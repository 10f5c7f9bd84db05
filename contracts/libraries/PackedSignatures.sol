// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Bitmaps} from "./Bitmaps.sol";
import {RosterCode} from "./RosterCode.sol";

/// @title PackedSignatures: signatures of members, single or many over one digest
/// @notice EIP-2098 form, 64 bytes each: `r`, then `vs` (s with the parity of the key in its top bit). Low s only, so a
/// signature has one form. Many over one digest: concatenated in ascending member order of a bitmap.
library PackedSignatures {
    /// @dev Half the order of secp256k1: a larger s is the other form of a signature that has one already.
    uint256 private constant HALF_ORDER = 0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0;
    uint256 private constant S_BITS = type(uint256).max >> 1;

    /// @notice The signature of `member` recovers to another address.
    error BadSignature(uint16 member, address expected, address recovered);
    /// @notice `signers` needs 64 bytes for each of its members.
    error SignaturesLength(uint256 length, uint256 expected);
    /// @notice `strangers` sign, but have no vote here.
    error NotOnRoster(uint32 strangers);
    /// @notice `votes` equal votes where `needed` decide.
    error QuorumNotReached(uint256 votes, uint256 needed);

    /// @notice The digest that is signed for a struct hash (EIP-712).
    function typed(bytes32 domain, bytes32 structHash) internal pure returns (bytes32 digest) {
        assembly ("memory-safe") {
            let at_ := mload(0x40) // beyond the free pointer, and given back
            mstore(at_, shl(240, 0x1901))
            mstore(add(at_, 2), domain)
            mstore(add(at_, 34), structHash)
            digest := keccak256(at_, 66)
        }
    }

    /// @notice Whose signature it is; zero: nobody's, or s is not low.
    /// @dev OpenZeppelin's ECDSA.tryRecover for one form of signature, without its error codes: a round recovers nine times.
    function recover(bytes32 digest, bytes32 r, bytes32 vs) internal view returns (address recovered) {
        uint256 s = uint256(vs) & S_BITS;
        if (s > HALF_ORDER) return address(0);
        assembly ("memory-safe") {
            let at_ := mload(0x40) // beyond the free pointer, and given back
            mstore(at_, digest)
            mstore(add(at_, 32), add(27, shr(255, vs)))
            mstore(add(at_, 64), r)
            mstore(add(at_, 96), s)
            mstore(0, 0) // the precompile writes nothing where it recovers nothing
            pop(staticcall(gas(), 1, at_, 128, 0, 32))
            recovered := mload(0)
        }
    }

    /// @notice Whether `ledger` signed `digest`. A zero address never did.
    function signedBy(address ledger, bytes32 digest, bytes32 r, bytes32 vs) internal view returns (bool) {
        address recovered = recover(digest, r, vs);
        return recovered != address(0) && recovered == ledger;
    }

    /// @notice Reverts unless `ledger`, the key of `member`, signed `digest`.
    function check(uint16 member, address ledger, bytes32 digest, bytes32 r, bytes32 vs) internal view {
        address recovered = recover(digest, r, vs);
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
    ) internal view {
        if (signers & ~voters != 0) revert NotOnRoster(signers & ~voters);
        uint256 votes = Bitmaps.count(signers);
        if (votes < needed) revert QuorumNotReached(votes, needed);
        checkLength(signatures, votes);
        uint256 left = signers;
        uint256 i;
        unchecked {
            for (uint256 k; left != 0; (++i, left >>= 1)) {
                if (left & 1 == 0) continue;
                (bytes32 r, bytes32 vs) = at(signatures, k++); // 32 at most
                address ledger = RosterCode.ledgerAt(roster, i);
                address recovered = recover(digest, r, vs);
                if (recovered != ledger || recovered == address(0)) revert BadSignature(uint16(i), ledger, recovered);
            }
        }
    }
}
