// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IMembership} from "../interfaces/IMembership.sol";
import {ITrainingLedger} from "../interfaces/ITrainingLedger.sol";
import {Skips} from "../libraries/Skips.sol";
import {Statements} from "../libraries/Statements.sol";
import {Tags} from "../libraries/Tags.sol";
import {Network} from "./support/Network.sol";

/// @notice Studies: creation, joining and leaving, membership under a running study, audits.
contract StudiesTest is Network {
    bytes32 internal constant MODEL = keccak256("model 1");

    event AuditAccessed(bytes32 indexed study, uint16 indexed seat, uint32 fromHeight, uint32 toHeight, bytes32 ground);

    function test_studyIsTheHashOfItsStatement() public {
        found(4);
        bytes32 id = createStudy(terms(4));
        bytes32 structHash = keccak256(abi.encode(Statements.CREATE_STUDY, terms(4)));
        same(id, keccak256(abi.encode(Tags.STUDY, structHash)), "study");
        same(training.openRound(id), bytes32(0), "nobody joined");
        (bytes32 r, bytes32 vs) = sign(memberKey(0), address(training), structHash);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.StudyKnown.selector, id));
        training.createStudy(terms(4), r, vs);
    }

    function test_unknownStudyRefused() public {
        found(4);
        bytes32 nobody = keccak256("none");
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.StudyUnknown.selector, nobody));
        training.join(nobody, 0, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.StudyUnknown.selector, nobody));
        training.studyOf(nobody);
    }

    function refused(ITrainingLedger.StudyTerms memory t, string memory field, uint256 got) internal {
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.BadTerms.selector, field, got));
        training.createStudy(t, 0, 0);
    }

    function test_badTermsRefused() public {
        found(4);
        ITrainingLedger.StudyTerms memory t = terms(4);
        t.invited = 31;
        refused(t, "invited", 31);
        t.invited = 1;
        refused(t, "invited", 1);
        t = terms(4);
        t.specHash = 0;
        refused(t, "specHash", 0);
        t = terms(4);
        t.initialModel = 0;
        refused(t, "initialModel", 0);
        t = terms(4);
        t.rounds = 0;
        refused(t, "rounds", 0);
        t = terms(4);
        t.minIncluded = 5;
        refused(t, "minIncluded", 5);
        t = terms(4);
        t.scribeSeconds = 0;
        refused(t, "scribeSeconds", 0);
        t.scribeSeconds = (1 << 22) + 1;
        refused(t, "scribeSeconds", (1 << 22) + 1);
        t = terms(4);
        t.graceSeconds = (1 << 22) + 1;
        refused(t, "graceSeconds", (1 << 22) + 1);
        t = terms(4);
        t.revealSeconds = 0;
        refused(t, "revealSeconds", 0);
        t = terms(4);
        t.haveSeconds = 0;
        refused(t, "haveSeconds", 0);
        t = terms(4);
        t.voteSeconds = 0;
        refused(t, "voteSeconds", 0);
        t = terms(4);
        t.suspendAfter = 16;
        refused(t, "suspendAfter", 16);
        t = terms(4);
        t.suspendRounds = 15;
        refused(t, "suspendRounds", 15);
        t = terms(4);
        t.maxRoundAge = SEAL + REVEAL;
        refused(t, "maxRoundAge", SEAL + REVEAL);
        t = terms(4);
        t.member = 4;
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.NotActive.selector, 4));
        training.createStudy(t, 0, 0);
        vm.expectRevert(); // BadSignature
        training.createStudy(terms(4), 0, 0);
    }

    function test_creatorMustBeInvited() public {
        found(4);
        ITrainingLedger.StudyTerms memory t = terms(4);
        t.invited = 14;
        bytes32 id = keccak256(abi.encode(Tags.STUDY, keccak256(abi.encode(Statements.CREATE_STUDY, t))));
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.NotInvited.selector, id, 0));
        training.createStudy(t, 0, 0);
    }

    function test_firstRoundOpensWithTheLastJoin() public {
        found(4);
        study = createStudy(terms(4));
        for (uint16 i; i < 3; ++i) {
            joinStudy(study, i);
            same(training.openRound(study), bytes32(0), "not yet");
        }
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.NothingToOpen.selector, study));
        training.resume(study);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.AlreadyJoined.selector, study, 2));
        training.join(study, 2, 0, 0);
        joinStudy(study, 3);
        same(training.roundOf(study, training.openRound(study)).height, 1, "open");
    }

    function test_joinNeedsAnInvitation() public {
        found(4);
        ITrainingLedger.StudyTerms memory t = terms(4);
        t.invited = 7;
        study = createStudy(t);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.NotInvited.selector, study, 3));
        training.join(study, 3, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.NotInvited.selector, study, 300));
        training.join(study, 300, 0, 0);
        vm.expectRevert(); // BadSignature
        training.join(study, 1, 0, 0);
    }

    function test_declinedInvitationIsNotWaitedFor() public {
        found(4);
        study = createStudy(terms(4));
        leaveStudy(study, 3);
        joinStudy(study, 0);
        joinStudy(study, 1);
        joinStudy(study, 2);
        bytes32 roundId = training.openRound(study);
        same(training.roundOf(study, roundId).roster, 7, "roster");
        same(training.roundOf(study, roundId).quorum, 2, "quorum of three");
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.AlreadyLeft.selector, study, 3));
        training.join(study, 3, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.AlreadyLeft.selector, study, 3));
        training.leave(study, 3, 0, 0);
    }

    function test_lastDeclineNeedsResume() public {
        found(4);
        study = createStudy(terms(4));
        for (uint16 i; i < 3; ++i) {
            joinStudy(study, i);
        }
        leaveStudy(study, 3);
        same(training.openRound(study), bytes32(0), "a leave opens nothing");
        training.resume(study);
        same(training.roundOf(study, training.openRound(study)).roster, 7, "open");
    }

    function test_leavingTakesEffectAtTheNextOpen() public {
        bytes32 roundId = start(4);
        leaveStudy(study, 3);
        same(training.roundOf(study, roundId).roster, 15, "this round keeps its roster");
        bytes32 next = finish(roundId, 15, MODEL);
        same(training.roundOf(study, next).roster, 7, "the next one has three");
    }

    function test_removedMemberCountsInTheOpenRoundOnly() public {
        bytes32 roundId = start(4);
        removeMember(3);
        same(training.roundOf(study, roundId).quorum, 3, "quorum of the open round stays");
        bytes32 next = finish(roundId, 15, MODEL); // its commitment and vote still count
        ITrainingLedger.RoundView memory v = training.roundOf(study, next);
        same(v.roster, 7, "roster");
        same(v.quorum, 2, "quorum");
        same(v.f, 0, "crash tolerance only");
        vm.recordLogs();
        commit(next, 8);
        same(vm.getRecordedLogs()[0].topics[0], keccak256("EntrySkipped(bytes32,uint16,uint8)"), "skipped");
        finish(next, 7, keccak256("model 2"));
    }

    function test_admittedMemberIsNotInTheStudy() public {
        bytes32 roundId = start(4);
        IMembership.SeatInput memory seat = seatInput(memberKey(4), false, "new", address(membership));
        bytes32 seatHash = Statements.hashSeat(Statements.ROLE_MEMBER, seat.peerId, seat.sealingKey, seat.name);
        membership.admit(seat, ballot(7, keccak256(abi.encode(Statements.ADMIT, uint64(1), seat.ledger, seatHash))));
        bytes32 next = finish(roundId, 15, MODEL);
        same(training.roundOf(study, next).roster, 15, "roster");
        finish(next, 15, keccak256("model 2")); // signatures are checked against the new roster blob
    }

    function test_oneMemberOpensNoRound() public {
        bytes32 roundId = start(2);
        leaveStudy(study, 1);
        same(finish(roundId, 3, MODEL), bytes32(0), "no round of one");
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.NothingToOpen.selector, study));
        training.resume(study);
        (,,, bytes32 model,, bool inService) = training.head(study);
        holds(model == MODEL && inService, "the head stays");
    }

    function test_studiesAreIndependent() public {
        bytes32 first = start(4);
        bytes32 firstStudy = study;
        ITrainingLedger.StudyTerms memory t = terms(4);
        t.invited = 7;
        t.specHash = keccak256("another spec");
        bytes32 second = start(t);
        finish(second, 7, MODEL);
        study = firstStudy;
        phaseIs(first, ITrainingLedger.Phase.TRAINING, 0);
        same(training.studyOf(firstStudy).finals, 0, "finals");
    }

    // ------------------------------------------------------------------------------------------------ audit

    function access(uint16 seat, uint256 key, uint32 from, uint32 to) internal {
        bytes32 structHash = keccak256(abi.encode(Statements.AUDIT_ACCESS, study, seat, from, to, keccak256("ground")));
        (bytes32 r, bytes32 vs) = sign(key, address(training), structHash);
        training.auditAccess(study, seat, from, to, keccak256("ground"), r, vs);
    }

    function test_auditIsAnnouncedOnce() public {
        start(4);
        vm.expectEmit(true, true, false, true, address(training));
        emit AuditAccessed(study, 0, 1, 20, keccak256("ground"));
        access(0, auditorKey(0), 1, 20);
        bytes32 id = keccak256(
            abi.encode(Statements.AUDIT_ACCESS, study, uint256(0), uint256(1), uint256(20), keccak256("ground"))
        );
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.AlreadyKnown.selector, id));
        training.auditAccess(study, 0, 1, 20, keccak256("ground"), 0, 0);
    }

    function test_auditNeedsASeatAndItsKey() public {
        start(4);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.NoSuchSeat.selector, 1));
        training.auditAccess(study, 1, 1, 20, 0, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.BadRange.selector, 2, 1));
        training.auditAccess(study, 0, 2, 1, 0, 0, 0);
        vm.expectRevert();
        this.accessBy(0, memberKey(0));
    }

    function accessBy(uint16 seat, uint256 key) external {
        access(seat, key, 1, 2);
    }

    function test_auditorOfAnotherStudyOrAfterItsTermRefused() public {
        start(4);
        IMembership.SeatInput memory seat = seatInput(auditorKey(1), true, "second", address(membership));
        bytes32 seatHash = Statements.hashSeat(Statements.ROLE_AUDITOR, seat.peerId, seat.sealingKey, seat.name);
        uint64 end = uint64(START + 50);
        membership.seatAuditor(
            seat,
            study,
            end,
            ballot(7, keccak256(abi.encode(Statements.SEAT_AUDITOR, uint64(1), seat.ledger, seatHash, study, end)))
        );
        access(1, auditorKey(1), 1, 2);
        bytes32 mine = study;
        ITrainingLedger.StudyTerms memory t = terms(4);
        t.specHash = keccak256("another spec");
        study = createStudy(t);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.NoSuchSeat.selector, 1));
        training.auditAccess(study, 1, 1, 2, 0, 0, 0);
        vm.warp(end);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.NoSuchSeat.selector, 1));
        training.auditAccess(mine, 1, 1, 2, 0, 0, 0);
    }

    // ------------------------------------------------------------------------------------------- authority

    function test_onlyTheUnlearningRegistryForks() public {
        start(4);
        ITrainingLedger.ForkTerms memory t;
        bytes memory refusal = abi.encodeWithSelector(ITrainingLedger.OnlyUnlearning.selector, address(this));
        ITrainingLedger.BaseProof memory proof;
        vm.expectRevert(refusal);
        training.fork(t, proof);
        vm.expectRevert(refusal);
        training.headMoved(study);
    }

    function test_misplacedContractsRefuseToBe() public {
        found(2);
        string[3] memory names = ["ConsentRegistry", "TrainingLedger", "UnlearningRegistry"];
        for (uint256 i; i < 3; ++i) {
            bytes memory arguments = i == 1
                ? abi.encode(membership, new ITrainingLedger.Continuation[](0))
                : abi.encode(membership);
            bytes memory code = abi.encodePacked(creationCode(names[i]), arguments);
            vm.expectRevert();
            this.deployAgain(code);
        }
    }

    function deployAgain(bytes calldata code) external {
        deploy(code);
    }
}
