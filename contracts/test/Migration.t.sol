// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IConsentRegistry} from "../interfaces/IConsentRegistry.sol";
import {IMembership} from "../interfaces/IMembership.sol";
import {ITrainingLedger} from "../interfaces/ITrainingLedger.sol";
import {IUnlearningRegistry} from "../interfaces/IUnlearningRegistry.sol";
import {PackedSignatures} from "../libraries/PackedSignatures.sol";
import {Skips} from "../libraries/Skips.sol";
import {Statements} from "../libraries/Statements.sol";
import {Tags} from "../libraries/Tags.sol";
import {Network} from "./support/Network.sol";

/// @notice A network that goes on with a second deployment: what ends at the first, what goes on, what cannot be told anew.
contract MigrationTest is Network {
    IMembership internal first;
    IConsentRegistry internal firstConsent;
    ITrainingLedger internal firstTraining;

    function model(uint256 height) internal pure returns (bytes32) {
        return keccak256(abi.encode("model", height));
    }

    function none() internal pure returns (ITrainingLedger.Continuation[] memory) {
        return new ITrainingLedger.Continuation[](0);
    }

    function one(uint256 n) internal pure returns (ITrainingLedger.Continuation[] memory c) {
        c = new ITrainingLedger.Continuation[](1);
        c[0].terms = terms(n);
    }

    function remember() internal {
        (first, firstConsent, firstTraining) = (membership, consent, training);
    }

    /// @notice Two finals and a failed round, at rest; then the second deployment.
    function moved(uint256 n) internal returns (bytes32 roundId) {
        roundId = start(n);
        roundId = finish(roundId, everyone(n), model(1));
        roundId = finish(roundId, everyone(n), model(2));
        remember();
        vm.warp(block.timestamp + SEAL + 1);
        succeed(nextMembership(), everyone(n));
        training.failRound(study, roundId);
        ITrainingLedger.Continuation[] memory c = one(n);
        c[0].voids = new ITrainingLedger.VoidWord[](1);
        c[0].voids[0] = ITrainingLedger.VoidWord(0, 1 << 3);
        deployFour(seatsOf(everyone(n), n, nextMembership()), membership, c);
    }

    // ------------------------------------------------------------------------------------------- the vote

    function test_onlyAQuorumNamesASuccessor() public {
        found(4);
        bytes32 structHash = keccak256(abi.encode(Statements.SUCCEED, membership.epoch(), address(0xbeef)));
        IMembership.MemberVote[] memory few = ballot(3, structHash);
        vm.expectRevert(abi.encodeWithSelector(PackedSignatures.QuorumNotReached.selector, 2, 4 - 1));
        membership.succeed(address(0xbeef), few);
        IMembership.MemberVote[] memory other = ballot(7, structHash);
        vm.expectPartialRevert(PackedSignatures.BadSignature.selector);
        membership.succeed(address(0xcafe), other);
        vm.expectRevert(abi.encodeWithSelector(IMembership.NotSuccessor.selector, address(0)));
        membership.succeed(address(0), other);
        membership.succeed(address(0xbeef), other);
        same(uint160(membership.successor()), 0xbeef, "successor");
        same(membership.epoch(), 2, "a change of the network");
        bytes32 record = keccak256(abi.encode(Tags.RECORD_NETWORK_SUCCEEDED, address(0xbeef), uint64(2)));
        holds(membership.accumulator() != record, "rolled over what came before");
    }

    function test_afterTheVoteNothingIsDecidedHere() public {
        found(4);
        bytes32 remove = keccak256(abi.encode(Statements.REMOVE, uint64(2), uint16(3), membership.ledgerOf(3)));
        IMembership.MemberVote[] memory votes = ballot(7, remove);
        succeed(address(0xbeef), 7);
        bytes memory refusal = abi.encodeWithSelector(IMembership.NetworkMoved.selector, address(0xbeef));
        vm.expectRevert(refusal);
        membership.remove(3, votes);
        vm.expectRevert(refusal);
        membership.revoke(3, votes);
        IMembership.KeysInput memory keys;
        vm.expectRevert(refusal);
        membership.rotate(0, keys, "");
        vm.expectRevert(refusal);
        membership.anchorLog(0, keccak256("root"), 1, 0, 0);
    }

    function test_noStudyAndNoRoundOpensWhereTheNetworkLeft() public {
        bytes32 roundId = start(4);
        ITrainingLedger.StudyTerms memory t = terms(4);
        succeed(address(0xbeef), 7);
        t.rounds = 5;
        (bytes32 r, bytes32 vs) =
            sign(memberKey(0), address(training), keccak256(abi.encode(Statements.CREATE_STUDY, t)));
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.NotActive.selector, 0));
        training.createStudy(t, r, vs);
        same(finish(roundId, everyone(4), model(1)), 0, "the open round ends, and opens no other");
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.NothingToOpen.selector, study));
        training.resume(study);
    }

    // ------------------------------------------------------------------------------------------- the founding

    function test_onlyTheNamedSuccessorIsOne() public {
        found(2);
        succeed(address(0xbeef), 3);
        IMembership.SeatInput[] memory seats = seatsOf(3, 2, nextMembership());
        vm.expectRevert(abi.encodeWithSelector(IMembership.NotSuccessor.selector, address(0xbeef)));
        this.foundAgain(seats);
    }

    function test_whatStandsIsFinalAndWhatDoesNotIsMendedByAnotherVote() public {
        found(3);
        IMembership old = membership;
        succeed(address(0xbeef), 7); // nothing there
        succeed(address(this), 7); // no deployment
        succeed(nextMembership(), 7);
        deployFour(seatsOf(7, 3, nextMembership()), membership, none());
        membership = old;
        bytes32 structHash = keccak256(abi.encode(Statements.SUCCEED, membership.epoch(), address(0xbeef)));
        IMembership.MemberVote[] memory votes = ballot(7, structHash);
        vm.expectRevert(abi.encodeWithSelector(IMembership.NetworkMoved.selector, membership.successor()));
        membership.succeed(address(0xbeef), votes);
    }

    function test_seatsAreThoseOfThePredecessor() public {
        found(3);
        address next = nextMembership();
        succeed(next, 7);
        IMembership.SeatInput[] memory few = seatsOf(3, 2, next);
        vm.expectRevert(abi.encodeWithSelector(IMembership.SeatsWanted.selector, 3, 2));
        this.foundAgain(few);
        IMembership.SeatInput[] memory swapped = seatsOf(7, 3, next);
        (swapped[0], swapped[1]) = (swapped[1], swapped[0]);
        vm.expectRevert(
            abi.encodeWithSelector(
                IMembership.SeatChanged.selector, 0, vm.addr(memberKey(0)), vm.addr(memberKey(1))
            )
        );
        this.foundAgain(swapped);
    }

    function foundAgain(IMembership.SeatInput[] memory seats) external {
        deployFour(seats, membership, none());
    }

    function test_removedMembersStayOutAndIndexesStay() public {
        found(4);
        bytes32 remove = keccak256(abi.encode(Statements.REMOVE, uint64(1), uint16(1), membership.ledgerOf(1)));
        membership.remove(1, ballot(7, remove));
        address gone = membership.ledgerOf(1);
        move(none());
        same(membership.activeMembers(), 13, "active");
        same(membership.indexCount(), 4, "indexes");
        same(membership.epoch(), 4, "epochs go on");
        same(uint160(membership.ledgerOf(1)), uint160(gone), "a removed hospital keeps its address");
        IMembership.SeatInput memory seat = seatInput(memberKey(1), false, "hospital", address(membership));
        bytes32 seatHash = Statements.hashSeat(Statements.ROLE_MEMBER, seat.peerId, seat.sealingKey, seat.name);
        bytes32 admit = keccak256(abi.encode(Statements.ADMIT, uint64(4), seat.ledger, seatHash));
        IMembership.MemberVote[] memory votes = ballot(13, admit);
        vm.expectRevert(abi.encodeWithSelector(IMembership.LedgerTaken.selector, gone));
        membership.admit(seat, votes);
        holds(membership.peerKnown(keccak256(seat.peerId)), "its peer id is known");
    }

    // ------------------------------------------------------------------------------------------- studies

    function test_studyGoesOnFromItsLineage() public {
        moved(4);
        (uint32 branch, uint32 height, bytes32 lineage, bytes32 head,,) = training.head(study);
        (uint32 b, uint32 h, bytes32 l, bytes32 m,,) = firstTraining.head(study);
        holds(branch == b && height == h && lineage == l && head == m && m == model(2), "the same head");
        ITrainingLedger.StudyView memory v = training.studyOf(study);
        same(v.height, 3, "the failed round's height is consumed");
        same(v.finals, 2, "finals");
        training.resume(study);
        bytes32 roundId = training.openRound(study);
        same(openingOf(roundId).parentResult, lineage, "the next round names the old results");
        same(training.roundOf(study, roundId).height, 4, "the next height");
        same(finish(roundId, everyone(4), model(4)) == 0 ? 0 : 1, 1, "and so on");
        same(training.studyOf(study).finals, 3, "finals grow");
    }

    function test_checkpointOfTheFirstDeploymentServesAnErasureAtTheSecond() public {
        moved(4);
        vm.warp(block.timestamp + 1);
        IUnlearningRegistry.OpenTerms memory t =
            IUnlearningRegistry.OpenTerms(study, 3, 3, keccak256("requests"), uint64(block.timestamp + 30 days));
        (bytes32 r, bytes32 vs) =
            sign(memberKey(3), address(unlearning), keccak256(abi.encode(Statements.OPEN_ERASURE, t)));
        bytes32 batch = unlearning.batchOf(t);
        IUnlearningRegistry.Steps memory e;
        e.first = 1;
        e.evidence = new bytes32[](2);
        (e.r, e.vs) = sign(
            memberKey(3),
            address(unlearning),
            keccak256(
                abi.encode(
                    Statements.ERASURE_STEPS, batch, uint16(3), uint8(1), keccak256(abi.encodePacked(e.evidence))
                )
            )
        );
        unlearning.openErasure(t, r, vs, e);
        vm.warp(block.timestamp + 101);
        planAndCheck(t, batch);
    }

    function planAndCheck(IUnlearningRegistry.OpenTerms memory t, bytes32 batch) internal {
        IUnlearningRegistry.PlanTerms memory p =
            IUnlearningRegistry.PlanTerms(0, 1, model(1), keccak256("seed"), 3, 1, 1);
        bytes memory votes = signAll(7, address(unlearning), keccak256(abi.encode(Statements.PLAN, batch, p)));
        unlearning.plan(t, p, proofOf(0, 0, 0, 0, 1, type(uint32).max), 7, votes);
        same(unlearning.stateOf(batch).branch, 1, "forked below the move");
        same(training.caughtUp(study, 1), bytes32(0), "not yet");
        finish(training.openRound(study), everyone(4), keccak256("replayed"));
        same(training.caughtUp(study, 1), keccak256("replayed"), "the failed height is no final: the voids came along");
    }

    function test_studyThatIsNotAtRestDoesNotMove() public {
        bytes32 roundId = start(2);
        succeed(nextMembership(), 3);
        IMembership.SeatInput[] memory seats = seatsOf(3, 2, nextMembership());
        vm.expectRevert(
            abi.encodeWithSelector(ITrainingLedger.StudyNotAtRest.selector, study, roundId, 0)
        );
        this.foundWith(seats);
    }

    function foundWith(IMembership.SeatInput[] memory seats) external {
        deployFour(seats, membership, one(2));
    }

    function test_termsNoStudyHadAreRefused() public {
        start(2);
        succeed(nextMembership(), 3);
        ITrainingLedger.Continuation[] memory c = one(2);
        c[0].terms.rounds = 1;
        bytes32 unknown =
            keccak256(abi.encode(Tags.STUDY, keccak256(abi.encode(Statements.CREATE_STUDY, c[0].terms))));
        IMembership.SeatInput[] memory seats = seatsOf(3, 2, nextMembership());
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.StudyUnknown.selector, unknown));
        this.foundThese(seats, c);
    }

    function foundThese(IMembership.SeatInput[] memory seats, ITrainingLedger.Continuation[] memory c) external {
        deployFour(seats, membership, c);
    }

    // ------------------------------------------------------------------------------------------- consents

    bytes32 internal formId;

    function form() internal view returns (IConsentRegistry.FormData memory f) {
        f = IConsentRegistry.FormData(study, 1, keccak256("text"), 3, 1, uint40(4_102_444_800), 3);
    }

    function register() internal {
        formId = keccak256(abi.encode(Statements.FORM, form()));
        (bytes32 r, bytes32 vs) = sign(
            memberKey(0), address(consent), keccak256(abi.encode(Statements.REGISTER_FORM, uint16(0), formId))
        );
        consent.registerForm(form(), 0, r, vs);
    }

    function consentId(uint256 i) internal pure returns (bytes32) {
        return keccak256(
            abi.encode(Tags.CONSENT, vm.addr(1000 + i), keccak256(abi.encode("salt", i)), keccak256(abi.encode(i)))
        );
    }

    function grant(uint256 i) internal {
        IConsentRegistry.GrantEntry[] memory e = new IConsentRegistry.GrantEntry[](1);
        e[0].formId = formId;
        e[0].consentIds = new bytes32[](1);
        e[0].consentIds[0] = consentId(i);
        (e[0].r, e[0].vs) = sign(
            memberKey(0),
            address(consent),
            keccak256(
                abi.encode(Statements.GRANT, formId, uint16(0), keccak256(abi.encodePacked(e[0].consentIds)))
            )
        );
        consent.grant(e);
    }

    function withdraw(IConsentRegistry where, uint256 i) internal {
        IConsentRegistry.WithdrawEntry[] memory e = new IConsentRegistry.WithdrawEntry[](1);
        e[0].holder = vm.addr(1000 + i);
        e[0].holderSalt = keccak256(abi.encode("salt", i));
        e[0].binding = keccak256(abi.encode(i));
        (e[0].r, e[0].vs) =
            sign(1000 + i, address(where), keccak256(abi.encode(Statements.WITHDRAW, consentId(i))));
        where.withdraw(e);
    }

    function isActive(uint256 i) internal view returns (bool) {
        return consent.isActive(consentId(i), 0, 0, new bytes32[](0));
    }

    event EntrySkipped(bytes32 indexed subject, uint16 member, uint8 reason);

    function test_consentsComeAlongAndWhatEndedIsNeverGrantedAgain() public {
        bytes32 roundId = start(2);
        register();
        for (uint256 i; i < 4; ++i) {
            grant(i);
        }
        withdraw(consent, 1);
        withdraw(consent, 7); // before any grant
        remember();
        succeed(nextMembership(), 3);
        vm.warp(block.timestamp + SEAL + 1);
        training.failRound(study, roundId);
        deployFour(seatsOf(3, 2, nextMembership()), membership, one(2));
        holds(isActive(0) && !isActive(1) && isActive(2) && !isActive(7), "as it stood");
        register(); // for new grants
        for (uint256 i = 1; i < 8; i += 6) {
            vm.expectEmit(true, true, true, true, address(consent));
            emit EntrySkipped(consentId(i), 0, Skips.WRONG_PHASE);
            grant(i);
            holds(!isActive(i), "a tombstone stands at the second deployment too");
        }
        withdraw(firstConsent, 2); // the patient's card names the first deployment, for ever
        same(consent.withdrawnAt(consentId(2)), block.timestamp, "a late withdrawal at the first counts at the second");
        holds(!isActive(2), "not active");
        (bytes32 r, bytes32 vs) = sign(
            memberKey(0),
            address(consent),
            keccak256(abi.encode(Statements.WITHDRAW_BY_HOSPITAL, uint16(0), consentId(3)))
        );
        consent.withdrawByHospital(0, consentId(3), 0, 0, new bytes32[](0), r, vs);
        holds(!isActive(3), "its hospital ends at the second what it granted at the first");
        grant(8);
        holds(isActive(8), "new grants");
        withdraw(consent, 8);
        holds(!isActive(8), "and their ends");
    }

    function test_historyCannotBeToldTwice() public {
        bytes32 roundId = start(2);
        ITrainingLedger.CommitEntry[] memory old = commitsOf(roundId, 3);
        succeed(nextMembership(), 3);
        vm.warp(block.timestamp + SEAL + 1);
        training.failRound(study, roundId);
        deployFour(seatsOf(3, 2, nextMembership()), membership, one(2));
        training.resume(study);
        bytes32 next = training.openRound(study);
        vm.expectEmit(true, true, true, true, address(training));
        emit EntrySkipped(next, 0, Skips.BAD_SIGNATURE);
        training.postCommits(study, next, old);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.RoundNotOpen.selector, study, roundId, next));
        training.postCommits(study, roundId, old);
    }
}
