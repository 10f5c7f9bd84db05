// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IConsentRegistry} from "../interfaces/IConsentRegistry.sol";
import {ITrainingLedger} from "../interfaces/ITrainingLedger.sol";
import {IUnlearningRegistry} from "../interfaces/IUnlearningRegistry.sol";
import {PackedSignatures} from "../libraries/PackedSignatures.sol";
import {Skips} from "../libraries/Skips.sol";
import {Statements} from "../libraries/Statements.sol";
import {Tags} from "../libraries/Tags.sol";
import {Network} from "./support/Network.sol";

contract UnlearningRegistryTest is Network {
    uint16 internal constant CONTROLLER = 3;

    event EntrySkipped(bytes32 indexed subject, uint16 member, uint8 reason);
    event ErasureConfirmed(bytes32 indexed batch, uint32 branch, bytes32 headModel);
    event HeadMoved(bytes32 indexed batch, bytes32 indexed study, uint32 branch);
    event ErasureClosed(bytes32 indexed batch, uint32 exceptions);
    event BranchCreated(
        bytes32 indexed study,
        uint32 branch,
        uint32 parent,
        uint32 baseHeight,
        bytes32 baseModel,
        bytes32 baseResult,
        bytes32 branchSeed,
        uint32 targetHeight,
        bytes32 batch
    );

    // --------------------------------------------------------------------------------------------- carriers

    function model(uint256 branch, uint256 height) internal pure returns (bytes32) {
        return height == 0 ? keccak256("initial model") : keccak256(abi.encode("model", branch, height));
    }

    /// @notice A study of n members with `finals` final rounds on branch 0 and the next one open.
    function trained(uint256 n, uint256 finals) internal returns (bytes32 roundId) {
        roundId = start(n);
        for (uint256 h = 1; h <= finals; ++h) {
            roundId = finish(roundId, everyone(n), model(0, h));
        }
    }

    function termsOf(uint16 controller, uint16 poster) internal view returns (IUnlearningRegistry.OpenTerms memory) {
        return IUnlearningRegistry.OpenTerms(
            study, controller, poster, keccak256(abi.encode("requests", controller)), uint64(START + 30 days)
        );
    }

    function open(uint16 controller, uint16 poster) internal returns (bytes32 batch) {
        IUnlearningRegistry.OpenTerms memory t = termsOf(controller, poster);
        (bytes32 r, bytes32 vs) =
            sign(memberKey(poster), address(unlearning), keccak256(abi.encode(Statements.OPEN_ERASURE, t)));
        return unlearning.openErasure(t, r, vs);
    }

    function authorise(bytes32 batch, uint16 member) internal {
        (bytes32 r, bytes32 vs) =
            sign(memberKey(member), address(unlearning), keccak256(abi.encode(Statements.AUTHORISE, batch, member)));
        unlearning.authorise(batch, member, r, vs);
    }

    function refuse(bytes32 batch, uint16 member, uint8 ground) internal {
        (bytes32 r, bytes32 vs) = sign(
            memberKey(member), address(unlearning), keccak256(abi.encode(Statements.REFUSE, batch, member, ground))
        );
        unlearning.refuse(batch, member, ground, r, vs);
    }

    function stepsOf(bytes32 batch, uint16 controller, uint8 first, uint8 last)
        internal
        view
        returns (IUnlearningRegistry.StepEntry[] memory e)
    {
        e = new IUnlearningRegistry.StepEntry[](last - first + 1);
        for (uint8 i; i <= last - first; ++i) {
            e[i].number = first + i;
            e[i].evidence = keccak256(abi.encode("evidence", first + i));
            (e[i].r, e[i].vs) = sign(
                memberKey(controller),
                address(unlearning),
                keccak256(abi.encode(Statements.ERASURE_STEP, batch, controller, first + i, e[i].evidence))
            );
        }
    }

    /// @dev A step that comes to nothing before its signature is looked at.
    function unsigned(uint8 number) internal pure returns (IUnlearningRegistry.StepEntry[] memory e) {
        e = new IUnlearningRegistry.StepEntry[](1);
        e[0].number = number;
    }

    function openReplay(bytes32 batch) internal {
        unlearning.openReplay(batch, new IUnlearningRegistry.PurgeEntry[](0));
    }

    function step(bytes32 batch, uint8 number) internal {
        unlearning.step(batch, CONTROLLER, stepsOf(batch, CONTROLLER, number, number));
        vm.warp(block.timestamp + 1); // the next block
    }

    function planOf(bytes32 batch, uint32 parent, uint32 base, bytes32 baseModel, uint32 target)
        internal
        pure
        returns (IUnlearningRegistry.PlanTerms memory)
    {
        return IUnlearningRegistry.PlanTerms(batch, parent, base, baseModel, keccak256("seed"), target);
    }

    function planVotes(IUnlearningRegistry.PlanTerms memory t, uint32 signers) internal view returns (bytes memory) {
        return signAll(signers, address(unlearning), keccak256(abi.encode(Statements.PLAN, t)));
    }

    /// @dev Where a branch begins, and where the way to the training branch left it.
    struct Fork {
        bytes32 base;
        uint32 baseHeight;
        bytes32 batch;
        uint32 leftAt;
    }

    mapping(bytes32 study => mapping(uint256 branch => Fork)) internal forks;

    function proofFor(IUnlearningRegistry.PlanTerms memory t) internal view returns (ITrainingLedger.BaseProof memory) {
        Fork storage f = forks[study][t.parentBranch];
        uint32 last = f.leftAt == 0 ? type(uint32).max : f.leftAt - 1;
        return proofOf(t.parentBranch, f.base, f.baseHeight, f.batch, t.baseHeight, last);
    }

    function plan(IUnlearningRegistry.PlanTerms memory t, uint32 signers) internal {
        unlearning.plan(t, proofFor(t), signers, planVotes(t, signers));
        uint32 branch = unlearning.stateOf(t.batch).branch;
        if (t.targetHeight == t.baseHeight) return;
        bytes32 base = keccak256(abi.encode(Tags.BRANCH, study, t.batch, t.parentBranch, t.baseHeight, t.baseModel));
        forks[study][branch] = Fork(base, t.baseHeight, t.batch, 0);
        forks[study][t.parentBranch].leftAt = t.baseHeight + 1;
    }

    function planReverts(IUnlearningRegistry.PlanTerms memory t, bytes memory reason) internal {
        bytes memory votes = planVotes(t, 7);
        ITrainingLedger.BaseProof memory proof = proofFor(t);
        vm.expectRevert(reason);
        unlearning.plan(t, proof, 7, votes);
    }

    function purgeOf(bytes32 batch, uint16 member, uint8 stage)
        internal
        view
        returns (IUnlearningRegistry.PurgeEntry memory e)
    {
        e.member = member;
        e.stage = stage;
        e.inventory = keccak256(abi.encode("inventory", member));
        (e.r, e.vs) = sign(
            memberKey(member),
            address(unlearning),
            keccak256(abi.encode(Statements.PURGED, batch, member, stage, e.inventory))
        );
    }

    function purge(bytes32 batch, uint32 members, uint8 stage) internal {
        IUnlearningRegistry.PurgeEntry[] memory e = new IUnlearningRegistry.PurgeEntry[](count(members));
        uint256 k;
        for (uint16 i; i < 32; ++i) {
            if ((members >> i) & 1 == 1) e[k++] = purgeOf(batch, i, stage);
        }
        unlearning.attestPurge(batch, e);
    }

    function verdictOf(bytes32 batch, uint16 member, uint32 branch, bytes32 headModel, bool confirmed)
        internal
        view
        returns (IUnlearningRegistry.VerdictEntry memory e)
    {
        e.member = member;
        e.branch = branch;
        e.headModel = headModel;
        e.confirmed = confirmed;
        (e.r, e.vs) = sign(
            memberKey(member),
            address(unlearning),
            keccak256(abi.encode(Statements.VERDICT, batch, member, branch, headModel, confirmed))
        );
    }

    function verdict(bytes32 batch, uint16 member, uint32 branch, bytes32 headModel, bool confirmed) internal {
        IUnlearningRegistry.VerdictEntry[] memory e = new IUnlearningRegistry.VerdictEntry[](1);
        e[0] = verdictOf(batch, member, branch, headModel, confirmed);
        unlearning.verdicts(batch, e);
    }

    function stateIs(bytes32 batch, IUnlearningRegistry.State state) internal view {
        same(uint256(unlearning.stateOf(batch).state), uint256(state), "state");
    }

    function wrongState(bytes32 batch, IUnlearningRegistry.State state) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(IUnlearningRegistry.WrongState.selector, batch, state);
    }

    function skips(bytes32 subject, uint16 member, uint8 reason) internal {
        vm.expectEmit(true, false, false, true, address(unlearning));
        emit EntrySkipped(subject, member, reason);
    }

    /// @notice A batch of CONTROLLER whose copy is deleted, its window over, and the round in flight ended.
    function readyToPlan(uint256 n, uint256 finals) internal returns (bytes32 batch, bytes32 roundId) {
        roundId = trained(n, finals);
        batch = open(CONTROLLER, CONTROLLER);
        step(batch, 1);
        step(batch, 2);
        vm.warp(block.timestamp + 101);
        training.failRound(study, closeUnanswered(roundId));
        roundId = training.openRound(study);
    }

    function closeUnanswered(bytes32 roundId) internal returns (bytes32) {
        vm.warp(training.roundOf(study, roundId).openedAt + SEAL + 1);
        return roundId;
    }

    // ------------------------------------------------------------------------------------------- end to end

    function test_erasureFromRequestToClosedRecord() public {
        bytes32 roundId = trained(4, 3);
        bytes32 batch = open(CONTROLLER, 1); // a relay
        stateIs(batch, IUnlearningRegistry.State.REQUESTED);
        authorise(batch, CONTROLLER);
        stateIs(batch, IUnlearningRegistry.State.AUTHORISED);
        step(batch, 1);
        step(batch, 2);
        stateIs(batch, IUnlearningRegistry.State.COPY_DELETED);
        roundId = finish(roundId, 15, model(0, 4)); // the round in flight is the last use
        vm.warp(block.timestamp + 101);

        IUnlearningRegistry.PlanTerms memory t = planOf(batch, 0, 2, model(0, 2), 4);
        bytes32 baseResult = keccak256(abi.encode(Tags.BRANCH, study, batch, uint256(0), uint256(2), model(0, 2)));
        vm.expectEmit(true, false, false, true, address(training));
        emit BranchCreated(study, 1, 0, 2, model(0, 2), baseResult, keccak256("seed"), 4, batch);
        plan(t, 7);
        stateIs(batch, IUnlearningRegistry.State.PLANNED);
        same(unlearning.activePlan(study), batch, "active plan");

        // A round of the old branch is open: the fork waits for its end, and the head is tainted meanwhile.
        same(training.studyOf(study).forkState, 1, "waits for the round");
        headIs(0, 4, model(0, 4), true, true);
        purge(batch, 15, 0);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.ForkState.selector, study, 1));
        unlearning.openReplay(batch, new IUnlearningRegistry.PurgeEntry[](0));
        same(finish(roundId, 15, model(0, 5)), bytes32(0), "the old branch opens no more rounds");
        headIs(0, 5, model(0, 5), true, true);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.NothingToOpen.selector, study));
        training.resume(study);

        unlearning.openReplay(batch, new IUnlearningRegistry.PurgeEntry[](0));
        stateIs(batch, IUnlearningRegistry.State.REPLAYING);
        headIs(1, 2, model(0, 2), false, true); // the base checkpoint serves
        roundId = training.openRound(study);
        ITrainingLedger.RoundView memory v = training.roundOf(study, roundId);
        same(v.branch, 1, "branch");
        same(v.height, 3, "heights go on from the base");
        roundId = finish(roundId, 15, model(1, 3));
        headIs(1, 2, model(0, 2), false, true);
        IUnlearningRegistry.VerdictEntry[] memory early = new IUnlearningRegistry.VerdictEntry[](1);
        early[0] = verdictOf(batch, 0, 1, model(1, 3), true);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.NotCaughtUp.selector, 1, 4));
        unlearning.verdicts(batch, early);
        roundId = finish(roundId, 15, model(1, 4));

        verdict(batch, 0, 1, model(1, 4), true);
        stateIs(batch, IUnlearningRegistry.State.REPLAYING);
        roundId = finish(roundId, 15, model(1, 5)); // training goes on; the verdict is about height 4
        vm.expectEmit(true, false, false, true, address(unlearning));
        emit ErasureConfirmed(batch, 1, model(1, 4));
        vm.expectEmit(true, true, false, true, address(unlearning));
        emit HeadMoved(batch, study, 1);
        verdict(batch, 2, 1, model(1, 4), true);
        stateIs(batch, IUnlearningRegistry.State.CONFIRMED);
        headIs(1, 5, model(1, 5), false, true);
        same(unlearning.activePlan(study), bytes32(0), "no plan is active");

        step(batch, 3);
        step(batch, 4);
        purge(batch, 15, 1);
        vm.expectEmit(true, false, false, true, address(unlearning));
        emit ErasureClosed(batch, 0);
        step(batch, 5);
        stateIs(batch, IUnlearningRegistry.State.CLOSED);
        timesAscend(batch);
    }

    function timesAscend(bytes32 batch) internal view {
        IUnlearningRegistry.BatchView memory v = unlearning.stateOf(batch);
        holds(
            v.openedAt != 0 && v.openedAt <= v.excludedAt && v.excludedAt <= v.plannedAt,
            "what is checked later has its time"
        );
    }

    function test_severalStepsTravelTogetherAndInOrder() public {
        trained(4, 0);
        bytes32 batch = open(CONTROLLER, CONTROLLER);
        IUnlearningRegistry.StepEntry[] memory e = stepsOf(batch, CONTROLLER, 1, 3);
        vm.expectRevert(wrongState(batch, IUnlearningRegistry.State.COPY_DELETED)); // the third is not due: none counts
        unlearning.step(batch, CONTROLLER, e);
        stateIs(batch, IUnlearningRegistry.State.AUTHORISED);
        e = stepsOf(batch, CONTROLLER, 1, 2);
        (e[0], e[1]) = (e[1], e[0]);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.WrongStep.selector, 1, 2));
        unlearning.step(batch, CONTROLLER, e);
        e = stepsOf(batch, CONTROLLER, 1, 2);
        unlearning.step(batch, CONTROLLER, e);
        stateIs(batch, IUnlearningRegistry.State.COPY_DELETED);
        vm.expectRevert(wrongState(batch, IUnlearningRegistry.State.COPY_DELETED));
        unlearning.step(batch, CONTROLLER, e);
    }

    function test_erasureEndsWhereItBeganWhenTheNetworkMoves() public {
        (bytes32 batch, bytes32 roundId) = readyToPlan(4, 3);
        succeed(address(0xbeef), everyone(4));
        same(finish(roundId, everyone(4), model(0, 5)), 0, "no round opens after the move");
        plan(planOf(batch, 0, 1, model(0, 1), 3), everyone(4));
        purge(batch, everyone(4), 0);
        openReplay(batch);
        roundId = training.openRound(study);
        holds(roundId != 0, "the replay's rounds open all the same");
        roundId = finish(roundId, 7, model(1, 2));
        finish(roundId, 7, model(1, 3));
        for (uint16 i; i < 3; ++i) {
            verdict(batch, i, 1, model(1, 3), true);
        }
        stateIs(batch, IUnlearningRegistry.State.CONFIRMED);
        purge(batch, everyone(4), 1);
        unlearning.step(batch, CONTROLLER, stepsOf(batch, CONTROLLER, 3, 5));
        stateIs(batch, IUnlearningRegistry.State.CLOSED);
        training.failRound(study, closeUnanswered(training.openRound(study)));
        same(training.openRound(study), 0, "and none after it");
    }

    function headIs(uint32 branch, uint32 height, bytes32 model_, bool tainted, bool inService) internal view {
        (uint32 b, uint32 h,, bytes32 m, bool t, bool s) = training.head(study);
        same(b, branch, "head branch");
        same(h, height, "head height");
        same(m, model_, "head model");
        holds(t == tainted, "tainted");
        holds(s == inService, "in service");
    }

    // --------------------------------------------------------------------------------------------- opening

    function test_batchIsTheHashOfItsStatement() public {
        trained(4, 0);
        bytes32 batch = open(CONTROLLER, CONTROLLER);
        bytes32 structHash = keccak256(abi.encode(Statements.OPEN_ERASURE, termsOf(CONTROLLER, CONTROLLER)));
        same(batch, keccak256(abi.encode(Tags.BATCH, structHash)), "batch");
        stateIs(batch, IUnlearningRegistry.State.AUTHORISED);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.BatchKnown.selector, batch));
        unlearning.openErasure(termsOf(CONTROLLER, CONTROLLER), 0, 0);
    }

    function test_badBatchesRefused() public {
        trained(4, 0);
        IUnlearningRegistry.OpenTerms memory t = termsOf(CONTROLLER, 1);
        t.requestsRoot = 0;
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.Missing.selector, "requestsRoot"));
        unlearning.openErasure(t, 0, 0);
        t = termsOf(CONTROLLER, 1);
        t.dueAt = 0;
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.Missing.selector, "dueAt"));
        unlearning.openErasure(t, 0, 0);
        t = termsOf(CONTROLLER, 7);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.NotActive.selector, 7));
        unlearning.openErasure(t, 0, 0);
        t = termsOf(9, 1);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.NotActive.selector, 9));
        unlearning.openErasure(t, 0, 0);
        t = termsOf(CONTROLLER, 1);
        t.study = keccak256("none");
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.StudyUnknown.selector, keccak256("none")));
        unlearning.openErasure(t, 0, 0);
        t = termsOf(CONTROLLER, 1);
        vm.expectRevert();
        unlearning.openErasure(t, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.BatchUnknown.selector, keccak256("none")));
        unlearning.stateOf(keccak256("none"));
    }

    function test_onlyTheControllerAuthorisesAndRefuses() public {
        trained(4, 0);
        bytes32 batch = open(CONTROLLER, 1);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.NotController.selector, CONTROLLER, 1));
        unlearning.authorise(batch, 1, 0, 0);
        vm.expectRevert();
        unlearning.authorise(batch, CONTROLLER, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.NotController.selector, CONTROLLER, 1));
        unlearning.refuse(batch, 1, 1, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.Missing.selector, "ground"));
        unlearning.refuse(batch, CONTROLLER, 0, 0, 0);
        vm.expectRevert(wrongState(batch, IUnlearningRegistry.State.REQUESTED));
        unlearning.step(batch, CONTROLLER, unsigned(1));
        refuse(batch, CONTROLLER, 2);
        stateIs(batch, IUnlearningRegistry.State.REFUSED);
        vm.expectRevert(wrongState(batch, IUnlearningRegistry.State.REFUSED));
        unlearning.authorise(batch, CONTROLLER, 0, 0);
        vm.expectRevert(wrongState(batch, IUnlearningRegistry.State.REFUSED));
        unlearning.attestPurge(batch, new IUnlearningRegistry.PurgeEntry[](0));
        vm.expectRevert(wrongState(batch, IUnlearningRegistry.State.REFUSED));
        unlearning.verdicts(batch, new IUnlearningRegistry.VerdictEntry[](0));
    }

    function test_refusalEndsWithTheExclusion() public {
        trained(4, 0);
        bytes32 batch = open(CONTROLLER, CONTROLLER);
        step(batch, 1);
        vm.expectRevert(wrongState(batch, IUnlearningRegistry.State.EXCLUDED));
        unlearning.refuse(batch, CONTROLLER, 1, 0, 0);
        vm.expectRevert(wrongState(batch, IUnlearningRegistry.State.EXCLUDED));
        unlearning.authorise(batch, CONTROLLER, 0, 0);
    }

    function test_stepsComeInOrder() public {
        trained(4, 0);
        bytes32 batch = open(CONTROLLER, CONTROLLER);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.WrongStep.selector, 1, 2));
        unlearning.step(batch, CONTROLLER, unsigned(2));
        step(batch, 1);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.WrongStep.selector, 2, 1));
        unlearning.step(batch, CONTROLLER, unsigned(1));
        step(batch, 2);
        vm.expectRevert(wrongState(batch, IUnlearningRegistry.State.COPY_DELETED));
        unlearning.step(batch, CONTROLLER, unsigned(3));
        vm.expectRevert(wrongState(batch, IUnlearningRegistry.State.COPY_DELETED));
        unlearning.openReplay(batch, new IUnlearningRegistry.PurgeEntry[](0));
    }

    // ------------------------------------------------------------------------------------------------ plan

    function test_planWaitsForTheCopyAndTheWindow() public {
        bytes32 roundId = trained(4, 2);
        bytes32 batch = open(CONTROLLER, CONTROLLER);
        uint256 openedAt = block.timestamp;
        IUnlearningRegistry.PlanTerms memory t = planOf(batch, 0, 1, model(0, 1), 2);
        planReverts(t, wrongState(batch, IUnlearningRegistry.State.AUTHORISED));
        step(batch, 1);
        planReverts(t, wrongState(batch, IUnlearningRegistry.State.EXCLUDED));
        step(batch, 2);
        finish(roundId, 15, model(0, 3));
        vm.warp(openedAt + 100);
        planReverts(t, abi.encodeWithSelector(IUnlearningRegistry.TooEarly.selector, openedAt + 100, openedAt + 100));
        vm.warp(openedAt + 101);
        plan(t, 7);
    }

    function test_planWaitsForRoundsInFlightAtTheExclusion() public {
        bytes32 roundId = trained(4, 2);
        bytes32 batch = open(CONTROLLER, CONTROLLER);
        step(batch, 1);
        step(batch, 2);
        uint64 excludedAt = unlearning.stateOf(batch).excludedAt;
        uint64 roundOpenedAt = training.roundOf(study, roundId).openedAt;
        vm.warp(block.timestamp + 101);
        planReverts(
            planOf(batch, 0, 1, model(0, 1), 2),
            abi.encodeWithSelector(IUnlearningRegistry.RoundInFlight.selector, roundOpenedAt, excludedAt)
        );
    }

    function test_planNeedsAQuorumAndARecordedCheckpoint() public {
        (bytes32 batch,) = readyToPlan(4, 3);
        IUnlearningRegistry.PlanTerms memory t = planOf(batch, 0, 2, model(0, 2), 3);
        bytes memory votes = planVotes(t, 3);
        vm.expectRevert(abi.encodeWithSelector(PackedSignatures.QuorumNotReached.selector, 2, 3));
        unlearning.plan(t, proofFor(t), 3, votes);
        noCheckpoint(planOf(batch, 0, 2, model(0, 1), 3), 7); // another model
        noCheckpoint(planOf(batch, 0, 4, model(0, 3), 4), 7); // height 4 failed
        noCheckpoint(planOf(batch, 0, 0, model(0, 1), 4), 7); // not the initial model
        ITrainingLedger.BaseProof memory proof = proofFor(t);
        proof.links = new bytes32[](0); // a checkpoint that leads nowhere
        votes = planVotes(t, 7);
        vm.expectPartialRevert(ITrainingLedger.WrongCheckpoint.selector);
        unlearning.plan(t, proof, 7, votes);
        planReverts(
            planOf(batch, 0, 2, model(0, 2), 5), abi.encodeWithSelector(ITrainingLedger.BadTarget.selector, 5, 2, 4)
        );
        planReverts(
            planOf(batch, 0, 2, model(0, 2), 1), abi.encodeWithSelector(ITrainingLedger.BadTarget.selector, 1, 2, 4)
        );
        IUnlearningRegistry.PlanTerms memory unseeded = planOf(batch, 0, 2, model(0, 2), 3);
        unseeded.branchSeed = 0;
        planReverts(unseeded, abi.encodeWithSelector(IUnlearningRegistry.Missing.selector, "branchSeed"));
        planReverts(
            planOf(batch, 1, 2, model(0, 2), 3), abi.encodeWithSelector(ITrainingLedger.NotOnAncestry.selector, 1, 2)
        );
        plan(t, 7);
    }

    function noCheckpoint(IUnlearningRegistry.PlanTerms memory t, uint32 signers) internal {
        bytes memory votes = planVotes(t, signers);
        ITrainingLedger.BaseProof memory proof = proofFor(t);
        vm.expectPartialRevert(ITrainingLedger.WrongCheckpoint.selector);
        unlearning.plan(t, proof, signers, votes);
    }

    function test_oneActivePlanAStudy() public {
        (bytes32 batch, bytes32 roundId) = readyToPlan(4, 3);
        plan(planOf(batch, 0, 2, model(0, 2), 3), 7);
        bytes32 other = openAndDelete(2);
        finish(roundId, 15, model(0, 5));
        vm.warp(block.timestamp + 101);
        planReverts(
            planOf(other, 0, 1, model(0, 1), 3),
            abi.encodeWithSelector(IUnlearningRegistry.PlanActive.selector, study, batch)
        );
    }

    function openAndDelete(uint16 controller) internal returns (bytes32 batch) {
        batch = open(controller, controller);
        unlearning.step(batch, controller, stepsOf(batch, controller, 1, 2));
        vm.warp(block.timestamp + 1); // the next block
    }

    function test_secondErasureForksFromTheAncestryOfTheNewBranch() public {
        (bytes32 batch, bytes32 roundId) = readyToPlan(4, 4);
        plan(planOf(batch, 0, 3, model(0, 3), 4), 7); // branch 1 from height 3
        finish(roundId, 15, model(0, 6));
        purge(batch, 15, 0);
        unlearning.openReplay(batch, new IUnlearningRegistry.PurgeEntry[](0));
        roundId = finish(training.openRound(study), 15, model(1, 4));
        verdict(batch, 0, 1, model(1, 4), true);
        verdict(batch, 1, 1, model(1, 4), true);
        bytes32 second = openAndDelete(2);
        roundId = finish(roundId, 15, model(1, 5));
        vm.warp(block.timestamp + 101);
        // Height 4 of branch 0 is not on the way to branch 1, which left it at 3
        planReverts(
            planOf(second, 0, 4, model(0, 4), 5), abi.encodeWithSelector(ITrainingLedger.NotOnAncestry.selector, 0, 4)
        );
        planReverts(
            planOf(second, 0, 2, model(0, 2), 2), abi.encodeWithSelector(ITrainingLedger.BadTarget.selector, 2, 3, 5)
        );
        plan(planOf(second, 0, 1, model(0, 1), 5), 7);
        IUnlearningRegistry.BatchView memory v = unlearning.stateOf(second);
        same(v.branch, 2, "branch");
        same(v.targetFinals, 5, "as many models as there were");
        finish(roundId, 15, model(1, 6));
        same(training.studyOf(study).branch, 2, "training branch");
        same(training.studyOf(study).finals, 1, "finals at the base");
        same(training.studyOf(study).height, 1, "height of the base");
    }

    function test_targetCountsModelsNotHeights() public {
        (bytes32 batch, bytes32 roundId) = readyToPlan(4, 3); // height 4 failed
        finish(roundId, 15, model(0, 5));
        plan(planOf(batch, 0, 1, model(0, 1), 5), 7);
        same(unlearning.stateOf(batch).targetFinals, 4, "four models up to height 5");
        roundId = training.openRound(study);
        finish(roundId, 15, model(0, 6));
        purge(batch, 15, 0);
        unlearning.openReplay(batch, new IUnlearningRegistry.PurgeEntry[](0));
        roundId = training.openRound(study);
        // a failed round on the new branch consumes a height as well
        training.failRound(study, closeUnanswered(roundId));
        roundId = training.openRound(study); // height 3
        for (uint256 h = 3; h <= 5; ++h) {
            same(training.caughtUp(study, 1), bytes32(0), "not yet");
            roundId = finish(roundId, 15, model(1, h));
        }
        same(training.caughtUp(study, 1), model(1, 5), "caught up at height 5");
        finish(roundId, 15, model(1, 6));
        same(training.caughtUp(study, 1), model(1, 5), "for good");
        same(training.caughtUp(study, 9), bytes32(0), "no such branch");
    }

    function test_taintedHeadLeavesServiceAtTheDueTime() public {
        (bytes32 batch, bytes32 roundId) = readyToPlan(4, 3);
        plan(planOf(batch, 0, 2, model(0, 2), 3), 7);
        finish(roundId, 15, model(0, 5));
        vm.warp(START + 30 days);
        headIs(0, 5, model(0, 5), true, true);
        vm.warp(START + 30 days + 1);
        headIs(0, 5, model(0, 5), true, false);
        purge(batch, 15, 0);
        unlearning.openReplay(batch, new IUnlearningRegistry.PurgeEntry[](0));
        headIs(1, 2, model(0, 2), false, true); // the clean checkpoint serves
    }

    function test_finishedStudyCanBeReplayed() public {
        found(4);
        ITrainingLedger.StudyTerms memory terms_ = terms(4);
        terms_.rounds = 2;
        bytes32 roundId = finish(start(terms_), 15, model(0, 1));
        same(finish(roundId, 15, model(0, 2)), bytes32(0), "over");
        bytes32 batch = openAndDelete(CONTROLLER);
        vm.warp(block.timestamp + 101);
        plan(planOf(batch, 0, 0, model(0, 0), 2), 7);
        same(training.studyOf(study).forkState, 2, "takes effect at once");
        purge(batch, 15, 0);
        unlearning.openReplay(batch, new IUnlearningRegistry.PurgeEntry[](0));
        roundId = finish(training.openRound(study), 15, model(1, 1));
        same(finish(roundId, 15, model(1, 2)), bytes32(0), "over again");
        verdict(batch, 0, 1, model(1, 2), true);
        verdict(batch, 1, 1, model(1, 2), true);
        headIs(1, 2, model(1, 2), false, true);
    }

    // ----------------------------------------------------------------------------------------- never included

    function test_neverIncludedNeedsNoReplay() public {
        (bytes32 batch, bytes32 roundId) = readyToPlan(4, 3);
        plan(planOf(batch, 0, 3, model(0, 3), 3), 7);
        IUnlearningRegistry.BatchView memory v = unlearning.stateOf(batch);
        holds(!v.replays && v.branch == 0, "no branch");
        same(training.openRound(study), roundId, "training goes on");
        headIs(0, 3, model(0, 3), false, true);
        vm.expectRevert(wrongState(batch, IUnlearningRegistry.State.PLANNED));
        unlearning.openReplay(batch, new IUnlearningRegistry.PurgeEntry[](0));
        skips(batch, 0, Skips.WRONG_PHASE);
        purge(batch, 1, 0);
        verdict(batch, 0, 0, model(0, 3), true);
        verdict(batch, 1, 0, model(0, 3), true);
        stateIs(batch, IUnlearningRegistry.State.CONFIRMED);
        step(batch, 3);
        step(batch, 4);
        vm.expectEmit(true, false, false, true, address(unlearning));
        emit ErasureClosed(batch, 0);
        step(batch, 5);
        stateIs(batch, IUnlearningRegistry.State.CLOSED);
    }

    // ----------------------------------------------------------------------------------------------- purge

    function test_replayWaitsForEveryPurgeOrTheWindow() public {
        (bytes32 batch, bytes32 roundId) = readyToPlan(4, 3);
        plan(planOf(batch, 0, 2, model(0, 2), 3), 7);
        uint256 until = block.timestamp + 120;
        finish(roundId, 15, model(0, 5));
        purge(batch, 3, 0);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.PurgeMissing.selector, 3, 15, 3, until));
        unlearning.openReplay(batch, new IUnlearningRegistry.PurgeEntry[](0));
        vm.warp(until + 1);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.PurgeMissing.selector, 3, 15, 3, until));
        unlearning.openReplay(batch, new IUnlearningRegistry.PurgeEntry[](0));
        vm.warp(until);
        purge(batch, 4, 0);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.PurgeMissing.selector, 7, 15, 3, until));
        unlearning.openReplay(batch, new IUnlearningRegistry.PurgeEntry[](0));
        vm.warp(until + 1);
        unlearning.openReplay(batch, new IUnlearningRegistry.PurgeEntry[](0));
        same(unlearning.stateOf(batch).purgedPair, 7, "who is missing is named");
        purge(batch, 8, 0); // and may still attest
        same(unlearning.stateOf(batch).purgedPair, 15, "late attestation");
    }

    function test_junkPurgesHarmOnlyThemselves() public {
        (bytes32 batch,) = readyToPlan(4, 3);
        vm.expectRevert(wrongState(batch, IUnlearningRegistry.State.COPY_DELETED));
        unlearning.attestPurge(batch, new IUnlearningRegistry.PurgeEntry[](0));
        plan(planOf(batch, 0, 2, model(0, 2), 3), 7);
        IUnlearningRegistry.PurgeEntry[] memory e = new IUnlearningRegistry.PurgeEntry[](6);
        e[0] = purgeOf(batch, 0, 0);
        e[1] = purgeOf(batch, 0, 0);
        e[2] = purgeOf(batch, 1, 2);
        e[3] = purgeOf(batch, 2, 1);
        e[3].stage = 0; // signed for the other stage
        e[4] = purgeOf(batch, 9, 0);
        e[5] = purgeOf(batch, 3, 0);
        skips(batch, 0, Skips.DUPLICATE);
        skips(batch, 1, Skips.MALFORMED);
        skips(batch, 2, Skips.BAD_SIGNATURE);
        skips(batch, 9, Skips.UNKNOWN_MEMBER);
        unlearning.attestPurge(batch, e);
        same(unlearning.stateOf(batch).purgedPair, 9, "the others count");
    }

    // -------------------------------------------------------------------------------------------- verdicts

    function replayed(uint256 n) internal returns (bytes32 batch) {
        bytes32 roundId;
        (batch, roundId) = readyToPlan(n, 2);
        plan(planOf(batch, 0, 1, model(0, 1), 2), everyone(n));
        finish(roundId, everyone(n), model(0, 4));
        purge(batch, everyone(n), 0);
        unlearning.openReplay(batch, new IUnlearningRegistry.PurgeEntry[](0));
        finish(training.openRound(study), everyone(n), model(1, 2));
    }

    function test_controllerHasNoVerdictAndJunkHarmsOnlyItself() public {
        bytes32 batch = replayed(4);
        IUnlearningRegistry.VerdictEntry[] memory e = new IUnlearningRegistry.VerdictEntry[](6);
        e[0] = verdictOf(batch, CONTROLLER, 1, model(1, 2), true);
        e[1] = verdictOf(batch, 0, 0, model(1, 2), true);
        e[2] = verdictOf(batch, 0, 1, model(0, 2), true);
        e[3] = verdictOf(batch, 0, 1, model(1, 2), false);
        e[3].confirmed = true; // signed for a denial
        e[4] = verdictOf(batch, 1, 1, model(1, 2), true);
        e[5] = verdictOf(batch, 1, 1, model(1, 2), false);
        skips(batch, CONTROLLER, Skips.UNKNOWN_MEMBER);
        skips(batch, 0, Skips.MALFORMED);
        skips(batch, 0, Skips.MALFORMED);
        skips(batch, 0, Skips.BAD_SIGNATURE);
        skips(batch, 1, Skips.DUPLICATE);
        unlearning.verdicts(batch, e);
        stateIs(batch, IUnlearningRegistry.State.REPLAYING);
    }

    function test_denialsConfirmNothing() public {
        bytes32 batch = replayed(4);
        verdict(batch, 0, 1, model(1, 2), false);
        verdict(batch, 1, 1, model(1, 2), true);
        stateIs(batch, IUnlearningRegistry.State.REPLAYING);
        verdict(batch, 2, 1, model(1, 2), true);
        stateIs(batch, IUnlearningRegistry.State.CONFIRMED);
        same(unlearning.stateOf(batch).deniers, 1, "on record");
    }

    function test_verdictsNeededForEverySize() public {
        uint8[4] memory sizes = [4, 5, 6, 7];
        uint8[4] memory wanted = [2, 3, 4, 4]; // n - 1 - f
        for (uint256 k; k < 4; ++k) {
            bytes32 batch = replayed(sizes[k]);
            uint256 given;
            for (uint16 i; given < wanted[k]; ++i) {
                if (i == CONTROLLER) continue;
                stateIs(batch, IUnlearningRegistry.State.REPLAYING);
                verdict(batch, i, 1, model(1, 2), true);
                ++given;
            }
            stateIs(batch, IUnlearningRegistry.State.CONFIRMED);
        }
    }

    function test_belowFourMembersOneOtherConfirms() public {
        bytes32 roundId = trained(3, 2);
        bytes32 batch = openAndDelete(2);
        roundId = finish(roundId, 7, model(0, 3));
        vm.warp(block.timestamp + 101);
        plan(planOf(batch, 0, 1, model(0, 1), 3), 3);
        finish(roundId, 7, model(0, 4));
        purge(batch, 3, 0);
        vm.warp(block.timestamp + 121);
        unlearning.openReplay(batch, new IUnlearningRegistry.PurgeEntry[](0)); // two of three, after the window
        roundId = finish(training.openRound(study), 7, model(1, 2));
        finish(roundId, 7, model(1, 3));
        verdict(batch, 0, 1, model(1, 3), true);
        stateIs(batch, IUnlearningRegistry.State.CONFIRMED);
    }

    // --------------------------------------------------------------------------------------------- closing

    function test_closeNamesWhoDidNotPurge() public {
        bytes32 batch = replayed(4);
        verdict(batch, 0, 1, model(1, 2), true);
        verdict(batch, 1, 1, model(1, 2), true);
        step(batch, 3);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.WrongStep.selector, 4, 5));
        unlearning.step(batch, CONTROLLER, unsigned(5));
        step(batch, 4);
        purge(batch, 11, 1);
        vm.expectEmit(true, false, false, true, address(unlearning));
        emit ErasureClosed(batch, 4);
        step(batch, 5);
        stateIs(batch, IUnlearningRegistry.State.CLOSED_WITH_EXCEPTIONS);
        purge(batch, 4, 1); // late, and on record
        same(unlearning.stateOf(batch).purgedAll, 15, "late purge");
    }

    function test_requestIsProvablyInItsBatch() public {
        trained(4, 0);
        bytes32 a = keccak256("request a");
        bytes32 b = keccak256("request b");
        if (a > b) (a, b) = (b, a);
        bytes32 leafA = keccak256(abi.encode(Tags.MAP_LEAF, a, bytes32(0)));
        bytes32 leafB = keccak256(abi.encode(Tags.MAP_LEAF, b, bytes32(0)));
        IUnlearningRegistry.OpenTerms memory t = termsOf(CONTROLLER, CONTROLLER);
        t.requestsRoot = keccak256(abi.encode(Tags.MAP, uint256(2), keccak256(abi.encode(Tags.MAP_NODE, leafA, leafB))));
        (bytes32 r, bytes32 vs) =
            sign(memberKey(CONTROLLER), address(unlearning), keccak256(abi.encode(Statements.OPEN_ERASURE, t)));
        bytes32 batch = unlearning.openErasure(t, r, vs);
        bytes32[] memory path = new bytes32[](1);
        path[0] = leafA;
        holds(unlearning.holdsRequest(t, b, 2, 1, path), "in it");
        holds(!unlearning.holdsRequest(t, a, 2, 1, path), "another request");
        holds(!unlearning.holdsRequest(t, b, 3, 1, path), "another count");
    }

    function test_accumulatorRollsOverEveryRecord() public {
        trained(4, 0);
        bytes32 batch = open(CONTROLLER, 1);
        IUnlearningRegistry.OpenTerms memory t = termsOf(CONTROLLER, 1);
        bytes32 record = keccak256(
            abi.encode(
                Tags.RECORD_ERASURE_OPENED,
                batch,
                t.study,
                t.controller,
                t.poster,
                t.requestsRoot,
                t.dueAt,
                block.timestamp
            )
        );
        bytes32 acc = keccak256(abi.encode(bytes32(0), record));
        same(unlearning.accumulator(), acc, "opened");
        authorise(batch, CONTROLLER);
        acc = keccak256(abi.encode(acc, keccak256(abi.encode(Tags.RECORD_ERASURE_AUTHORISED, batch))));
        same(unlearning.accumulator(), acc, "authorised");
        refuse(batch, CONTROLLER, 3);
        acc = keccak256(abi.encode(acc, keccak256(abi.encode(Tags.RECORD_ERASURE_REFUSED, batch, uint256(3)))));
        same(unlearning.accumulator(), acc, "refused");
    }

    // ------------------------------------------------------------------------------------------------- gas

    uint256 internal spent;

    function took(string memory which, string memory what) internal {
        spent += vm.snapshotGasLastCall("Erasure", string.concat("n=5 ", which, " ", what));
    }

    /// @notice From the patient's withdrawal to the closed record: every transaction but the rounds. What a study's first
    /// erasure takes new slots for, its later ones overwrite.
    /// forge-config: default.isolate = true
    function test_gasOfAnErasure() public {
        trained(5, 3);
        oneErasure(0, 4, "first");
        oneErasure(1, 5, "later");
    }

    /// @dev The open round `height` of `branch` ends before the plan, the next one after it; three rounds are replayed.
    function oneErasure(uint32 branch, uint32 height, string memory which) internal {
        spent = 0;
        withdrawOne(height);
        took(which, "1 withdrawal");
        IUnlearningRegistry.OpenTerms memory terms_ = termsOf(CONTROLLER, CONTROLLER);
        terms_.requestsRoot = bytes32(uint256(height));
        (bytes32 r, bytes32 vs) =
            sign(memberKey(CONTROLLER), address(unlearning), keccak256(abi.encode(Statements.OPEN_ERASURE, terms_)));
        bytes32 batch = unlearning.openErasure(terms_, r, vs);
        took(which, "2 batch opened by the controller");
        unlearning.step(batch, CONTROLLER, stepsOf(batch, CONTROLLER, 1, 2));
        took(which, "3 excluded, copy deleted");
        vm.warp(block.timestamp + 101);
        finish(training.openRound(study), 31, model(branch, height));
        planned(batch, branch, height, which);
        finish(training.openRound(study), 31, model(branch, height + 1)); // the round in flight
        unlearning.openReplay(batch, purges(batch, 0));
        took(which, "5 purges of stage 0, replay opened");
        for (uint32 h = height - 2; h <= height; ++h) {
            finish(training.openRound(study), 31, model(branch + 1, h)); // replayed
        }
        confirmed(batch, branch + 1, model(branch + 1, height), which);
        unlearning.attestPurge(batch, purges(batch, 1));
        took(which, "7 purges of stage 1");
        unlearning.step(batch, CONTROLLER, stepsOf(batch, CONTROLLER, 3, 5));
        took(which, "8 delivered, link destroyed, closed");
        stateIs(batch, IUnlearningRegistry.State.CLOSED);
        vm.snapshotValue("Erasure", string.concat("n=5 ", which, " all"), spent);
    }

    function planned(bytes32 batch, uint32 branch, uint32 target, string memory which) internal {
        uint32 base = target - 3;
        IUnlearningRegistry.PlanTerms memory t = planOf(batch, branch, base, model(branch, base), target);
        ITrainingLedger.BaseProof memory proof = proofFor(t);
        unlearning.plan(t, proof, 15, planVotes(t, 15));
        took(which, "4 plan, study forked");
        bytes32 start_ = keccak256(abi.encode(Tags.BRANCH, study, t.batch, t.parentBranch, t.baseHeight, t.baseModel));
        forks[study][branch + 1] = Fork(start_, base, batch, 0);
        vm.warp(block.timestamp + 1);
    }

    function purges(bytes32 batch, uint8 stage) internal view returns (IUnlearningRegistry.PurgeEntry[] memory e) {
        e = new IUnlearningRegistry.PurgeEntry[](5);
        for (uint16 i; i < 5; ++i) {
            e[i] = purgeOf(batch, i, stage);
        }
    }

    function confirmed(bytes32 batch, uint32 branch, bytes32 headModel, string memory which) internal {
        IUnlearningRegistry.VerdictEntry[] memory e = new IUnlearningRegistry.VerdictEntry[](4);
        uint256 k;
        for (uint16 i; i < 5; ++i) {
            if (i != CONTROLLER) e[k++] = verdictOf(batch, i, branch, headModel, true);
        }
        unlearning.verdicts(batch, e);
        took(which, "6 verdicts, head moved");
    }

    function withdrawOne(uint256 which) internal {
        IConsentRegistry.WithdrawEntry[] memory e = new IConsentRegistry.WithdrawEntry[](1);
        uint256 key = uint256(keccak256(abi.encode("holder", which)));
        e[0].holder = vm.addr(key);
        bytes32 id = keccak256(abi.encode(Tags.CONSENT, e[0].holder, bytes32(0), bytes32(0)));
        (e[0].r, e[0].vs) = sign(key, address(consent), keccak256(abi.encode(Statements.WITHDRAW, id)));
        consent.withdraw(e);
    }
}
