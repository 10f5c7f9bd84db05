// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {IConsentRegistry} from "./interfaces/IConsentRegistry.sol";
import {IMembership} from "./interfaces/IMembership.sol";
import {ITrainingLedger} from "./interfaces/ITrainingLedger.sol";
import {Bitmaps} from "./libraries/Bitmaps.sol";
import {Conduct} from "./libraries/Conduct.sol";
import {PackedSignatures} from "./libraries/PackedSignatures.sol";
import {Packing} from "./libraries/Packing.sol";
import {Quorum} from "./libraries/Quorum.sol";
import {RosterCode} from "./libraries/RosterCode.sol";
import {Skips} from "./libraries/Skips.sol";
import {Statements} from "./libraries/Statements.sol";
import {Tags} from "./libraries/Tags.sol";

/*
 * The phases of a round. S scribe, G grace, R reveal, H have, V vote: the study's windows. C: who committed.
 * n: the roster. f: faults borne. Q: quorum. m: fewest included. A deadline belongs to what ends at it: at exactly that
 * second the old phase still holds.
 *
 *  phase     begins                            ends                                  accepted in it
 *  TRAINING  open                              every member that is not suspended    commitments, abstentions,
 *                                              committed or abstained (the seal is   first one of a member counts
 *                                              that moment), or after open + S + G
 *                                              (the seal is that time)
 *  -         at the seal, |C| < m: FAILED 1 before anything is revealed
 *  REVEAL    the seal                          seal + R                              attempt 0
 *  HAVE a    a = 1: seal + R                   start + H * 2^(a-1)                   bitmaps of attempt a; attempt 0
 *            a > 1: end of attempt a-1
 *  -         at the end of HAVE a, fewer than n-f bitmaps (n = 3: two): attempt a has no VOTE and ends there
 *  VOTE a    end of HAVE a                     start + V * 2^(a-1)                   attempt a over
 *                                                                                    I = {i in C: f+1 bitmaps, at least
 *                                                                                    two, have i}; attempt 0
 *  -         after attempt 3: FAILED 2
 *  -         after open + maxRoundAge in any phase: FAILED 3
 *  FINAL     finalise with Q equal votes       never                                 nothing; the next round is open
 *  FAILED    a view, then failRound            never                                 nothing; failRound opens the next
 *
 * After FAILED the height is consumed and the parent stays, so the next round has a beacon of its own and nothing that was
 * revealed is committed again.
 */

