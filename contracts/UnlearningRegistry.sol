// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {IMembership} from "./interfaces/IMembership.sol";
import {ITrainingLedger} from "./interfaces/ITrainingLedger.sol";
import {IUnlearningRegistry} from "./interfaces/IUnlearningRegistry.sol";
import {Accumulator} from "./libraries/Accumulator.sol";
import {Bitmaps} from "./libraries/Bitmaps.sol";
import {MerkleMap} from "./libraries/MerkleMap.sol";
import {PackedSignatures} from "./libraries/PackedSignatures.sol";
import {Quorum} from "./libraries/Quorum.sol";
import {RosterCode} from "./libraries/RosterCode.sol";
import {Skips} from "./libraries/Skips.sol";
import {Statements} from "./libraries/Statements.sol";
import {Tags} from "./libraries/Tags.sol";

/// @title UnlearningRegistry
/// @notice The manual is in interfaces/IUnlearningRegistry.sol.
contract UnlearningRegistry is IUnlearningRegistry, Accumulator, EIP712 {
    using Bitmaps for uint32;

    uint8 private constant STEP_EXCLUDED = 1;
    uint8 private constant STEP_COPY_DELETED = 2;
    uint8 private constant STEP_DELIVERED = 3;
    uint8 private constant STEP_LINK_DESTROYED = 4;
    uint8 private constant STEP_CLOSED = 5;

    /// @dev Only what a later call checks. Its events say the rest, and when.
    struct Batch {
        bytes32 study;
        // One slot
        uint16 controller;
        State state;
        bool replays;
        uint16 branch;
        uint32 targetFinals;
        uint40 openedAt;
        uint40 excludedAt;
        uint40 plannedAt;
        uint40 dueAt;
        // One slot, from the plan on
        uint32 planRoster;
        uint32 purgedPair;
        uint32 purgedAll;
        uint32 confirmers;
        uint32 deniers;
        bytes32 planModel; // the plan's checkpoint, kept only when nothing is replayed
    }

    IMembership private immutable MEMBERSHIP;
    ITrainingLedger private immutable TRAINING;

    mapping(bytes32 batch => Batch) private _batches;
    /// @dev The batch planned last; active until it is confirmed. Never cleared: the next plan overwrites it.
    mapping(bytes32 study => bytes32 batch) private _lastPlan;

    constructor(IMembership membership) EIP712("koinon", "1") {
        if (membership.unlearning() != address(this)) revert MisplacedContract(membership.unlearning(), address(this));
        MEMBERSHIP = membership;
        TRAINING = ITrainingLedger(membership.training());
    }

    /// @inheritdoc IUnlearningRegistry
    function openErasure(OpenTerms calldata t, bytes32 r, bytes32 vs) external returns (bytes32 batch) {
        if (t.requestsRoot == 0) revert Missing("requestsRoot");
        if (t.dueAt == 0) revert Missing("dueAt");
        bytes32 structHash = keccak256(abi.encode(Statements.OPEN_ERASURE, t));
        batch = _batchOf(structHash);
        if (_batches[batch].state != State.NONE) revert BatchKnown(batch);
        TRAINING.openRound(t.study); // reverts when there is no such study
        (address pointer,, uint32 active,) = MEMBERSHIP.snapshot();
        bytes memory roster = RosterCode.load(pointer);
        if (!active.has(t.poster)) revert NotActive(t.poster);
        // A removed hospital still controls what it granted.
        if (RosterCode.ledgerAt(roster, t.controller) == address(0)) revert NotActive(t.controller);
        PackedSignatures.check(t.poster, RosterCode.ledgerAt(roster, t.poster), _hashTypedDataV4(structHash), r, vs);
        Batch storage b = _batches[batch];
        b.study = t.study;
        b.controller = t.controller;
        b.state = t.poster == t.controller ? State.AUTHORISED : State.REQUESTED;
        b.openedAt = _now();
        b.dueAt = t.dueAt > type(uint40).max ? type(uint40).max : uint40(t.dueAt);
        emit ErasureOpened(batch, t.study, t.controller, t.poster, t.requestsRoot, t.dueAt, _now());
        _record(
            keccak256(
                abi.encode(
                    Tags.RECORD_ERASURE_OPENED,
                    batch,
                    t.study,
                    t.controller,
                    t.poster,
                    t.requestsRoot,
                    t.dueAt,
                    _now()
                )
            )
        );
    }

    /// @inheritdoc IUnlearningRegistry
    function authorise(bytes32 batch, uint16 member, bytes32 r, bytes32 vs) external {
        Batch storage b = _batch(batch);
        if (b.state != State.REQUESTED) revert WrongState(batch, b.state);
        _checkController(b, member, keccak256(abi.encode(Statements.AUTHORISE, batch, member)), r, vs);
        b.state = State.AUTHORISED;
        emit ErasureAuthorised(batch);
        _record(keccak256(abi.encode(Tags.RECORD_ERASURE_AUTHORISED, batch)));
    }

    /// @inheritdoc IUnlearningRegistry
    function refuse(bytes32 batch, uint16 member, uint8 ground, bytes32 r, bytes32 vs) external {
        Batch storage b = _batch(batch);
        if (b.state != State.REQUESTED && b.state != State.AUTHORISED) revert WrongState(batch, b.state);
        if (ground == 0) revert Missing("ground");
        _checkController(b, member, keccak256(abi.encode(Statements.REFUSE, batch, member, ground)), r, vs);
        b.state = State.REFUSED;
        emit ErasureRefused(batch, ground);
        _record(keccak256(abi.encode(Tags.RECORD_ERASURE_REFUSED, batch, ground)));
    }

    /// @inheritdoc IUnlearningRegistry
    function step(bytes32 batch, uint16 member, StepEntry[] calldata entries) external {
        Batch storage b = _batch(batch);
        if (member != b.controller) revert NotController(b.controller, member);
        address ledger = MEMBERSHIP.ledgerOf(member);
        for (uint256 i; i < entries.length; ++i) {
            StepEntry calldata e = entries[i];
            (uint8 next, State state) = _nextStep(batch, b.state);
            if (e.number != next) revert WrongStep(next, e.number);
            bytes32 structHash =
                keccak256(abi.encode(Statements.ERASURE_STEP, batch, member, e.number, e.evidence));
            PackedSignatures.check(member, ledger, _hashTypedDataV4(structHash), e.r, e.vs);
            emit ErasureStepped(batch, e.number, e.evidence);
            _record(keccak256(abi.encode(Tags.RECORD_ERASURE_STEPPED, batch, e.number, e.evidence)));
            if (state == State.CLOSED) {
                _close(batch, b);
            } else {
                b.state = state;
                if (state == State.EXCLUDED) b.excludedAt = _now();
            }
        }
    }

    /// @inheritdoc IUnlearningRegistry
    function plan(
        PlanTerms calldata t,
        ITrainingLedger.BaseProof calldata proof,
        uint32 signers,
        bytes calldata signatures
    ) external {
        Batch storage b = _batch(t.batch);
        if (b.state != State.COPY_DELETED) revert WrongState(t.batch, b.state);
        (uint32 roster, uint8 wished,, uint32 window, uint64 roundOpenedAt) = TRAINING.erasureTerms(b.study);
        uint256 until = uint256(b.openedAt) + window;
        if (block.timestamp <= until) revert TooEarly(until, block.timestamp);
        if (roundOpenedAt != 0 && roundOpenedAt <= b.excludedAt) {
            revert RoundInFlight(roundOpenedAt, b.excludedAt);
        }
        // The beacon of a replay must be its own; the root branch's seed is zero.
        if (t.branchSeed == 0 && t.targetHeight != t.baseHeight) revert Missing("branchSeed");
        bytes32 active = activePlan(b.study);
        if (active != 0) revert PlanActive(b.study, active);
        {
            uint256 n = roster.count();
            PackedSignatures.checkQuorum(
                RosterCode.load(MEMBERSHIP.rosterCode()),
                roster,
                signers,
                signatures,
                _hashTypedDataV4(keccak256(abi.encode(Statements.PLAN, t))),
                Quorum.needed(n, Quorum.faults(n, wished))
            );
        }
        (uint32 branch, uint32 targetFinals) = TRAINING.fork(
            ITrainingLedger.ForkTerms({
                study: b.study,
                batch: t.batch,
                parentBranch: t.parentBranch,
                baseHeight: t.baseHeight,
                baseModel: t.baseModel,
                branchSeed: t.branchSeed,
                targetHeight: t.targetHeight,
                dueAt: b.dueAt
            }),
            proof
        );
        b.replays = t.targetHeight != t.baseHeight;
        if (!b.replays) b.planModel = t.baseModel;
        b.branch = uint16(branch);
        b.targetFinals = targetFinals;
        b.planRoster = roster;
        b.state = State.PLANNED;
        b.plannedAt = _now();
        _lastPlan[b.study] = t.batch;
        emit ErasurePlanned(
            t.batch,
            b.study,
            branch,
            t.parentBranch,
            t.baseHeight,
            t.baseModel,
            t.branchSeed,
            t.targetHeight
        );
        _record(
            keccak256(
                abi.encode(
                    Tags.RECORD_ERASURE_PLANNED,
                    t.batch,
                    b.study,
                    branch,
                    t.parentBranch,
                    t.baseHeight,
                    t.baseModel,
                    t.branchSeed,
                    t.targetHeight
                )
            )
        );
    }

    /// @inheritdoc IUnlearningRegistry
    function attestPurge(bytes32 batch, PurgeEntry[] calldata entries) external {
        Batch storage b = _batch(batch);
        if (b.state < State.PLANNED || b.state == State.REFUSED) revert WrongState(batch, b.state);
        _attest(batch, b, entries);
    }

    /// @inheritdoc IUnlearningRegistry
    function openReplay(bytes32 batch, PurgeEntry[] calldata entries) external {
        Batch storage b = _batch(batch);
        if (b.state != State.PLANNED || !b.replays) revert WrongState(batch, b.state);
        if (entries.length != 0) _attest(batch, b, entries);
        (uint32 roster, uint8 wished, uint32 purgeSeconds,,) = TRAINING.erasureTerms(b.study);
        uint32 attested = b.purgedPair & roster;
        if (attested != roster) {
            uint256 n = roster.count();
            uint256 least = n - Quorum.slack(n, Quorum.faults(n, wished));
            uint256 until = uint256(b.plannedAt) + purgeSeconds;
            if (block.timestamp <= until || attested.count() < least) {
                revert PurgeMissing(attested, roster, least, until);
            }
        }
        b.state = State.REPLAYING;
        emit ReplayOpened(batch, b.branch);
        _record(keccak256(abi.encode(Tags.RECORD_REPLAY_OPENED, batch, uint32(b.branch))));
        TRAINING.openReplay(b.study);
    }

    /// @inheritdoc IUnlearningRegistry
    function verdicts(bytes32 batch, VerdictEntry[] calldata entries) external {
        Batch storage b = _batch(batch);
        bool ready = b.state == State.REPLAYING || (b.state == State.PLANNED && !b.replays)
            || (b.state >= State.CONFIRMED && b.state != State.REFUSED);
        if (!ready) revert WrongState(batch, b.state);
        bytes32 model = _subjectOfVerdicts(b);
        (uint32 roster, uint8 wished,,,) = TRAINING.erasureTerms(b.study);
        uint32 others = roster;
        if (roster.has(b.controller)) others &= ~Bitmaps.single(b.controller);
        bytes memory addresses = RosterCode.load(MEMBERSHIP.rosterCode());
        for (uint256 i; i < entries.length; ++i) {
            VerdictEntry calldata e = entries[i];
            uint8 reason = _verdictFault(batch, b, others, addresses, model, e);
            if (reason != 0) {
                emit EntrySkipped(batch, e.member, reason);
                continue;
            }
            if (e.confirmed) b.confirmers |= Bitmaps.single(e.member);
            else b.deniers |= Bitmaps.single(e.member);
            emit VerdictGiven(batch, e.member, e.branch, e.headModel, e.confirmed);
            _record(
                keccak256(
                    abi.encode(Tags.RECORD_VERDICT_GIVEN, batch, e.member, e.branch, e.headModel, e.confirmed)
                )
            );
        }
        uint256 n = roster.count();
        uint256 least = Quorum.verdicts(n, others.count(), Quorum.faults(n, wished));
        if (b.state < State.CONFIRMED && (b.confirmers & others).count() >= least) _confirm(batch, b, model);
    }

    /// @inheritdoc IUnlearningRegistry
    function stateOf(bytes32 batch) external view returns (BatchView memory) {
        Batch storage b = _batch(batch);
        return BatchView({
            study: b.study,
            controller: b.controller,
            dueAt: b.dueAt,
            state: b.state,
            replays: b.replays,
            branch: b.branch,
            targetFinals: b.targetFinals,
            openedAt: b.openedAt,
            excludedAt: b.excludedAt,
            plannedAt: b.plannedAt,
            purgedPair: b.purgedPair,
            purgedAll: b.purgedAll,
            confirmers: b.confirmers,
            deniers: b.deniers
        });
    }

    /// @inheritdoc IUnlearningRegistry
    function activePlan(bytes32 study) public view returns (bytes32 batch) {
        batch = _lastPlan[study];
        if (_batches[batch].state >= State.CONFIRMED) return 0;
    }

    /// @inheritdoc IUnlearningRegistry
    function holdsRequest(
        OpenTerms calldata t,
        bytes32 requestId,
        uint256 count,
        uint256 index,
        bytes32[] calldata path
    ) external view returns (bool) {
        _batch(_batchOf(keccak256(abi.encode(Statements.OPEN_ERASURE, t))));
        return MerkleMap.includes(t.requestsRoot, count, MerkleMap.Leaf(index, requestId, bytes32(0), path));
    }

    /// @inheritdoc IUnlearningRegistry
    function accumulator() external view returns (bytes32) {
        return _accumulated();
    }

    function _confirm(bytes32 batch, Batch storage b, bytes32 model) private {
        b.state = State.CONFIRMED;
        emit ErasureConfirmed(batch, b.branch, model);
        _record(keccak256(abi.encode(Tags.RECORD_ERASURE_CONFIRMED, batch, b.branch, model)));
        emit HeadMoved(batch, b.study, b.branch);
        _record(keccak256(abi.encode(Tags.RECORD_HEAD_MOVED, batch, b.study, b.branch)));
        if (b.replays) TRAINING.headMoved(b.study);
    }

    function _close(bytes32 batch, Batch storage b) private {
        uint32 exceptions;
        if (b.replays) {
            (uint32 roster,,,,) = TRAINING.erasureTerms(b.study);
            exceptions = (b.planRoster | roster) & ~b.purgedAll;
        }
        b.state = exceptions == 0 ? State.CLOSED : State.CLOSED_WITH_EXCEPTIONS;
        emit ErasureClosed(batch, exceptions);
        _record(keccak256(abi.encode(Tags.RECORD_ERASURE_CLOSED, batch, exceptions)));
    }

    /// @dev The model that verdicts are about: where the replay caught up, or the plan's checkpoint.
    function _subjectOfVerdicts(Batch storage b) private view returns (bytes32 model) {
        if (!b.replays) return b.planModel;
        model = TRAINING.caughtUp(b.study, b.branch);
        if (model == 0) revert NotCaughtUp(b.branch, b.targetFinals);
    }

    function _attest(bytes32 batch, Batch storage b, PurgeEntry[] calldata entries) private {
        bytes memory roster = RosterCode.load(MEMBERSHIP.rosterCode());
        for (uint256 i; i < entries.length; ++i) {
            PurgeEntry calldata e = entries[i];
            uint8 reason = _purgeFault(batch, b, roster, e);
            if (reason != 0) {
                emit EntrySkipped(batch, e.member, reason);
                continue;
            }
            if (e.stage == 0) b.purgedPair |= Bitmaps.single(e.member);
            else b.purgedAll |= Bitmaps.single(e.member);
            emit PurgeAttested(batch, e.member, e.stage, e.inventory);
            _record(keccak256(abi.encode(Tags.RECORD_PURGE_ATTESTED, batch, e.member, e.stage, e.inventory)));
        }
    }

    /// @dev The step that is due, and the state it leads to.
    function _nextStep(bytes32 batch, State state) private pure returns (uint8, State) {
        if (state == State.AUTHORISED) return (STEP_EXCLUDED, State.EXCLUDED);
        if (state == State.EXCLUDED) return (STEP_COPY_DELETED, State.COPY_DELETED);
        if (state == State.CONFIRMED) return (STEP_DELIVERED, State.CERTIFICATE_DELIVERED);
        if (state == State.CERTIFICATE_DELIVERED) return (STEP_LINK_DESTROYED, State.LINK_DESTROYED);
        if (state == State.LINK_DESTROYED) return (STEP_CLOSED, State.CLOSED);
        revert WrongState(batch, state);
    }

    function _purgeFault(bytes32 batch, Batch storage b, bytes memory roster, PurgeEntry calldata e)
        private
        view
        returns (uint8)
    {
        if (e.stage > 1) return Skips.MALFORMED;
        if (e.stage == 0 && !b.replays) return Skips.WRONG_PHASE;
        address ledger = RosterCode.ledgerAt(roster, e.member);
        if (ledger == address(0)) return Skips.UNKNOWN_MEMBER; // a member that left may hold copies, and may attest
        if ((e.stage == 0 ? b.purgedPair : b.purgedAll).has(e.member)) return Skips.DUPLICATE;
        bytes32 structHash = keccak256(abi.encode(Statements.PURGED, batch, e.member, e.stage, e.inventory));
        return PackedSignatures.signedBy(ledger, _hashTypedDataV4(structHash), e.r, e.vs) ? 0 : Skips.BAD_SIGNATURE;
    }

    function _verdictFault(
        bytes32 batch,
        Batch storage b,
        uint32 others,
        bytes memory roster,
        bytes32 model,
        VerdictEntry calldata e
    ) private view returns (uint8) {
        if (!others.has(e.member)) return Skips.UNKNOWN_MEMBER;
        if ((b.confirmers | b.deniers).has(e.member)) return Skips.DUPLICATE;
        if (e.branch != b.branch || e.headModel != model) return Skips.MALFORMED;
        bytes32 structHash =
            keccak256(abi.encode(Statements.VERDICT, batch, e.member, e.branch, e.headModel, e.confirmed));
        address ledger = RosterCode.ledgerAt(roster, e.member);
        return PackedSignatures.signedBy(ledger, _hashTypedDataV4(structHash), e.r, e.vs) ? 0 : Skips.BAD_SIGNATURE;
    }

    function _batchOf(bytes32 structHash) private pure returns (bytes32) {
        return keccak256(abi.encode(Tags.BATCH, structHash));
    }

    function _batch(bytes32 batch) private view returns (Batch storage b) {
        b = _batches[batch];
        if (b.state == State.NONE) revert BatchUnknown(batch);
    }

    function _checkController(Batch storage b, uint16 member, bytes32 structHash, bytes32 r, bytes32 vs) private view {
        if (member != b.controller) revert NotController(b.controller, member);
        PackedSignatures.check(member, MEMBERSHIP.ledgerOf(member), _hashTypedDataV4(structHash), r, vs);
    }

    function _now() private view returns (uint40) {
        return uint40(block.timestamp);
    }
}
