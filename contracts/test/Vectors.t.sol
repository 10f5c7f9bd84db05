// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AnchorTree} from "../libraries/AnchorTree.sol";
import {MerkleMap} from "../libraries/MerkleMap.sol";
import {PackedSignatures} from "../libraries/PackedSignatures.sol";
import {Statements} from "../libraries/Statements.sol";
import {Checks} from "./support/Checks.sol";

/// @notice Solidity and Python agree: the vectors that tests/crypto reads are read here too.
contract VectorsTest is Checks {
    string internal constant FOLDER = "../tests/vectors/crypto/";

    function load(string memory name) internal view returns (string memory) {
        return vm.readFile(string.concat(FOLDER, name, ".json"));
    }

    // ------------------------------------------------------------------------------------------- statements

    mapping(bytes32 typeHash => bool) internal known;

    function setUp() public {
        bytes32[43] memory all = [
            Statements.SEAT,
            Statements.ADMIT,
            Statements.REMOVE,
            Statements.SEAT_AUDITOR,
            Statements.KEYS,
            Statements.ROTATE,
            Statements.REVOKE,
            Statements.RECOVER,
            Statements.END_AUDITOR,
            Statements.SUCCEED,
            Statements.ANCHOR_LOG,
            Statements.ANNOUNCE,
            Statements.OPEN_AUDIT,
            Statements.BUNDLE,
            Statements.CREATE_STUDY,
            Statements.JOIN,
            Statements.LEAVE,
            Statements.COMMIT,
            Statements.ABSTAIN,
            Statements.HAVE,
            Statements.VOTE,
            Statements.CLOSE,
            Statements.AUDIT_ACCESS,
            Statements.FORM,
            Statements.REGISTER_FORM,
            Statements.GRANT,
            Statements.ANCHOR,
            Statements.WITHDRAW,
            Statements.WITHDRAW_BY_HOSPITAL,
            Statements.WITHDRAW_BY_QUORUM,
            Statements.REQUEST_ERASURE,
            Statements.OPEN_ERASURE,
            Statements.AUTHORISE,
            Statements.REFUSE,
            Statements.EXTEND,
            Statements.ERASURE_STEPS,
            Statements.PLAN,
            Statements.PURGED,
            Statements.VERDICT,
            Statements.ATTEST,
            Statements.TOMBSTONE,
            Statements.RECEIPT,
            Statements.CERTIFICATE
        ];
        for (uint256 i; i < 43; ++i) {
            known[all[i]] = true;
        }
    }

    function test_everyStatementHashesAndRecoversAsInPython() public view {
        string memory json = load("statements/valid");
        uint256 checked;
        while (vm.keyExistsJson(json, string.concat(".vectors[", vm.toString(checked), "]"))) {
            statementAgrees(json, string.concat(".vectors[", vm.toString(checked), "]"));
            ++checked;
        }
        same(checked, 43, "statements of the table");
    }

    function statementAgrees(string memory json, string memory at) internal view {
        string memory typeText = vm.parseJsonString(json, string.concat(at, ".type"));
        bytes32 typeHash = keccak256(bytes(typeText));
        holds(known[typeHash], typeText);
        bytes32 structHash = vm.parseJsonBytes32(json, string.concat(at, ".structHash"));
        if (typeHash == Statements.SEAT) {
            bytes32 role = keccak256(bytes(vm.parseJsonString(json, string.concat(at, ".fields.role"))));
            bytes memory peerId = vm.parseJsonBytes(json, string.concat(at, ".fields.peer_id"));
            bytes32 sealing = vm.parseJsonBytes32(json, string.concat(at, ".fields.sealing_key"));
            string memory name = vm.parseJsonString(json, string.concat(at, ".fields.name"));
            same(Statements.hashSeat(role, peerId, sealing, name), structHash, typeText);
        } else if (typeHash == Statements.KEYS) {
            uint256 member = vm.parseJsonUint(json, string.concat(at, ".fields.member"));
            address ledger = vm.parseJsonAddress(json, string.concat(at, ".fields.ledger"));
            bytes memory peerId = vm.parseJsonBytes(json, string.concat(at, ".fields.peer_id"));
            bytes32 sealing = vm.parseJsonBytes32(json, string.concat(at, ".fields.sealing_key"));
            same(Statements.hashKeys(uint16(member), ledger, peerId, sealing), structHash, typeText);
        } else if (typeHash == Statements.ANNOUNCE) {
            uint256 member = vm.parseJsonUint(json, string.concat(at, ".fields.member"));
            uint256 number = vm.parseJsonUint(json, string.concat(at, ".fields.number"));
            bytes memory text = vm.parseJsonBytes(json, string.concat(at, ".fields.multiaddress"));
            same(keccak256(abi.encode(typeHash, member, number, keccak256(text))), structHash, typeText);
        } else {
            bytes memory words = staticFields(json, string.concat(at, ".fields."), bytes(typeText));
            same(keccak256(abi.encodePacked(typeHash, words)), structHash, typeText);
        }
        bytes32 separator = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("koinon"),
                keccak256("1"),
                vm.parseJsonUint(json, string.concat(at, ".chainId")),
                vm.parseJsonAddress(json, string.concat(at, ".contract"))
            )
        );
        same(separator, vm.parseJsonBytes32(json, string.concat(at, ".domainSeparator")), "domain separator");
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", separator, structHash));
        same(digest, vm.parseJsonBytes32(json, string.concat(at, ".digest")), "digest");
        bool signed = PackedSignatures.signedBy(
            vm.parseJsonAddress(json, string.concat(at, ".signer")),
            digest,
            vm.parseJsonBytes32(json, string.concat(at, ".r")),
            vm.parseJsonBytes32(json, string.concat(at, ".vs"))
        );
        holds(signed, "signature");
    }

    /// @dev The words of a statement, read by the names in its type ("a(uint16 b,bytes32 c)").
    function staticFields(string memory json, string memory prefix, bytes memory t)
        internal
        pure
        returns (bytes memory words)
    {
        uint256 i;
        while (t[i] != "(") ++i;
        while (t[i] != ")") {
            uint256 from = ++i;
            while (t[i] != " ") ++i;
            bytes memory kind = slice(t, from, i);
            from = ++i;
            while (t[i] != "," && t[i] != ")") ++i;
            string memory key = string.concat(prefix, snake(slice(t, from, i)));
            words = abi.encodePacked(words, field(json, key, keccak256(kind)));
        }
    }

    function field(string memory json, string memory key, bytes32 kind) internal pure returns (bytes32) {
        if (kind == keccak256("bytes32")) return vm.parseJsonBytes32(json, key);
        if (kind == keccak256("bytes32[]")) {
            return keccak256(abi.encodePacked(vm.parseJsonBytes32Array(json, key)));
        }
        if (kind == keccak256("bytes")) return keccak256(vm.parseJsonBytes(json, key));
        if (kind == keccak256("string")) return keccak256(bytes(vm.parseJsonString(json, key)));
        if (kind == keccak256("bytes")) return keccak256(vm.parseJsonBytes(json, key));
        if (kind == keccak256("address")) return bytes32(uint256(uint160(vm.parseJsonAddress(json, key))));
        if (kind == keccak256("bool")) return bytes32(uint256(vm.parseJsonBool(json, key) ? 1 : 0));
        return bytes32(vm.parseJsonUint(json, key));
    }

    function slice(bytes memory from, uint256 start, uint256 end) internal pure returns (bytes memory part) {
        part = new bytes(end - start);
        for (uint256 i; i < part.length; ++i) {
            part[i] = from[start + i];
        }
    }

    function snake(bytes memory camel) internal pure returns (string memory) {
        bytes memory out;
        for (uint256 i; i < camel.length; ++i) {
            uint8 c = uint8(camel[i]);
            out = c >= 65 && c <= 90 ? abi.encodePacked(out, "_", bytes1(c + 32)) : abi.encodePacked(out, camel[i]);
        }
        return string(out);
    }

    // ------------------------------------------------------------------------------------------------- maps

    function leafAt(string memory json, string memory at) internal pure returns (MerkleMap.Leaf memory l) {
        l.index = vm.parseJsonUint(json, string.concat(at, ".index"));
        l.key = vm.parseJsonBytes32(json, string.concat(at, ".key"));
        l.valueHash = vm.parseJsonBytes32(json, string.concat(at, ".valueHash"));
        l.path = vm.parseJsonBytes32Array(json, string.concat(at, ".path"));
    }

    function test_mapProofsHoldAsInPython() public view {
        uint8[9] memory sizes = [0, 1, 2, 3, 5, 7, 8, 13, 33];
        for (uint256 k; k < sizes.length; ++k) {
            string memory json = load(string.concat("merkle/valid-", vm.toString(sizes[k])));
            bytes32 root = vm.parseJsonBytes32(json, ".root");
            MerkleMap.Leaf[] memory leaves = new MerkleMap.Leaf[](sizes[k]);
            if (sizes[k] != 0) {
                bytes32[] memory keys = vm.parseJsonBytes32Array(json, ".keys");
                bytes32[] memory values = vm.parseJsonBytes32Array(json, ".valueHashes");
                for (uint256 i; i < leaves.length; ++i) {
                    bytes32[] memory path =
                        vm.parseJsonBytes32Array(json, string.concat(".paths[", vm.toString(i), "]"));
                    leaves[i] = MerkleMap.Leaf(i, keys[i], values[i], path);
                    holds(MerkleMap.includes(root, leaves.length, leaves[i]), "included");
                }
            }
            bytes32[] memory absent = vm.parseJsonBytes32Array(json, ".absentKeys");
            for (uint256 i; i < absent.length; ++i) {
                holds(MerkleMap.excludes(root, leaves.length, absent[i], around(leaves, absent[i])), "excluded");
            }
        }
    }

    function around(MerkleMap.Leaf[] memory leaves, bytes32 key) internal pure returns (MerkleMap.Leaf[] memory n) {
        uint256 right;
        while (right < leaves.length && leaves[right].key < key) ++right;
        bool hasLeft = right != 0;
        bool hasRight = right != leaves.length;
        n = new MerkleMap.Leaf[]((hasLeft ? 1 : 0) + (hasRight ? 1 : 0));
        if (hasLeft) n[0] = leaves[right - 1];
        if (hasRight) n[n.length - 1] = leaves[right];
    }

    /// @dev Every fault of a proof of absence or inclusion; the faults of building a map are Python's alone.
    function test_brokenMapProofsAreRefusedAsInPython() public view {
        string[16] memory absences = [
            "absence-count-changed",
            "absence-count-zero",
            "absence-empty-claimed",
            "absent-key-outside",
            "absent-key-present",
            "lone-left-not-last",
            "lone-right-not-first",
            "neighbour-forged",
            "neighbour-index-forged",
            "no-neighbour",
            "non-adjacent-neighbours",
            "swapped-neighbours",
            "count-changed",
            "flipped-path",
            "short-path",
            "wrong-root"
        ];
        uint256 checked;
        for (uint256 i; i < absences.length; ++i) {
            string memory json = load(string.concat("merkle/", absences[i]));
            if (keccak256(bytes(vm.parseJsonString(json, ".proof"))) != keccak256("absence")) continue;
            ++checked;
            holds(!excludes(json), absences[i]);
        }
        holds(checked >= 12, "faults of absence");
        string[14] memory inclusions = [
            "count-changed",
            "count-too-large",
            "empty-path",
            "flipped-path",
            "index-beyond-count",
            "node-as-leaf",
            "short-path",
            "swapped-path",
            "top-as-root",
            "trailing-path",
            "wrong-index",
            "wrong-leaf",
            "wrong-root",
            "wrong-value"
        ];
        for (uint256 i; i < inclusions.length; ++i) {
            string memory json = load(string.concat("merkle/", inclusions[i]));
            bytes32 root = vm.parseJsonBytes32(json, ".root");
            holds(!MerkleMap.includes(root, vm.parseJsonUint(json, ".count"), leafAt(json, "")), inclusions[i]);
        }
    }

    function excludes(string memory json) internal view returns (bool) {
        bool hasLeft = vm.keyExistsJson(json, ".left.key");
        bool hasRight = vm.keyExistsJson(json, ".right.key");
        MerkleMap.Leaf[] memory n = new MerkleMap.Leaf[]((hasLeft ? 1 : 0) + (hasRight ? 1 : 0));
        if (hasLeft) n[0] = leafAt(json, ".left");
        if (hasRight) n[n.length - 1] = leafAt(json, ".right");
        return MerkleMap.excludes(
            vm.parseJsonBytes32(json, ".root"), vm.parseJsonUint(json, ".count"), vm.parseJsonBytes32(json, ".key"), n
        );
    }

    // ---------------------------------------------------------------------------------------------- anchors

    function contains(string memory name) internal view returns (bool) {
        string memory json = load(string.concat("anchor/", name));
        return this.containsCalldata(
            vm.parseJsonBytes32(json, ".root"),
            vm.parseJsonUint(json, ".count"),
            vm.parseJsonBytes32(json, ".consentId"),
            vm.parseJsonUint(json, ".index"),
            vm.parseJsonBytes32Array(json, ".path")
        );
    }

    function containsCalldata(bytes32 root, uint256 count, bytes32 consentId, uint256 index, bytes32[] calldata path)
        external
        pure
        returns (bool)
    {
        return count <= type(uint32).max && AnchorTree.contains(root, uint32(count), consentId, index, path);
    }

    function test_anchorProofsHoldAsInPython() public view {
        holds(contains("valid"), "valid");
        holds(contains("valid-32"), "valid-32");
        string[9] memory faults = [
            "count-halved",
            "count-no-power-of-two",
            "count-too-small",
            "index-beyond-count",
            "node-as-leaf",
            "short-path",
            "trailing-path",
            "wrong-consent",
            "wrong-index"
        ];
        for (uint256 i; i < faults.length; ++i) {
            holds(!contains(faults[i]), faults[i]);
        }
    }
}