/// @title TrainingLedger
/// @notice The manual is in interfaces/ITrainingLedger.sol.
contract TrainingLedger is ITrainingLedger, EIP712 {
    using Bitmaps for uint32;
    using Packing for uint256;
    using Packing for Packing.Round;
    using Packing for Packing.Terms;
    using Packing for Packing.Progress;

    uint8 private constant LAST_ATTEMPT = 3;
    uint8 private constant FAILED_QUORUM = 1;
    uint8 private constant FAILED_ATTEMPTS = 2;
    uint8 private constant FAILED_AGE = 3;
    uint8 private constant OUTCOME_MODEL = 1;
    uint8 private constant OUTCOME_NONE = 2;
    uint8 private constant LAST_CODE = 8;
    uint8 private constant KIND_COMMIT = 1;
    uint8 private constant KIND_VOTE = 2;
    uint8 private constant KIND_HAVE = 3;

    // States of a fork
    uint8 private constant NO_FORK = 0;
    uint8 private constant WAITS_FOR_ROUND = 1;
    uint8 private constant WAITS_FOR_PURGE = 2;
    uint8 private constant REPLAYING = 3;

    struct Branch {
        uint16 parent;
        uint32 baseHeight;
        uint32 baseFinals;
        bytes32 baseResult;
    }

    /// @dev The model that served when the study forked, until the new branch's base takes over.
    struct Fork {
        uint16 branch;
        uint32 height;
        uint64 dueAt;
        bytes32 resultHash;
    }

    struct Study {
        bytes32 id;
        uint256 terms; // Packing.Terms
        uint256 progress; // Packing.Progress
        bytes32 openRound;
        bytes32 headResult; // of the newest recorded model on the training branch
        bytes32 commitRoot; // of the open round; before its first commitment, of the one before
        uint256 conduct; // library Conduct
        uint32 purgeSeconds;
        uint32 erasureWindow;
        Fork fork;
        mapping(uint256 branch => Branch) branches;
        mapping(uint256 branchAndHeight => bytes32) models;
        mapping(uint256 branchAndWord => uint256) voids; // a bit for each height that ended without a model
    }

    /// @dev What a timestamp makes of a round.
    struct Clock {
        Phase phase;
        uint8 attempt;
        uint8 failure;
        uint64 sealTime;
        uint64 revealEnd;
        uint64 haveEnd;
        uint64 voteEnd;
    }

    IMembership private immutable MEMBERSHIP;
    IConsentRegistry private immutable CONSENT;
    address private immutable UNLEARNING;

    uint256 private _studyCount;
    mapping(uint256 number => Study) private _studies; // numbers from 1
    mapping(bytes32 study => uint256 number) private _numberOf;
    mapping(bytes32 roundId => uint256) private _rounds; // Packing.Round
    /// @dev One word an attempt: 6 bits a member count who has its blobs (low 192), a bit a member says who posted (above).
    mapping(bytes32 roundId => mapping(uint256 attempt => uint256)) private _haves;
    mapping(bytes32 evidence => bool) private _known; // equivocations reported and audits announced

    constructor(IMembership membership) EIP712("koinon", "1") {
        if (membership.training() != address(this)) revert MisplacedContract(membership.training(), address(this));
        MEMBERSHIP = membership;
        CONSENT = IConsentRegistry(membership.consent());
        UNLEARNING = membership.unlearning();
    }

    // ----------------------------------------------------------------------------------------------- studies

    /// @inheritdoc ITrainingLedger
    function createStudy(StudyTerms calldata t, bytes32 r, bytes32 vs) external returns (bytes32 study) {
        bytes32 structHash = keccak256(abi.encode(Statements.CREATE_STUDY, t));
        study = keccak256(abi.encode(Tags.STUDY, structHash));
        if (_numberOf[study] != 0) revert StudyKnown(study);
        (address pointer,, uint32 active,) = MEMBERSHIP.snapshot();
        if (!active.has(t.member)) revert NotActive(t.member);
        if (!t.invited.has(t.member)) revert NotInvited(study, t.member);
        _checkTerms(t, active);
        _checkSigner(pointer, t.member, structHash, r, vs);
        uint256 number = ++_studyCount;
        if (number > type(uint16).max) revert TooManyStudies(number);
        _numberOf[study] = number;
        _write(_studies[number], study, t);
        emit StudyCreated(study, t);
    }

    /// @inheritdoc ITrainingLedger
    function join(bytes32 study, uint16 member, bytes32 r, bytes32 vs) external {
        uint256 number = _number(study);
        Study storage s = _studies[number];
        Packing.Progress memory p = s.progress.toProgress();
        if (!p.invited.has(member)) revert NotInvited(study, member);
        if (p.joined.has(member)) revert AlreadyJoined(study, member);
        if (p.left.has(member)) revert AlreadyLeft(study, member);
        (address pointer,, uint32 active,) = MEMBERSHIP.snapshot();
        if (!active.has(member)) revert NotActive(member);
        _checkSigner(pointer, member, keccak256(abi.encode(Statements.JOIN, study, member)), r, vs);
        p.joined |= Bitmaps.single(member);
        emit Joined(study, member);
        if (s.openRound == 0) _openNext(number, p, s.terms.toTerms(), s.conduct, s.headResult, bytes32(0));
        s.progress = p.pack();
    }

    /// @inheritdoc ITrainingLedger
    function leave(bytes32 study, uint16 member, bytes32 r, bytes32 vs) external {
        Study storage s = _study(study);
        Packing.Progress memory p = s.progress.toProgress();
        if (!p.invited.has(member)) revert NotInvited(study, member);
        if (p.left.has(member)) revert AlreadyLeft(study, member);
        _checkSigner(MEMBERSHIP.rosterCode(), member, keccak256(abi.encode(Statements.LEAVE, study, member)), r, vs);
        p.joined &= ~Bitmaps.single(member);
        p.left |= Bitmaps.single(member);
        s.progress = p.pack();
        emit Left(study, member);
    }

    /// @inheritdoc ITrainingLedger
    function resume(bytes32 study) external {
        uint256 number = _number(study);
        Study storage s = _studies[number];
        Packing.Progress memory p = s.progress.toProgress();
        if (s.openRound != 0) revert NothingToOpen(study);
        _openNext(number, p, s.terms.toTerms(), s.conduct, s.headResult, bytes32(0));
        if (s.openRound == 0) revert NothingToOpen(study);
        s.progress = p.pack();
    }

    // ------------------------------------------------------------------------------------------------ rounds

    /// @inheritdoc ITrainingLedger
    function postCommits(bytes32 roundId, CommitEntry[] calldata entries) external {
        (Study storage s, Packing.Round memory round) = _inTraining(roundId);
        bytes memory roster = _roster(round.openedAt);
        bytes32 root = round.committed == 0 ? bytes32(0) : s.commitRoot;
        uint32 before = round.committed;
        for (uint256 i; i < entries.length; ++i) {
            CommitEntry calldata e = entries[i];
            bytes32 structHash = keccak256(
                abi.encode(Statements.COMMIT, roundId, e.member, e.updateRoot, e.datasetRoot, e.nextDatasetRoot)
            );
            uint8 reason = e.updateRoot == 0
                ? Skips.MALFORMED
                : _contributorFault(round, roster, e.member, structHash, e.r, e.vs);
            if (reason != 0) {
                emit EntrySkipped(roundId, e.member, reason);
                continue;
            }
            round.committed |= Bitmaps.single(e.member);
            root = keccak256(abi.encode(root, structHash));
            emit Committed(roundId, e.member, e.updateRoot, e.datasetRoot, e.nextDatasetRoot);
        }
        if (round.committed == before) return;
        s.commitRoot = root;
        _writeAnswers(roundId, round);
    }

    /// @inheritdoc ITrainingLedger
    function postAbstains(bytes32 roundId, AbstainEntry[] calldata entries) external {
        (, Packing.Round memory round) = _inTraining(roundId);
        bytes memory roster = _roster(round.openedAt);
        uint32 before = round.abstained;
        for (uint256 i; i < entries.length; ++i) {
            AbstainEntry calldata e = entries[i];
            bytes32 structHash = keccak256(abi.encode(Statements.ABSTAIN, roundId, e.member));
            uint8 reason = _contributorFault(round, roster, e.member, structHash, e.r, e.vs);
            if (reason != 0) {
                emit EntrySkipped(roundId, e.member, reason);
                continue;
            }
            round.abstained |= Bitmaps.single(e.member);
            emit Abstained(roundId, e.member);
        }
        if (round.abstained != before) _writeAnswers(roundId, round);
    }

    /// @inheritdoc ITrainingLedger
    function postHaves(bytes32 roundId, uint8 attempt, HaveEntry[] calldata entries) external {
        (Study storage s, Packing.Round memory round) = _open(roundId);
        Clock memory clock = _clock(roundId, round, s.terms.toTerms());
        if (clock.phase != Phase.HAVE || clock.attempt != attempt) {
            revert WrongPhase(roundId, clock.phase, clock.attempt);
        }
        bytes memory roster = _roster(round.openedAt);
        uint256 word = _haves[roundId][attempt];
        for (uint256 i; i < entries.length; ++i) {
            HaveEntry calldata e = entries[i];
            uint8 reason = _haveFault(roundId, attempt, round, roster, _posted(word), e);
            if (reason != 0) {
                emit EntrySkipped(roundId, e.member, reason);
                continue;
            }
            word |= uint256(Bitmaps.single(e.member)) << 192;
            for (uint256 j; e.bitmap >> j != 0; ++j) {
                if ((e.bitmap >> j) & 1 == 1) word += uint256(1) << (6 * j);
            }
            emit HavePosted(roundId, attempt, e.member, e.bitmap);
        }
        _haves[roundId][attempt] = word;
    }

    /// @inheritdoc ITrainingLedger
    function finalise(
        bytes32 roundId,
        uint8 attempt,
        Result calldata result,
        uint32 signers,
        bytes calldata signatures
    ) external {
        (Study storage s, Packing.Round memory round) = _open(roundId);
        Packing.Terms memory terms = s.terms.toTerms();
        Packing.Progress memory p = s.progress.toProgress();
        uint32 set = _decidedSet(roundId, attempt, round, terms);
        _checkResult(s, p, round, terms, set, result);
        bytes32 resultHash = _resultHash(result);
        {
            uint256 n = round.roster.count();
            PackedSignatures.checkQuorum(
                _roster(round.openedAt),
                round.roster,
                signers,
                signatures,
                _hashTypedDataV4(keccak256(abi.encode(Statements.VOTE, roundId, attempt, set, resultHash))),
                Quorum.needed(n, Quorum.faults(n, terms.f))
            );
        }
        s.models[_at(round.branch, round.height)] = result.modelRoot;
        s.headResult = resultHash;
        p.finalHeight = round.height;
        if (result.outcome == OUTCOME_MODEL) ++p.finals;
        else _markVoid(s, round.branch, round.height);
        emit RoundFinal(
            roundId,
            s.id,
            round.branch,
            round.height,
            attempt,
            result.outcome,
            result.included,
            result.codes,
            result.modelRoot,
            result.trust,
            result.commitRoot,
            result.consentAcc,
            resultHash,
            signers
        );
        _close(s, p, terms, round, set, resultHash, result.modelRoot);
    }

    /// @inheritdoc ITrainingLedger
    function failRound(bytes32 roundId) external {
        (Study storage s, Packing.Round memory round) = _open(roundId);
        Packing.Terms memory terms = s.terms.toTerms();
        Clock memory clock = _clock(roundId, round, terms);
        if (clock.phase != Phase.FAILED) revert WrongPhase(roundId, clock.phase, clock.attempt);
        _markVoid(s, round.branch, round.height);
        emit RoundFailed(roundId, s.id, round.branch, round.height, clock.failure);
        // Nobody can say here whose blobs were available: who committed neither gains nor loses.
        _close(s, s.progress.toProgress(), terms, round, 0, s.headResult, bytes32(0));
    }

    /// @inheritdoc ITrainingLedger
    function reportEquivocation(
        bytes32 roundId,
        uint8 kind,
        uint16 member,
        SignedBody calldata a,
        SignedBody calldata b
    ) external {
        uint256 word = _rounds[roundId];
        if (word == 0) revert RoundUnknown(roundId);
        Packing.Round memory round = word.toRound();
        if (!round.roster.has(member)) revert NotActive(member);
        bytes32 id = keccak256(abi.encode(roundId, kind, member));
        if (_known[id]) revert AlreadyKnown(id);
        _checkContradiction(roundId, kind, member, round.openedAt, a, b);
        _known[id] = true;
        emit Equivocated(roundId, member, kind);
        Study storage s = _studies[round.study];
        uint8 rounds = s.terms.toTerms().suspendRounds;
        bytes32 open = s.openRound;
        bool suspendedNow = open != 0 && _rounds[open].toRound().suspended.has(member);
        s.conduct = Conduct.punish(s.conduct, member, rounds, suspendedNow);
    }

    /// @inheritdoc ITrainingLedger
    function auditAccess(
        bytes32 study,
        uint16 seat,
        uint32 fromHeight,
        uint32 toHeight,
        bytes32 ground,
        bytes32 r,
        bytes32 vs
    ) external {
        _study(study);
        if (fromHeight == 0 || fromHeight > toHeight) revert BadRange(fromHeight, toHeight);
        (address ledger, bytes32 seatStudy, uint64 termEnd) = MEMBERSHIP.auditorOf(seat);
        bool ofStudy = seatStudy == 0 || seatStudy == study;
        bool inTerm = termEnd == 0 || block.timestamp < termEnd;
        if (ledger == address(0) || !ofStudy || !inTerm) revert NoSuchSeat(seat);
        bytes32 structHash =
            keccak256(abi.encode(Statements.AUDIT_ACCESS, study, seat, fromHeight, toHeight, ground));
        if (_known[structHash]) revert AlreadyKnown(structHash);
        PackedSignatures.check(seat, ledger, _hashTypedDataV4(structHash), r, vs);
        _known[structHash] = true;
        emit AuditAccessed(study, seat, fromHeight, toHeight, ground);
    }

    // ---------------------------------------------------------------------------------------------- branches

    /// @inheritdoc ITrainingLedger
    function fork(ForkTerms calldata t) external returns (uint32 branch, uint32 targetFinals) {
        _onlyUnlearning();
        Study storage s = _study(t.study);
        Packing.Progress memory p = s.progress.toProgress();
        if (p.fork != NO_FORK) revert ForkActive(t.study);
        _checkTarget(s, p, t);
        _checkAncestry(s, p.branch, t.parentBranch, t.baseHeight);
        bytes32 model = s.models[_at(t.parentBranch, t.baseHeight)];
        if (model == 0 || model != t.baseModel) revert WrongCheckpoint(model, t.baseModel);
        targetFinals = _finalsAt(s, p.branch, t.targetHeight);
        if (t.targetHeight == t.baseHeight) {
            // Never included: nothing to replay, the training branch stays. A checkpoint of another branch proves nothing.
            if (t.parentBranch != p.branch) revert NotOnAncestry(t.parentBranch, t.baseHeight);
            return (p.branch, targetFinals);
        }
        if (p.branches == type(uint16).max) revert ForkState(t.study, p.fork);
        branch = ++p.branches;
        bytes32 baseResult = keccak256(
            abi.encode(Tags.BRANCH, t.study, t.batch, t.parentBranch, t.baseHeight, t.baseModel)
        );
        s.branches[branch] = Branch(
            uint16(t.parentBranch), t.baseHeight, _finalsAt(s, t.parentBranch, t.baseHeight), baseResult
        );
        s.models[_at(branch, t.baseHeight)] = t.baseModel;
        s.fork.dueAt = t.dueAt;
        p.fork = WAITS_FOR_ROUND;
        emit BranchCreated(
            t.study,
            branch,
            t.parentBranch,
            t.baseHeight,
            t.baseModel,
            baseResult,
            t.branchSeed,
            t.targetHeight,
            t.batch
        );
        if (s.openRound == 0) _switch(s, p);
        s.progress = p.pack();
    }

    /// @inheritdoc ITrainingLedger
    function openReplay(bytes32 study) external {
        _onlyUnlearning();
        uint256 number = _number(study);
        Study storage s = _studies[number];
        Packing.Progress memory p = s.progress.toProgress();
        if (p.fork != WAITS_FOR_PURGE) revert ForkState(study, p.fork);
        p.fork = REPLAYING;
        _openNext(number, p, s.terms.toTerms(), s.conduct, s.headResult, bytes32(0));
        s.progress = p.pack();
    }

    /// @inheritdoc ITrainingLedger
    function headMoved(bytes32 study) external {
        _onlyUnlearning();
        Study storage s = _study(study);
        Packing.Progress memory p = s.progress.toProgress();
        if (p.fork != REPLAYING) revert ForkState(study, p.fork);
        p.fork = NO_FORK;
        s.progress = p.pack();
    }

    // ------------------------------------------------------------------------------------------------- views

    /// @inheritdoc ITrainingLedger
    function roundOf(bytes32 roundId) external view returns (RoundView memory v) {
        uint256 word = _rounds[roundId];
        if (word == 0) revert RoundUnknown(roundId);
        Packing.Round memory round = word.toRound();
        Study storage s = _studies[round.study];
        Packing.Terms memory terms = s.terms.toTerms();
        Clock memory clock = _clock(roundId, round, terms);
        _overrideClosed(s, roundId, round, clock);
        v.study = s.id;
        v.branch = round.branch;
        v.height = round.height;
        v.phase = clock.phase;
        v.attempt = clock.attempt;
        v.n = uint8(round.roster.count());
        v.f = uint8(Quorum.faults(v.n, terms.f));
        v.quorum = uint8(Quorum.needed(v.n, v.f));
        v.minIncluded = uint8(_least(terms, v.n, v.f));
        v.failure = clock.failure;
        v.roster = round.roster;
        v.suspended = round.suspended;
        v.committed = round.committed;
        v.abstained = round.abstained;
        if (clock.attempt != 0) {
            uint256 haves = _haves[roundId][clock.attempt];
            v.available = _available(haves, round.committed, v.f);
            v.posted = _posted(haves);
        }
        v.openedAt = round.openedAt;
        v.sealTime = clock.phase == Phase.TRAINING ? 0 : clock.sealTime;
        v.revealEnd = clock.revealEnd;
        v.haveEnd = clock.haveEnd;
        v.voteEnd = clock.voteEnd;
    }

    /// @inheritdoc ITrainingLedger
    function phase(bytes32 roundId) external view returns (Phase, uint8) {
        uint256 word = _rounds[roundId];
        if (word == 0) return (Phase.NONE, 0);
        Packing.Round memory round = word.toRound();
        Study storage s = _studies[round.study];
        Clock memory clock = _clock(roundId, round, s.terms.toTerms());
        _overrideClosed(s, roundId, round, clock);
        return (clock.phase, clock.attempt);
    }

    /// @inheritdoc ITrainingLedger
    function studyOf(bytes32 study) external view returns (StudyView memory v) {
        Study storage s = _study(study);
        Packing.Progress memory p = s.progress.toProgress();
        v.branch = p.branch;
        v.height = p.height;
        v.finals = p.finals;
        v.invited = p.invited;
        v.joined = p.joined;
        v.left = p.left;
        v.suspended = Conduct.suspended(s.conduct);
        v.openRound = s.openRound;
        v.forkState = p.fork;
        v.rounds = s.terms.toTerms().rounds;
    }

    /// @inheritdoc ITrainingLedger
    function openRound(bytes32 study) external view returns (bytes32) {
        return _study(study).openRound;
    }

    /// @inheritdoc ITrainingLedger
    function head(bytes32 study)
        external
        view
        returns (uint32 branch, uint32 height, bytes32 resultHash, bytes32 model, bool tainted, bool inService)
    {
        Study storage s = _study(study);
        Packing.Progress memory p = s.progress.toProgress();
        (branch, height, resultHash, inService) = (p.branch, p.finalHeight, s.headResult, true);
        if (p.fork == WAITS_FOR_PURGE) (branch, height, resultHash) = (s.fork.branch, s.fork.height, s.fork.resultHash);
        if (p.fork == REPLAYING) {
            (height, resultHash) = (s.branches[branch].baseHeight, s.branches[branch].baseResult);
        }
        model = s.models[_at(branch, height)];
        tainted = p.fork == WAITS_FOR_ROUND || p.fork == WAITS_FOR_PURGE;
        if (tainted) inService = block.timestamp <= s.fork.dueAt;
    }

    /// @inheritdoc ITrainingLedger
    function modelAt(bytes32 study, uint32 branch, uint32 height) external view returns (bytes32) {
        return _study(study).models[_at(branch, height)];
    }

    /// @inheritdoc ITrainingLedger
    function checkpointOf(bytes32 study, uint32 branch, uint32 finals)
        external
        view
        returns (bool reached, uint32 height, bytes32 model)
    {
        Study storage s = _study(study);
        Packing.Progress memory p = s.progress.toProgress();
        Branch storage b = s.branches[branch];
        if (branch > p.branches || finals < b.baseFinals) return (false, 0, 0);
        // Step over as many heights as ended without a model, until none is added.
        uint256 candidate = uint256(b.baseHeight) + finals - b.baseFinals;
        for (uint256 next; candidate <= type(uint32).max; candidate = next) {
            next = uint256(b.baseHeight) + finals - b.baseFinals
                + _voidsBetween(s, branch, b.baseHeight, uint32(candidate));
            if (next == candidate) break;
        }
        if (candidate > type(uint32).max) return (false, 0, 0);
        model = s.models[_at(branch, uint32(candidate))];
        return model == 0 ? (false, 0, model) : (true, uint32(candidate), model);
    }

    /// @inheritdoc ITrainingLedger
    function commitRootOf(bytes32 study) external view returns (bytes32) {
        Study storage s = _study(study);
        bytes32 open = s.openRound;
        return open != 0 && _rounds[open].toRound().committed == 0 ? bytes32(0) : s.commitRoot;
    }

    /// @inheritdoc ITrainingLedger
    function erasureTerms(bytes32 study)
        external
        view
        returns (uint32 roster, uint8 f, uint32 purgeSeconds, uint32 erasureWindow, uint64 openedAt)
    {
        Study storage s = _study(study);
        roster = s.progress.toProgress().joined & MEMBERSHIP.activeMembers();
        f = s.terms.toTerms().f;
        purgeSeconds = s.purgeSeconds;
        erasureWindow = s.erasureWindow;
        if (s.openRound != 0) openedAt = _rounds[s.openRound].toRound().openedAt;
    }

    // ------------------------------------------------------------------------------------ opening and closing

    /// @dev Opens the next round on the training branch, unless the study is over, waits for joins or for a purge, or
    /// fewer than two members would be asked. The caller writes `p`.
    /// @param parentModel Zero: read the recorded one.
    function _openNext(
        uint256 number,
        Packing.Progress memory p,
        Packing.Terms memory terms,
        uint256 conduct,
        bytes32 parentResult,
        bytes32 parentModel
    ) private {
        if (p.finals >= terms.rounds || p.fork == WAITS_FOR_PURGE) return;
        Study storage s = _studies[number];
        (, uint64 epoch, uint32 active, bytes32 membershipAcc) = MEMBERSHIP.snapshot();
        if (p.height == 0 && p.invited & active & ~p.left & ~p.joined != 0) return;
        uint32 roster = p.joined & active;
        uint256 n = roster.count();
        if (n < 2) return;
        if (parentModel == 0) parentModel = s.models[_at(p.branch, p.finalHeight)];
        Packing.Round memory round;
        round.openedAt = uint40(block.timestamp);
        round.roster = roster;
        round.suspended = Conduct.suspended(conduct) & roster;
        round.study = uint16(number);
        round.branch = p.branch;
        round.height = ++p.height;
        if (round.suspended == roster) round.sealedAfter = 1; // nobody is asked: sealed as it opens
        bytes32 consentAcc = CONSENT.accumulator();
        bytes32 previousBlock = blockhash(block.number - 1);
        bytes32 roundId = keccak256(
            abi.encode(
                Tags.ROUND,
                block.chainid,
                address(this),
                s.id,
                round.branch,
                round.height,
                parentResult,
                parentModel,
                epoch,
                roster,
                round.suspended,
                consentAcc,
                membershipAcc,
                previousBlock
            )
        );
        _rounds[roundId] = round.pack();
        s.openRound = roundId;
        uint256 f = Quorum.faults(n, terms.f);
        emit RoundOpened(
            roundId,
            s.id,
            round.branch,
            round.height,
            parentResult,
            parentModel,
            epoch,
            roster,
            round.suspended,
            uint8(f),
            uint8(Quorum.needed(n, f)),
            consentAcc,
            membershipAcc,
            previousBlock,
            uint64(block.timestamp)
        );
    }

    /// @dev Ends the open round and opens the next one, or lets a waiting fork take over.
    /// @param decided Members whose blobs the result was made of; empty after a failure.
    function _close(
        Study storage s,
        Packing.Progress memory p,
        Packing.Terms memory terms,
        Packing.Round memory round,
        uint32 decided,
        bytes32 parentResult,
        bytes32 parentModel
    ) private {
        uint256 conduct = s.conduct;
        uint32 asked = round.roster & ~round.suspended & ~round.abstained;
        // After a failure (`parentModel` zero) who committed is neither present nor missing.
        uint32 missing = parentModel == 0 ? asked & ~round.committed : asked & ~decided;
        uint256 settled = Conduct.settle(
            conduct, Conduct.Outcome(round.suspended, decided, missing), terms.suspendAfter, terms.suspendRounds
        );
        if (settled != conduct) s.conduct = settled;
        bytes32 closed = s.openRound;
        if (p.fork == WAITS_FOR_ROUND) {
            s.openRound = 0;
            _switch(s, p);
        } else {
            _openNext(round.study, p, terms, settled, parentResult, parentModel);
            if (s.openRound == closed) s.openRound = 0;
        }
        s.progress = p.pack();
    }

    /// @dev The newest branch becomes the one that trains; what served is remembered until the purge.
    function _switch(Study storage s, Packing.Progress memory p) private {
        s.fork.branch = p.branch;
        s.fork.height = p.finalHeight;
        s.fork.resultHash = s.headResult;
        Branch storage b = s.branches[p.branches];
        p.branch = p.branches;
        p.height = b.baseHeight;
        p.finalHeight = b.baseHeight;
        p.finals = b.baseFinals;
        p.fork = WAITS_FOR_PURGE;
        s.headResult = b.baseResult;
    }

    /// @dev Writes new answers, and the seal when they are the last.
    function _writeAnswers(bytes32 roundId, Packing.Round memory round) private {
        if (round.committed | round.abstained | round.suspended == round.roster) {
            round.sealedAfter = uint24(block.timestamp - round.openedAt + 1);
        }
        _rounds[roundId] = round.pack();
    }

    // ------------------------------------------------------------------------------------------- round rules

    /// @dev The set that a result of `attempt` must decide over; reverts when none is accepted now.
    function _decidedSet(
        bytes32 roundId,
        uint8 attempt,
        Packing.Round memory round,
        Packing.Terms memory terms
    ) private view returns (uint32) {
        Clock memory clock = _clock(roundId, round, terms);
        if (attempt == 0) {
            if (clock.phase != Phase.REVEAL && clock.phase != Phase.HAVE && clock.phase != Phase.VOTE) {
                revert WrongPhase(roundId, clock.phase, clock.attempt);
            }
            return round.committed;
        }
        if (clock.phase != Phase.VOTE || clock.attempt != attempt) {
            revert WrongPhase(roundId, clock.phase, clock.attempt);
        }
        uint256 f = Quorum.faults(round.roster.count(), terms.f);
        return _available(_haves[roundId][attempt], round.committed, f);
    }

    function _checkResult(
        Study storage s,
        Packing.Progress memory p,
        Packing.Round memory round,
        Packing.Terms memory terms,
        uint32 set,
        Result calldata result
    ) private view {
        uint32 invalid = _invalid(result.codes);
        if (result.included & invalid != 0) revert IncludedAndInvalid(result.included & invalid);
        if (result.included | invalid != set) revert WrongSet(set, result.included | invalid);
        uint256 n = round.roster.count();
        uint256 least = _least(terms, n, Quorum.faults(n, terms.f));
        uint256 included = result.included.count();
        if (result.outcome != (included >= least ? OUTCOME_MODEL : OUTCOME_NONE)) {
            revert WrongOutcome(result.outcome, included, least);
        }
        if (result.outcome == OUTCOME_NONE) {
            bytes32 parentModel = s.models[_at(round.branch, p.finalHeight)];
            if (result.modelRoot != parentModel) revert ModelChanged(parentModel, result.modelRoot);
        } else if (result.modelRoot == 0) {
            revert NoModel();
        }
        bytes32 commitRoot = round.committed == 0 ? bytes32(0) : s.commitRoot;
        if (result.commitRoot != commitRoot) revert WrongCommitRoot(commitRoot, result.commitRoot);
    }

    /// @dev Members with a code. Codes above the last one are refused.
    function _invalid(uint128 codes) private pure returns (uint32 bits) {
        for (uint256 i; codes >> (4 * i) != 0; ++i) {
            uint8 code = uint8((codes >> (4 * i)) & 15);
            if (code > LAST_CODE) revert BadCode(uint16(i), code);
            if (code != 0) bits |= uint32(1) << uint32(i);
        }
    }

    function _resultHash(Result calldata result) private pure returns (bytes32) {
        return keccak256(
            abi.encode(
                Tags.RESULT,
                result.outcome,
                result.included,
                result.codes,
                result.modelRoot,
                keccak256(result.trust),
                result.commitRoot,
                result.consentAcc
            )
        );
    }

    /// @dev What this block's timestamp makes of a round that nothing has ended; the table above, line by line.
    function _clock(bytes32 roundId, Packing.Round memory round, Packing.Terms memory terms)
        private
        view
        returns (Clock memory c)
    {
        uint256 n = round.roster.count();
        uint256 f = Quorum.faults(n, terms.f);
        uint64 tooOld = uint64(round.openedAt) + terms.maxRoundAge;
        bool full = round.sealedAfter != 0;
        c.sealTime = full ? round.openedAt + round.sealedAfter - 1 : uint64(round.openedAt) + terms.scribe + terms.grace;
        if (!full && block.timestamp <= c.sealTime) {
            c.phase = Phase.TRAINING;
            return c;
        }
        if (round.committed.count() < _least(terms, n, f)) return _failed(c, FAILED_QUORUM);
        c.revealEnd = c.sealTime + terms.reveal;
        if (block.timestamp <= c.revealEnd) {
            c.phase = Phase.REVEAL;
            return block.timestamp > tooOld ? _failed(c, FAILED_AGE) : c;
        }
        uint64 start = c.revealEnd;
        for (uint8 a = 1; a <= LAST_ATTEMPT; ++a) {
            c.attempt = a;
            c.haveEnd = start + (uint64(terms.have) << (a - 1));
            c.voteEnd = c.haveEnd + (uint64(terms.vote) << (a - 1));
            if (block.timestamp <= c.haveEnd) {
                c.phase = Phase.HAVE;
                return block.timestamp > tooOld ? _failed(c, FAILED_AGE) : c;
            }
            if (_posted(_haves[roundId][a]).count() < n - Quorum.slack(n, f)) {
                c.voteEnd = c.haveEnd; // too few bitmaps: no vote window
            } else if (block.timestamp <= c.voteEnd) {
                c.phase = Phase.VOTE;
                return block.timestamp > tooOld ? _failed(c, FAILED_AGE) : c;
            }
            start = c.voteEnd;
        }
        return _failed(c, start < tooOld ? FAILED_ATTEMPTS : FAILED_AGE);
    }

    function _failed(Clock memory c, uint8 reason) private pure returns (Clock memory) {
        c.phase = Phase.FAILED;
        c.failure = reason;
        return c;
    }

    /// @dev A round that is not its study's open one has ended: with a model recorded at its height, or without.
    function _overrideClosed(Study storage s, bytes32 roundId, Packing.Round memory round, Clock memory c) private view {
        if (s.openRound == roundId) return;
        (c.failure, c.attempt, c.haveEnd, c.voteEnd) = (0, 0, 0, 0); // what decided it is in its last event
        c.phase = s.models[_at(round.branch, round.height)] == 0 ? Phase.FAILED : Phase.FINAL;
    }

    function _least(Packing.Terms memory terms, uint256 n, uint256 f) private pure returns (uint256) {
        return terms.minIncluded == 0 ? n - Quorum.slack(n, f) : terms.minIncluded;
    }

    function _posted(uint256 haves) private pure returns (uint32) {
        return uint32(haves >> 192);
    }

    /// @dev I: of those who committed, whom enough members have.
    function _available(uint256 haves, uint32 committed, uint256 f) private pure returns (uint32 bits) {
        uint256 enough = Quorum.holders(f);
        for (uint256 i; committed >> i != 0; ++i) {
            if ((committed >> i) & 1 == 1 && (haves >> (6 * i)) & 63 >= enough) bits |= uint32(1) << uint32(i);
        }
    }

    /// @dev Why a commitment or abstention does not count; zero: it does.
    function _contributorFault(
        Packing.Round memory round,
        bytes memory roster,
        uint16 member,
        bytes32 structHash,
        bytes32 r,
        bytes32 vs
    ) private view returns (uint8) {
        if (!round.roster.has(member)) return Skips.UNKNOWN_MEMBER;
        if (round.suspended.has(member)) return Skips.WRONG_PHASE;
        if ((round.committed | round.abstained).has(member)) return Skips.DUPLICATE;
        address ledger = RosterCode.ledgerAt(roster, member);
        return PackedSignatures.signedBy(ledger, _hashTypedDataV4(structHash), r, vs) ? 0 : Skips.BAD_SIGNATURE;
    }

    function _haveFault(
        bytes32 roundId,
        uint8 attempt,
        Packing.Round memory round,
        bytes memory roster,
        uint32 posted,
        HaveEntry calldata e
    ) private view returns (uint8) {
        if (!round.roster.has(e.member)) return Skips.UNKNOWN_MEMBER;
        if (posted.has(e.member)) return Skips.DUPLICATE;
        if (e.bitmap & ~round.committed != 0) return Skips.MALFORMED;
        bytes32 structHash = keccak256(abi.encode(Statements.HAVE, roundId, e.member, attempt, e.bitmap));
        address ledger = RosterCode.ledgerAt(roster, e.member);
        return PackedSignatures.signedBy(ledger, _hashTypedDataV4(structHash), e.r, e.vs) ? 0 : Skips.BAD_SIGNATURE;
    }

    /// @dev Bodies are the fields as EIP-712 encodes them, so keccak256(type, body) is the struct hash.
    function _checkContradiction(
        bytes32 roundId,
        uint8 kind,
        uint16 member,
        uint40 openedAt,
        SignedBody calldata a,
        SignedBody calldata b
    ) private view {
        (bytes32 typeHash, uint256 length) = kind == KIND_COMMIT
            ? (Statements.COMMIT, uint256(160))
            : kind == KIND_VOTE ? (Statements.VOTE, uint256(128)) : (Statements.HAVE, uint256(128));
        if (kind < KIND_COMMIT || kind > KIND_HAVE) revert BadKind(kind);
        if (a.body.length != length) revert BadEvidence(0, a.body.length, length);
        if (b.body.length != length) revert BadEvidence(1, b.body.length, length);
        if (bytes32(a.body[:32]) != roundId) revert OffSubject(0);
        if (bytes32(b.body[:32]) != roundId) revert OffSubject(1);
        if (kind == KIND_VOTE) {
            if (bytes32(a.body[32:64]) != bytes32(b.body[32:64])) revert OffSubject(1); // another attempt
        } else {
            if (uint256(bytes32(a.body[32:64])) != member) revert OffSubject(0);
            if (uint256(bytes32(b.body[32:64])) != member) revert OffSubject(1);
            if (kind == KIND_HAVE && bytes32(a.body[64:96]) != bytes32(b.body[64:96])) revert OffSubject(1);
        }
        bytes32 first = keccak256(abi.encodePacked(typeHash, a.body));
        bytes32 second = keccak256(abi.encodePacked(typeHash, b.body));
        if (first == second) revert NoContradiction();
        address ledger = RosterCode.ledgerAt(_roster(openedAt), member);
        PackedSignatures.check(member, ledger, _hashTypedDataV4(first), a.r, a.vs);
        PackedSignatures.check(member, ledger, _hashTypedDataV4(second), b.r, b.vs);
    }

    // ------------------------------------------------------------------------------------------ branch rules

    /// @dev The target is a closed height of the training branch, at or above the checkpoint.
    function _checkTarget(Study storage s, Packing.Progress memory p, ForkTerms calldata t) private view {
        uint32 first = s.branches[p.branch].baseHeight;
        if (first < t.baseHeight) first = t.baseHeight;
        uint32 last = s.openRound == 0 ? p.height : p.height - 1;
        if (t.targetHeight < first || t.targetHeight > last) revert BadTarget(t.targetHeight, first, last);
    }

    /// @dev Reverts unless `parent` is `branch` or an ancestor of it, and `height` is not above the path between them.
    function _checkAncestry(Study storage s, uint256 branch, uint32 parent, uint32 height) private view {
        uint256 lowest = type(uint256).max;
        while (branch != parent) {
            if (branch == 0) revert NotOnAncestry(parent, height);
            Branch storage b = s.branches[branch];
            if (b.baseHeight < lowest) lowest = b.baseHeight;
            branch = b.parent;
        }
        if (height > lowest) revert NotOnAncestry(parent, height);
    }

    /// @dev Rounds with a model on the ancestry of a closed height, that height included.
    function _finalsAt(Study storage s, uint256 branch, uint32 height) private view returns (uint32) {
        Branch storage b = s.branches[branch];
        return uint32(b.baseFinals + (height - b.baseHeight) - _voidsBetween(s, branch, b.baseHeight, height));
    }

    /// @dev Heights above `from`, up to and with `to`, that ended without a model.
    function _voidsBetween(Study storage s, uint256 branch, uint32 from, uint32 to)
        private
        view
        returns (uint256 count)
    {
        if (to <= from) return 0;
        uint256 first = uint256(from) + 1;
        for (uint256 w = first >> 8; w <= to >> 8; ++w) {
            uint256 word = s.voids[branch << 32 | w];
            if (w == first >> 8) word &= type(uint256).max << (first & 255);
            if (w == to >> 8) word &= type(uint256).max >> (255 - (to & 255));
            count += Bitmaps.countWord(word);
        }
    }

    function _markVoid(Study storage s, uint256 branch, uint256 height) private {
        s.voids[branch << 32 | height >> 8] |= uint256(1) << (height & 255);
    }

    function _at(uint256 branch, uint256 height) private pure returns (uint256) {
        return branch << 32 | height;
    }

    // ---------------------------------------------------------------------------------------------- plumbing

    function _checkTerms(StudyTerms calldata t, uint32 active) private pure {
        uint32 strangers = t.invited & ~active;
        if (strangers != 0 || t.invited.count() < 2) revert BadTerms("invited", t.invited);
        if (t.specHash == 0) revert BadTerms("specHash", 0);
        if (t.initialModel == 0) revert BadTerms("initialModel", 0);
        if (t.rounds == 0) revert BadTerms("rounds", 0);
        if (t.minIncluded > t.invited.count()) revert BadTerms("minIncluded", t.minIncluded);
        // the seal is kept in 24 bits of seconds after the open
        if (t.scribeSeconds == 0 || t.scribeSeconds > 1 << 22) revert BadTerms("scribeSeconds", t.scribeSeconds);
        if (t.graceSeconds > 1 << 22) revert BadTerms("graceSeconds", t.graceSeconds);
        if (t.revealSeconds == 0) revert BadTerms("revealSeconds", 0);
        if (t.haveSeconds == 0) revert BadTerms("haveSeconds", 0);
        if (t.voteSeconds == 0) revert BadTerms("voteSeconds", 0);
        if (t.suspendAfter > 15) revert BadTerms("suspendAfter", t.suspendAfter);
        if (t.suspendRounds > 14) revert BadTerms("suspendRounds", t.suspendRounds);
        if (t.maxRoundAge <= uint256(t.scribeSeconds) + t.graceSeconds + t.revealSeconds) {
            revert BadTerms("maxRoundAge", t.maxRoundAge);
        }
    }

    function _write(Study storage s, bytes32 study, StudyTerms calldata t) private {
        s.id = study;
        s.terms = Packing.Terms(
            t.rounds,
            t.f,
            t.minIncluded,
            t.suspendAfter,
            t.suspendRounds,
            t.scribeSeconds,
            t.graceSeconds,
            t.revealSeconds,
            t.haveSeconds,
            t.voteSeconds,
            t.maxRoundAge
        ).pack();
        Packing.Progress memory p;
        p.invited = t.invited;
        s.progress = p.pack();
        s.purgeSeconds = t.purgeSeconds;
        s.erasureWindow = t.erasureWindow;
        s.models[_at(0, 0)] = t.initialModel;
    }

    function _number(bytes32 study) private view returns (uint256 number) {
        number = _numberOf[study];
        if (number == 0) revert StudyUnknown(study);
    }

    function _study(bytes32 study) private view returns (Study storage) {
        return _studies[_number(study)];
    }

    function _open(bytes32 roundId) private view returns (Study storage s, Packing.Round memory round) {
        uint256 word = _rounds[roundId];
        if (word == 0) revert RoundUnknown(roundId);
        round = word.toRound();
        s = _studies[round.study];
        if (s.openRound != roundId) revert RoundClosed(roundId);
    }

    function _inTraining(bytes32 roundId) private view returns (Study storage s, Packing.Round memory round) {
        (s, round) = _open(roundId);
        Clock memory clock = _clock(roundId, round, s.terms.toTerms());
        if (clock.phase != Phase.TRAINING) revert WrongPhase(roundId, clock.phase, clock.attempt);
    }

    /// @dev The keys that decide a round opened at `openedAt`.
    function _roster(uint40 openedAt) private view returns (bytes memory) {
        return RosterCode.load(MEMBERSHIP.rosterAt(openedAt));
    }

    function _checkSigner(address pointer, uint16 member, bytes32 structHash, bytes32 r, bytes32 vs) private view {
        address ledger = RosterCode.ledgerAt(RosterCode.load(pointer), member);
        PackedSignatures.check(member, ledger, _hashTypedDataV4(structHash), r, vs);
    }

    function _onlyUnlearning() private view {
        if (msg.sender != UNLEARNING) revert OnlyUnlearning(msg.sender);
    }
}
