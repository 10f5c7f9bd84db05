// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Vm} from "./Vm.sol";

/// @notice Assertions that name both values.
abstract contract Checks {
    Vm internal constant vm = Vm(0x7109709ECfa91a80626fF3989D68f67F5b1DD12D);

    error Differs(string what, uint256 got, uint256 expected);
    error DiffersBytes(string what, bytes32 got, bytes32 expected);
    error Untrue(string what);

    function same(uint256 got, uint256 expected, string memory what) internal pure {
        if (got != expected) revert Differs(what, got, expected);
    }

    function same(bytes32 got, bytes32 expected, string memory what) internal pure {
        if (got != expected) revert DiffersBytes(what, got, expected);
    }

    function holds(bool condition, string memory what) internal pure {
        if (!condition) revert Untrue(what);
    }
}
