// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {IConsentRegistry} from "./interfaces/IConsentRegistry.sol";
import {IMembership} from "./interfaces/IMembership.sol";
import {ITrainingLedger} from "./interfaces/ITrainingLedger.sol";
import {Bitmaps} from "./libraries/Bitmaps.sol";
import {Conduct} from "./libraries/Conduct.sol";
import {PackedSignatures} from "./libraries/PackedSignatures.sol";
import {Course, Roll, Round, Rounds, Tree, Trees} from "./libraries/Packing.sol";
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
 *  -         |C| < m: FAILED 1 before anything is revealed; at the seal, but after open + S + G where a member abstained:
 *            rounds that nobody can train follow each other at the study's pace, not at the chain's
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
 * revealed is committed again. A replay of which LAST_CHANCES heights in a row end without a model, or that has fewer than
 * two members, is given up: it has caught up with the model it has. No patient waits for members that cannot train.
 */

/// @title TrainingLedger
/// @notice The manual is in interfaces/ITrainingLedger.sol.
contract TrainingLedger is ITrainingLedger, EIP712 {
    using Bitmaps for uint32;

    uint8 private constant LAST_ATTEMPT = 3;
    uint32 private constant LAST_CHANCES = 3;
    uint8 private constant FAILED_QUORUM = 1;
    uint8 private constant FAILED_ATTEMPTS = 2;
    uint8 private constant FAILED_AGE = 3;
    uint8 private constant OUTCOME_MODEL = 1;
    uint8 private constant OUTCOME_NONE = 2;
    uint8 private constant KIND_COMMIT = 1;
    uint8 private constant KIND_VOTE = 2;
    uint8 private constant KIND_HAVE = 3;
    uint256 private constant COMMIT_ENTRY_BYTES = 192;
    uint256 private constant COMMIT_ROOTS_BYTES = 96;

    // States of a fork
    uint8 private constant NO_FORK = 0;
    uint8 private constant WAITS_FOR_ROUND = 1;
    uint8 private constant REPLAYING = 2;
    uint8 private constant WAITS_FOR_VERDICTS = 3; // a plan without a replay: the training branch stays

    /// @dev Where the newest branch begins, from the plan on. Once it replays, this serves.
    struct Fork {
        bytes32 lineage;
        bytes32 model;
    }

    /// @dev A round writes four slots: `round`, `openRound`, `lineage` and `model`, and before them `commitRoot`. None of
    /// them is new in a later round, and none is cleared: whether a round is open is a bit of `round`.
    struct Study {
        Course course;
        Round round;
        bytes32 openRound; // the last one, when none is open
        bytes32 lineage; // of the newest result on the training branch
        bytes32 model; // of the newest result on the training branch
        bytes32 commitRoot; // of the open round; before its first commitment, of the one before
        uint256 conduct; // library Conduct
        Roll roll;
        bytes32 initialModel;
        Fork fork;
        mapping(uint256 branchOverThree => Tree) trees; // where the branches begin, three a slot
        mapping(uint256 branch => bytes32) caughtUp; // what a replay ended with: the first model with targetFinals, or else
        // the newest one when it was given up
        mapping(uint256 branchAndWord => uint256) voids; // a bit for each height that ended without a model
    }

    /// @dev Membership as of this call.
    struct Members {
        address pointer;
        uint64 epoch;
        uint32 active;
        bytes32 accumulator;
    }

    /// @dev What a timestamp makes of a round.
    struct Clock {
        Phase phase;
        uint8 attempt;
        uint8 failure;
        uint64 revealEnd;
        uint64 haveEnd;
        uint64 voteEnd;
    }

    IMembership private immutable MEMBERSHIP;
    IConsentRegistry private immutable CONSENT;
    address private immutable UNLEARNING;

    mapping(bytes32 study => Study) private _studies;
    /// @dev One word an attempt: 6 bits a member count who has its blobs (low 192), a bit a member says who posted (above).
    mapping(bytes32 roundId => mapping(uint256 attempt => uint256)) private _haves;
    mapping(bytes32 evidence => bool) private _known; // equivocations reported and audits announced

    /// @param continued Studies of the predecessor, if there is one, that go on here; no later call can bring one.
    constructor(IMembership membership, Continuation[] memory continued) EIP712("koinon", "1") {
        if (membership.training() != address(this)) revert MisplacedContract(membership.training(), address(this));
        MEMBERSHIP = membership;
        CONSENT = IConsentRegistry(membership.consent());
        UNLEARNING = membership.unlearning();
        for (uint256 i; i < continued.length; ++i) {
            _continue(ITrainingLedger(membership.predecessor().training()), continued[i]);
        }
    }

    /// @dev In the creation code only. Where a study stands is read where it stood; its tree is the deployer's word, which
    /// every member checks against its own copy of the history. Suspensions end with the old deployment.
    function _continue(ITrainingLedger old, Continuation memory c) private {
        StudyTerms memory t = c.terms;
        bytes32 study = keccak256(abi.encode(Tags.STUDY, keccak256(abi.encode(Statements.CREATE_STUDY, t))));
        StudyView memory v = old.studyOf(study);
        if (v.openRound != 0 || v.forkState != NO_FORK) revert StudyNotAtRest(study, v.openRound, v.forkState);
        Study storage s = _studies[study];
        if (Course.unwrap(s.course) != 0) revert StudyKnown(study);
        _begin(s, t);
        s.course = s.course.withJoined(v.joined).withBranch(uint16(v.branch));
        s.roll = s.roll.withLeft(v.left);
        (, uint32 finalHeight, bytes32 lineage, bytes32 model,,) = old.head(study);
        (s.lineage, s.model) = (lineage, model);
        s.round = Round.wrap(0).standing(v.height, v.finals, finalHeight);
        bytes32 tree;
        for (uint256 i; i < c.branches.length; ++i) {
            BranchState memory b = c.branches[i];
            _plant(s, i + 1, b.parent, b.baseHeight, b.baseFinals, 0);
            tree = keccak256(abi.encode(Tags.TREE, tree, b));
        }
        for (uint256 i; i < c.voids.length; ++i) {
            s.voids[c.voids[i].key] = c.voids[i].word;
            tree = keccak256(abi.encode(Tags.TREE, tree, c.voids[i]));
        }
        emit StudyContinued(study, v.joined, v.left, v.branch, v.height, v.finals, lineage, model, tree);
    }

    // ----------------------------------------------------------------------------------------------- studies

    /// @inheritdoc ITrainingLedger
    function createStudy(StudyTerms calldata t, bytes32 r, bytes32 vs) external returns (bytes32 study) {
        bytes32 structHash = keccak256(abi.encode(Statements.CREATE_STUDY, t));
        study = keccak256(abi.encode(Tags.STUDY, structHash));
        Study storage s = _studies[study];
        if (Course.unwrap(s.course) != 0) revert StudyKnown(study);
        Members memory members = _members();
        if (!members.active.has(t.member)) revert NotActive(t.member);
        if (!t.invited.has(t.member)) revert NotInvited(study, t.member);
        _checkTerms(t, members.active);
        _checkSigner(members.pointer, t.member, structHash, r, vs);
        _begin(s, t);
        // Read by nobody before a plan overwrites it: a study's slots are paid for by who makes it, and not by the hospital
        // whose patient is the first to ask for erasure.
        s.fork = Fork({lineage: t.specHash, model: t.initialModel});
        s.trees[0] = Trees.UNPLANTED;
        emit StudyCreated(study, t);
    }

    /// @dev The words that follow from the terms.
    function _begin(Study storage s, StudyTerms memory t) private {
        s.course = Course.wrap(
            uint256(t.rounds) | uint256(t.f) << 24 | uint256(t.minIncluded) << 32 | uint256(t.suspendAfter) << 40
                | uint256(t.suspendRounds) << 44 | (uint256(t.scribeSeconds) + t.graceSeconds) << 48
                | uint256(t.revealSeconds) << 72 | uint256(t.haveSeconds) << 104 | uint256(t.voteSeconds) << 136
                | uint256(t.maxRoundAge) << 168
        );
        s.roll = Roll.wrap(
            uint256(t.invited) | uint256(t.erasureWindow) << 64
        );
        s.model = t.initialModel;
        s.initialModel = t.initialModel;
    }

    /// @inheritdoc ITrainingLedger
    function join(bytes32 study, uint16 member, bytes32 r, bytes32 vs) external {
        Study storage s = _study(study);
        Course course = s.course;
        Roll roll = s.roll;
        if (!roll.invited().has(member)) revert NotInvited(study, member);
        if (course.joined().has(member)) revert AlreadyJoined(study, member);
        if (roll.left().has(member)) revert AlreadyLeft(study, member);
        Members memory members = _members();
        if (!members.active.has(member)) revert NotActive(member);
        _checkSigner(members.pointer, member, keccak256(abi.encode(Statements.JOIN, study, member)), r, vs);
        course = course.withJoined(course.joined() | Bitmaps.single(member));
        s.course = course;
        emit Joined(study, member);
        if (!s.round.isOpen()) _openNext(s, study, course, s.round, members, s.conduct, s.lineage, s.model);
    }

    /// @inheritdoc ITrainingLedger
    function leave(bytes32 study, uint16 member, bytes32 r, bytes32 vs) external {
        Study storage s = _study(study);
        Roll roll = s.roll;
        if (!roll.invited().has(member)) revert NotInvited(study, member);
        if (roll.left().has(member)) revert AlreadyLeft(study, member);
        _checkSigner(MEMBERSHIP.rosterCode(), member, keccak256(abi.encode(Statements.LEAVE, study, member)), r, vs);
        s.course = s.course.withJoined(s.course.joined() & ~Bitmaps.single(member));
        s.roll = roll.withLeft(Bitmaps.single(member));
        emit Left(study, member);
    }

    /// @inheritdoc ITrainingLedger
    function resume(bytes32 study) external {
        Study storage s = _study(study);
        if (s.round.isOpen() || !_reopen(s, study, s.course)) revert NothingToOpen(study);
    }

    // ------------------------------------------------------------------------------------------------ rounds

    /// @inheritdoc ITrainingLedger
    function postCommits(bytes32 study, bytes32 roundId, CommitEntry[] calldata entries) external {
        (Study storage s, Round round) = _inTraining(study, roundId);
        bytes memory roster = _roster(round.openedAt());
        bytes32 domain = _domainSeparatorV4();
        uint32 waited = round.waited();
        bytes32 root = round.committed() == 0 ? bytes32(0) : s.commitRoot;
        uint256 log;
        assembly ("memory-safe") {
            // The event's data, filled as entries count: members, offset of the roots, their length, the roots.
            log := mload(0x40)
            mstore(0x40, add(log, add(96, mul(entries.length, COMMIT_ROOTS_BYTES))))
            mstore(log, 0)
            mstore(add(log, 32), 64)
            mstore(add(log, 64), 0)
        }
        for (uint256 i; i < entries.length; ++i) {
            CommitEntry calldata e = entries[i];
            uint16 member = e.member;
            bytes32 structHash = _commitHash(roundId, e);
            if (e.updateRoot == 0 || !waited.has(member) || !_signed(roster, member, domain, structHash, e.r, e.vs)) {
                _skip(roundId, member, e.updateRoot == 0 ? Skips.MALFORMED : _contributorFault(round, waited, member));
                continue;
            }
            waited ^= Bitmaps.single(member);
            root = _pair(root, structHash);
            assembly ("memory-safe") {
                let length := mload(add(log, 64))
                calldatacopy(add(add(log, 96), length), add(e, 32), COMMIT_ROOTS_BYTES)
                mstore(add(log, 64), add(length, COMMIT_ROOTS_BYTES))
                // a byte each, as many as members have bits: each counts once
                mstore(log, or(mload(log), shl(div(length, 12), member)))
            }
        }
        uint32 answered = round.waited() ^ waited;
        if (answered == 0) return;
        bytes32 topic = Committed.selector;
        assembly ("memory-safe") {
            log2(log, add(96, mload(add(log, 64))), topic, roundId)
        }
        s.commitRoot = root;
        s.round = round.answered(round.committed() | answered, round.abstained());
    }

    /// @inheritdoc ITrainingLedger
    function postAbstains(bytes32 study, bytes32 roundId, AbstainEntry[] calldata entries) external {
        (Study storage s, Round round) = _inTraining(study, roundId);
        bytes memory roster = _roster(round.openedAt());
        bytes32 domain = _domainSeparatorV4();
        uint32 waited = round.waited();
        uint32 before = waited;
        for (uint256 i; i < entries.length; ++i) {
            AbstainEntry calldata e = entries[i];
            uint16 member = e.member;
            bytes32 structHash = keccak256(abi.encode(Statements.ABSTAIN, roundId, member));
            if (!waited.has(member) || !_signed(roster, member, domain, structHash, e.r, e.vs)) {
                _skip(roundId, member, _contributorFault(round, waited, member));
                continue;
            }
            waited ^= Bitmaps.single(member);
            emit Abstained(roundId, member);
        }
        if (waited != before) s.round = round.answered(round.committed(), round.abstained() | (before ^ waited));
    }

    /// @inheritdoc ITrainingLedger
    function postHaves(bytes32 study, bytes32 roundId, uint8 attempt, HaveEntry[] calldata entries) external {
        Study storage s = _open(study, roundId);
        Round round = s.round;
        Clock memory clock = _clock(roundId, round, s.course);
        if (clock.phase != Phase.HAVE || clock.attempt != attempt) _wrongPhase(roundId, clock);
        bytes memory roster = _roster(round.openedAt());
        uint256 word = _haves[roundId][attempt];
        for (uint256 i; i < entries.length; ++i) {
            HaveEntry calldata e = entries[i];
            uint8 reason = _haveFault(roundId, attempt, round, roster, _posted(word), e);
            if (reason != 0) {
                _skip(roundId, e.member, reason);
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
        bytes32 study,
        bytes32 roundId,
        uint8 attempt,
        Result calldata result,
        uint32 signers,
        bytes calldata signatures
    ) external {
        Study storage s = _open(study, roundId);
        Course course = s.course;
        Round round = s.round;
        uint256 n = round.roster().count();
        uint256 f = Quorum.faults(n, course.f());
        uint32 set = _decidedSet(roundId, attempt, round, course, f);
        _checkResult(s, round, _least(course, n, f), set, result);
        bytes32 resultHash = _resultHash(result);
        Members memory members;
        {
            address deciding;
            (members.epoch, members.active, members.accumulator, deciding) =
                MEMBERSHIP.closing(uint64(round.openedAt()));
            PackedSignatures.checkQuorum(
                RosterCode.load(deciding),
                round.roster(),
                signers,
                signatures,
                _hashTypedDataV4(_voteHash(roundId, attempt, set, resultHash)),
                Quorum.needed(n, f)
            );
        }
        emit RoundFinal(
            roundId,
            study,
            uint256(course.branch()) | uint256(round.height()) << 16 | uint256(attempt) << 40
                | uint256(result.outcome) << 48 | uint256(result.included) << 56 | uint256(result.codes) << 88
                | uint256(signers) << 216,
            result.modelRoot,
            result.trust,
            result.commitRoot,
            result.consentAcc,
            resultHash
        );
        bytes32 lineage = _lineage(s.lineage, round.height(), result.modelRoot, resultHash);
        s.lineage = lineage;
        if (result.outcome == OUTCOME_MODEL) {
            s.model = result.modelRoot;
            round = round.recorded(true);
            if (course.fork() == REPLAYING) _noteCatchUp(s, course.branch(), round.finals(), result.modelRoot);
        } else {
            _markVoid(s, study, course, round.height());
            round = round.recorded(false);
        }
        _close(s, study, course, round, members, set, ~set, lineage, result.modelRoot);
    }

    /// @inheritdoc ITrainingLedger
    function failRound(bytes32 study, bytes32 roundId) external {
        Study storage s = _open(study, roundId);
        Course course = s.course;
        Round round = s.round;
        Clock memory clock = _clock(roundId, round, course);
        if (clock.phase != Phase.FAILED) _wrongPhase(roundId, clock);
        emit RoundFailed(roundId, study, course.branch(), round.height(), clock.failure);
        _markVoid(s, study, course, round.height());
        // Nobody can say here whose blobs were available: who committed neither gains nor loses.
        _close(s, study, course, round, _members(), 0, ~round.committed(), s.lineage, s.model);
    }

    /// @inheritdoc ITrainingLedger
    function reportEquivocation(
        bytes32 study,
        Opening calldata opening,
        uint64 openedAt,
        uint8 kind,
        uint16 member,
        SignedBody calldata a,
        SignedBody calldata b
    ) external {
        Study storage s = _study(study);
        if (!opening.roster.has(member)) revert NotActive(member);
        bytes32 roundId = keccak256(abi.encode(Tags.ROUND, block.chainid, address(this), study, opening));
        bytes32 id = keccak256(abi.encode(roundId, kind, member));
        if (_known[id]) revert AlreadyKnown(id);
        _checkContradiction(roundId, kind, member, openedAt, a, b);
        _known[id] = true;
        emit Equivocated(roundId, member, kind);
        Course course = s.course;
        bool suspendedNow = s.round.isOpen() && s.round.suspended().has(member);
        s.conduct = Conduct.punish(s.conduct, member, course.suspendRounds(), suspendedNow);
        s.course = course.withWatched(true);
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
    function fork(ForkTerms calldata t, BaseProof calldata proof)
        external
        returns (uint32 branch)
    {
        _onlyUnlearning();
        Study storage s = _study(t.study);
        Course course = s.course;
        Round round = s.round;
        if (course.fork() != NO_FORK) revert ForkActive(t.study);
        uint16 current = course.branch();
        _checkTarget(s, current, round, t);
        bytes32 origin = _checkBase(s, current, t, proof);
        if (t.targetHeight == t.baseHeight) {
            // Never included: nothing to replay, the training branch stays. A checkpoint of another branch proves nothing.
            if (t.parentBranch != current) revert NotOnAncestry(t.parentBranch, t.baseHeight);
            s.course = course.withFork(WAITS_FOR_VERDICTS);
            return current;
        }
        if (current == type(uint16).max) revert ForkState(t.study, NO_FORK);
        branch = current + 1; // the newest branch trains
        bytes32 baseResult = _baseResult(t.study, t.batch, t.parentBranch, t.baseHeight, t.baseModel, origin);
        uint32 target = _finalsAt(s, current, t.targetHeight);
        if (t.rounds > target) revert TooManyRounds(t.rounds, target);
        unchecked {
            // A method that takes fewer rounds has done as much of the study at its end.
            _plant(s, branch, t.parentBranch, t.baseHeight, target - t.rounds, Trees.aim(target, t.dueAt));
        }
        (s.fork.lineage, s.fork.model) = (baseResult, t.baseModel);
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
        if (round.isOpen()) s.course = course.withFork(WAITS_FOR_ROUND);
        else _replay(s, t.study, course, round, _members(), s.conduct);
    }

    /// @inheritdoc ITrainingLedger
    function headMoved(bytes32 study) external {
        _onlyUnlearning();
        Study storage s = _study(study);
        Course course = s.course;
        uint8 state = course.fork();
        if (state != REPLAYING && state != WAITS_FOR_VERDICTS) revert ForkState(study, state);
        s.course = course.withFork(NO_FORK);
    }

    // ------------------------------------------------------------------------------------------------- views

    /// @inheritdoc ITrainingLedger
    function roundOf(bytes32 study, bytes32 roundId) external view returns (RoundView memory v) {
        Study storage s = _open(study, roundId);
        Course course = s.course;
        Round round = s.round;
        Clock memory clock = _clock(roundId, round, course);
        v.branch = course.branch();
        v.height = round.height();
        v.phase = clock.phase;
        v.attempt = clock.attempt;
        v.n = uint8(round.roster().count());
        v.f = uint8(Quorum.faults(v.n, course.f()));
        v.quorum = uint8(Quorum.needed(v.n, v.f));
        v.minIncluded = uint8(_least(course, v.n, v.f));
        v.failure = clock.failure;
        v.roster = round.roster();
        v.suspended = round.suspended();
        v.committed = round.committed();
        v.abstained = round.abstained();
        if (clock.attempt != 0) {
            uint256 haves = _haves[roundId][clock.attempt];
            v.available = _available(haves, v.committed, v.f);
            v.posted = _posted(haves);
        }
        v.openedAt = uint64(round.openedAt());
        v.sealTime = clock.phase == Phase.TRAINING ? 0 : uint64(round.sealTime());
        v.revealEnd = clock.revealEnd;
        v.haveEnd = clock.haveEnd;
        v.voteEnd = clock.voteEnd;
    }

    /// @inheritdoc ITrainingLedger
    function phase(bytes32 study, bytes32 roundId) external view returns (Phase, uint8) {
        Study storage s = _studies[study];
        if (roundId == 0 || _openId(s) != roundId) return (Phase.NONE, 0);
        Clock memory clock = _clock(roundId, s.round, s.course);
        return (clock.phase, clock.attempt);
    }

    /// @inheritdoc ITrainingLedger
    function studyOf(bytes32 study) external view returns (StudyView memory v) {
        Study storage s = _study(study);
        Course course = s.course;
        v.branch = course.branch();
        v.height = s.round.height();
        v.finals = s.round.finals();
        v.invited = s.roll.invited();
        v.joined = course.joined();
        v.left = s.roll.left();
        v.suspended = Conduct.suspended(s.conduct);
        v.openRound = _openId(s);
        v.forkState = course.fork();
        v.rounds = uint32(course.rounds());
    }

    /// @inheritdoc ITrainingLedger
    function openRound(bytes32 study) external view returns (bytes32) {
        Study storage s = _study(study);
        return _openId(s);
    }

    /// @inheritdoc ITrainingLedger
    function head(bytes32 study)
        external
        view
        returns (uint32 branch, uint32 height, bytes32 lineage, bytes32 model, bool tainted, bool inService)
    {
        Study storage s = _study(study);
        Course course = s.course;
        uint8 state = course.fork();
        branch = course.branch();
        if (state == REPLAYING) {
            (, height,) = _base(s, branch);
            return (branch, height, s.fork.lineage, s.fork.model, false, true);
        }
        (height, lineage, model) = (s.round.finalHeight(), s.lineage, s.model);
        tainted = state == WAITS_FOR_ROUND;
        inService = !tainted || block.timestamp <= _tree(s, branch + 1).dueAt();
    }

    /// @inheritdoc ITrainingLedger
    function caughtUp(bytes32 study, uint32 branch) external view returns (bytes32) {
        return _study(study).caughtUp[branch];
    }

    /// @inheritdoc ITrainingLedger
    function commitRootOf(bytes32 study) external view returns (bytes32) {
        Study storage s = _study(study);
        return s.round.isOpen() && s.round.committed() == 0 ? bytes32(0) : s.commitRoot;
    }

    /// @inheritdoc ITrainingLedger
    function checkStudy(bytes32 study) external view {
        _study(study);
    }

    /// @inheritdoc ITrainingLedger
    function voters(bytes32 study) external view returns (uint32 roster, uint8 f) {
        Course course = _study(study).course;
        return (course.joined() & MEMBERSHIP.activeMembers(), uint8(course.f()));
    }

    /// @inheritdoc ITrainingLedger
    function planTerms(bytes32 study) external view returns (uint32 erasureWindow, uint64 openedAt) {
        Study storage s = _study(study);
        erasureWindow = s.roll.erasureWindow();
        if (s.round.isOpen()) openedAt = uint64(s.round.openedAt());
    }

    // ------------------------------------------------------------------------------------ opening and closing

    /// @dev Opens the next round on the training branch, unless the study is over, waits for joins, or fewer than two
    /// members would be asked.
    /// @return Whether one is open now; if not, nothing was written but that a replay was given up.
    function _openNext(
        Study storage s,
        bytes32 study,
        Course course,
        Round round,
        Members memory members,
        uint256 conduct,
        bytes32 parentResult,
        bytes32 parentModel
    ) private returns (bool) {
        if (round.finals() >= course.rounds()) return false;
        if (round.height() == 0) {
            Roll roll = s.roll;
            if (roll.invited() & members.active & ~roll.left() & ~course.joined() != 0) return false;
        } else if (round.height() == Rounds.LAST_HEIGHT) {
            return false;
        }
        uint32 roster = course.joined() & members.active;
        // No round opens any more where the network has a successor, but an erasure that began here ends here.
        if (roster == 0 && course.fork() == REPLAYING) roster = course.joined() & MEMBERSHIP.activeMembers();
        uint256 n = roster.count();
        if (n < 2) {
            if (course.fork() == REPLAYING) _giveUp(s, study, course.branch(), parentModel);
            return false;
        }
        round = round.next(roster, Conduct.suspended(conduct) & roster, course.window());
        bytes32 consentAcc = CONSENT.accumulator();
        bytes32 previousBlock = blockhash(block.number - 1);
        bytes32 roundId = keccak256(
            abi.encode(
                Tags.ROUND,
                block.chainid,
                address(this),
                study,
                course.branch(),
                round.height(),
                parentResult,
                parentModel,
                members.epoch,
                roster,
                round.suspended(),
                consentAcc,
                members.accumulator,
                previousBlock
            )
        );
        s.round = round;
        s.openRound = roundId;
        uint256 f = Quorum.faults(n, course.f());
        emit RoundOpened(
            roundId,
            study,
            uint256(course.branch()) | uint256(round.height()) << 32 | uint256(members.epoch) << 64
                | uint256(roster) << 128 | uint256(round.suspended()) << 160 | f << 192 | Quorum.needed(n, f) << 200
                | block.timestamp << 208,
            parentResult,
            parentModel,
            consentAcc,
            members.accumulator,
            previousBlock
        );
        return true;
    }

    function _reopen(Study storage s, bytes32 study, Course course) private returns (bool) {
        return _openNext(s, study, course, s.round, _members(), s.conduct, s.lineage, s.model);
    }

    /// @dev Ends the open round and opens the next one, or lets a waiting fork take over.
    /// @param round With the result, if there is one.
    /// @param present Members whose blobs the result was made of; empty after a failure.
    /// @param absent Of the asked: whom it was not made of; after a failure, who did not commit.
    function _close(
        Study storage s,
        bytes32 study,
        Course course,
        Round round,
        Members memory members,
        uint32 present,
        uint32 absent,
        bytes32 parentResult,
        bytes32 parentModel
    ) private {
        uint32 missing = round.roster() & ~round.suspended() & ~round.abstained() & absent;
        uint256 conduct;
        if (course.watched() || missing != 0) {
            conduct = Conduct.settle(
                s.conduct,
                Conduct.Outcome(round.suspended(), present, missing),
                course.suspendAfter(),
                course.suspendRounds()
            );
            s.conduct = conduct;
            if (course.watched() != (conduct != 0)) {
                course = course.withWatched(conduct != 0);
                s.course = course;
            }
        }
        if (course.fork() == WAITS_FOR_ROUND) {
            _replay(s, study, course, round, members, conduct);
        } else if (!_openNext(s, study, course, round, members, conduct, parentResult, parentModel)) {
            s.round = round.closed();
        }
    }

    /// @dev From here on the newest branch trains, from its checkpoint.
    function _replay(
        Study storage s,
        bytes32 study,
        Course course,
        Round round,
        Members memory members,
        uint256 conduct
    ) private {
        course = course.withBranch(course.branch() + 1).withFork(REPLAYING);
        s.course = course;
        (, uint32 baseHeight, uint32 baseFinals) = _base(s, course.branch());
        round = round.standing(baseHeight, baseFinals, baseHeight).closed();
        (bytes32 lineage, bytes32 model) = (s.fork.lineage, s.fork.model);
        (s.lineage, s.model) = (lineage, model);
        _noteCatchUp(s, course.branch(), baseFinals, model);
        if (!_openNext(s, study, course, round, members, conduct, lineage, model)) s.round = round;
    }

    /// @dev Keeps the model with which a replay has as many finals as there were: what the verdicts are about.
    function _noteCatchUp(Study storage s, uint256 branch, uint32 finals, bytes32 model) private {
        if (finals == _tree(s, branch).targetFinals() && s.caughtUp[branch] == 0) s.caughtUp[branch] = model;
    }

    // ------------------------------------------------------------------------------------------- round rules

    /// @dev The set that a result of `attempt` must decide over; reverts when none is accepted now.
    function _decidedSet(bytes32 roundId, uint8 attempt, Round round, Course course, uint256 f)
        private
        view
        returns (uint32)
    {
        Clock memory clock = _clock(roundId, round, course);
        if (attempt == 0) {
            if (clock.phase != Phase.REVEAL && clock.phase != Phase.HAVE && clock.phase != Phase.VOTE) {
                _wrongPhase(roundId, clock);
            }
            return round.committed();
        }
        if (clock.phase != Phase.VOTE || clock.attempt != attempt) _wrongPhase(roundId, clock);
        return _available(_haves[roundId][attempt], round.committed(), f);
    }

    function _checkResult(Study storage s, Round round, uint256 least, uint32 set, Result calldata result)
        private
        view
    {
        uint32 invalid = _invalid(result.codes);
        uint32 members = result.included;
        if (members & invalid != 0) revert IncludedAndInvalid(members & invalid);
        if (members | invalid != set) revert WrongSet(set, members | invalid);
        uint256 included = members.count();
        if (result.outcome != (included >= least ? OUTCOME_MODEL : OUTCOME_NONE)) {
            revert WrongOutcome(result.outcome, included, least);
        }
        if (result.outcome == OUTCOME_NONE) {
            if (result.modelRoot != s.model) revert ModelChanged(s.model, result.modelRoot);
        } else if (result.modelRoot == 0) {
            revert NoModel();
        }
        bytes32 commitRoot = round.committed() == 0 ? bytes32(0) : s.commitRoot;
        if (result.commitRoot != commitRoot) revert WrongCommitRoot(commitRoot, result.commitRoot);
    }

    /// @dev Members with a code. Codes above the last one are refused.
    function _invalid(uint128 codes) private pure returns (uint32 bits) {
        for (uint256 i; codes >> (4 * i) != 0; ++i) {
            uint8 code = uint8((codes >> (4 * i)) & 15);
            if (code > 8) revert BadCode(uint16(i), code);
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

    function _voteHash(bytes32 roundId, uint8 attempt, uint32 set, bytes32 resultHash) private pure returns (bytes32) {
        return keccak256(abi.encode(Statements.VOTE, roundId, attempt, set, resultHash));
    }

    /// @dev keccak256(abi.encode(COMMIT, roundId, member, updateRoot, datasetRoot, nextDatasetRoot)): the entry begins with
    /// the statement's last four fields.
    function _commitHash(bytes32 roundId, CommitEntry calldata e) private pure returns (bytes32 structHash) {
        bytes32 typeHash = Statements.COMMIT;
        assembly ("memory-safe") {
            let at_ := mload(0x40) // beyond the free pointer, and given back
            mstore(at_, typeHash)
            mstore(add(at_, 32), roundId)
            calldatacopy(add(at_, 64), e, 128)
            structHash := keccak256(at_, COMMIT_ENTRY_BYTES)
        }
    }

    /// @dev What this block's timestamp makes of a round that nothing has ended; the table above, line by line.
    function _clock(bytes32 roundId, Round round, Course course) private view returns (Clock memory c) {
        uint256 sealTime = round.sealTime();
        if (block.timestamp <= sealTime && !round.full()) {
            c.phase = Phase.TRAINING;
            return c;
        }
        uint256 n = round.roster().count();
        uint256 f = Quorum.faults(n, course.f());
        if (round.committed().count() < _least(course, n, f)) {
            // A member that abstained may be able to the next time, which is not at once.
            bool waits = round.abstained() != 0 && block.timestamp <= round.openedAt() + course.window();
            (c.phase, c.failure) = waits ? (Phase.TRAINING, 0) : (Phase.FAILED, FAILED_QUORUM);
            return c;
        }
        uint256 tooOld;
        uint256 start;
        unchecked {
            tooOld = round.openedAt() + course.maxRoundAge(); // 40 and 32 bits
            start = sealTime + course.reveal(); // 41 and 32 bits
        }
        c.revealEnd = uint64(start);
        if (block.timestamp <= start) {
            c.phase = Phase.REVEAL;
            return block.timestamp > tooOld ? _failed(c, FAILED_AGE) : c;
        }
        for (uint8 a = 1; a <= LAST_ATTEMPT; ++a) {
            c.attempt = a;
            uint256 haveEnd = start + (course.have() << (a - 1));
            start = haveEnd + (course.vote() << (a - 1));
            (c.haveEnd, c.voteEnd) = (uint64(haveEnd), uint64(start));
            if (block.timestamp <= haveEnd) {
                c.phase = Phase.HAVE;
                return block.timestamp > tooOld ? _failed(c, FAILED_AGE) : c;
            }
            if (_posted(_haves[roundId][a]).count() < n - Quorum.slack(n, f)) {
                (c.voteEnd, start) = (c.haveEnd, haveEnd); // too few bitmaps: no vote window
            } else if (block.timestamp <= start) {
                c.phase = Phase.VOTE;
                return block.timestamp > tooOld ? _failed(c, FAILED_AGE) : c;
            }
        }
        return _failed(c, start < tooOld ? FAILED_ATTEMPTS : FAILED_AGE);
    }

    function _failed(Clock memory c, uint8 reason) private pure returns (Clock memory) {
        c.phase = Phase.FAILED;
        c.failure = reason;
        return c;
    }

    function _wrongPhase(bytes32 roundId, Clock memory c) private pure {
        revert WrongPhase(roundId, c.phase, c.attempt);
    }

    function _least(Course course, uint256 n, uint256 f) private pure returns (uint256 least) {
        least = course.minIncluded();
        if (least == 0) least = n - Quorum.slack(n, f);
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

    /// @dev Why a commitment or abstention does not count.
    function _contributorFault(Round round, uint32 waited, uint16 member) private pure returns (uint8) {
        if (waited.has(member)) return Skips.BAD_SIGNATURE;
        if (!round.roster().has(member)) return Skips.UNKNOWN_MEMBER;
        return round.suspended().has(member) ? Skips.WRONG_PHASE : Skips.DUPLICATE;
    }

    function _skip(bytes32 subject, uint16 member, uint8 reason) private {
        emit EntrySkipped(subject, member, reason);
    }

    function _haveFault(
        bytes32 roundId,
        uint8 attempt,
        Round round,
        bytes memory roster,
        uint32 posted,
        HaveEntry calldata e
    ) private view returns (uint8) {
        if (!round.roster().has(e.member)) return Skips.UNKNOWN_MEMBER;
        if (posted.has(e.member)) return Skips.DUPLICATE;
        if (e.bitmap & ~round.committed() != 0) return Skips.MALFORMED;
        bytes32 structHash = keccak256(abi.encode(Statements.HAVE, roundId, e.member, attempt, e.bitmap));
        return _signed(roster, e.member, _domainSeparatorV4(), structHash, e.r, e.vs) ? 0 : Skips.BAD_SIGNATURE;
    }

    function _signed(bytes memory roster, uint16 member, bytes32 domain, bytes32 structHash, bytes32 r, bytes32 vs)
        private
        view
        returns (bool)
    {
        return PackedSignatures.signedBy(
            RosterCode.ledgerAt(roster, member), PackedSignatures.typed(domain, structHash), r, vs
        );
    }

    /// @dev Bodies are the fields as EIP-712 encodes them, so keccak256(type, body) is the struct hash.
    function _checkContradiction(
        bytes32 roundId,
        uint8 kind,
        uint16 member,
        uint64 openedAt,
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

    /// @dev A result's place in its ancestry: names the one before it, and so all of them.
    function _lineage(bytes32 parent, uint32 height, bytes32 model, bytes32 resultHash) private pure returns (bytes32) {
        return keccak256(
            abi.encode(Tags.LINEAGE, parent, keccak256(abi.encode(Tags.LINK, height, model, resultHash)))
        );
    }

    function _baseResult(
        bytes32 study,
        bytes32 batch,
        uint32 parent,
        uint32 baseHeight,
        bytes32 baseModel,
        bytes32 origin
    ) private pure returns (bytes32) {
        return keccak256(abi.encode(Tags.BRANCH, study, batch, parent, baseHeight, baseModel, origin));
    }

    /// @dev The base result of a branch that was registered.
    function _baseOf(Study storage s, uint256 branch, bytes32 study, bytes32 batch, bytes32 baseModel, bytes32 origin)
        private
        view
        returns (bytes32)
    {
        (uint32 parent, uint32 height,) = _base(s, branch);
        return _baseResult(study, batch, parent, height, baseModel, origin);
    }

    function _plant(
        Study storage s,
        uint256 branch,
        uint256 parent,
        uint256 baseHeight,
        uint256 baseFinals,
        uint256 aim
    ) private {
        Tree tree = _tree(s, branch);
        s.trees[branch / Trees.BRANCHES] = tree.planted(branch, Trees.packed(parent, baseHeight, baseFinals), aim);
    }

    function _base(Study storage s, uint256 branch)
        private
        view
        returns (uint32 parent, uint32 height, uint32 finals)
    {
        return _tree(s, branch).base(branch);
    }

    function _tree(Study storage s, uint256 branch) private view returns (Tree) {
        return s.trees[branch / Trees.BRANCHES];
    }

    /// @dev The target is a closed height of the training branch, at or above the checkpoint.
    function _checkTarget(Study storage s, uint256 branch, Round round, ForkTerms calldata t) private view {
        (, uint32 first,) = _base(s, branch);
        if (first < t.baseHeight) first = t.baseHeight;
        uint32 last = round.isOpen() ? round.height() - 1 : round.height();
        if (t.targetHeight < first || t.targetHeight > last) revert BadTarget(t.targetHeight, first, last);
    }

    /// @dev Reverts unless `t.baseModel` is what `t.parentBranch` recorded at `t.baseHeight`, or begins with there, and the
    /// head descends from it: the checkpoint's lineage leads by the results after it, and by the branches that were made
    /// from them, to the newest lineage of `branch`, which trains.
    /// @return lineage The checkpoint's place in its ancestry.
    function _checkBase(Study storage s, uint256 branch, ForkTerms calldata t, BaseProof calldata proof)
        private
        view
        returns (bytes32 lineage)
    {
        uint256 steps = proof.forks.length;
        uint256[] memory path = new uint256[](steps); // the branches from the parent's child up to the head's
        while (branch != t.parentBranch) {
            if (branch == 0 || steps == 0) revert NotOnAncestry(t.parentBranch, t.baseHeight);
            path[--steps] = branch;
            (uint32 parent, uint32 height,) = _base(s, branch);
            if (height < t.baseHeight) revert NotOnAncestry(t.parentBranch, t.baseHeight);
            branch = parent;
        }
        if (steps != 0) revert NotOnAncestry(t.parentBranch, t.baseHeight);
        (, uint32 begins,) = _base(s, branch);
        if (t.baseHeight != begins) {
            lineage = _lineage(proof.parent, t.baseHeight, t.baseModel, proof.named);
        } else if (branch != 0) {
            lineage = _baseOf(s, branch, t.study, proof.named, t.baseModel, proof.parent);
        } else if (t.baseModel != s.initialModel) {
            revert WrongCheckpoint(s.initialModel, t.baseModel);
        }
        bytes32 reached = _followed(lineage, proof.links);
        for (; steps < path.length; ++steps) {
            ForkProof calldata made = proof.forks[steps];
            reached = _followed(
                _baseOf(s, path[steps], t.study, made.batch, made.baseModel, reached), made.links
            );
        }
        if (reached != s.lineage) revert WrongCheckpoint(s.lineage, reached);
    }

    /// @dev The lineage after further results.
    function _followed(bytes32 lineage, bytes32[] calldata links) private pure returns (bytes32) {
        for (uint256 i; i < links.length; ++i) {
            lineage = keccak256(abi.encode(Tags.LINEAGE, lineage, links[i]));
        }
        return lineage;
    }

    /// @dev Rounds with a model on the ancestry of a closed height, that height included.
    function _finalsAt(Study storage s, uint256 branch, uint32 height) private view returns (uint32) {
        (, uint32 from, uint32 finals) = _base(s, branch);
        return uint32(finals + (height - from) - _voidsBetween(s, branch, from, height));
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

    /// @dev A height without a model. A replay is given up with the last of too many in a row.
    function _markVoid(Study storage s, bytes32 study, Course course, uint32 height) private {
        uint256 branch = course.branch();
        s.voids[branch << 32 | height >> 8] |= uint256(1) << (height & 255);
        if (course.fork() != REPLAYING) return;
        (, uint32 from,) = _base(s, branch);
        if (height - from < LAST_CHANCES) return;
        if (_voidsBetween(s, branch, height - LAST_CHANCES, height) == LAST_CHANCES) _giveUp(s, study, branch, s.model);
    }

    /// @dev Ends a replay that has not caught up with the model it has.
    function _giveUp(Study storage s, bytes32 study, uint256 branch, bytes32 model) private {
        if (s.caughtUp[branch] != 0) return;
        s.caughtUp[branch] = model;
        emit ReplayGivenUp(study, uint32(branch), model);
    }

    // ---------------------------------------------------------------------------------------------- plumbing

    function _checkTerms(StudyTerms calldata t, uint32 active) private pure {
        uint32 strangers = t.invited & ~active;
        if (strangers != 0 || t.invited.count() < 2) revert BadTerms("invited", t.invited);
        if (t.specHash == 0) revert BadTerms("specHash", 0);
        if (t.initialModel == 0) revert BadTerms("initialModel", 0);
        if (t.rounds == 0 || t.rounds > Rounds.LAST_HEIGHT) revert BadTerms("rounds", t.rounds);
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

    function _study(bytes32 study) private view returns (Study storage s) {
        s = _studies[study];
        if (Course.unwrap(s.course) == 0) revert StudyUnknown(study);
    }

    /// @dev Zero: no round is open.
    function _openId(Study storage s) private view returns (bytes32) {
        return s.round.isOpen() ? s.openRound : bytes32(0);
    }

    function _open(bytes32 study, bytes32 roundId) private view returns (Study storage s) {
        s = _studies[study];
        bytes32 open = _openId(s);
        if (open != roundId || open == 0) revert RoundNotOpen(study, roundId, open);
    }

    /// @dev Reads no terms: the window is in the round's own word.
    function _inTraining(bytes32 study, bytes32 roundId) private view returns (Study storage s, Round round) {
        s = _open(study, roundId);
        round = s.round;
        if (block.timestamp > round.sealTime() || round.full()) {
            _wrongPhase(roundId, _clock(roundId, round, s.course));
        }
    }

    function _members() private view returns (Members memory m) {
        (m.pointer, m.epoch, m.active, m.accumulator) = MEMBERSHIP.roundSnapshot();
    }

    /// @dev The keys that decide a round opened at `openedAt`.
    function _roster(uint256 openedAt) private view returns (bytes memory) {
        return RosterCode.load(MEMBERSHIP.rosterAt(uint64(openedAt)));
    }

    function _checkSigner(address pointer, uint16 member, bytes32 structHash, bytes32 r, bytes32 vs) private view {
        address ledger = RosterCode.ledgerAt(RosterCode.load(pointer), member);
        PackedSignatures.check(member, ledger, _hashTypedDataV4(structHash), r, vs);
    }

    function _pair(bytes32 left, bytes32 right) private pure returns (bytes32 hash) {
        assembly ("memory-safe") {
            mstore(0, left)
            mstore(32, right)
            hash := keccak256(0, 64)
        }
    }

    function _onlyUnlearning() private view {
        if (msg.sender != UNLEARNING) revert OnlyUnlearning(msg.sender);
    }
}
