// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IConsentRegistry} from "../interfaces/IConsentRegistry.sol";
import {ITrainingLedger} from "../interfaces/ITrainingLedger.sol";
import {Statements} from "../libraries/Statements.sol";
import {Tags} from "../libraries/Tags.sol";
import {Network} from "./support/Network.sol";

/// @notice Gas of whole transactions (intrinsic cost and calldata included), written to snapshots/. Keys, chain id and
/// deployer are fixed here; elsewhere expect differences of up to a few hundred (12 for each zero byte of a hash).
/// forge-config: default.isolate = true
contract GasTest is Network {
    function round(uint256 n, uint256 votes, string memory name) internal {
        bytes32 roundId = start(n);
        roundId = finish(roundId, everyone(n), keccak256("model 1")); // slots that every later round overwrites are set
        ITrainingLedger.CommitEntry[] memory commits = commitsOf(roundId, everyone(n));
        training.postCommits(study, roundId, commits);
        vm.snapshotGasLastCall("Round", string.concat(name, " commits"));
        ITrainingLedger.Result memory x = resultOf(everyone(n), 0, keccak256("model 2"));
        bytes memory signatures = votesOf(roundId, 0, everyone(n), x, everyone(votes));
        training.finalise(study, roundId, 0, x, everyone(votes), signatures);
        vm.snapshotGasLastCall("Round", string.concat(name, " finalise, next round opened"));
    }

    function test_gasOfRounds() public {
        round(2, 2, "n=02");
        round(3, 2, "n=03");
        round(4, 3, "n=04");
        round(5, 4, "n=05");
        round(7, 5, "n=07");
        round(10, 7, "n=10");
        round(32, 22, "n=32");
    }

    function test_gasOfAStudy() public {
        found(5);
        createStudy(terms(5));
        vm.snapshotGasLastCall("Study", "n=5 created");
    }

    function test_gasOfTheSlowPath() public {
        bytes32 roundId = start(5);
        roundId = finish(roundId, 31, keccak256("model 1"));
        commit(roundId, 15);
        vm.snapshotGasLastCall("SlowPath", "n=5 commits of four");
        commit(roundId, 16);
        vm.snapshotGasLastCall("SlowPath", "n=5 commit of one, by itself");
        vm.warp(block.timestamp + REVEAL + 1);
        have(roundId, 1, 15, 15);
        vm.snapshotGasLastCall("SlowPath", "n=5 haves of four");
        vm.warp(block.timestamp + HAVE);
        finalise(roundId, 1, 15, resultOf(15, 0, keccak256("model 2")), 15);
        vm.snapshotGasLastCall("SlowPath", "n=5 finalise in attempt 1");
        roundId = training.openRound(study);
        vm.warp(block.timestamp + SEAL + 1);
        training.failRound(study, roundId);
        vm.snapshotGasLastCall("SlowPath", "n=5 failRound, next round opened");
    }

    function test_gasOfConsents() public {
        found(4);
        IConsentRegistry.FormData memory form =
            IConsentRegistry.FormData(keccak256("study"), 3, keccak256("text"), 1, 1, 1_806_537_600, 3);
        bytes32 formId = keccak256(abi.encode(Statements.FORM, form));
        (bytes32 r, bytes32 vs) =
            sign(memberKey(0), address(consent), keccak256(abi.encode(Statements.REGISTER_FORM, uint16(0), formId)));
        consent.registerForm(form, 0, r, vs);
        vm.snapshotGasLastCall("Consents", "registerForm");
        grants(formId, 0, 1, "grant, 1, the first with its form");
        grants(formId, 20_000, 1, "grant, 1");
        grants(formId, 1, 100, "grant, 100");
        grants(formId, 10_000, 500, "grant, 500");
        anchors(form.study, formId, 1, 1024, "anchor, one root, any count");
        anchors(form.study, formId, 100, 32, "anchor, 100 chunks of 32");
        anchors(form.study, formId, 313, 32, "anchor, 313 chunks of 32 (10,016 leaves)");
        withdrawals(0, 1, "withdraw, 1, stored grant");
        withdrawals(1, 10, "withdraw, 10, stored grants");
        withdrawals(1000, 1, "withdraw, 1, anchored grant");
        withdrawals(1001, 10, "withdraw, 10, anchored grants");
    }

    function holderKey(uint256 i) internal pure returns (uint256) {
        return uint256(keccak256(abi.encode("holder", i)));
    }

    function consentId(uint256 i) internal pure returns (bytes32) {
        return keccak256(abi.encode(Tags.CONSENT, vm.addr(holderKey(i)), keccak256(abi.encode("salt", i)), bytes32(i)));
    }

    function grants(bytes32 formId, uint256 from, uint256 many, string memory name) internal {
        IConsentRegistry.GrantEntry[] memory e = new IConsentRegistry.GrantEntry[](1);
        e[0].formId = formId;
        e[0].consentIds = new bytes32[](many);
        for (uint256 i; i < many; ++i) {
            e[0].consentIds[i] = consentId(from + i);
        }
        (e[0].r, e[0].vs) = sign(
            memberKey(0),
            address(consent),
            keccak256(
                abi.encode(Statements.GRANT, formId, uint16(0), keccak256(abi.encodePacked(e[0].consentIds)))
            )
        );
        if (many == 1) consent.grantOne(formId, 0, e[0].consentIds[0], e[0].r, e[0].vs);
        else consent.grant(e);
        vm.snapshotGasLastCall("Consents", name);
    }

    function anchors(bytes32 study_, bytes32 formId, uint256 many, uint32 leaves, string memory name) internal {
        IConsentRegistry.AnchorEntry[] memory e = new IConsentRegistry.AnchorEntry[](1);
        e[0].study = study_;
        e[0].formId = formId;
        e[0].count = leaves;
        e[0].roots = new bytes32[](many);
        for (uint256 i; i < many; ++i) {
            e[0].roots[i] = keccak256(abi.encode("root", many, i));
        }
        (e[0].r, e[0].vs) = sign(
            memberKey(0),
            address(consent),
            keccak256(
                abi.encode(
                    Statements.ANCHOR, study_, formId, uint16(0), leaves, keccak256(abi.encodePacked(e[0].roots))
                )
            )
        );
        consent.anchor(e);
        vm.snapshotGasLastCall("Consents", name);
    }

    function withdrawals(uint256 from, uint256 many, string memory name) internal {
        IConsentRegistry.WithdrawEntry[] memory e = new IConsentRegistry.WithdrawEntry[](many);
        for (uint256 i; i < many; ++i) {
            e[i].holder = vm.addr(holderKey(from + i));
            e[i].holderSalt = keccak256(abi.encode("salt", from + i));
            e[i].binding = bytes32(from + i);
            (e[i].r, e[i].vs) = sign(
                holderKey(from + i), address(consent), keccak256(abi.encode(Statements.WITHDRAW, consentId(from + i)))
            );
        }
        if (many == 1) consent.withdrawOne(e[0]);
        else consent.withdraw(e);
        vm.snapshotGasLastCall("Consents", name);
    }
}
