// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Network} from "./support/Network.sol";

/// @notice Nobody owns, pauses or upgrades: no function whose name says so, no opcode that could do it unsaid.
contract ImmutableTest is Network {
    string[4] internal names = ["Membership", "ConsentRegistry", "TrainingLedger", "UnlearningRegistry"];

    string[12] internal powers = [
        "owner",
        "admin",
        "pause",
        "upgrade",
        "proxy",
        "implementation",
        "initialize",
        "role",
        "destroy",
        "kill",
        "withdrawether",
        "setcode"
    ];

    function test_noFunctionOfAnOwner() public view {
        for (uint256 c; c < 4; ++c) {
            string memory json = vm.readFile(string.concat("artifacts/", names[c], ".json"));
            uint256 seen;
            for (uint256 i; vm.keyExistsJson(json, entry(i, ".type")); ++i) {
                if (keccak256(bytes(vm.parseJsonString(json, entry(i, ".type")))) != keccak256("function")) continue;
                string memory name = vm.parseJsonString(json, entry(i, ".name"));
                ++seen;
                for (uint256 k; k < powers.length; ++k) {
                    holds(!contains(bytes(lower(name)), bytes(powers[k])), string.concat(names[c], ".", name));
                }
                holds(
                    keccak256(bytes(vm.parseJsonString(json, entry(i, ".stateMutability")))) != keccak256("payable"),
                    string.concat("takes coin: ", names[c], ".", name)
                );
            }
            holds(seen > 8, "the ABI was read");
        }
    }

    function test_noOpcodeThatReplacesCodeOrEndsAContract() public view {
        for (uint256 c; c < 4; ++c) {
            bytes memory code =
                vm.parseJsonBytes(vm.readFile(string.concat("artifacts/", names[c], ".json")), ".deployedBytecode");
            holds(code.length > 1000, "the code was read");
            uint256 instructions;
            for (uint256 i; i < code.length; ++i) {
                uint8 op = uint8(code[i]);
                ++instructions;
                holds(op != 0xf4, string.concat("DELEGATECALL in ", names[c]));
                holds(op != 0xf2, string.concat("CALLCODE in ", names[c]));
                holds(op != 0xff, string.concat("SELFDESTRUCT in ", names[c]));
                if (op >= 0x60 && op <= 0x7f) i += op - 0x5f; // skip what a PUSH pushes
            }
            holds(instructions > 500, "instructions were walked");
        }
    }

    function test_theWalkFindsWhatItLooksFor() public pure {
        // PUSH1 0xf4, PUSH1 0xff are data; a DELEGATECALL after them is not
        bytes memory code = hex"60f460fff4";
        uint256 found_;
        for (uint256 i; i < code.length; ++i) {
            uint8 op = uint8(code[i]);
            if (op == 0xf4 || op == 0xff) ++found_;
            if (op >= 0x60 && op <= 0x7f) i += op - 0x5f;
        }
        same(found_, 1, "one instruction");
        holds(contains(bytes(lower("transferOwnership")), bytes("owner")), "names are searched without case");
    }

    function entry(uint256 i, string memory key) internal pure returns (string memory) {
        return string.concat(".abi[", vm.toString(i), "]", key);
    }

    function lower(string memory text) internal pure returns (string memory) {
        bytes memory b = bytes(text);
        for (uint256 i; i < b.length; ++i) {
            if (b[i] >= "A" && b[i] <= "Z") b[i] = bytes1(uint8(b[i]) + 32);
        }
        return string(b);
    }

    function contains(bytes memory text, bytes memory part) internal pure returns (bool) {
        for (uint256 i; i + part.length <= text.length; ++i) {
            uint256 k;
            while (k < part.length && text[i + k] == part[k]) ++k;
            if (k == part.length) return true;
        }
        return false;
    }
}
