// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ITrainingLedger} from "../interfaces/ITrainingLedger.sol";
import {PackedSignatures} from "../libraries/PackedSignatures.sol";
import {Skips} from "../libraries/Skips.sol";
import {Statements} from "../libraries/Statements.sol";
import {Tags} from "../libraries/Tags.sol";
import {Network} from "./support/Network.sol";
import {Vm} from "./support/Vm.sol";

/// @notice Every phase rule and every revert of a round.
contract RoundsTest is Network {
    bytes32 internal constant MODEL = keccak256("model 1");

    event EntrySkipped(bytes32 indexed subject, uint16 member, uint8 reason);
    event RoundFailed(bytes32 indexed roundId, bytes32 indexed study, uint32 branch, uint32 height, uint8 reason);
    event Equivocated(bytes32 indexed roundId, uint16 indexed member, uint8 kind);

    function skips(bytes32 subject, uint16 member, uint8 reason) internal {
        vm.expectEmit(true, false, false, true, address(training));
        emit EntrySkipped(subject, member, reason);
    }

    function fails(bytes32 roundId, uint32 height, uint8 reason) internal {
        vm.expectEmit(true, true, false, true, address(training));
        emit RoundFailed(roundId, study, 0, height, reason);
    }

    // ------------------------------------------------------------------------------------------------- open

    function test_roundIdIsTheHashOfWhatTheRoundStandsOn() public {
        bytes32 roundId = start(4);
        bytes32 expected = keccak256(
            abi.encode(
                Tags.ROUND,
                block.chainid,
                address(training),
                study,
                uint256(0),
                uint256(1),
                bytes32(0),
                keccak256("initial model"),
                uint256(1),
                uint256(15),
                uint256(0),
                consent.accumulator(),
                membership.accumulator(),
                blockhash(block.number - 1)
            )
        );
        same(roundId, expected, "roundId");
        phaseIs(roundId, ITrainingLedger.Phase.TRAINING, 0);
    }

    function test_quorumTable() public {
        uint8[5] memory sizes = [2, 3, 4, 5, 7];
        uint8[5] memory quorums = [2, 2, 3, 4, 5];
        uint8[5] memory faults = [0, 0, 1, 1, 2];
        uint8[5] memory least = [2, 2, 3, 4, 5];
        for (uint256 k; k < 5; ++k) {
            bytes32 roundId = start(sizes[k]);
            ITrainingLedger.RoundView memory v = training.roundOf(study, roundId);
            same(v.quorum, quorums[k], "quorum");
            same(v.f, faults[k], "f");
            same(v.minIncluded, least[k], "minIncluded");
        }
    }

    function test_quorumDecidesForEverySize() public {
        uint8[5] memory sizes = [2, 3, 4, 5, 7];
        uint8[5] memory quorums = [2, 2, 3, 4, 5];
        for (uint256 k; k < 5; ++k) {
            bytes32 roundId = start(sizes[k]);
            uint32 all = everyone(sizes[k]);
            commit(roundId, all);
            ITrainingLedger.Result memory x = resultOf(all, 0, MODEL);
            uint32 few = everyone(quorums[k] - 1);
            bytes memory votes = votesOf(roundId, 0, all, x, few);
            vm.expectRevert(
                abi.encodeWithSelector(PackedSignatures.QuorumNotReached.selector, quorums[k] - 1, quorums[k])
            );
            training.finalise(study, roundId, 0, x, few, votes);
            finalise(roundId, 0, all, x, everyone(quorums[k]));
            same(phaseOf(roundId), uint256(ITrainingLedger.Phase.NONE), "over");
            holds(training.openRound(study) != roundId, "the next round is open");
        }
    }

    // ------------------------------------------------------------------------------------- commit and seal

    function test_fullBitmapSealsAtOnce() public {
        bytes32 roundId = start(4);
        vm.warp(START + 7);
        commit(roundId, 15);
        ITrainingLedger.RoundView memory v = training.roundOf(study, roundId);
        same(uint256(v.phase), uint256(ITrainingLedger.Phase.REVEAL), "phase");
        same(v.sealTime, START + 7, "sealed when the last one committed");
        same(v.revealEnd, START + 7 + REVEAL, "reveal ends");
    }

    function test_postingDoesNotSealAndTheDeadlineDoes() public {
        bytes32 roundId = start(4);
        commit(roundId, 7);
        vm.warp(START + SEAL);
        phaseIs(roundId, ITrainingLedger.Phase.TRAINING, 0);
        vm.warp(START + SEAL + 1);
        phaseIs(roundId, ITrainingLedger.Phase.REVEAL, 0);
        same(training.roundOf(study, roundId).sealTime, START + SEAL, "the seal is the deadline");
    }

    function test_lateCommitRefused() public {
        bytes32 roundId = start(4);
        commit(roundId, 7);
        vm.warp(START + SEAL + 1);
        ITrainingLedger.CommitEntry[] memory late = commitsOf(roundId, 8);
        vm.expectRevert(wrongPhase(roundId, ITrainingLedger.Phase.REVEAL, 0));
        training.postCommits(study, roundId, late);
    }

    function test_commitAtTheDeadlineCounts() public {
        bytes32 roundId = start(4);
        vm.warp(START + SEAL);
        commit(roundId, 15);
        same(training.roundOf(study, roundId).committed, 15, "committed");
    }

    function test_junkEntriesHarmOnlyThemselves() public {
        bytes32 roundId = start(4);
        ITrainingLedger.CommitEntry[] memory e = new ITrainingLedger.CommitEntry[](7);
        e[0] = commitOf(roundId, 0);
        e[1] = commitOf(roundId, 0); // again
        e[2] = commitOf(roundId, 1);
        e[2].datasetRoot = bytes32(uint256(1)); // signature over something else
        e[3] = commitOf(roundId, 9); // not on the roster
        e[4] = commitOf(roundId, 2);
        e[4].updateRoot = 0;
        e[5] = commitOf(roundId, 3);
        e[6] = commitOf(roundId, 2);
        e[6].member = 300; // beyond any bitmap
        skips(roundId, 0, Skips.DUPLICATE);
        skips(roundId, 1, Skips.BAD_SIGNATURE);
        skips(roundId, 9, Skips.UNKNOWN_MEMBER);
        skips(roundId, 2, Skips.MALFORMED);
        skips(roundId, 300, Skips.UNKNOWN_MEMBER);
        training.postCommits(study, roundId, e);
        same(training.roundOf(study, roundId).committed, 9, "the others count");
    }

    function test_highSSignatureSkipped() public {
        bytes32 roundId = start(4);
        ITrainingLedger.CommitEntry[] memory e = new ITrainingLedger.CommitEntry[](1);
        e[0] = commitOf(roundId, 0);
        uint256 s = uint256(e[0].vs) & (type(uint256).max >> 1);
        uint256 n = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
        uint256 high = n - s; // the other half of the pair; its top bit would be the parity
        e[0].vs = bytes32(high | ((uint256(e[0].vs) >> 255) ^ 1) << 255);
        skips(roundId, 0, Skips.BAD_SIGNATURE);
        training.postCommits(study, roundId, e);
    }

    function test_commitRootRollsOverStructHashes() public {
        bytes32 roundId = start(4);
        commit(roundId, 1);
        commit(roundId, 12);
        bytes32 root;
        uint16[3] memory order = [uint16(0), 2, 3];
        for (uint256 i; i < 3; ++i) {
            ITrainingLedger.CommitEntry memory e = commitOf(roundId, order[i]);
            root = keccak256(
                abi.encode(
                    root,
                    keccak256(abi.encode(Statements.COMMIT, roundId, e.member, e.updateRoot, e.datasetRoot, bytes32(0)))
                )
            );
        }
        same(training.commitRootOf(study), root, "commit root");
    }

    function test_commitRootStartsAnewEachRound() public {
        bytes32 roundId = start(4);
        bytes32 next = finish(roundId, 15, MODEL);
        same(training.commitRootOf(study), bytes32(0), "nothing committed yet");
        finish(next, 15, keccak256("model 2"));
    }

    function test_abstainTouchesNothingAndIsNotWaitedFor() public {
        bytes32 roundId = start(4);
        abstain(roundId, 3);
        commit(roundId, 7);
        ITrainingLedger.RoundView memory v = training.roundOf(study, roundId);
        same(uint256(v.phase), uint256(ITrainingLedger.Phase.REVEAL), "sealed");
        same(v.abstained, 8, "abstained");
        finalise(roundId, 0, 7, resultOf(7, 0, MODEL), 7);
        bytes32 next = training.openRound(study);
        abstain(next, 3);
        commit(next, 7);
        finalise(next, 0, 7, resultOf(7, 0, keccak256("model 2")), 7);
        same(training.roundOf(study, training.openRound(study)).suspended, 0, "abstaining twice suspends nobody");
    }

    function test_abstainAfterCommitIsADuplicate() public {
        bytes32 roundId = start(4);
        commit(roundId, 1);
        skips(roundId, 0, Skips.DUPLICATE);
        abstain(roundId, 0);
    }

    function test_tooFewAtTheSealFailsBeforeAnythingIsRevealed() public {
        bytes32 roundId = start(4);
        commit(roundId, 3);
        vm.warp(START + SEAL + 1);
        phaseIs(roundId, ITrainingLedger.Phase.FAILED, 0);
        same(training.roundOf(study, roundId).failure, 1, "reason");
        ITrainingLedger.Result memory x = resultOf(3, 0, MODEL);
        bytes memory votes = votesOf(roundId, 0, 3, x, 15);
        vm.expectRevert(wrongPhase(roundId, ITrainingLedger.Phase.FAILED, 0));
        training.finalise(study, roundId, 0, x, 15, votes);
        fails(roundId, 1, 1);
        training.failRound(study, roundId);
        bytes32 next = training.openRound(study);
        same(training.roundOf(study, next).height, 2, "the height is consumed");
        same(phaseOf(roundId), uint256(ITrainingLedger.Phase.NONE), "over");
        vm.expectRevert(
            abi.encodeWithSelector(ITrainingLedger.RoundNotOpen.selector, study, roundId, training.openRound(study))
        );
        training.failRound(study, roundId);
    }

    function test_tooFewBecauseOfAnAbstentionFailsWhenTheWindowIsOver() public {
        bytes32 roundId = start(4);
        abstain(roundId, 0);
        abstain(roundId, 1);
        commit(roundId, 12);
        phaseIs(roundId, ITrainingLedger.Phase.TRAINING, 0); // everyone answered
        same(training.roundOf(study, roundId).sealTime, 0, "not sealed");
        vm.warp(START + SEAL);
        phaseIs(roundId, ITrainingLedger.Phase.TRAINING, 0);
        vm.expectRevert(wrongPhase(roundId, ITrainingLedger.Phase.TRAINING, 0));
        training.failRound(study, roundId);
        ITrainingLedger.Result memory x = resultOf(12, 0, MODEL);
        bytes memory votes = votesOf(roundId, 0, 12, x, 15);
        vm.expectRevert(wrongPhase(roundId, ITrainingLedger.Phase.TRAINING, 0));
        training.finalise(study, roundId, 0, x, 15, votes);
        vm.warp(START + SEAL + 1);
        fails(roundId, 1, 1);
        training.failRound(study, roundId);
    }

    function test_failRoundRefusedBeforeFailure() public {
        bytes32 roundId = start(4);
        vm.expectRevert(wrongPhase(roundId, ITrainingLedger.Phase.TRAINING, 0));
        training.failRound(study, roundId);
    }

    function test_unknownRoundRefused() public {
        start(4);
        bytes32 nobody = keccak256("no round");
        bytes memory unknown =
            abi.encodeWithSelector(ITrainingLedger.RoundNotOpen.selector, study, nobody, training.openRound(study));
        vm.expectRevert(unknown);
        training.failRound(study, nobody);
        vm.expectRevert(unknown);
        training.roundOf(study, nobody);
        same(phaseOf(nobody), uint256(ITrainingLedger.Phase.NONE), "phase");
    }

    // -------------------------------------------------------------------------------------------- attempt 0

    function test_earlyVoteRefused() public {
        bytes32 roundId = start(4);
        commit(roundId, 7);
        ITrainingLedger.Result memory x = resultOf(7, 0, MODEL);
        bytes memory votes = votesOf(roundId, 0, 7, x, 7);
        vm.expectRevert(wrongPhase(roundId, ITrainingLedger.Phase.TRAINING, 0));
        training.finalise(study, roundId, 0, x, 7, votes);
    }

    function test_finaliseRecordsModelAndOpensNext() public {
        bytes32 roundId = start(4);
        commit(roundId, 15);
        ITrainingLedger.Result memory x = resultOf(11, 0x0200, MODEL); // member 2 broke rule 2
        finalise(roundId, 0, 15, x, 7);
        same(headModel(), MODEL, "model");
        (uint32 branch, uint32 height, bytes32 resultHash, bytes32 model, bool tainted, bool inService) =
            training.head(study);
        same(branch, 0, "branch");
        same(height, 1, "height");
        same(resultHash, lineageOf(0, 1, MODEL, resultHashOf(x)), "lineage");
        same(model, MODEL, "head");
        holds(!tainted && inService, "serves");
        same(training.roundOf(study, training.openRound(study)).height, 2, "next height");
        same(training.studyOf(study).finals, 1, "finals");
    }

    function test_secondResultRefused() public {
        bytes32 roundId = start(4);
        commit(roundId, 15);
        ITrainingLedger.Result memory x = resultOf(15, 0, MODEL);
        bytes memory votes = votesOf(roundId, 0, 15, x, 7);
        training.finalise(study, roundId, 0, x, 7, votes);
        vm.expectRevert(
            abi.encodeWithSelector(ITrainingLedger.RoundNotOpen.selector, study, roundId, training.openRound(study))
        );
        training.finalise(study, roundId, 0, x, 7, votes);
    }

    function test_resultMustDecideOverWhoCommitted() public {
        bytes32 roundId = start(4);
        commit(roundId, 15);
        ITrainingLedger.Result memory x = resultOf(7, 0, MODEL);
        bytes memory votes = votesOf(roundId, 0, 15, x, 7);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.WrongSet.selector, 15, 7));
        training.finalise(study, roundId, 0, x, 7, votes);
        x = resultOf(15, 0x1000, MODEL);
        votes = votesOf(roundId, 0, 15, x, 7);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.IncludedAndInvalid.selector, 8));
        training.finalise(study, roundId, 0, x, 7, votes);
        x = resultOf(7, 0x9000, MODEL);
        votes = votesOf(roundId, 0, 15, x, 7);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.BadCode.selector, 3, 9));
        training.finalise(study, roundId, 0, x, 7, votes);
        x = resultOf(15, 0, MODEL);
        x.commitRoot = keccak256("other");
        votes = votesOf(roundId, 0, 15, x, 7);
        vm.expectRevert(
            abi.encodeWithSelector(
                ITrainingLedger.WrongCommitRoot.selector, training.commitRootOf(study), keccak256("other")
            )
        );
        training.finalise(study, roundId, 0, x, 7, votes);
        x = resultOf(15, 0, 0);
        votes = votesOf(roundId, 0, 15, x, 7);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.NoModel.selector));
        training.finalise(study, roundId, 0, x, 7, votes);
    }

    function test_badSignaturesNeverMakeAQuorum() public {
        bytes32 roundId = start(4);
        commit(roundId, 15);
        ITrainingLedger.Result memory x = resultOf(15, 0, MODEL);
        bytes memory votes = votesOf(roundId, 0, 15, x, 7);
        vm.expectRevert(abi.encodeWithSelector(PackedSignatures.NotOnRoster.selector, 16));
        training.finalise(study, roundId, 0, x, 7 | 16, votes);
        vm.expectRevert(abi.encodeWithSelector(PackedSignatures.SignaturesLength.selector, 192, 256));
        training.finalise(study, roundId, 0, x, 15, votes);
        vm.expectRevert(); // BadSignature: the third signature is member 2's
        training.finalise(study, roundId, 0, x, 11, votes);
        bytes memory attemptOne = votesOf(roundId, 1, 15, x, 7);
        vm.expectRevert();
        training.finalise(study, roundId, 0, x, 7, attemptOne);
    }

    function test_noResultKeepsTheParent() public {
        bytes32 roundId = start(4);
        commit(roundId, 15);
        ITrainingLedger.Result memory x = resultOf(3, 0x7700, MODEL);
        bytes memory votes = votesOf(roundId, 0, 15, x, 7);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.WrongOutcome.selector, 1, 2, 3));
        training.finalise(study, roundId, 0, x, 7, votes);
        x.outcome = 2;
        votes = votesOf(roundId, 0, 15, x, 7);
        vm.expectRevert(
            abi.encodeWithSelector(ITrainingLedger.ModelChanged.selector, keccak256("initial model"), MODEL)
        );
        training.finalise(study, roundId, 0, x, 7, votes);
        x.modelRoot = keccak256("initial model");
        finalise(roundId, 0, 15, x, 7);
        same(training.studyOf(study).finals, 0, "a round without a model counts for nothing");
        same(headModel(), keccak256("initial model"), "recorded");
        same(phaseOf(roundId), uint256(ITrainingLedger.Phase.NONE), "over");
        (, uint32 height, bytes32 resultHash,,,) = training.head(study);
        same(height, 1, "head height");
        same(resultHash, lineageOf(0, 1, x.modelRoot, resultHashOf(x)), "its result is the next parent");
    }

    function test_noResultRefusedWhenEnoughAreIncluded() public {
        bytes32 roundId = start(4);
        commit(roundId, 15);
        ITrainingLedger.Result memory x = resultOf(15, 0, keccak256("initial model"));
        x.outcome = 2;
        bytes memory votes = votesOf(roundId, 0, 15, x, 7);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.WrongOutcome.selector, 2, 4, 3));
        training.finalise(study, roundId, 0, x, 7, votes);
    }

    function test_attemptZeroCountsUntilTheRoundEnds() public {
        bytes32 roundId = start(4);
        commit(roundId, 15);
        vm.warp(START + REVEAL + 1 + HAVE / 2);
        phaseIs(roundId, ITrainingLedger.Phase.HAVE, 1);
        finalise(roundId, 0, 15, resultOf(15, 0, MODEL), 7);
        same(headModel(), MODEL, "accepted in a have window");
    }

    // --------------------------------------------------------------------------------- attempts 1 and later

    function test_attemptOneTakesWhatIsAvailable() public {
        bytes32 roundId = start(4);
        commit(roundId, 15);
        vm.warp(START + REVEAL + 1);
        phaseIs(roundId, ITrainingLedger.Phase.HAVE, 1);
        have(roundId, 1, 1, 7);
        have(roundId, 1, 2, 15); // one word for member 3: not enough
        have(roundId, 1, 4, 7);
        vm.warp(START + REVEAL + HAVE + 1);
        phaseIs(roundId, ITrainingLedger.Phase.VOTE, 1);
        ITrainingLedger.RoundView memory v = training.roundOf(study, roundId);
        same(v.available, 7, "available");
        same(v.posted, 7, "posted");
        ITrainingLedger.Result memory x = resultOf(15, 0, MODEL);
        bytes memory votes = votesOf(roundId, 1, 15, x, 7);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.WrongSet.selector, 7, 15));
        training.finalise(study, roundId, 1, x, 7, votes);
        finalise(roundId, 1, 7, resultOf(7, 0, MODEL), 7);
        same(headModel(), MODEL, "model");
    }

    function test_earlyVoteOfAttemptOneRefused() public {
        bytes32 roundId = start(4);
        commit(roundId, 15);
        vm.warp(START + REVEAL + 1);
        have(roundId, 1, 15, 15);
        vm.warp(START + REVEAL + HAVE);
        ITrainingLedger.Result memory x = resultOf(15, 0, MODEL);
        bytes memory votes = votesOf(roundId, 1, 15, x, 7);
        vm.expectRevert(wrongPhase(roundId, ITrainingLedger.Phase.HAVE, 1));
        training.finalise(study, roundId, 1, x, 7, votes);
    }

    function test_haveOutsideItsWindowRefused() public {
        bytes32 roundId = start(4);
        commit(roundId, 15);
        ITrainingLedger.HaveEntry[] memory e = new ITrainingLedger.HaveEntry[](1);
        e[0] = haveOf(roundId, 1, 0, 15);
        vm.warp(START + REVEAL);
        vm.expectRevert(wrongPhase(roundId, ITrainingLedger.Phase.REVEAL, 0));
        training.postHaves(study, roundId, 1, e);
        vm.warp(START + REVEAL + 1);
        e[0] = haveOf(roundId, 2, 0, 15);
        vm.expectRevert(wrongPhase(roundId, ITrainingLedger.Phase.HAVE, 1));
        training.postHaves(study, roundId, 2, e);
    }

    function test_junkHavesHarmOnlyThemselves() public {
        bytes32 roundId = start(4);
        commit(roundId, 7);
        vm.warp(START + SEAL + REVEAL + 1);
        ITrainingLedger.HaveEntry[] memory e = new ITrainingLedger.HaveEntry[](5);
        e[0] = haveOf(roundId, 1, 0, 7);
        e[1] = haveOf(roundId, 1, 0, 3);
        e[2] = haveOf(roundId, 1, 1, 15); // member 3 did not commit
        e[3] = haveOf(roundId, 2, 2, 7); // signed for another attempt
        e[4] = haveOf(roundId, 1, 7, 7);
        skips(roundId, 0, Skips.DUPLICATE);
        skips(roundId, 1, Skips.MALFORMED);
        skips(roundId, 2, Skips.BAD_SIGNATURE);
        skips(roundId, 7, Skips.UNKNOWN_MEMBER);
        training.postHaves(study, roundId, 1, e);
        same(training.roundOf(study, roundId).posted, 1, "posted");
    }

    function test_tooFewHavesSkipTheVoteWindowAndTheWindowsDouble() public {
        bytes32 roundId = start(4);
        commit(roundId, 15);
        uint256 t = START + REVEAL;
        vm.warp(t + 1);
        have(roundId, 1, 3, 15); // two of three wanted
        t += HAVE;
        vm.warp(t + 1);
        phaseIs(roundId, ITrainingLedger.Phase.HAVE, 2); // no vote window
        same(training.roundOf(study, roundId).haveEnd, t + 2 * HAVE, "doubled");
        have(roundId, 2, 7, 15);
        t += 2 * HAVE;
        vm.warp(t + 1);
        phaseIs(roundId, ITrainingLedger.Phase.VOTE, 2);
        same(training.roundOf(study, roundId).voteEnd, t + 2 * VOTE, "doubled");
        t += 2 * VOTE;
        vm.warp(t);
        phaseIs(roundId, ITrainingLedger.Phase.VOTE, 2);
        vm.warp(t + 1);
        phaseIs(roundId, ITrainingLedger.Phase.HAVE, 3);
        have(roundId, 3, 7, 15);
        t += 4 * HAVE;
        vm.warp(t + 1);
        phaseIs(roundId, ITrainingLedger.Phase.VOTE, 3);
        ITrainingLedger.Result memory x = resultOf(15, 0, MODEL);
        bytes memory votes = votesOf(roundId, 2, 15, x, 7);
        vm.expectRevert(wrongPhase(roundId, ITrainingLedger.Phase.VOTE, 3));
        training.finalise(study, roundId, 2, x, 7, votes);
        t += 4 * VOTE;
        vm.warp(t);
        finalise(roundId, 3, 15, x, 7);
        same(headModel(), MODEL, "the last attempt decided");
    }

    function test_threeAttemptsThenFailed() public {
        bytes32 roundId = start(4);
        commit(roundId, 15);
        uint256 t = START + REVEAL;
        for (uint8 a = 1; a <= 3; ++a) {
            vm.warp(t + 1);
            have(roundId, a, 7, 15);
            t += (uint256(HAVE) + VOTE) << (a - 1);
            vm.warp(t);
            phaseIs(roundId, ITrainingLedger.Phase.VOTE, a);
        }
        vm.warp(t + 1);
        phaseIs(roundId, ITrainingLedger.Phase.FAILED, 3);
        ITrainingLedger.Result memory x = resultOf(15, 0, MODEL);
        bytes memory votes = votesOf(roundId, 0, 15, x, 7);
        vm.expectRevert(wrongPhase(roundId, ITrainingLedger.Phase.FAILED, 3));
        training.finalise(study, roundId, 0, x, 7, votes);
        fails(roundId, 1, 2);
        training.failRound(study, roundId);
        same(training.roundOf(study, training.openRound(study)).height, 2, "next height");
        (,, bytes32 resultHash, bytes32 model,,) = training.head(study);
        same(resultHash, bytes32(0), "same parent");
        same(model, keccak256("initial model"), "same model");
    }

    function test_threeMembersNeedTwoHaves() public {
        bytes32 roundId = start(3);
        commit(roundId, 3);
        vm.warp(START + SEAL + REVEAL + 1);
        have(roundId, 1, 3, 3);
        vm.warp(START + SEAL + REVEAL + HAVE + 1);
        phaseIs(roundId, ITrainingLedger.Phase.VOTE, 1);
        finalise(roundId, 1, 3, resultOf(3, 0, MODEL), 3);
        same(headModel(), MODEL, "model");
    }

    function test_twoMembersNeedBoth() public {
        bytes32 roundId = start(2);
        commit(roundId, 3);
        vm.warp(START + REVEAL + 1);
        have(roundId, 1, 1, 3);
        vm.warp(START + REVEAL + HAVE + 1);
        phaseIs(roundId, ITrainingLedger.Phase.HAVE, 2);
    }

    function test_tooOldFails() public {
        found(4);
        ITrainingLedger.StudyTerms memory t = terms(4);
        t.maxRoundAge = SEAL + REVEAL + 1;
        bytes32 roundId = start(t);
        commit(roundId, 7);
        vm.warp(START + SEAL + REVEAL + 1);
        phaseIs(roundId, ITrainingLedger.Phase.HAVE, 1);
        vm.warp(START + SEAL + REVEAL + 2);
        phaseIs(roundId, ITrainingLedger.Phase.FAILED, 1);
        fails(roundId, 1, 3);
        training.failRound(study, roundId);
    }

    function test_studyEndsWithItsLastModel() public {
        found(4);
        ITrainingLedger.StudyTerms memory t = terms(4);
        t.rounds = 2;
        bytes32 next = finish(start(t), 15, MODEL);
        bytes32 none = finish(next, 15, keccak256("model 2"));
        same(none, bytes32(0), "no round is open");
        same(training.studyOf(study).finals, 2, "finals");
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.NothingToOpen.selector, study));
        training.resume(study);
    }

    // -------------------------------------------------------------------------------------------- conduct

    function test_twoMissesSuspendForThreeRoundsAndReturn() public {
        bytes32 roundId = start(4);
        roundId = finish(roundId, 7, keccak256("1"));
        same(training.roundOf(study, roundId).suspended, 0, "one miss");
        roundId = finish(roundId, 7, keccak256("2"));
        for (uint256 i; i < 3; ++i) {
            same(training.roundOf(study, roundId).suspended, 8, "suspended");
            skips(roundId, 3, Skips.WRONG_PHASE);
            commit(roundId, 8);
            commit(roundId, 7);
            same(phaseOf(roundId), uint256(ITrainingLedger.Phase.REVEAL), "nobody waits for a suspended member");
            // it still votes
            finalise(roundId, 0, 7, resultOf(7, 0, keccak256(abi.encode(i))), 13);
            roundId = training.openRound(study);
        }
        same(training.roundOf(study, roundId).suspended, 0, "back");
        finish(roundId, 15, keccak256("6"));
    }

    function test_onlyMissesInARowSuspend() public {
        bytes32 roundId = start(4);
        roundId = finish(roundId, 7, keccak256("1"));
        roundId = finish(roundId, 15, keccak256("2"));
        roundId = finish(roundId, 7, keccak256("3"));
        same(training.roundOf(study, roundId).suspended, 0, "not in a row");
    }

    function test_unavailableIsAMiss() public {
        bytes32 roundId = start(4);
        for (uint256 i; i < 2; ++i) {
            commit(roundId, 15);
            vm.warp(block.timestamp + REVEAL + 1);
            have(roundId, 1, 7, 7);
            vm.warp(block.timestamp + HAVE);
            finalise(roundId, 1, 7, resultOf(7, 0, keccak256(abi.encode("u", i))), 7);
            roundId = training.openRound(study);
        }
        same(training.roundOf(study, roundId).suspended, 8, "suspended");
    }

    function test_failedRoundCountsOnlyMissingCommits() public {
        bytes32 roundId = start(4);
        for (uint256 i; i < 2; ++i) {
            commit(roundId, 3);
            vm.warp(block.timestamp + SEAL + 1);
            training.failRound(study, roundId);
            roundId = training.openRound(study);
        }
        same(training.roundOf(study, roundId).suspended, 12, "who did not commit");
    }

    function test_everybodySuspendedSealsAtOpenAndRecovers() public {
        bytes32 roundId = start(4);
        for (uint256 i; i < 2; ++i) {
            vm.warp(block.timestamp + SEAL + 1);
            training.failRound(study, roundId);
            roundId = training.openRound(study);
        }
        for (uint256 i; i < 3; ++i) {
            phaseIs(roundId, ITrainingLedger.Phase.FAILED, 0);
            training.failRound(study, roundId);
            roundId = training.openRound(study);
        }
        same(training.roundOf(study, roundId).suspended, 0, "everybody is back");
        phaseIs(roundId, ITrainingLedger.Phase.TRAINING, 0);
    }

    // ---------------------------------------------------------------------------------------- equivocation

    function body(bytes memory fields, uint256 key, bytes32 typeHash)
        internal
        view
        returns (ITrainingLedger.SignedBody memory b)
    {
        b.body = fields;
        (b.r, b.vs) = sign(key, address(training), keccak256(abi.encodePacked(typeHash, fields)));
    }

    function commitBody(bytes32 roundId, uint16 member, bytes32 root)
        internal
        view
        returns (ITrainingLedger.SignedBody memory)
    {
        return body(abi.encode(roundId, member, root, bytes32(0), bytes32(0)), memberKey(member), Statements.COMMIT);
    }

    function test_twoCommitsOfOneRoundSuspendFromTheNextOpen() public {
        bytes32 roundId = start(4);
        ITrainingLedger.Opening memory o = openingOf(roundId);
        ITrainingLedger.SignedBody memory a = commitBody(roundId, 2, keccak256("a"));
        ITrainingLedger.SignedBody memory b = commitBody(roundId, 2, keccak256("b"));
        vm.expectEmit(true, true, false, true, address(training));
        emit Equivocated(roundId, 2, 1);
        training.reportEquivocation(study, o, uint64(block.timestamp), 1, 2, a, b);
        bytes32 id = keccak256(abi.encode(roundId, uint8(1), uint16(2)));
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.AlreadyKnown.selector, id));
        training.reportEquivocation(study, o, uint64(block.timestamp), 1, 2, b, a);
        same(training.roundOf(study, roundId).suspended, 0, "not in the open round");
        bytes32 next = finish(roundId, 15, MODEL);
        for (uint256 i; i < 3; ++i) {
            same(training.roundOf(study, next).suspended, 4, "suspended");
            next = finish(next, 11, keccak256(abi.encode(i)));
        }
        same(training.roundOf(study, next).suspended, 0, "back");
    }

    function test_equivocationIsReportableLongAfterItsRound() public {
        bytes32 roundId = start(4);
        ITrainingLedger.Opening memory o = openingOf(roundId);
        bytes32 next = finish(finish(roundId, 15, MODEL), 15, keccak256("model 2"));
        ITrainingLedger.SignedBody memory a = commitBody(roundId, 2, keccak256("a"));
        ITrainingLedger.SignedBody memory b = commitBody(roundId, 2, keccak256("b"));
        ITrainingLedger.Opening memory other = openingOf(next);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.OffSubject.selector, 0)); // not that round
        training.reportEquivocation(study, other, uint64(block.timestamp), 1, 2, a, b);
        other = openingOf(next);
        other.roster = 31; // no round is named by this, and nobody signed for it
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.OffSubject.selector, 0));
        training.reportEquivocation(study, other, uint64(block.timestamp), 1, 2, a, b);
        ITrainingLedger.StudyTerms memory t = terms(4);
        t.specHash = keccak256("another spec");
        bytes32 mine = study;
        start(t);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.OffSubject.selector, 0)); // not that study's
        training.reportEquivocation(study, o, uint64(block.timestamp), 1, 2, a, b);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.StudyUnknown.selector, keccak256("none")));
        training.reportEquivocation(keccak256("none"), o, uint64(block.timestamp), 1, 2, a, b);
        study = mine;
        vm.expectEmit(true, true, false, true, address(training));
        emit Equivocated(roundId, 2, 1);
        training.reportEquivocation(study, o, uint64(block.timestamp), 1, 2, a, b);
        same(training.studyOf(study).suspended, 4, "suspended from the next open on");
    }

    function test_equivocationOfASuspendedMemberStartsItsSuspensionAnew() public {
        bytes32 roundId = start(4);
        roundId = finish(roundId, 7, keccak256("1"));
        roundId = finish(roundId, 7, keccak256("2"));
        ITrainingLedger.Opening memory o = openingOf(roundId);
        same(training.roundOf(study, roundId).suspended, 8, "suspended for missing");
        training.reportEquivocation(
            study,
            o,
            uint64(block.timestamp),
            1,
            3,
            commitBody(roundId, 3, keccak256("a")),
            commitBody(roundId, 3, keccak256("b"))
        );
        roundId = finish(roundId, 7, keccak256("3"));
        for (uint256 i; i < 3; ++i) {
            same(training.roundOf(study, roundId).suspended, 8, "three rounds from the next open");
            roundId = finish(roundId, 7, keccak256(abi.encode("e", i)));
        }
        same(training.roundOf(study, roundId).suspended, 0, "back");
    }

    function test_everyVoterOfAFullNetworkIsCounted() public {
        bytes32 roundId = start(32);
        uint32 all = type(uint32).max;
        commit(roundId, all);
        vm.warp(START + REVEAL + 1);
        have(roundId, 1, all, all);
        ITrainingLedger.RoundView memory v = training.roundOf(study, roundId);
        same(v.available, all, "available");
        same(v.posted, all, "posted");
        same(v.quorum, 22, "quorum");
        vm.warp(START + REVEAL + HAVE + 1);
        finalise(roundId, 1, all, resultOf(all, 0, MODEL), all);
        same(headModel(), MODEL, "model");
    }

    function test_twoVotesAndTwoHavesAreEvidence() public {
        bytes32 roundId = start(4);
        ITrainingLedger.Opening memory o = openingOf(roundId);
        uint256 key = memberKey(1);
        training.reportEquivocation(
            study,
            o,
            uint64(block.timestamp),
            2,
            1,
            body(abi.encode(roundId, uint8(0), uint32(15), keccak256("x")), key, Statements.VOTE),
            body(abi.encode(roundId, uint8(0), uint32(15), keccak256("y")), key, Statements.VOTE)
        );
        training.reportEquivocation(
            study,
            o,
            uint64(block.timestamp),
            3,
            1,
            body(abi.encode(roundId, uint16(1), uint8(1), uint32(15)), key, Statements.HAVE),
            body(abi.encode(roundId, uint16(1), uint8(1), uint32(7)), key, Statements.HAVE)
        );
    }

    function test_votesOfTwoAttemptsAreNoContradiction() public {
        bytes32 roundId = start(4);
        ITrainingLedger.Opening memory o = openingOf(roundId);
        uint256 key = memberKey(1);
        ITrainingLedger.SignedBody memory a =
            body(abi.encode(roundId, uint8(0), uint32(15), keccak256("x")), key, Statements.VOTE);
        ITrainingLedger.SignedBody memory b =
            body(abi.encode(roundId, uint8(1), uint32(7), keccak256("y")), key, Statements.VOTE);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.OffSubject.selector, 1));
        training.reportEquivocation(study, o, uint64(block.timestamp), 2, 1, a, b);
    }

    function test_evidenceThatIsNoneRefused() public {
        bytes32 roundId = start(4);
        ITrainingLedger.Opening memory o = openingOf(roundId);
        ITrainingLedger.SignedBody memory a = commitBody(roundId, 2, keccak256("a"));
        ITrainingLedger.SignedBody memory b = commitBody(roundId, 2, keccak256("b"));
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.NoContradiction.selector));
        training.reportEquivocation(study, o, uint64(block.timestamp), 1, 2, a, a);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.BadKind.selector, 4));
        training.reportEquivocation(study, o, uint64(block.timestamp), 4, 2, a, b);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.OffSubject.selector, 0));
        training.reportEquivocation(study, o, uint64(block.timestamp), 1, 1, a, b);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.NotActive.selector, 9));
        training.reportEquivocation(study, o, uint64(block.timestamp), 1, 9, a, b);
        ITrainingLedger.SignedBody memory other = commitBody(keccak256("another round"), 2, keccak256("b"));
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.OffSubject.selector, 1));
        training.reportEquivocation(study, o, uint64(block.timestamp), 1, 2, a, other);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.BadEvidence.selector, 0, 160, 128));
        training.reportEquivocation(study, o, uint64(block.timestamp), 2, 2, a, b);
        b.r = a.r;
        vm.expectRevert();
        training.reportEquivocation(study, o, uint64(block.timestamp), 1, 2, a, b);
    }
}
