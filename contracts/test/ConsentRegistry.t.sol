// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IConsentRegistry} from "../interfaces/IConsentRegistry.sol";
import {PackedSignatures} from "../libraries/PackedSignatures.sol";
import {Skips} from "../libraries/Skips.sol";
import {Statements} from "../libraries/Statements.sol";
import {Tags} from "../libraries/Tags.sol";
import {Network} from "./support/Network.sol";

contract ConsentRegistryTest is Network {
    bytes32 internal constant STUDY = keccak256("study");
    uint40 internal constant VALID_TO = 1_806_537_600; // 2027-04-01

    event EntrySkipped(bytes32 indexed subject, uint16 member, uint8 reason);
    event Withdrawn(bytes32 indexed consentId, uint64 at);
    event Granted(bytes32 indexed consentId, bytes32 indexed study, bytes32 formId, uint16 member);

    bytes32 internal formId;

    function setUp() public {
        found(4);
        formId = register(form(), 0);
    }

    function form() internal pure returns (IConsentRegistry.FormData memory f) {
        f = IConsentRegistry.FormData(STUDY, 3, keccak256("text"), 1, 1, VALID_TO, 3);
    }

    function register(IConsentRegistry.FormData memory f, uint16 member) internal returns (bytes32 id) {
        id = keccak256(abi.encode(Statements.FORM, f));
        (bytes32 r, bytes32 vs) =
            sign(memberKey(member), address(consent), keccak256(abi.encode(Statements.REGISTER_FORM, member, id)));
        consent.registerForm(f, member, r, vs);
    }

    function holderKey(uint256 i) internal pure returns (uint256) {
        return uint256(keccak256(abi.encode("holder", i)));
    }

    function consentId(uint256 i) internal pure returns (bytes32) {
        return keccak256(
            abi.encode(
                Tags.CONSENT,
                vm.addr(holderKey(i)),
                keccak256(abi.encode("salt", i)),
                keccak256(abi.encode("binding", i))
            )
        );
    }

    function grantOf(uint256 i, uint16 member) internal view returns (IConsentRegistry.GrantEntry memory e) {
        e.study = STUDY;
        e.formId = formId;
        e.member = member;
        e.consentId = consentId(i);
        (e.r, e.vs) = sign(
            memberKey(member),
            address(consent),
            keccak256(abi.encode(Statements.GRANT, STUDY, formId, member, e.consentId))
        );
    }

    function grant(uint256 i, uint16 member) internal {
        IConsentRegistry.GrantEntry[] memory e = new IConsentRegistry.GrantEntry[](1);
        e[0] = grantOf(i, member);
        consent.grant(e);
    }

    function withdrawalOf(uint256 i) internal view returns (IConsentRegistry.WithdrawEntry memory e) {
        e.holder = vm.addr(holderKey(i));
        e.holderSalt = keccak256(abi.encode("salt", i));
        e.binding = keccak256(abi.encode("binding", i));
        (e.r, e.vs) = sign(holderKey(i), address(consent), keccak256(abi.encode(Statements.WITHDRAW, consentId(i))));
    }

    function withdraw(uint256 i) internal {
        IConsentRegistry.WithdrawEntry[] memory e = new IConsentRegistry.WithdrawEntry[](1);
        e[0] = withdrawalOf(i);
        consent.withdraw(e);
    }

    function isActive(uint256 i) internal view returns (bool) {
        return consent.isActive(consentId(i), 0, 0, new bytes32[](0));
    }

    function skips(bytes32 subject, uint16 member, uint8 reason) internal {
        vm.expectEmit(true, false, false, true, address(consent));
        emit EntrySkipped(subject, member, reason);
    }

    // ------------------------------------------------------------------------------------------------ forms

    function test_formIsItsStructHash() public view {
        IConsentRegistry.FormData memory f = consent.formOf(formId);
        same(keccak256(abi.encode(f)), keccak256(abi.encode(form())), "form");
        same(consent.formOf(keccak256("none")).study, bytes32(0), "unknown form");
    }

    function test_formRegisteredOnceByAnyMember() public {
        vm.expectRevert(abi.encodeWithSelector(IConsentRegistry.FormKnown.selector, formId));
        consent.registerForm(form(), 1, 0, 0);
        IConsentRegistry.FormData memory f = form();
        f.purposes = 1;
        vm.expectRevert(abi.encodeWithSelector(IConsentRegistry.NotActive.selector, 7));
        consent.registerForm(f, 7, 0, 0);
        vm.expectRevert();
        consent.registerForm(f, 1, bytes32(uint256(1)), bytes32(uint256(1)));
        register(f, 1);
    }

    function test_badFormFieldsRefused() public {
        IConsentRegistry.FormData memory f = form();
        f.custody = 4;
        refused(f, "custody", 4);
        f = form();
        f.basis = 0;
        refused(f, "basis", 0);
        f = form();
        f.onWithdrawal = 9;
        refused(f, "onWithdrawal", 9);
        f = form();
        f.validTo = VALID_TO + 1;
        refused(f, "validTo", VALID_TO + 1);
        f.validTo = VALID_TO + 1 days;
        refused(f, "validTo", VALID_TO + 1 days);
        f = form();
        f.study = 0;
        refused(f, "study", 0);
        f = form();
        f.textHash = 0;
        refused(f, "textHash", 0);
    }

    function refused(IConsentRegistry.FormData memory f, string memory field, uint256 got) internal {
        vm.expectRevert(abi.encodeWithSelector(IConsentRegistry.FormField.selector, field, got));
        consent.registerForm(f, 0, 0, 0);
    }

    // ----------------------------------------------------------------------------------------------- grants

    function test_grantIsActiveUntilItExpires() public {
        grant(1, 2);
        IConsentRegistry.GrantView memory g = consent.grantOf(consentId(1));
        holds(g.formId == formId && g.study == STUDY && g.member == 2 && g.grantedAt == START, "grant");
        holds(isActive(1), "active");
        holds(!isActive(2), "never granted");
        vm.warp(VALID_TO - 1);
        holds(isActive(1), "the last second");
        vm.warp(VALID_TO);
        holds(!isActive(1), "expired");
    }

    function test_junkGrantsHarmOnlyThemselves() public {
        withdraw(5);
        IConsentRegistry.GrantEntry[] memory e = new IConsentRegistry.GrantEntry[](8);
        e[0] = grantOf(1, 0);
        e[1] = grantOf(1, 1); // the same consent at another hospital
        e[2] = grantOf(2, 0);
        e[2].member = 1; // another hospital's signature
        e[3] = grantOf(3, 9);
        e[4] = grantOf(4, 0);
        e[4].formId = keccak256("none");
        e[5] = grantOf(5, 0); // withdrawn before
        e[6] = grantOf(6, 0);
        e[6].study = keccak256("another study");
        e[7] = grantOf(7, 3);
        vm.expectEmit(true, true, false, true, address(consent));
        emit Granted(consentId(1), STUDY, formId, 0);
        skips(consentId(1), 1, Skips.DUPLICATE);
        skips(consentId(2), 1, Skips.BAD_SIGNATURE);
        skips(consentId(3), 9, Skips.UNKNOWN_MEMBER);
        skips(consentId(4), 0, Skips.UNKNOWN_SUBJECT);
        skips(consentId(5), 0, Skips.WRONG_PHASE);
        skips(consentId(6), 0, Skips.MALFORMED);
        vm.expectEmit(true, true, false, true, address(consent));
        emit Granted(consentId(7), STUDY, formId, 3);
        consent.grant(e);
        holds(isActive(1) && isActive(7), "the good ones stand");
    }

    function test_tombstoneBeforeTheGrantHoldsForEver() public {
        withdraw(1);
        same(consent.withdrawnAt(consentId(1)), START, "tombstone of a consent nobody granted");
        skips(consentId(1), 0, Skips.WRONG_PHASE);
        grant(1, 0);
        holds(!isActive(1), "never active");
    }

    // ------------------------------------------------------------------------------------------ withdrawals

    function test_withdrawalEndsAConsent() public {
        grant(1, 0);
        vm.warp(START + 5);
        vm.expectEmit(true, false, false, true, address(consent));
        emit Withdrawn(consentId(1), uint64(START + 5));
        withdraw(1);
        same(consent.withdrawnAt(consentId(1)), START + 5, "when");
        holds(!isActive(1), "ended");
    }

    function test_junkWithdrawalsHarmOnlyThemselves() public {
        IConsentRegistry.WithdrawEntry[] memory e = new IConsentRegistry.WithdrawEntry[](4);
        e[0] = withdrawalOf(1);
        e[1] = withdrawalOf(1);
        e[2] = withdrawalOf(2);
        e[2].r = e[0].r; // not this consent's signature
        e[3] = withdrawalOf(3);
        vm.expectEmit(true, false, false, true, address(consent));
        emit Withdrawn(consentId(1), uint64(START));
        skips(consentId(1), type(uint16).max, Skips.DUPLICATE);
        skips(consentId(2), type(uint16).max, Skips.BAD_SIGNATURE);
        vm.expectEmit(true, false, false, true, address(consent));
        emit Withdrawn(consentId(3), uint64(START));
        consent.withdraw(e);
        same(consent.withdrawnAt(consentId(2)), 0, "nobody else ends it");
    }

    function test_hospitalWithdrawsOnlyWhatItGranted() public {
        grant(1, 2);
        bytes32 id = consentId(1);
        bytes32[] memory none = new bytes32[](0);
        (bytes32 r, bytes32 vs) = hospitalStatement(1, id);
        vm.expectRevert(abi.encodeWithSelector(IConsentRegistry.NotGrantedBy.selector, id, 1));
        consent.withdrawByHospital(1, id, 0, 0, none, r, vs);
        vm.expectRevert(); // member 1's signature for member 2
        consent.withdrawByHospital(2, id, 0, 0, none, r, vs);
        (r, vs) = hospitalStatement(2, id);
        consent.withdrawByHospital(2, id, 0, 0, none, r, vs);
        holds(!isActive(1), "ended");
        vm.expectRevert(abi.encodeWithSelector(IConsentRegistry.AlreadyWithdrawn.selector, id));
        consent.withdrawByHospital(2, id, 0, 0, none, r, vs);
    }

    function hospitalStatement(uint16 member, bytes32 id) internal view returns (bytes32 r, bytes32 vs) {
        return
            sign(
                memberKey(member), address(consent), keccak256(abi.encode(Statements.WITHDRAW_BY_HOSPITAL, member, id))
            );
    }

    function quorumVotes(uint16 member, bytes32 id, uint64 epoch, uint32 signers) internal view returns (bytes memory) {
        return
            signAll(signers, address(consent), keccak256(abi.encode(Statements.WITHDRAW_BY_QUORUM, epoch, member, id)));
    }

    function test_quorumWithdrawsOnlyForARemovedHospital() public {
        grant(1, 3);
        bytes32 id = consentId(1);
        bytes memory votes = quorumVotes(3, id, 1, 7);
        vm.expectRevert(abi.encodeWithSelector(IConsentRegistry.StillMember.selector, 3));
        consent.withdrawByQuorum(3, id, 7, votes);
        membership.remove(
            3, ballot(7, keccak256(abi.encode(Statements.REMOVE, uint64(1), uint16(3), membership.ledgerOf(3))))
        );
        vm.expectRevert(); // votes of an earlier epoch
        consent.withdrawByQuorum(3, id, 7, votes);
        votes = quorumVotes(3, id, 2, 1);
        vm.expectRevert(abi.encodeWithSelector(PackedSignatures.QuorumNotReached.selector, 1, 2));
        consent.withdrawByQuorum(3, id, 1, votes);
        vm.expectRevert(abi.encodeWithSelector(IConsentRegistry.NotActive.selector, 9));
        consent.withdrawByQuorum(9, id, 1, votes);
        consent.withdrawByQuorum(3, id, 3, quorumVotes(3, id, 2, 3));
        holds(!isActive(1), "ended");
    }

    function test_removedHospitalGrantsNothingButMayStillWithdraw() public {
        grant(1, 3);
        membership.remove(
            3, ballot(7, keccak256(abi.encode(Statements.REMOVE, uint64(1), uint16(3), membership.ledgerOf(3))))
        );
        skips(consentId(2), 3, Skips.UNKNOWN_MEMBER);
        grant(2, 3);
        (bytes32 r, bytes32 vs) = hospitalStatement(3, consentId(1));
        consent.withdrawByHospital(3, consentId(1), 0, 0, new bytes32[](0), r, vs);
        holds(!isActive(1), "ended");
    }

    // --------------------------------------------------------------------------------------------- anchors

    /// @dev Root and path of leaf `index` in a tree of 32 consents, number `index` being consentId(index).
    function tree(uint256 index) internal pure returns (bytes32 root, bytes32[] memory path) {
        bytes32[] memory level = new bytes32[](32);
        for (uint256 i; i < 32; ++i) {
            level[i] = keccak256(abi.encode(Tags.ANCHOR_LEAF, consentId(i)));
        }
        path = new bytes32[](5);
        for (uint256 depth; depth < 5; ++depth) {
            path[depth] = level[(index >> depth) ^ 1];
            bytes32[] memory up = new bytes32[](level.length / 2);
            for (uint256 i; i < up.length; ++i) {
                up[i] = keccak256(abi.encode(Tags.ANCHOR_NODE, level[2 * i], level[2 * i + 1]));
            }
            level = up;
        }
        root = level[0];
    }

    function anchor(uint16 member, bytes32 root, uint32 leaves) internal {
        (bytes32 r, bytes32 vs) = sign(
            memberKey(member),
            address(consent),
            keccak256(abi.encode(Statements.ANCHOR, STUDY, formId, member, root, leaves))
        );
        consent.anchor(STUDY, formId, member, root, leaves, r, vs);
    }

    function test_anchoredConsentIsActiveByItsPathAndNoOther() public {
        (bytes32 root, bytes32[] memory path) = tree(19);
        anchor(1, root, 32);
        IConsentRegistry.AnchorView memory a = consent.anchorOf(root);
        holds(
            a.formId == formId && a.study == STUDY && a.member == 1 && a.count == 32 && a.anchoredAt == START, "anchor"
        );
        holds(consent.isActive(consentId(19), root, 19, path), "active");
        holds(!consent.isActive(consentId(19), root, 18, path), "another index");
        holds(!consent.isActive(consentId(19), root, 19 + 32, path), "an index beyond the tree");
        holds(!consent.isActive(consentId(18), root, 19, path), "another consent");
        bytes32[] memory short = new bytes32[](4);
        for (uint256 i; i < 4; ++i) {
            short[i] = path[i];
        }
        holds(!consent.isActive(consentId(19), root, 19, short), "a short path");
        withdraw(19);
        holds(!consent.isActive(consentId(19), root, 19, path), "withdrawn");
    }

    function test_hospitalWithdrawsAnAnchoredConsent() public {
        (bytes32 root, bytes32[] memory path) = tree(4);
        anchor(1, root, 32);
        bytes32 id = consentId(4);
        (bytes32 r, bytes32 vs) = hospitalStatement(1, id);
        vm.expectRevert(abi.encodeWithSelector(IConsentRegistry.NotGrantedBy.selector, id, 1));
        consent.withdrawByHospital(1, id, root, 5, path, r, vs);
        consent.withdrawByHospital(1, id, root, 4, path, r, vs);
        same(consent.withdrawnAt(id), START, "ended");
    }

    function test_badAnchorsRefused() public {
        (bytes32 root,) = tree(0);
        vm.expectRevert(abi.encodeWithSelector(IConsentRegistry.AnchorCount.selector, 16));
        consent.anchor(STUDY, formId, 1, root, 16, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(IConsentRegistry.AnchorCount.selector, 33));
        consent.anchor(STUDY, formId, 1, root, 33, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(IConsentRegistry.AnchorEmpty.selector));
        consent.anchor(STUDY, formId, 1, 0, 32, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(IConsentRegistry.FormUnknown.selector, keccak256("none")));
        consent.anchor(STUDY, keccak256("none"), 1, root, 32, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(IConsentRegistry.FormOfAnotherStudy.selector, STUDY, keccak256("other")));
        consent.anchor(keccak256("other"), formId, 1, root, 32, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(IConsentRegistry.NotActive.selector, 40));
        consent.anchor(STUDY, formId, 40, root, 32, 0, 0);
        vm.expectRevert();
        consent.anchor(STUDY, formId, 1, root, 32, 0, 0);
        anchor(1, root, 32);
        vm.expectRevert(abi.encodeWithSelector(IConsentRegistry.AnchorKnown.selector, root));
        consent.anchor(STUDY, formId, 1, root, 32, 0, 0);
    }

    // ----------------------------------------------------------------------------------------- accumulator

    function test_accumulatorRollsOverEveryRecord() public {
        bytes32 acc =
            keccak256(abi.encode(bytes32(0), keccak256(abi.encode(Tags.RECORD_FORM_REGISTERED, formId, form()))));
        same(consent.accumulator(), acc, "form");
        grant(1, 2);
        acc = keccak256(
            abi.encode(acc, keccak256(abi.encode(Tags.RECORD_GRANTED, consentId(1), STUDY, formId, uint256(2))))
        );
        same(consent.accumulator(), acc, "grant");
        grant(1, 2);
        same(consent.accumulator(), acc, "a skipped entry is no record");
        (bytes32 root,) = tree(0);
        anchor(1, root, 32);
        acc = keccak256(
            abi.encode(acc, keccak256(abi.encode(Tags.RECORD_ANCHORED, root, STUDY, formId, uint256(1), uint256(32))))
        );
        same(consent.accumulator(), acc, "anchor");
        withdraw(1);
        acc = keccak256(abi.encode(acc, keccak256(abi.encode(Tags.RECORD_WITHDRAWN, consentId(1), uint256(START)))));
        same(consent.accumulator(), acc, "withdrawal");
    }
}
