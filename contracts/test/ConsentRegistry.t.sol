// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IConsentRegistry} from "../interfaces/IConsentRegistry.sol";
import {Duo} from "../libraries/Duo.sol";
import {PackedSignatures} from "../libraries/PackedSignatures.sol";
import {Skips} from "../libraries/Skips.sol";
import {Statements} from "../libraries/Statements.sol";
import {Tags} from "../libraries/Tags.sol";
import {Network} from "./support/Network.sol";

contract ConsentRegistryTest is Network {
    bytes32 internal constant STUDY = keccak256("study");
    uint40 internal constant VALID_TO = 1_806_537_600; // 2027-04-01

    event EntrySkipped(bytes32 indexed subject, uint16 member, uint8 reason);
    event Withdrawn(bytes32 consentId, uint64 at);
    event WithdrawnTogether(uint64 at, bytes32[] consentIds);
    event Granted(bytes32 consentId, bytes32 formId, uint16 member);
    event Anchored(bytes32 indexed study, bytes32 indexed formId, uint16 member, uint32 count, bytes32[] roots);

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
        bytes32[] memory ids = new bytes32[](1);
        ids[0] = consentId(i);
        return grantsOf(ids, member);
    }

    function grantsOf(bytes32[] memory ids, uint16 member)
        internal
        view
        returns (IConsentRegistry.GrantEntry memory e)
    {
        e.formId = formId;
        e.member = member;
        e.consentIds = ids;
        (e.r, e.vs) = sign(
            memberKey(member),
            address(consent),
            keccak256(abi.encode(Statements.GRANT, formId, member, keccak256(abi.encodePacked(ids))))
        );
    }

    function grant(uint256 i, uint16 member) internal {
        alone(grantOf(i, member));
    }

    function alone(IConsentRegistry.GrantEntry memory e) internal {
        consent.grantOne(e.formId, e.member, e.consentIds[0], e.r, e.vs);
    }

    function post(IConsentRegistry.GrantEntry memory one) internal {
        IConsentRegistry.GrantEntry[] memory e = new IConsentRegistry.GrantEntry[](1);
        e[0] = one;
        consent.grant(e);
    }

    function withdrawalOf(uint256 i) internal view returns (IConsentRegistry.WithdrawEntry memory e) {
        e.holder = vm.addr(holderKey(i));
        e.holderSalt = keccak256(abi.encode("salt", i));
        e.binding = keccak256(abi.encode("binding", i));
        (e.r, e.vs) = sign(holderKey(i), address(consent), keccak256(abi.encode(Statements.WITHDRAW, consentId(i))));
    }

    function withdraw(uint256 i) internal {
        consent.withdrawOne(withdrawalOf(i));
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
        f.purposes = Duo.NMDS | Duo.IRB;
        vm.expectRevert(abi.encodeWithSelector(IConsentRegistry.FormWithoutPermission.selector, f.purposes));
        consent.registerForm(f, 0, 0, 0);
        f.purposes = Duo.GRU | 1 << 31 | 1 << 5;
        vm.expectRevert(abi.encodeWithSelector(IConsentRegistry.FormUnknownPurposes.selector, uint32(1 << 31 | 1 << 5)));
        consent.registerForm(f, 0, 0, 0);
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
        IConsentRegistry.GrantEntry[] memory e = new IConsentRegistry.GrantEntry[](7);
        e[0] = grantOf(1, 0);
        e[1] = grantOf(1, 1); // the same consent at another hospital
        e[2] = grantOf(2, 0);
        e[2].member = 1; // another hospital's signature
        e[3] = grantOf(3, 9);
        e[4] = grantOf(4, 0);
        e[4].formId = keccak256("none");
        e[5] = grantOf(5, 0); // withdrawn before
        e[6] = grantOf(6, 3);
        vm.expectEmit(false, false, false, true, address(consent));
        emit Granted(consentId(1), formId, 0);
        skips(consentId(1), 1, Skips.DUPLICATE);
        skips(consentId(2), 1, Skips.BAD_SIGNATURE);
        skips(consentId(3), 9, Skips.UNKNOWN_MEMBER);
        skips(consentId(4), 0, Skips.UNKNOWN_SUBJECT);
        skips(consentId(5), 0, Skips.WRONG_PHASE);
        vm.expectEmit(false, false, false, true, address(consent));
        emit Granted(consentId(6), formId, 3);
        consent.grant(e);
        holds(isActive(1) && isActive(6), "the good ones stand");
    }

    /// @dev The registry keeps the number of the form that a key granted with last: another one is never taken for it.
    function test_aHospitalGrantsWithSeveralForms() public {
        IConsentRegistry.FormData memory other = form();
        other.study = keccak256("another study");
        bytes32[2] memory forms = [formId, register(other, 1)];
        for (uint256 i; i < 6; ++i) {
            formId = forms[i / 2 % 2];
            grant(i, 2);
            IConsentRegistry.GrantView memory v = consent.grantOf(consentId(i));
            same(v.formId, formId, "form");
            same(v.study, i / 2 % 2 == 0 ? STUDY : other.study, "study");
            same(v.member, 2, "hospital");
        }
    }

    function testFuzz_anIdCloseToAFormsIsNoForm(uint8 bit) public {
        grant(1, 2);
        formId ^= bytes32(uint256(1) << bit);
        skips(consentId(2), 2, Skips.UNKNOWN_SUBJECT);
        grant(2, 2);
    }

    function test_onlyMembershipSaysWhoseKeyChanged() public {
        vm.expectRevert(abi.encodeWithSelector(IConsentRegistry.OnlyMembership.selector, address(this)));
        consent.keyChanged(0, address(0), address(this));
    }

    /// @dev What a batch skips, a call of one consent skips too: it never reverts.
    function test_oneConsentAloneIsSkippedAsInABatch() public {
        IConsentRegistry.GrantEntry memory e = grantOf(1, 0);
        e.member = 1;
        skips(consentId(1), 1, Skips.BAD_SIGNATURE);
        alone(e);
        skips(consentId(1), 9, Skips.UNKNOWN_MEMBER);
        alone(grantOf(1, 9));
        IConsentRegistry.WithdrawEntry memory w = withdrawalOf(1);
        w.r = withdrawalOf(2).r;
        skips(consentId(1), type(uint16).max, Skips.BAD_SIGNATURE);
        consent.withdrawOne(w);
        bytes32 before = consent.accumulator();
        grant(1, 0);
        skips(consentId(1), 0, Skips.DUPLICATE);
        grant(1, 0);
        bytes32 acc = keccak256(
            abi.encode(before, keccak256(abi.encode(Tags.RECORD_GRANTED, consentId(1), formId, uint256(0))))
        );
        same(consent.accumulator(), acc, "once");
        withdraw(1);
        acc = consent.accumulator();
        skips(consentId(1), type(uint16).max, Skips.DUPLICATE);
        withdraw(1);
        same(consent.accumulator(), acc, "once");
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
        vm.expectEmit(false, false, false, true, address(consent));
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
        skips(consentId(1), type(uint16).max, Skips.DUPLICATE);
        skips(consentId(2), type(uint16).max, Skips.BAD_SIGNATURE);
        bytes32[] memory ended = new bytes32[](2);
        (ended[0], ended[1]) = (consentId(1), consentId(3));
        vm.expectEmit(false, false, false, true, address(consent));
        emit WithdrawnTogether(uint64(START), ended);
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

    /// @dev Root and path of leaf `index` in a tree of 32 consents, number `index` being consentId(first + index).
    function chunk(uint256 first, uint256 index) internal pure returns (bytes32 root, bytes32[] memory path) {
        bytes32[] memory level = new bytes32[](32);
        for (uint256 i; i < 32; ++i) {
            level[i] = keccak256(abi.encode(Tags.ANCHOR_LEAF, consentId(first + i)));
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

    function tree(uint256 index) internal pure returns (bytes32 root, bytes32[] memory path) {
        return chunk(0, index);
    }

    function anchorOf(uint16 member, bytes32[] memory roots, uint32 leaves)
        internal
        view
        returns (IConsentRegistry.AnchorEntry memory e)
    {
        e.study = STUDY;
        e.formId = formId;
        e.member = member;
        e.count = leaves;
        e.roots = roots;
        (e.r, e.vs) = sign(
            memberKey(member),
            address(consent),
            keccak256(abi.encode(Statements.ANCHOR, STUDY, formId, member, leaves, keccak256(abi.encodePacked(roots))))
        );
    }

    function anchor(uint16 member, bytes32 root, uint32 leaves) internal {
        IConsentRegistry.AnchorEntry[] memory e = new IConsentRegistry.AnchorEntry[](1);
        e[0] = anchorOf(member, single(root), leaves);
        consent.anchor(e);
    }

    function single(bytes32 one) internal pure returns (bytes32[] memory list) {
        list = new bytes32[](1);
        list[0] = one;
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

    function test_junkAnchorsHarmOnlyThemselves() public {
        (bytes32 known,) = chunk(0, 0);
        (bytes32 fresh,) = chunk(32, 0);
        (bytes32 other,) = chunk(64, 0);
        anchor(2, known, 32);
        IConsentRegistry.AnchorEntry[] memory e = new IConsentRegistry.AnchorEntry[](7);
        bytes32[] memory roots = new bytes32[](4);
        (roots[0], roots[1], roots[2], roots[3]) = (known, 0, fresh, fresh);
        e[0] = anchorOf(1, roots, 32);
        e[1] = anchorOf(1, single(other), 16);
        e[2] = anchorOf(1, single(other), 33);
        e[3] = anchorOf(1, single(other), 32);
        e[3].formId = keccak256("none");
        e[4] = anchorOf(1, single(other), 32);
        e[4].study = keccak256("another study");
        e[5] = anchorOf(1, single(other), 32);
        e[5].member = 40;
        e[6] = anchorOf(1, single(other), 32);
        e[6].count = 64; // not what was signed
        skips(known, 1, Skips.DUPLICATE);
        skips(0, 1, Skips.MALFORMED);
        skips(fresh, 1, Skips.DUPLICATE);
        vm.expectEmit(true, true, false, true, address(consent));
        emit Anchored(STUDY, formId, 1, 32, single(fresh));
        skips(other, 1, Skips.MALFORMED);
        skips(other, 1, Skips.MALFORMED);
        skips(other, 1, Skips.UNKNOWN_SUBJECT);
        skips(other, 1, Skips.UNKNOWN_SUBJECT);
        skips(other, 40, Skips.UNKNOWN_MEMBER);
        skips(other, 1, Skips.BAD_SIGNATURE);
        consent.anchor(e);
        same(consent.anchorOf(known).member, 2, "the first stands");
        same(consent.anchorOf(fresh).member, 1, "the good one stands");
        same(consent.anchorOf(other).count, 0, "nothing else");
    }

    function test_manyRootsOfManyHospitalsInOneTransaction() public {
        IConsentRegistry.AnchorEntry[] memory e = new IConsentRegistry.AnchorEntry[](2);
        for (uint16 member; member < 2; ++member) {
            bytes32[] memory roots = new bytes32[](3);
            for (uint256 k; k < 3; ++k) {
                (roots[k],) = chunk(1000 * member + 32 * k, 0);
            }
            e[member] = anchorOf(member, roots, 32);
        }
        consent.anchor(e);
        (bytes32 root, bytes32[] memory path) = chunk(1064, 7);
        holds(consent.isActive(consentId(1071), root, 7, path), "in its own chunk");
        (bytes32 neighbour,) = chunk(1032, 7);
        holds(!consent.isActive(consentId(1071), neighbour, 7, path), "in no other");
    }

    // ------------------------------------------------------------------------------------------------- fuzz

    /// @dev Whatever is granted, anchored or withdrawn again, in whatever order: a withdrawn consent stays withdrawn.
    function testFuzz_withdrawnNeverBecomesActiveAgain(uint256 seed, uint8 steps) public {
        uint256 id = 1 + seed % 32;
        (bytes32 root, bytes32[] memory path) = tree(id % 32);
        if (seed & 1 == 0) grant(id % 32, 0);
        if (seed & 2 == 0) anchor(1, root, 32);
        withdraw(id % 32);
        uint256 at = consent.withdrawnAt(consentId(id % 32));
        for (uint256 i; i < steps % 8; ++i) {
            vm.warp(block.timestamp + 1 + uint256(keccak256(abi.encode(seed, i, "time"))) % 30 days);
            uint256 act = uint256(keccak256(abi.encode(seed, i))) % 4;
            if (act == 0) grant(id % 32, uint16(i % 4));
            if (act == 1) anchor(uint16(i % 4), root, 32);
            if (act == 2) withdraw(id % 32);
            holds(!isActive(id % 32), "never active as a stored grant");
            holds(!consent.isActive(consentId(id % 32), root, id % 32, path), "never active in an anchor");
            same(consent.withdrawnAt(consentId(id % 32)), at, "the tombstone is not rewritten");
        }
    }

    /// @dev A batch equals its entries one at a time: same accumulator, duplicates left out, whoever repeats them.
    function testFuzz_batchEqualsItsEntries(uint256 seed, uint8 many) public {
        uint256 n = 1 + many % 12;
        bytes32[] memory ids = new bytes32[](n);
        for (uint256 i; i < n; ++i) {
            ids[i] = consentId(uint256(keccak256(abi.encode(seed, i))) % 6); // repeats are likely
        }
        uint256 before = vm.snapshotState();
        post(grantsOf(ids, 2));
        bytes32 acc = consent.accumulator();
        vm.revertToState(before);
        for (uint256 i; i < n; ++i) {
            post(grantsOf(single(ids[i]), 2));
        }
        same(consent.accumulator(), acc, "one after the other");
        for (uint256 i; i < n; ++i) {
            same(consent.grantOf(ids[i]).member, 2, "granted");
        }
        post(grantsOf(ids, 3));
        same(consent.accumulator(), acc, "all of them again, by another hospital: nothing");
    }

    /// @dev A chunk's proof holds for its own leaf at its own place, and for no flipped bit of anything.
    function testFuzz_chunkProof(uint8 leaf, uint8 step, uint8 bit) public {
        uint256 index = leaf % 32;
        (bytes32 root, bytes32[] memory path) = tree(index);
        anchor(0, root, 32);
        bytes32 id = consentId(index);
        holds(consent.isActive(id, root, index, path), "in");
        holds(!consent.isActive(id, root, index ^ (1 << (bit % 5)), path), "another place");
        holds(!consent.isActive(id ^ bytes32(uint256(1) << bit), root, index, path), "another consent");
        path[step % 5] ^= bytes32(uint256(1) << bit);
        holds(!consent.isActive(id, root, index, path), "another path");
    }

    // ----------------------------------------------------------------------------------------- accumulator

    function test_accumulatorRollsOverEveryRecord() public {
        bytes32 acc =
            keccak256(abi.encode(bytes32(0), keccak256(abi.encode(Tags.RECORD_FORM_REGISTERED, formId, form()))));
        same(consent.accumulator(), acc, "form");
        grant(1, 2);
        acc = keccak256(
            abi.encode(acc, keccak256(abi.encode(Tags.RECORD_GRANTED, consentId(1), formId, uint256(2))))
        );
        same(consent.accumulator(), acc, "grant");
        grant(1, 2);
        same(consent.accumulator(), acc, "a skipped entry is no record");
        (bytes32 root,) = tree(0);
        anchor(1, root, 32);
        acc = keccak256(
            abi.encode(
                acc,
                keccak256(
                    abi.encode(
                        Tags.RECORD_ANCHORED, STUDY, formId, uint256(1), uint256(32), keccak256(abi.encodePacked(root))
                    )
                )
            )
        );
        same(consent.accumulator(), acc, "anchor");
        withdraw(1);
        acc = keccak256(abi.encode(acc, keccak256(abi.encode(Tags.RECORD_WITHDRAWN, consentId(1), uint256(START)))));
        same(consent.accumulator(), acc, "withdrawal");
    }
}
