// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ITrainingLedger} from "../interfaces/ITrainingLedger.sol";
import {IUnlearningRegistry} from "../interfaces/IUnlearningRegistry.sol";
import {PackedSignatures} from "../libraries/PackedSignatures.sol";
import {Skips} from "../libraries/Skips.sol";
import {Statements} from "../libraries/Statements.sol";
import {Network} from "./support/Network.sol";

/// @notice What was signed for something else, comes twice, too early or too late, or is no signature, is refused under its
/// own name; in a batch it harms only itself.
contract ReplayTest is Network {
    bytes32 internal constant MODEL = keccak256("model 1");
    uint256 internal constant HALF_ORDER = 0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0;

    event EntrySkipped(bytes32 indexed subject, uint16 member, uint8 reason);

    function skips(bytes32 subject, uint16 member, uint8 reason) internal {
        vm.expectEmit(true, false, false, true, address(training));
        emit EntrySkipped(subject, member, reason);
    }

    function commitHash(bytes32 roundId, ITrainingLedger.CommitEntry memory e) internal pure returns (bytes32) {
        return
            keccak256(abi.encode(Statements.COMMIT, roundId, e.member, e.updateRoot, e.datasetRoot, e.nextDatasetRoot));
    }

    function test_eachBadCommitmentHarmsOnlyItself() public {
        bytes32 first = start(7);
        bytes32 roundId = finish(first, 127, MODEL);
        ITrainingLedger.CommitEntry[] memory e = commitsOf(roundId, 127);
        uint256 key = memberKey(0);
        (e[0].r, e[0].vs) = signFor(key, block.chainid + 1, address(training), commitHash(roundId, e[0]));
        (e[1].r, e[1].vs) = signFor(memberKey(1), block.chainid, address(unlearning), commitHash(roundId, e[1]));
        (e[2].r, e[2].vs) = sign(memberKey(2), address(training), commitHash(first, e[2]));
        e[3].vs = bytes32(uint256(e[3].vs) ^ 1 << 255); // the other parity
        e[4].vs = bytes32(HALF_ORDER + 1); // the higher s
        (e[5].r, e[5].vs) = (e[6].r, e[6].vs); // another member's
        for (uint16 i; i < 6; ++i) {
            skips(roundId, i, Skips.BAD_SIGNATURE);
        }
        training.postCommits(study, roundId, e);
        same(training.roundOf(study, roundId).committed, 64, "the good one counts");
        commit(roundId, 63); // and nobody is kept from saying it right
        same(training.roundOf(study, roundId).committed, 127, "all");
    }

    function test_fuzz_noOtherBytesAreASignature(bytes32 r, bytes32 vs) public {
        bytes32 roundId = start(2);
        ITrainingLedger.CommitEntry[] memory e = commitsOf(roundId, 3);
        vm.assume(e[0].r != r || e[0].vs != vs);
        (e[0].r, e[0].vs) = (r, vs);
        training.postCommits(study, roundId, e);
        same(training.roundOf(study, roundId).committed, 2, "only the other");
    }

    function test_aWholeBatchOfAnotherRoundOrStudyIsRefused() public {
        bytes32 first = start(4);
        bytes32 one = study;
        ITrainingLedger.CommitEntry[] memory old = commitsOf(first, 15);
        bytes32 second = finish(first, 15, MODEL);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.RoundNotOpen.selector, study, first, second));
        training.postCommits(study, first, old);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.RoundNotOpen.selector, study, first, second));
        training.failRound(study, first);
        for (uint16 i; i < 4; ++i) {
            skips(second, i, Skips.BAD_SIGNATURE);
        }
        training.postCommits(study, second, old); // as if they were this round's
        same(training.roundOf(study, second).committed, 0, "none counts");
        ITrainingLedger.StudyTerms memory t = terms(4);
        t.specHash = keccak256("another spec");
        bytes32 elsewhere = start(t);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.RoundNotOpen.selector, study, second, elsewhere));
        training.postCommits(study, second, old);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.RoundNotOpen.selector, keccak256("none"), second, 0));
        training.postCommits(keccak256("none"), second, old);
        vm.expectRevert(abi.encodeWithSelector(ITrainingLedger.RoundNotOpen.selector, one, bytes32(0), second));
        training.postCommits(one, 0, old);
    }

    function test_votesOfAnotherAttemptRoundSetChainOrContractDecideNothing() public {
        bytes32 roundId = start(4);
        commit(roundId, 15);
        ITrainingLedger.Result memory x = resultOf(15, 0, MODEL);
        bytes32 hash = resultHashOf(x);
        bytes32[5] memory wrong = [
            keccak256(abi.encode(Statements.VOTE, roundId, uint8(1), uint32(15), hash)),
            keccak256(abi.encode(Statements.VOTE, keccak256("another"), uint8(0), uint32(15), hash)),
            keccak256(abi.encode(Statements.VOTE, roundId, uint8(0), uint32(7), hash)),
            keccak256(abi.encode(Statements.VOTE, roundId, uint8(0), uint32(15), keccak256("another"))),
            keccak256(abi.encode(Statements.HAVE, roundId, uint16(2), uint8(0), uint32(15)))
        ];
        for (uint256 i; i < 5; ++i) {
            badVotes(roundId, x, signAll(7, address(training), wrong[i]));
        }
        bytes32 right = keccak256(abi.encode(Statements.VOTE, roundId, uint8(0), uint32(15), hash));
        badVotes(roundId, x, signAll(7, address(consent), right));
        (bytes32 r, bytes32 vs) = signFor(memberKey(0), block.chainid + 1, address(training), right);
        badVotes(roundId, x, abi.encodePacked(r, vs, signAll(6, address(training), right)));
        training.finalise(study, roundId, 0, x, 7, signAll(7, address(training), right));
    }

    function badVotes(bytes32 roundId, ITrainingLedger.Result memory x, bytes memory votes) internal {
        vm.expectPartialRevert(PackedSignatures.BadSignature.selector);
        training.finalise(study, roundId, 0, x, 7, votes);
    }

    function test_bitsBeyondTheRosterAndWrongLengthsAreRefusedBeforeAnySignature() public {
        bytes32 roundId = start(4);
        commit(roundId, 15);
        ITrainingLedger.Result memory x = resultOf(15, 0, MODEL);
        bytes memory votes = votesOf(roundId, 0, 15, x, 7);
        vm.expectRevert(abi.encodeWithSelector(PackedSignatures.NotOnRoster.selector, 16));
        training.finalise(study, roundId, 0, x, 16 | 7, abi.encodePacked(votes, votes));
        vm.expectRevert(abi.encodeWithSelector(PackedSignatures.NotOnRoster.selector, uint32(1) << 31));
        training.finalise(study, roundId, 0, x, uint32(1) << 31 | 7, votes);
        vm.expectRevert(abi.encodeWithSelector(PackedSignatures.SignaturesLength.selector, 193, 192));
        training.finalise(study, roundId, 0, x, 7, abi.encodePacked(votes, hex"00"));
        vm.expectRevert(abi.encodeWithSelector(PackedSignatures.SignaturesLength.selector, 192, 256));
        training.finalise(study, roundId, 0, x, 15, votes);
    }

    function test_aStatementOfAnotherStudyJoinsNothing() public {
        start(4);
        bytes32 one = study;
        ITrainingLedger.StudyTerms memory t = terms(4);
        t.specHash = keccak256("another spec");
        study = createStudy(t);
        (bytes32 r, bytes32 vs) =
            sign(memberKey(1), address(training), keccak256(abi.encode(Statements.JOIN, one, uint16(1))));
        vm.expectPartialRevert(PackedSignatures.BadSignature.selector);
        training.join(study, 1, r, vs);
    }

    function test_statementsOfAnErasureHoldForItsBatchAndStageOnly() public {
        start(4);
        IUnlearningRegistry.OpenTerms memory t =
            IUnlearningRegistry.OpenTerms(study, 3, 3, keccak256("requests"), uint64(START + 30 days));
        bytes32 structHash = keccak256(abi.encode(Statements.OPEN_ERASURE, t));
        IUnlearningRegistry.Steps memory e;
        (bytes32 r, bytes32 vs) = signFor(memberKey(3), block.chainid + 1, address(unlearning), structHash);
        vm.expectPartialRevert(PackedSignatures.BadSignature.selector);
        unlearning.openErasure(t, r, vs, e);
        (r, vs) = sign(memberKey(3), address(training), structHash);
        vm.expectPartialRevert(PackedSignatures.BadSignature.selector);
        unlearning.openErasure(t, r, vs, e);
        (r, vs) = sign(memberKey(3), address(unlearning), structHash);
        bytes32 batch = unlearning.openErasure(t, r, vs, e);
        vm.expectRevert(abi.encodeWithSelector(IUnlearningRegistry.BatchKnown.selector, batch));
        unlearning.openErasure(t, r, vs, e);
        e.first = 1;
        e.evidence = new bytes32[](1);
        e.evidence[0] = keccak256("evidence");
        bytes32 evidence = keccak256(abi.encodePacked(e.evidence));
        bytes32[4] memory wrong = [
            keccak256(abi.encode(Statements.ERASURE_STEPS, keccak256("another"), uint16(3), uint8(1), evidence)),
            keccak256(abi.encode(Statements.ERASURE_STEPS, batch, uint16(3), uint8(2), evidence)),
            keccak256(abi.encode(Statements.ERASURE_STEPS, batch, uint16(2), uint8(1), evidence)),
            keccak256(abi.encode(Statements.ERASURE_STEPS, batch, uint16(3), uint8(1), keccak256("other evidence")))
        ];
        for (uint256 i; i < 4; ++i) {
            (e.r, e.vs) = sign(memberKey(3), address(unlearning), wrong[i]);
            vm.expectPartialRevert(PackedSignatures.BadSignature.selector);
            unlearning.step(t, 3, e);
        }
        t.dueAt += 1; // another batch, which nobody opened
        vm.expectRevert(
            abi.encodeWithSelector(IUnlearningRegistry.BatchUnknown.selector, unlearning.batchOf(t))
        );
        unlearning.step(t, 3, e);
    }

    function test_aRemovedMemberNeitherCommitsNorVotesInTheNextRound() public {
        bytes32 first = start(5);
        bytes32 structHash = keccak256(abi.encode(Statements.REMOVE, uint64(1), uint16(4), membership.ledgerOf(4)));
        membership.remove(4, ballot(15, structHash));
        bytes32 roundId = finish(first, 31, MODEL);
        skips(roundId, 4, Skips.UNKNOWN_MEMBER);
        commit(roundId, 31);
        ITrainingLedger.Result memory x = resultOf(15, 0, keccak256("model 2"));
        bytes memory votes = votesOf(roundId, 0, 15, x, 16 | 7);
        vm.expectRevert(abi.encodeWithSelector(PackedSignatures.NotOnRoster.selector, 16));
        training.finalise(study, roundId, 0, x, 16 | 7, votes);
    }
}
