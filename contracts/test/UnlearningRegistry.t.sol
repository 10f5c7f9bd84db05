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

contract UnlearningRegistryTest is Network {
    uint16 internal constant CONTROLLER = 3;

    event EntrySkipped(bytes32 indexed subject, uint16 member, uint8 reason);
    event ErasureStepped(bytes32 indexed batch, uint8 first, bytes32[] evidence);
    event ErasureExtended(bytes32 indexed batch, uint64 dueAt);
    event PurgesAttested(bytes32 indexed batch, uint32 members, bytes32[] inventories);
    event VerdictsGiven(bytes32 indexed batch, uint32 branch, bytes32 headModel, uint32 members, uint32 confirming);
    event ErasureConfirmed(bytes32 indexed batch, uint32 branch, bytes32 headModel);
    event HeadMoved(bytes32 indexed batch, bytes32 indexed study, uint32 branch);
    event ErasureClosed(bytes32 indexed batch, uint32 exceptions);
    event EvidenceAttested(bytes32 indexed batch, uint8 level, uint16 seat, bytes32 evidence);
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

    mapping(bytes32 batch => IUnlearningRegistry.OpenTerms) internal opened;

    function open(uint16 controller, uint16 poster) internal returns (bytes32 batch) {
        return open(termsOf(controller, poster));
    }

    function open(IUnlearningRegistry.OpenTerms memory t) internal returns (bytes32 batch) {
        return open(t, unsigned(0, 0));
    }

    function open(IUnlearningRegistry.OpenTerms memory t, IUnlearningRegistry.Steps memory steps)
        internal
        returns (bytes32 batch)
    {
        (bytes32 r, bytes32 vs) =
            sign(memberKey(t.poster), address(unlearning), keccak256(abi.encode(Statements.OPEN_ERASURE, t)));
        opened[unlearning.batchOf(t)] = t;
        return unlearning.openErasure(t, r, vs, steps);
    }

    function authorise(bytes32 batch, uint16 member) internal {
        (bytes32 r, bytes32 vs) =
            sign(memberKey(member), address(unlearning), keccak256(abi.encode(Statements.AUTHORISE, batch, member)));
        unlearning.authorise(opened[batch], member, r, vs);
    }

    function refuse(bytes32 batch, uint16 member, uint8 ground) internal {
        (bytes32 r, bytes32 vs) = sign(
            memberKey(member), address(unlearning), keccak256(abi.encode(Statements.REFUSE, batch, member, ground))
        );
        unlearning.refuse(opened[batch], member, ground, r, vs);
    }

    function stepsOf(bytes32 batch, uint16 controller, uint8 first, uint8 last)
        internal
        view
        returns (IUnlearningRegistry.Steps memory e)
    {
        e = unsigned(first, last - first + 1);
        (e.r, e.vs) = sign(
            memberKey(controller),
            address(unlearning),
            keccak256(
                abi.encode(
                    Statements.ERASURE_STEPS, batch, controller, first, keccak256(abi.encodePacked(e.evidence))
                )
            )
        );
    }

    /// @dev Steps that come to nothing before their signature is looked at.
    function unsigned(uint8 first, uint256 many) internal pure returns (IUnlearningRegistry.Steps memory e) {
        e.first = first;
        e.evidence = new bytes32[](many);
        for (uint256 i; i < many; ++i) {
            e.evidence[i] = keccak256(abi.encode("evidence", first + i));
        }
    }

    function none() internal pure returns (IUnlearningRegistry.Purges memory) {}

    function step(bytes32 batch, uint8 number) internal {
        unlearning.step(opened[batch], CONTROLLER, stepsOf(batch, CONTROLLER, number, number));
        vm.warp(block.timestamp + 1); // the next block
    }

    /// @dev A plan with the batch that it is for.
    struct PlanFor {
        bytes32 batch;
        IUnlearningRegistry.PlanTerms terms;
    }

    function planOf(bytes32 batch, uint32 parent, uint32 base, bytes32 baseModel, uint32 target)
        internal
        pure
        returns (PlanFor memory)
    {
        return planOf(batch, parent, base, baseModel, target, target < base ? 0 : target - base);
    }

    function planOf(bytes32 batch, uint32 parent, uint32 base, bytes32 baseModel, uint32 target, uint32 rounds)
        internal
        pure
        returns (PlanFor memory)
    {
        uint8 method = target == base ? 0 : 1;
        return PlanFor(
            batch, IUnlearningRegistry.PlanTerms(parent, base, baseModel, keccak256("seed"), target, method, rounds)
        );
    }

    function planVotes(PlanFor memory t, uint32 signers) internal view returns (bytes memory) {
        return signAll(signers, address(unlearning), keccak256(abi.encode(Statements.PLAN, t.batch, t.terms)));
    }

    /// @dev Where a branch begins.
    struct Fork {
        bytes32 base;
        uint32 parent;
        uint32 baseHeight;
        bytes32 baseModel;
        bytes32 batch;
    }

    mapping(bytes32 study => mapping(uint256 branch => Fork)) internal forks;

    /// @notice Proof of a plan's checkpoint; junk where its branch is none that the training branch comes from.
    function proofFor(PlanFor memory t) internal view returns (ITrainingLedger.BaseProof memory proof) {
        uint32 parent = t.terms.parentBranch;
        uint32 current = training.studyOf(study).branch;
        if (parent > current) return proof;
        uint256 steps;
        for (uint32 b = current; b != parent; b = forks[study][b].parent) {
            if (b == 0) return proof;
            ++steps;
        }
        uint32 last = type(uint32).max;
        ITrainingLedger.ForkProof[] memory made = new ITrainingLedger.ForkProof[](steps);
        for (uint32 b = current; b != parent; b = forks[study][b].parent) {
            Fork storage f = forks[study][b];
            made[--steps] =
                ITrainingLedger.ForkProof(f.batch, f.baseModel, proofOf(b, f.base, f.baseHeight, 0, f.baseHeight, last).links);
            last = f.baseHeight;
        }
        Fork storage first = forks[study][parent];
        proof = proofOf(parent, first.base, first.baseHeight, first.batch, t.terms.baseHeight, last);
        proof.forks = made;
    }

    function plan(PlanFor memory t, uint32 signers) internal {
        ITrainingLedger.BaseProof memory proof = proofFor(t);
        unlearning.plan(opened[t.batch], t.terms, proof, signers, planVotes(t, signers));
        if (t.terms.targetHeight != t.terms.baseHeight) forked(t, proof);
    }

    function forked(PlanFor memory t, ITrainingLedger.BaseProof memory proof) internal {
        bytes32 base = baseOf(t, lineageOf(proof.parent, t.terms.baseHeight, t.terms.baseModel, proof.named));
        uint32 branch = unlearning.stateOf(t.batch).branch;
        forks[study][branch] = Fork(base, t.terms.parentBranch, t.terms.baseHeight, t.terms.baseModel, t.batch);
    }

    /// @dev `origin` is not looked at where the checkpoint is the initial model.
    function baseOf(PlanFor memory t, bytes32 origin) internal view returns (bytes32) {
        if (t.terms.baseHeight == 0) origin = 0;
        return keccak256(
            abi.encode(
                Tags.BRANCH,
                study,
                t.batch,
                t.terms.parentBranch,
                t.terms.baseHeight,
                t.terms.baseModel,
                origin
            )
        );
    }

    function planReverts(PlanFor memory t, bytes memory reason) internal {
        bytes memory votes = planVotes(t, 7);
        ITrainingLedger.BaseProof memory proof = proofFor(t);
        vm.expectRevert(reason);
        unlearning.plan(opened[t.batch], t.terms, proof, 7, votes);
    }

    function purgesOf(bytes32 batch, uint32 members, uint8 stage)
        internal
        view
        returns (IUnlearningRegistry.Purges memory e)
    {
        e.members = members;
        e.inventories = new bytes32[](count(members));
        uint256 k;
        for (uint16 i; i < 32; ++i) {
            if ((members >> i) & 1 == 0) continue;
            bytes32 inventory = keccak256(abi.encode("inventory", i));
            (bytes32 r, bytes32 vs) = sign(
                memberKey(i),
                address(unlearning),
                keccak256(abi.encode(Statements.PURGED, batch, i, stage, inventory))
            );
            e.inventories[k++] = inventory;
            e.signatures = abi.encodePacked(e.signatures, r, vs);
        }
    }

    function purge(bytes32 batch, uint32 members) internal {
        unlearning.attestPurge(opened[batch], purgesOf(batch, members, 1));
    }

    /// @notice `members` say that they come to `headModel`, or that they do not.
    function verdictsOf(bytes32 batch, uint32 members, uint32 branch, bytes32 headModel, bool confirmed)
        internal
        view
        returns (IUnlearningRegistry.Verdicts memory e)
    {
        (e.members, e.confirming) = (members, confirmed ? members : 0);
        for (uint16 i; i < 32; ++i) {
            if ((members >> i) & 1 == 0) continue;
            (bytes32 r, bytes32 vs) = sign(
                memberKey(i),
                address(unlearning),
                keccak256(abi.encode(Statements.VERDICT, batch, i, branch, headModel, confirmed))
            );
            e.signatures = abi.encodePacked(e.signatures, r, vs);
        }
    }

    function verdict(bytes32 batch, uint16 member, uint32 branch, bytes32 headModel, bool confirmed) internal {
        unlearning.verdicts(
            opened[batch], verdictsOf(batch, uint32(1) << member, branch, headModel, confirmed), none()
        );
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

        PlanFor memory t = planOf(batch, 0, 2, model(0, 2), 4);
        ITrainingLedger.BaseProof memory proof = proofFor(t);
        bytes32 baseResult = baseOf(t, lineageOf(proof.parent, 2, model(0, 2), proof.named));
        vm.expectEmit(true, false, false, true, address(training));
        emit BranchCreated(study, 1, 0, 2, model(0, 2), baseResult, keccak256("seed"), 4, batch);
        plan(t, 7);
        stateIs(batch, IUnlearningRegistry.State.PLANNED);

        // A round of the old branch is open: the fork waits for its end, and the head is tainted meanwhile.
        same(training.studyOf(study).forkState, 1, "waits for the round");
        headIs(0, 4, model(0, 4), true, true);
        roundId = finish(roundId, 15, model(0, 5)); // the old branch opens no more rounds, the new one does
        same(training.studyOf(study).forkState, 2, "replays");
        headIs(1, 2, model(0, 2), false, true); // the base checkpoint serves
        ITrainingLedger.RoundView memory v = training.roundOf(study, roundId);
        same(v.branch, 1, "branch");
        same(v.height, 3, "heights go on from the base");
        roundId = finish(roundId, 15, model(1, 3));
        headIs(1, 2, model(0, 2), false, true);
        IUnlearningRegistry.Verdicts memory early = verdictsOf(batch, 1, 1, model(1, 3), true);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.NotCaughtUp.selector, 1));
        unlearning.verdicts(opened[batch], early, none());
        roundId = finish(roundId, 15, model(1, 4));

        verdict(batch, 0, 1, model(1, 4), true);
        stateIs(batch, IUnlearningRegistry.State.PLANNED);
        roundId = finish(roundId, 15, model(1, 5)); // training goes on; the verdict is about height 4
        vm.expectEmit(true, false, false, true, address(unlearning));
        emit ErasureConfirmed(batch, 1, model(1, 4));
        vm.expectEmit(true, true, false, true, address(unlearning));
        emit HeadMoved(batch, study, 1);
        verdict(batch, 2, 1, model(1, 4), true);
        stateIs(batch, IUnlearningRegistry.State.CONFIRMED);
        headIs(1, 5, model(1, 5), false, true);
        same(training.studyOf(study).forkState, 0, "no plan is active");

        step(batch, 3);
        step(batch, 4);
        purge(batch, 15);
        vm.expectEmit(true, false, false, true, address(unlearning));
        emit ErasureClosed(batch, 0);
        step(batch, 5);
        stateIs(batch, IUnlearningRegistry.State.CLOSED);
        timesAscend(batch);
    }

    function timesAscend(bytes32 batch) internal view {
        IUnlearningRegistry.BatchView memory v = unlearning.stateOf(batch);
        holds(
            v.openedAt != 0 && v.openedAt <= v.at && v.at <= block.timestamp, "what is checked later has its time"
        );
    }

    function test_severalStepsTravelTogetherAndInOrder() public {
        trained(4, 0);
        bytes32 batch = open(CONTROLLER, CONTROLLER);
        IUnlearningRegistry.Steps memory e = stepsOf(batch, CONTROLLER, 1, 3);
        vm.expectRevert(wrongState(batch, IUnlearningRegistry.State.COPY_DELETED)); // the third is not due: none counts
        unlearning.step(opened[batch], CONTROLLER, e);
        stateIs(batch, IUnlearningRegistry.State.AUTHORISED);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.Missing.selector, "evidence"));
        unlearning.step(opened[batch], CONTROLLER, unsigned(1, 0));
        e = stepsOf(batch, CONTROLLER, 1, 2);
        (e.evidence[0], e.evidence[1]) = (e.evidence[1], e.evidence[0]);
        vm.expectPartialRevert(PackedSignatures.BadSignature.selector); // whoever carries it changes nothing of it
        unlearning.step(opened[batch], CONTROLLER, e);
        e = stepsOf(batch, CONTROLLER, 1, 2);
        vm.expectEmit(true, false, false, true, address(unlearning));
        emit ErasureStepped(batch, 1, e.evidence);
        unlearning.step(opened[batch], CONTROLLER, e);
        stateIs(batch, IUnlearningRegistry.State.COPY_DELETED);
        same(unlearning.stateOf(batch).at, block.timestamp, "excluded now");
        vm.expectRevert(wrongState(batch, IUnlearningRegistry.State.COPY_DELETED));
        unlearning.step(opened[batch], CONTROLLER, e);
    }

    function test_firstStepsMayComeWithTheOpening() public {
        trained(4, 0);
        IUnlearningRegistry.OpenTerms memory t = termsOf(CONTROLLER, CONTROLLER);
        bytes32 batch = unlearning.batchOf(t);
        IUnlearningRegistry.Steps memory e = stepsOf(batch, CONTROLLER, 1, 2);
        same(open(t, e), batch, "batch");
        stateIs(batch, IUnlearningRegistry.State.COPY_DELETED);
        t = termsOf(CONTROLLER, 1); // a relay brings no steps
        (bytes32 r, bytes32 vs) =
            sign(memberKey(1), address(unlearning), keccak256(abi.encode(Statements.OPEN_ERASURE, t)));
        e = stepsOf(unlearning.batchOf(t), CONTROLLER, 1, 2);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.NotController.selector, CONTROLLER, 1));
        unlearning.openErasure(t, r, vs, e);
    }

    function test_erasureEndsWhereItBeganWhenTheNetworkMoves() public {
        (bytes32 batch, bytes32 roundId) = readyToPlan(4, 3);
        succeed(address(0xbeef), everyone(4));
        same(finish(roundId, everyone(4), model(0, 5)), 0, "no round opens after the move");
        plan(planOf(batch, 0, 1, model(0, 1), 3), everyone(4));
        roundId = training.openRound(study);
        holds(roundId != 0, "the replay's rounds open all the same");
        roundId = finish(roundId, 7, model(1, 2));
        finish(roundId, 7, model(1, 3));
        for (uint16 i; i < 3; ++i) {
            verdict(batch, i, 1, model(1, 3), true);
        }
        stateIs(batch, IUnlearningRegistry.State.CONFIRMED);
        purge(batch, everyone(4));
        unlearning.step(opened[batch], CONTROLLER, stepsOf(batch, CONTROLLER, 3, 5));
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
        unlearning.openErasure(termsOf(CONTROLLER, CONTROLLER), 0, 0, unsigned(0, 0));
    }

    function test_badBatchesRefused() public {
        trained(4, 0);
        IUnlearningRegistry.OpenTerms memory t = termsOf(CONTROLLER, 1);
        t.requestsRoot = 0;
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.Missing.selector, "requestsRoot"));
        unlearning.openErasure(t, 0, 0, unsigned(0, 0));
        t = termsOf(CONTROLLER, 1);
        t.dueAt = 0;
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.Missing.selector, "dueAt"));
        unlearning.openErasure(t, 0, 0, unsigned(0, 0));
        t = termsOf(CONTROLLER, 7);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.NotActive.selector, 7));
        unlearning.openErasure(t, 0, 0, unsigned(0, 0));
        t = termsOf(9, 1);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.NotActive.selector, 9));
        unlearning.openErasure(t, 0, 0, unsigned(0, 0));
        t = termsOf(CONTROLLER, 1);
        t.study = keccak256("none");
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.StudyUnknown.selector, keccak256("none")));
        unlearning.openErasure(t, 0, 0, unsigned(0, 0));
        t = termsOf(CONTROLLER, 1);
        vm.expectRevert();
        unlearning.openErasure(t, 0, 0, unsigned(0, 0));
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.BatchUnknown.selector, keccak256("none")));
        unlearning.stateOf(keccak256("none"));
    }

    function test_onlyTheControllerAuthorisesAndRefuses() public {
        trained(4, 0);
        bytes32 batch = open(CONTROLLER, 1);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.NotController.selector, CONTROLLER, 1));
        unlearning.authorise(opened[batch], 1, 0, 0);
        vm.expectRevert();
        unlearning.authorise(opened[batch], CONTROLLER, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.NotController.selector, CONTROLLER, 1));
        unlearning.refuse(opened[batch], 1, 1, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.Missing.selector, "ground"));
        unlearning.refuse(opened[batch], CONTROLLER, 0, 0, 0);
        vm.expectRevert(wrongState(batch, IUnlearningRegistry.State.REQUESTED));
        unlearning.step(opened[batch], CONTROLLER, unsigned(1, 1));
        refuse(batch, CONTROLLER, 2);
        stateIs(batch, IUnlearningRegistry.State.REFUSED);
        vm.expectRevert(wrongState(batch, IUnlearningRegistry.State.REFUSED));
        unlearning.authorise(opened[batch], CONTROLLER, 0, 0);
        vm.expectRevert(wrongState(batch, IUnlearningRegistry.State.REFUSED));
        unlearning.attestPurge(opened[batch], none());
        vm.expectRevert(wrongState(batch, IUnlearningRegistry.State.REFUSED));
        unlearning.verdicts(opened[batch], verdictsOf(batch, 0, 0, 0, true), none());
    }

    function test_refusalEndsWithTheExclusion() public {
        trained(4, 0);
        bytes32 batch = open(CONTROLLER, CONTROLLER);
        step(batch, 1);
        vm.expectRevert(wrongState(batch, IUnlearningRegistry.State.EXCLUDED));
        unlearning.refuse(opened[batch], CONTROLLER, 1, 0, 0);
        vm.expectRevert(wrongState(batch, IUnlearningRegistry.State.EXCLUDED));
        unlearning.authorise(opened[batch], CONTROLLER, 0, 0);
    }

    function test_stepsComeInOrder() public {
        trained(4, 0);
        bytes32 batch = open(CONTROLLER, CONTROLLER);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.WrongStep.selector, 1, 2));
        unlearning.step(opened[batch], CONTROLLER, unsigned(2, 1));
        step(batch, 1);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.WrongStep.selector, 2, 1));
        unlearning.step(opened[batch], CONTROLLER, unsigned(1, 1));
        step(batch, 2);
        vm.expectRevert(wrongState(batch, IUnlearningRegistry.State.COPY_DELETED));
        unlearning.step(opened[batch], CONTROLLER, unsigned(3, 1));
    }

    // ------------------------------------------------------------------------------------------------ plan

    function test_planWaitsForTheCopyAndTheWindow() public {
        bytes32 roundId = trained(4, 2);
        bytes32 batch = open(CONTROLLER, CONTROLLER);
        uint256 openedAt = block.timestamp;
        PlanFor memory t = planOf(batch, 0, 1, model(0, 1), 2);
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

    function test_aRemovedHospitalHoldsUpNoPlan() public {
        bytes32 roundId = trained(5, 2);
        bytes32 batch = open(CONTROLLER, 0); // a relay, and the hospital never answers
        vm.warp(block.timestamp + 1);
        roundId = finish(roundId, 31, model(0, 3));
        vm.warp(block.timestamp + 101);
        PlanFor memory t = planOf(batch, 0, 0, model(0, 0), 3);
        bytes memory early = wrongState(batch, IUnlearningRegistry.State.REQUESTED);
        ITrainingLedger.BaseProof memory proof = proofFor(t);
        bytes memory votes = planVotes(t, 23);
        vm.expectRevert(early);
        unlearning.plan(opened[batch], t.terms, proof, 23, votes);
        removeMember(CONTROLLER);
        plan(t, 23);
        roundId = finish(roundId, 31, model(0, 4)); // the round in flight still asks the one that was removed
        vm.expectRevert(wrongState(batch, IUnlearningRegistry.State.PLANNED));
        unlearning.step(opened[batch], CONTROLLER, stepsOf(batch, CONTROLLER, 1, 1));
        roundId = training.openRound(study);
        for (uint256 h = 1; h <= 3; ++h) {
            roundId = finish(roundId, 23, model(1, h));
        }
        for (uint16 i; i < 3; ++i) {
            verdict(batch, i, 1, model(1, 3), true);
        }
        stateIs(batch, IUnlearningRegistry.State.CONFIRMED);
        for (uint8 number = 1; number <= 5; ++number) {
            vm.expectRevert(wrongState(batch, IUnlearningRegistry.State.CONFIRMED));
            unlearning.step(opened[batch], CONTROLLER, stepsOf(batch, CONTROLLER, number, 5));
        }
    }

    function test_aRemovedHospitalClosesWhatItDeleted() public {
        bytes32 roundId = trained(5, 2);
        bytes32 batch = open(CONTROLLER, CONTROLLER);
        step(batch, 1);
        step(batch, 2);
        finish(roundId, 31, model(0, 3));
        removeMember(CONTROLLER);
        vm.warp(block.timestamp + 101);
        plan(planOf(batch, 0, 3, model(0, 3), 3), 23);
        for (uint16 i; i < 3; ++i) {
            verdict(batch, i, 0, model(0, 3), true);
        }
        unlearning.step(opened[batch], CONTROLLER, stepsOf(batch, CONTROLLER, 3, 5));
        stateIs(batch, IUnlearningRegistry.State.CLOSED);
    }

    function test_aRemovedHospitalsRefusalStands() public {
        trained(5, 2);
        bytes32 batch = open(CONTROLLER, 0);
        refuse(batch, CONTROLLER, 2);
        removeMember(CONTROLLER);
        vm.warp(block.timestamp + 101);
        planReverts(
            planOf(batch, 0, 0, model(0, 0), 2), wrongState(batch, IUnlearningRegistry.State.REFUSED)
        );
    }

    function test_planWaitsForRoundsInFlightAtTheExclusion() public {
        bytes32 roundId = trained(4, 2);
        bytes32 batch = open(CONTROLLER, CONTROLLER);
        step(batch, 1);
        step(batch, 2);
        uint64 excludedAt = unlearning.stateOf(batch).at;
        uint64 roundOpenedAt = training.roundOf(study, roundId).openedAt;
        vm.warp(block.timestamp + 101);
        planReverts(
            planOf(batch, 0, 1, model(0, 1), 2),
            abi.encodeWithSelector(IUnlearningRegistry.RoundInFlight.selector, roundOpenedAt, excludedAt)
        );
    }

    function test_planNeedsAQuorumAndARecordedCheckpoint() public {
        (bytes32 batch,) = readyToPlan(4, 3);
        PlanFor memory t = planOf(batch, 0, 2, model(0, 2), 3);
        bytes memory votes = planVotes(t, 3);
        ITrainingLedger.BaseProof memory good = proofFor(t);
        vm.expectRevert(abi.encodeWithSelector(PackedSignatures.QuorumNotReached.selector, 2, 3));
        unlearning.plan(opened[batch], t.terms, good, 3, votes);
        noCheckpoint(planOf(batch, 0, 2, model(0, 1), 3), 7); // another model
        noCheckpoint(planOf(batch, 0, 4, model(0, 3), 4), 7); // height 4 failed
        noCheckpoint(planOf(batch, 0, 0, model(0, 1), 4), 7); // not the initial model
        ITrainingLedger.BaseProof memory proof = proofFor(t);
        proof.links = new bytes32[](0); // a checkpoint that leads nowhere
        votes = planVotes(t, 7);
        vm.expectPartialRevert(ITrainingLedger.WrongCheckpoint.selector);
        unlearning.plan(opened[batch], t.terms, proof, 7, votes);
        planReverts(
            planOf(batch, 0, 2, model(0, 2), 5), abi.encodeWithSelector(ITrainingLedger.BadTarget.selector, 5, 2, 4)
        );
        planReverts(
            planOf(batch, 0, 2, model(0, 2), 1), abi.encodeWithSelector(ITrainingLedger.BadTarget.selector, 1, 2, 4)
        );
        PlanFor memory unseeded = planOf(batch, 0, 2, model(0, 2), 3);
        unseeded.terms.branchSeed = 0;
        planReverts(unseeded, abi.encodeWithSelector(IUnlearningRegistry.Missing.selector, "branchSeed"));
        planReverts(
            planOf(batch, 1, 2, model(0, 2), 3), abi.encodeWithSelector(ITrainingLedger.NotOnAncestry.selector, 1, 2)
        );
        plan(t, 7);
    }

    function noCheckpoint(PlanFor memory t, uint32 signers) internal {
        bytes memory votes = planVotes(t, signers);
        ITrainingLedger.BaseProof memory proof = proofFor(t);
        vm.expectPartialRevert(ITrainingLedger.WrongCheckpoint.selector);
        unlearning.plan(opened[t.batch], t.terms, proof, signers, votes);
    }

    function test_oneActivePlanAStudy() public {
        (bytes32 batch, bytes32 roundId) = readyToPlan(4, 3);
        plan(planOf(batch, 0, 2, model(0, 2), 3), 7);
        bytes32 other = openAndDelete(2);
        finish(roundId, 15, model(0, 5));
        vm.warp(block.timestamp + 101);
        planReverts(
            planOf(other, 0, 1, model(0, 1), 3),
            abi.encodeWithSelector(ITrainingLedger.ForkActive.selector, study)
        );
    }

    function openAndDelete(uint16 controller) internal returns (bytes32 batch) {
        batch = open(controller, controller);
        unlearning.step(opened[batch], controller, stepsOf(batch, controller, 1, 2));
        vm.warp(block.timestamp + 1); // the next block
    }

    function test_secondErasureForksFromTheAncestryOfTheNewBranch() public {
        (bytes32 batch, bytes32 roundId) = readyToPlan(4, 4);
        plan(planOf(batch, 0, 3, model(0, 3), 4), 7); // branch 1 from height 3
        finish(roundId, 15, model(0, 6));
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
        finish(roundId, 15, model(1, 6));
        same(training.studyOf(study).branch, 2, "training branch");
        same(training.studyOf(study).finals, 1, "finals at the base");
        same(training.studyOf(study).height, 2, "goes on from the height of the base");
        for (uint256 h = 2; h <= 5; ++h) {
            same(training.caughtUp(study, 2), bytes32(0), "as many models as there were");
            finish(training.openRound(study), 15, model(2, h));
        }
        same(training.caughtUp(study, 2), model(2, 5), "caught up");
        verdict(second, 0, 2, model(2, 5), true);
        verdict(second, 1, 2, model(2, 5), true);
        headIs(2, 5, model(2, 5), false, true);
    }

    function test_targetCountsModelsNotHeights() public {
        (bytes32 batch, bytes32 roundId) = readyToPlan(4, 3); // height 4 failed
        finish(roundId, 15, model(0, 5));
        plan(planOf(batch, 0, 1, model(0, 1), 5, 3), 7);
        roundId = training.openRound(study);
        finish(roundId, 15, model(0, 6));
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

    function test_methodOfFewerRoundsHasDoneAsMuchOfTheStudy() public {
        found(4);
        ITrainingLedger.StudyTerms memory terms_ = terms(4);
        terms_.rounds = 5;
        bytes32 roundId = start(terms_);
        for (uint256 h = 1; h <= 4; ++h) {
            roundId = finish(roundId, 15, model(0, h));
        }
        bytes32 batch = openAndDelete(CONTROLLER);
        finish(roundId, 15, model(0, 5));
        vm.warp(block.timestamp + 101);
        planReverts(
            planOf(batch, 0, 0, model(0, 0), 4, 5),
            abi.encodeWithSelector(ITrainingLedger.TooManyRounds.selector, 5, 4)
        );
        plan(planOf(batch, 0, 0, model(0, 0), 4, 2), 7);
        same(training.studyOf(study).finals, 2, "two rounds do what four did");
        roundId = finish(training.openRound(study), 15, model(1, 1));
        same(training.caughtUp(study, 1), bytes32(0), "not yet");
        roundId = finish(roundId, 15, model(1, 2));
        same(training.caughtUp(study, 1), model(1, 2), "caught up");
        same(finish(roundId, 15, model(1, 3)), bytes32(0), "the study goes on from there to its end");
    }

    /// @notice A replay of four rounds from height 1 whose first round is open.
    function replaying() internal returns (bytes32 batch, bytes32 roundId) {
        (batch, roundId) = readyToPlan(4, 3);
        plan(planOf(batch, 0, 1, model(0, 1), 3), 7);
        finish(roundId, 15, model(0, 5));
        roundId = training.openRound(study);
    }

    /// @notice The open round, which nobody can train, when it can be failed.
    function untrained() internal returns (bytes32 roundId) {
        roundId = training.openRound(study);
        for (uint16 i; i < 4; ++i) {
            abstain(roundId, i);
        }
        closeUnanswered(roundId);
    }

    function fail() internal {
        training.failRound(study, untrained());
    }

    function givesUp(uint32 branch, bytes32 model_) internal {
        vm.expectEmit(true, false, false, true, address(training));
        emit ITrainingLedger.ReplayGivenUp(study, branch, model_);
    }

    function test_aReplayThatNobodyTrainsEndsAtItsCheckpoint() public {
        (bytes32 batch,) = replaying();
        fail();
        fail();
        same(training.caughtUp(study, 1), bytes32(0), "two in a row");
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.NotCaughtUp.selector, 1));
        unlearning.verdicts(opened[batch], verdictsOf(batch, 1, 1, model(0, 1), true), none());
        bytes32 last = untrained();
        givesUp(1, model(0, 1));
        training.failRound(study, last);
        same(training.caughtUp(study, 1), model(0, 1), "the checkpoint");
        finish(training.openRound(study), 15, model(1, 5));
        same(training.caughtUp(study, 1), model(0, 1), "for good");
        verdict(batch, 0, 1, model(0, 1), true);
        verdict(batch, 1, 1, model(0, 1), true);
        stateIs(batch, IUnlearningRegistry.State.CONFIRMED);
        headIs(1, 5, model(1, 5), false, true); // the study went on meanwhile
        same(training.studyOf(study).forkState, 0, "the next erasure may be planned");
    }

    function test_aReplayIsGivenUpWithTheModelItHas() public {
        (, bytes32 roundId) = replaying();
        finish(roundId, 15, model(1, 2));
        fail();
        fail();
        bytes32 last = untrained();
        givesUp(1, model(1, 2));
        training.failRound(study, last);
        same(training.caughtUp(study, 1), model(1, 2), "its newest model");
    }

    function test_onlyFailuresInARowOfAReplayGiveItUp() public {
        trained(4, 4);
        fail();
        fail();
        fail();
        same(training.caughtUp(study, 0), bytes32(0), "no replay");
        bytes32 batch = openAndDelete(CONTROLLER);
        fail();
        vm.warp(block.timestamp + 101);
        plan(planOf(batch, 0, 1, model(0, 1), 4), 7);
        fail();
        fail();
        fail();
        finish(training.openRound(study), 15, model(1, 4));
        fail();
        fail();
        same(training.caughtUp(study, 1), bytes32(0), "a model between them");
        finish(training.openRound(study), 15, model(1, 7));
        finish(training.openRound(study), 15, model(1, 8));
        same(training.caughtUp(study, 1), model(1, 8), "caught up");
        fail();
        fail();
        fail();
        same(training.caughtUp(study, 1), model(1, 8), "for good");
    }

    function test_aRoundAgreedToHaveNoModelCountsAsOneWithout() public {
        (bytes32 batch, bytes32 roundId) = replaying();
        for (uint256 i; i < 3; ++i) {
            commit(roundId, 15);
            if (i == 2) givesUp(1, model(0, 1));
            finalise(roundId, 0, 15, noModel(model(0, 1)), 15);
            roundId = training.openRound(study);
        }
        same(training.caughtUp(study, 1), model(0, 1), "the checkpoint");
        verdict(batch, 0, 1, model(0, 1), true);
    }

    /// @dev What members agree on where three of four updates are invalid.
    function noModel(bytes32 parent) internal view returns (ITrainingLedger.Result memory x) {
        x = resultOf(8, 0x111, parent);
        x.outcome = 2;
    }

    function test_aReplayWithoutTwoMembersEndsWhereItIs() public {
        (bytes32 batch, bytes32 roundId) = replaying();
        commit(roundId, 15);
        for (uint16 i; i < 3; ++i) {
            if (i != CONTROLLER) leaveStudy(study, i);
        }
        leaveStudy(study, 3);
        givesUp(1, model(0, 1));
        vm.warp(block.timestamp + 20_000);
        training.failRound(study, roundId);
        same(training.openRound(study), bytes32(0), "nobody to ask");
        same(training.caughtUp(study, 1), model(0, 1), "the checkpoint");
        stateIs(batch, IUnlearningRegistry.State.PLANNED); // and nobody else is there to confirm it
    }

    function test_aReplayThatCannotBeginEndsAtItsCheckpoint() public {
        (bytes32 batch, bytes32 roundId) = readyToPlan(4, 3);
        plan(planOf(batch, 0, 1, model(0, 1), 3), 7);
        commit(roundId, 15);
        for (uint16 i = 1; i < 4; ++i) {
            leaveStudy(study, i);
        }
        givesUp(1, model(0, 1));
        finalise(roundId, 0, 15, resultOf(15, 0, model(0, 5)), 15);
        verdict(batch, 0, 1, model(0, 1), true);
        stateIs(batch, IUnlearningRegistry.State.CONFIRMED); // by the one that is left, where the controller is gone
    }

    function test_taintedHeadLeavesServiceAtTheDueTime() public {
        (bytes32 batch, bytes32 roundId) = readyToPlan(4, 3);
        plan(planOf(batch, 0, 2, model(0, 2), 3), 7);
        vm.warp(START + 30 days);
        headIs(0, 3, model(0, 3), true, true);
        vm.warp(START + 30 days + 1);
        headIs(0, 3, model(0, 3), true, false);
        training.failRound(study, roundId); // as late as it is
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
        bytes32 other = openAndDelete(2); // one plan at a time, also of those that replay nothing
        finish(roundId, 15, model(0, 5));
        vm.warp(block.timestamp + 101);
        planReverts(
            planOf(other, 0, 3, model(0, 3), 3), abi.encodeWithSelector(ITrainingLedger.ForkActive.selector, study)
        );
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

    function test_junkPurgesHarmOnlyThemselves() public {
        (bytes32 batch,) = readyToPlan(4, 3);
        vm.expectRevert(wrongState(batch, IUnlearningRegistry.State.COPY_DELETED));
        unlearning.attestPurge(opened[batch], none());
        plan(planOf(batch, 0, 2, model(0, 2), 3), 7);
        purge(batch, 1);
        IUnlearningRegistry.Purges memory e = purgesOf(batch, 15, 1);
        e.members |= 1 << 9;
        e.inventories = new bytes32[](5);
        for (uint256 i; i < 4; ++i) {
            e.inventories[i] = keccak256(abi.encode("inventory", i));
        }
        e.inventories[2] = keccak256("another"); // whoever carries it changes nothing of it
        e.signatures = abi.encodePacked(e.signatures, bytes32(0), bytes32(0));
        skips(batch, 0, Skips.DUPLICATE);
        skips(batch, 2, Skips.BAD_SIGNATURE);
        skips(batch, 9, Skips.UNKNOWN_MEMBER);
        bytes32[] memory kept = new bytes32[](2);
        (kept[0], kept[1]) = (e.inventories[1], e.inventories[3]);
        vm.expectEmit(true, false, false, true, address(unlearning));
        emit PurgesAttested(batch, 10, kept);
        unlearning.attestPurge(opened[batch], e);
        same(unlearning.stateOf(batch).purged, 11, "the others count");
        bytes32 acc = unlearning.accumulator();
        unlearning.attestPurge(opened[batch], purgesOf(batch, 3, 1)); // all there already
        same(unlearning.accumulator(), acc, "nothing counted, nothing recorded");
    }

    function test_purgesInTheirForm() public {
        (bytes32 batch,) = readyToPlan(4, 3);
        plan(planOf(batch, 0, 2, model(0, 2), 3), 7);
        IUnlearningRegistry.Purges memory e = purgesOf(batch, 3, 0); // what members say to each other before a replay
        skips(batch, 0, Skips.BAD_SIGNATURE);
        skips(batch, 1, Skips.BAD_SIGNATURE);
        unlearning.attestPurge(opened[batch], e);
        e = purgesOf(batch, 3, 1);
        e.members = 7;
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.InventoriesLength.selector, 2, 3));
        unlearning.attestPurge(opened[batch], e);
        e.members = 3;
        e.signatures = new bytes(127);
        vm.expectRevert(abi.encodeWithSelector(PackedSignatures.SignaturesLength.selector, 127, 128));
        unlearning.attestPurge(opened[batch], e);
    }

    // -------------------------------------------------------------------------------------------- verdicts

    function replayed(uint256 n) internal returns (bytes32 batch) {
        bytes32 roundId;
        (batch, roundId) = readyToPlan(n, 2);
        plan(planOf(batch, 0, 1, model(0, 1), 2), everyone(n));
        finish(roundId, everyone(n), model(0, 4));
        finish(training.openRound(study), everyone(n), model(1, 2));
    }

    function test_controllerHasNoVerdictAndJunkHarmsOnlyItself() public {
        bytes32 batch = replayed(4);
        unlearning.verdicts(opened[batch], verdictsOf(batch, 2, 1, model(1, 2), true), none());
        IUnlearningRegistry.Verdicts memory e = verdictsOf(batch, 15, 1, model(1, 2), true);
        e.confirming = 14; // a relayer's word for member 0's
        e.members |= 1 << 9;
        e.signatures = abi.encodePacked(e.signatures, bytes32(0), bytes32(0));
        skips(batch, 0, Skips.BAD_SIGNATURE);
        skips(batch, 1, Skips.DUPLICATE);
        skips(batch, CONTROLLER, Skips.UNKNOWN_MEMBER);
        skips(batch, 9, Skips.UNKNOWN_MEMBER);
        vm.expectEmit(true, false, false, true, address(unlearning));
        emit VerdictsGiven(batch, 1, model(1, 2), 4, 4);
        unlearning.verdicts(opened[batch], e, none());
        stateIs(batch, IUnlearningRegistry.State.CONFIRMED);
        same(unlearning.stateOf(batch).confirmers, 6, "members 1 and 2");
        skips(batch, 0, Skips.BAD_SIGNATURE);
        unlearning.verdicts(opened[batch], verdictsOf(batch, 1, 0, model(1, 2), true), none()); // another branch
        skips(batch, 0, Skips.BAD_SIGNATURE);
        unlearning.verdicts(opened[batch], verdictsOf(batch, 1, 1, model(0, 2), true), none()); // another model
        e = verdictsOf(batch, 1, 1, model(1, 2), true);
        e.signatures = new bytes(65);
        vm.expectRevert(abi.encodeWithSelector(PackedSignatures.SignaturesLength.selector, 65, 64));
        unlearning.verdicts(opened[batch], e, none());
    }

    function test_verdictsAndPurgesTravelTogether() public {
        bytes32 batch = replayed(4);
        unlearning.verdicts(opened[batch], verdictsOf(batch, 7, 1, model(1, 2), true), purgesOf(batch, 15, 1));
        stateIs(batch, IUnlearningRegistry.State.CONFIRMED);
        vm.expectEmit(true, false, false, true, address(unlearning));
        emit ErasureClosed(batch, 0);
        unlearning.step(opened[batch], CONTROLLER, stepsOf(batch, CONTROLLER, 3, 5));
        stateIs(batch, IUnlearningRegistry.State.CLOSED);
    }

    function test_denialsConfirmNothing() public {
        bytes32 batch = replayed(4);
        verdict(batch, 0, 1, model(1, 2), false);
        verdict(batch, 1, 1, model(1, 2), true);
        stateIs(batch, IUnlearningRegistry.State.PLANNED);
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
                stateIs(batch, IUnlearningRegistry.State.PLANNED);
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
        unlearning.step(opened[batch], CONTROLLER, unsigned(5, 1));
        step(batch, 4);
        purge(batch, 11);
        vm.expectEmit(true, false, false, true, address(unlearning));
        emit ErasureClosed(batch, 4);
        step(batch, 5);
        stateIs(batch, IUnlearningRegistry.State.CLOSED_WITH_EXCEPTIONS);
        purge(batch, 4); // late, and on record
        same(unlearning.stateOf(batch).purged, 15, "late purge");
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
        open(t);
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

    // ------------------------------------------------------------------------------------------- deadlines

    function extendOf(bytes32 batch, uint16 member, uint64 dueAt) internal view returns (bytes32 r, bytes32 vs) {
        return sign(
            memberKey(member), address(unlearning), keccak256(abi.encode(Statements.EXTEND, batch, member, dueAt))
        );
    }

    function test_openingIsDueWithinAMonth() public {
        trained(4, 0);
        IUnlearningRegistry.OpenTerms memory t = termsOf(CONTROLLER, CONTROLLER);
        uint256 last = block.timestamp + 31 days;
        t.dueAt = uint64(last + 1);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.DueTooLate.selector, last + 1, last));
        unlearning.openErasure(t, 0, 0, unsigned(0, 0));
        t.dueAt = uint64(last);
        open(t);
        t.dueAt = uint64(block.timestamp - 1); // a relay may be late
        open(t);
    }

    function test_dueDateIsExtendedOnceByTheControllerInTime() public {
        trained(4, 0);
        bytes32 batch = open(CONTROLLER, 1); // not even authorised
        uint64 dueAt = uint64(START + 30 days);
        uint64 last = dueAt + 61 days;
        (bytes32 r, bytes32 vs) = extendOf(batch, 1, last);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.NotController.selector, CONTROLLER, 1));
        unlearning.extend(opened[batch], 1, last, r, vs);
        vm.expectPartialRevert(PackedSignatures.BadSignature.selector);
        unlearning.extend(opened[batch], CONTROLLER, last, r, vs);
        bytes memory outOfBounds =
            abi.encodeWithSelector(IUnlearningRegistry.ExtensionOutOfBounds.selector, last + 1, dueAt + 1, last);
        vm.expectRevert(outOfBounds);
        unlearning.extend(opened[batch], CONTROLLER, last + 1, 0, 0);
        vm.expectRevert(
            abi.encodeWithSelector(IUnlearningRegistry.ExtensionOutOfBounds.selector, dueAt, dueAt + 1, last)
        );
        unlearning.extend(opened[batch], CONTROLLER, dueAt, 0, 0);
        (r, vs) = extendOf(batch, CONTROLLER, last);
        vm.warp(dueAt + 1);
        vm.expectRevert(
            abi.encodeWithSelector(IUnlearningRegistry.ExtensionTooLate.selector, dueAt, block.timestamp)
        );
        unlearning.extend(opened[batch], CONTROLLER, last, r, vs);
        vm.warp(dueAt);
        bytes32 acc = unlearning.accumulator();
        vm.expectEmit(true, false, false, true, address(unlearning));
        emit ErasureExtended(batch, last);
        unlearning.extend(opened[batch], CONTROLLER, last, r, vs);
        same(unlearning.stateOf(batch).extendedTo, last, "on record");
        bytes32 recordHash = keccak256(abi.encode(Tags.RECORD_ERASURE_EXTENDED, batch, last));
        same(unlearning.accumulator(), keccak256(abi.encode(acc, recordHash)), "accumulated");
        stateIs(batch, IUnlearningRegistry.State.REQUESTED);
        (r, vs) = extendOf(batch, CONTROLLER, last - 1);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.AlreadyExtended.selector, batch, last));
        unlearning.extend(opened[batch], CONTROLLER, last - 1, r, vs);
    }

    function test_fuzz_extensionsLeadToWithinTwoMonths(uint64 dueAt) public {
        trained(4, 0);
        bytes32 batch = open(CONTROLLER, CONTROLLER);
        uint64 first = uint64(START + 30 days) + 1;
        uint64 last = first - 1 + 61 days;
        (bytes32 r, bytes32 vs) = extendOf(batch, CONTROLLER, dueAt);
        bool fits = dueAt >= first && dueAt <= last;
        if (!fits) {
            vm.expectRevert(
                abi.encodeWithSelector(IUnlearningRegistry.ExtensionOutOfBounds.selector, dueAt, first, last)
            );
        }
        unlearning.extend(opened[batch], CONTROLLER, dueAt, r, vs);
        same(unlearning.stateOf(batch).extendedTo, fits ? dueAt : 0, "extended");
    }

    function test_whatIsOverIsNotExtended() public {
        trained(4, 0);
        bytes32 batch = open(CONTROLLER, CONTROLLER);
        refuse(batch, CONTROLLER, 2);
        uint64 dueAt = uint64(START + 60 days);
        (bytes32 r, bytes32 vs) = extendOf(batch, CONTROLLER, dueAt);
        vm.expectRevert(wrongState(batch, IUnlearningRegistry.State.REFUSED));
        unlearning.extend(opened[batch], CONTROLLER, dueAt, r, vs);
    }

    function test_anExtensionDoesNotKeepATaintedModelInService() public {
        (bytes32 batch,) = readyToPlan(4, 3);
        uint64 dueAt = uint64(START + 60 days);
        (bytes32 r, bytes32 vs) = extendOf(batch, CONTROLLER, dueAt);
        unlearning.extend(opened[batch], CONTROLLER, dueAt, r, vs);
        plan(planOf(batch, 0, 2, model(0, 2), 3), 7);
        vm.warp(START + 30 days + 1);
        headIs(0, 3, model(0, 3), true, false); // the round in flight never ends
    }

    // ---------------------------------------------------------------------------------- evidence of auditors

    bytes32 internal constant REPORT = keccak256("report");

    /// @notice A confirmed erasure whose plan forked.
    function confirmedErasure() internal returns (bytes32 batch) {
        batch = replayed(4);
        unlearning.verdicts(opened[batch], verdictsOf(batch, 7, 1, model(1, 2), true), none());
        stateIs(batch, IUnlearningRegistry.State.CONFIRMED);
    }

    /// @notice The network's second auditor, in seat 1.
    function seatSecondAuditor(bytes32 study_, uint64 termEnd) internal {
        IMembership.SeatInput memory input = seatInput(auditorKey(1), true, "second", address(membership));
        bytes32 seatHash = Statements.hashSeat(Statements.ROLE_AUDITOR, input.peerId, input.sealingKey, input.name);
        bytes32 structHash =
            keccak256(abi.encode(Statements.SEAT_AUDITOR, membership.epoch(), input.ledger, seatHash, study_, termEnd));
        membership.seatAuditor(input, study_, termEnd, ballot(7, structHash));
    }

    function attestHash(bytes32 batch, uint8 level, uint16 seat, bytes32 evidence) internal pure returns (bytes32) {
        return keccak256(abi.encode(Statements.ATTEST, batch, level, seat, evidence));
    }

    /// @dev With the key of the auditor in `seat`; the revert that a test expects is of this call and no other.
    function attest(bytes32 batch, uint8 level, uint16 seat) internal {
        (bytes32 r, bytes32 vs) =
            sign(auditorKey(seat), address(unlearning), attestHash(batch, level, seat, REPORT));
        unlearning.attest(opened[batch], level, seat, REPORT, r, vs);
    }

    /// @dev Refused before the signature is looked at.
    function notAttested(bytes32 batch, uint8 level, uint16 seat, bytes memory reason) internal {
        vm.expectRevert(reason);
        unlearning.attest(opened[batch], level, seat, REPORT, 0, 0);
    }

    function wrongLevel(uint8 level) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(IUnlearningRegistry.WrongLevel.selector, level);
    }

    function attestedBefore(bytes32 batch, uint8 level, uint16 seat) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(IUnlearningRegistry.AttestedBefore.selector, batch, level, seat);
    }

    function test_auditorsAttestEvidenceOnceForEachLevelAndSeat() public {
        bytes32 batch = confirmedErasure();
        IUnlearningRegistry.BatchView memory before = unlearning.stateOf(batch);
        bytes32 acc = unlearning.accumulator();
        vm.expectEmit(true, false, false, true, address(unlearning));
        emit EvidenceAttested(batch, 3, 0, REPORT);
        attest(batch, 3, 0);
        acc = keccak256(
            abi.encode(acc, keccak256(abi.encode(Tags.RECORD_EVIDENCE_ATTESTED, batch, uint8(3), uint16(0), REPORT)))
        );
        same(unlearning.accumulator(), acc, "accumulated");
        notAttested(batch, 3, 0, attestedBefore(batch, 3, 0));
        attest(batch, 4, 0);
        notAttested(batch, 4, 0, attestedBefore(batch, 4, 0));
        seatSecondAuditor(study, uint64(block.timestamp + 1000)); // another seat, another word
        attest(batch, 3, 1);
        attest(batch, 4, 1);
        notAttested(batch, 3, 1, attestedBefore(batch, 3, 1));
        same(keccak256(abi.encode(unlearning.stateOf(batch))), keccak256(abi.encode(before)), "the batch stays");
    }

    function test_evidenceIsAttestedFromTheConfirmationOnUntoAClosedRecord() public {
        bytes32 batch = replayed(4);
        notAttested(batch, 4, 0, wrongState(batch, IUnlearningRegistry.State.PLANNED));
        unlearning.verdicts(opened[batch], verdictsOf(batch, 7, 1, model(1, 2), true), none());
        attest(batch, 3, 0);
        purge(batch, 7);
        for (uint8 number = 3; number <= 5; ++number) {
            step(batch, number);
        }
        stateIs(batch, IUnlearningRegistry.State.CLOSED_WITH_EXCEPTIONS);
        attest(batch, 4, 0);
    }

    function test_noEvidenceAboutWhatIsRequestedRefusedOrUnknown() public {
        trained(4, 0);
        bytes32 batch = open(CONTROLLER, 1);
        notAttested(batch, 4, 0, wrongState(batch, IUnlearningRegistry.State.REQUESTED));
        refuse(batch, CONTROLLER, 2);
        notAttested(batch, 4, 0, wrongState(batch, IUnlearningRegistry.State.REFUSED));
        IUnlearningRegistry.OpenTerms memory t = termsOf(2, 2);
        vm.expectRevert(
            abi.encodeWithSelector(IUnlearningRegistry.BatchUnknown.selector, unlearning.batchOf(t))
        );
        unlearning.attest(t, 4, 0, REPORT, 0, 0);
    }

    function test_aReplayIsRepeatedOnlyWhereThereWasOne() public {
        (bytes32 batch,) = readyToPlan(4, 3);
        plan(planOf(batch, 0, 3, model(0, 3), 3), 7);
        verdict(batch, 0, 0, model(0, 3), true);
        verdict(batch, 1, 0, model(0, 3), true);
        stateIs(batch, IUnlearningRegistry.State.CONFIRMED);
        notAttested(batch, 3, 0, wrongLevel(3));
        attest(batch, 4, 0);
    }

    function test_fuzz_onlyTwoLevelsAreAttested(uint8 level) public {
        bytes32 batch = confirmedErasure();
        if (level == 3 || level == 4) attest(batch, level, 0);
        else notAttested(batch, level, 0, wrongLevel(level));
    }

    function test_evidenceIsOfAnAuditorInItsTermAndStudy() public {
        bytes32 batch = confirmedErasure();
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.Missing.selector, "evidence"));
        unlearning.attest(opened[batch], 3, 0, 0, 0, 0);
        notAttested(batch, 3, 1, abi.encodeWithSelector(IMembership.NoAuditor.selector, uint16(1)));
        uint64 termEnd = uint64(block.timestamp + 1000);
        bytes32 other = keccak256("another study");
        seatSecondAuditor(other, termEnd);
        notAttested(
            batch, 3, 1, abi.encodeWithSelector(IMembership.SeatedForAnother.selector, uint16(1), other, study)
        );
        vm.warp(termEnd);
        notAttested(batch, 3, 1, abi.encodeWithSelector(IMembership.TermOver.selector, termEnd, block.timestamp));
    }

    function test_anAuditorAttestsToTheLastSecondOfItsTerm() public {
        bytes32 batch = confirmedErasure();
        uint64 termEnd = uint64(block.timestamp + 1000);
        seatSecondAuditor(0, termEnd); // for every study
        vm.warp(termEnd - 1);
        attest(batch, 3, 1);
        vm.warp(termEnd);
        notAttested(batch, 4, 1, abi.encodeWithSelector(IMembership.TermOver.selector, termEnd, block.timestamp));
        attest(batch, 4, 0); // a founding auditor's term has no end
    }

    function test_anEndedTermAttestsNothingMore() public {
        bytes32 batch = confirmedErasure();
        attest(batch, 3, 0);
        bytes32 structHash = keccak256(
            abi.encode(Statements.END_AUDITOR, membership.epoch(), uint16(0), membership.auditorLedger(0))
        );
        membership.endAuditor(0, ballot(7, structHash));
        notAttested(
            batch, 4, 0, abi.encodeWithSelector(IMembership.TermOver.selector, block.timestamp, block.timestamp)
        );
    }

    /// @notice What an auditor signed holds for its batch, level, seat and evidence, on this chain and in this contract.
    function test_anAttestationHoldsForWhatItNamesOnly() public {
        bytes32 batch = confirmedErasure();
        seatSecondAuditor(study, uint64(block.timestamp + 1000));
        bytes32 right = attestHash(batch, 3, 0, REPORT);
        bytes32[4] memory wrong = [
            attestHash(keccak256("another batch"), 3, 0, REPORT),
            attestHash(batch, 4, 0, REPORT),
            attestHash(batch, 3, 1, REPORT),
            attestHash(batch, 3, 0, keccak256("another report"))
        ];
        for (uint256 i; i < 4; ++i) {
            (bytes32 r, bytes32 vs) = sign(auditorKey(0), address(unlearning), wrong[i]);
            forged(batch, r, vs);
        }
        (bytes32 r_, bytes32 vs_) = signFor(auditorKey(0), block.chainid + 1, address(unlearning), right);
        forged(batch, r_, vs_);
        (r_, vs_) = sign(auditorKey(0), address(training), right);
        forged(batch, r_, vs_);
        (r_, vs_) = sign(auditorKey(1), address(unlearning), right); // an auditor, in another seat
        forged(batch, r_, vs_);
        (r_, vs_) = sign(memberKey(0), address(unlearning), right); // the member with the same number
        forged(batch, r_, vs_);
        forged(batch, 0, 0);
        attest(batch, 3, 0);
    }

    function forged(bytes32 batch, bytes32 r, bytes32 vs) internal {
        vm.expectPartialRevert(PackedSignatures.BadSignature.selector);
        unlearning.attest(opened[batch], 3, 0, REPORT, r, vs);
    }

    // ------------------------------------------------------------------------------------------------- gas

    uint256 internal spent;
    uint256 internal withdrawal; // of it

    function took(string memory which, string memory what) internal {
        spent += vm.snapshotGasLastCall("Erasure", string.concat("n=5 ", which, " ", what));
    }

    /// @notice From the patient's withdrawal to the closed record: every transaction but the rounds. What a study's first
    /// erasure takes new slots for, its later ones overwrite.
    /// forge-config: default.isolate = true
    function test_gasOfAnErasure() public {
        trained(5, 3);
        oneErasure(0, 4, "first", false);
        oneErasure(1, 5, "later", false);
    }

    /// @notice The same, where nothing that met the withdrawal runs any more when the patient asks for erasure.
    /// forge-config: default.isolate = true
    function test_gasOfAnErasureAfterAWithdrawal() public {
        trained(5, 3);
        oneErasure(0, 4, "first", false);
        oneErasure(1, 5, "withdrawn before", true);
    }

    /// @notice What an auditor's evidence costs whoever carries it; no part of an erasure, which does not wait for it.
    /// forge-config: default.isolate = true
    function test_gasOfEvidence() public {
        attest(confirmedErasure(), 3, 0);
        vm.snapshotGasLastCall("Erasure", "an auditor's evidence");
    }

    /// @dev What the end of the round in flight, which opens the replay, costs more than another counts.
    /// The open round `height` of `branch` ends before the plan, the next one after it; three rounds are replayed.
    /// @param before No round that met the withdrawal runs any more: the first steps come with the opening.
    function oneErasure(uint32 branch, uint32 height, string memory which, bool before) internal {
        spent = 0;
        withdrawOne(height);
        took(which, "1 withdrawal");
        withdrawal = spent;
        IUnlearningRegistry.OpenTerms memory terms_ = termsOf(CONTROLLER, CONTROLLER);
        terms_.requestsRoot = keccak256(abi.encode("requests", height));
        terms_.dueAt = uint64(block.timestamp + 30 days);
        bytes32 batch = unlearning.batchOf(terms_);
        if (before) {
            open(terms_, stepsOf(batch, CONTROLLER, 1, 2));
            took(which, "2 batch opened, excluded, copy deleted");
        } else {
            open(terms_);
            took(which, "2 batch opened by the controller");
            unlearning.step(opened[batch], CONTROLLER, stepsOf(batch, CONTROLLER, 1, 2));
            took(which, "3 excluded, copy deleted");
        }
        vm.warp(block.timestamp + 101);
        spent -= endedWith(model(branch, height), string.concat(which, " the last round's end, next opened"));
        PlanFor memory t = planOf(batch, branch, height - 3, model(branch, height - 3), height);
        ITrainingLedger.BaseProof memory proof = proofFor(t);
        unlearning.plan(opened[batch], t.terms, proof, 15, planVotes(t, 15));
        took(which, "4 plan, study forked");
        forked(t, proof);
        vm.warp(block.timestamp + 1);
        spent +=
            endedWith(model(branch, height + 1), string.concat(which, " the round in flight's end, replay opened"));
        for (uint32 h = height - 2; h <= height; ++h) {
            finish(training.openRound(study), 31, model(branch + 1, h)); // replayed
        }
        unlearning.verdicts(
            opened[batch],
            verdictsOf(batch, 23, branch + 1, model(branch + 1, height), true),
            purgesOf(batch, 31, 1)
        );
        took(which, "5 verdicts, purges, head moved");
        unlearning.step(opened[batch], CONTROLLER, stepsOf(batch, CONTROLLER, 3, 5));
        took(which, "6 delivered, link destroyed, closed");
        stateIs(batch, IUnlearningRegistry.State.CLOSED);
        vm.snapshotValue("Erasure", string.concat("n=5 ", which, " all, beside its rounds"), spent);
        vm.snapshotValue("Erasure", string.concat("n=5 ", which, " all but the withdrawal"), spent - withdrawal);
    }

    /// @return gas_ Of the end of the open round, which has all five members.
    function endedWith(bytes32 model_, string memory name) internal returns (uint256 gas_) {
        bytes32 roundId = training.openRound(study);
        commit(roundId, 31);
        vm.warp(block.timestamp + 1);
        finalise(roundId, 0, 31, resultOf(31, 0, model_), 15);
        gas_ = vm.snapshotGasLastCall("Erasure", string.concat("n=5 ", name));
        vm.warp(block.timestamp + 1);
        vm.roll(block.number + 1);
    }

    function withdrawOne(uint256 which) internal {
        IConsentRegistry.WithdrawEntry memory e;
        uint256 key = uint256(keccak256(abi.encode("holder", which)));
        e.holder = vm.addr(key);
        bytes32 id = keccak256(abi.encode(Tags.CONSENT, e.holder, bytes32(0), bytes32(0)));
        (e.r, e.vs) = sign(key, address(consent), keccak256(abi.encode(Statements.WITHDRAW, id)));
        consent.withdrawOne(e);
    }
}
