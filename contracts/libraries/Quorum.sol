// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Quorum: how many members must agree
/// @notice n is the size of a fixed roster, f the faults it is built to bear. Two quorums always share more than f
/// members, and the members that are not faulty always form one.
library Quorum {
    /// @notice Faults borne: the study's wish, never more than (n-1)/3. Below four members that is 0: crash tolerance only.
    function faults(uint256 n, uint256 wished) internal pure returns (uint256) {
        unchecked {
            uint256 most = n == 0 ? 0 : (n - 1) / 3;
            return wished < most ? wished : most;
        }
    }

    /// @notice Equal votes that decide: floor((n+f)/2)+1 (n=2: 2, 3: 2, 4: 3, 5: 4, 7: 5).
    function needed(uint256 n, uint256 f) internal pure returns (uint256) {
        unchecked {
            return (n + f) / 2 + 1; // a roster has at most 32
        }
    }

    /// @notice Members that may be silent before a step stops waiting for them: f, but one at n = 3, where a single
    /// silent hospital must not stop the other two (they still form a quorum).
    function slack(uint256 n, uint256 f) internal pure returns (uint256) {
        return n == 3 ? 1 : f;
    }

    /// @notice Members that must say they hold a blob before it is counted available: f+1, so one of them is honest, and
    /// never fewer than two, so one crash after the statement loses nothing.
    function holders(uint256 f) internal pure returns (uint256) {
        return f == 0 ? 2 : f + 1;
    }

    /// @notice Members other than the erasing hospital that must confirm an erasure: all others but f; below four
    /// members one. With n = 4: two of three.
    function verdicts(uint256 n, uint256 others, uint256 f) internal pure returns (uint256) {
        return n < 4 ? 1 : others - f;
    }
}
