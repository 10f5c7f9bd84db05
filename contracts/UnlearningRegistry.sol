// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {IMembership} from "./interfaces/IMembership.sol";
import {ITrainingLedger} from "./interfaces/ITrainingLedger.sol";
import {IUnlearningRegistry} from "./interfaces/IUnlearningRegistry.sol";
import {Accumulator} from "./libraries/Accumulator.sol";
import {Batch, Batches} from "./libraries/Batches.sol";
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
    /// @dev Stage 0 is said among members, before they get a key of the replay, and not on the chain.
    uint8 private constant FINAL_STAGE = 1;
    /// @dev The month of Art. 12(3) GDPR, and what it may be extended by: two months.
    uint256 private constant LONGEST_MONTH = 31 days;
    uint256 private constant LONGEST_EXTENSION = 61 days;
    uint8 private constant LEVEL_LOCAL_REPLAY = 3;
    uint8 private constant LEVEL_ATTACK_AUDIT = 4;

    IMembership private immutable MEMBERSHIP;
    ITrainingLedger private immutable TRAINING;

    mapping(bytes32 batch => Batch) private _batches;
    mapping(bytes32 batch => bytes32) private _planModel; // the plan's checkpoint, kept only when nothing is replayed
    mapping(bytes32 batch => uint64) private _extended; // the later due date
    mapping(bytes32 batch => mapping(uint8 level => mapping(uint16 seat => bool))) private _attested;

    constructor(IMembership membership) EIP712("koinon", "1") {
        if (membership.unlearning() != address(this)) revert MisplacedContract(membership.unlearning(), address(this));
        MEMBERSHIP = membership;
        TRAINING = ITrainingLedger(membership.training());
    }

    /// @inheritdoc IUnlearningRegistry
    function openErasure(OpenTerms calldata t, bytes32 r, bytes32 vs, Steps calldata steps)
        external
        returns (bytes32 batch)
    {
        if (t.requestsRoot == 0) revert Missing("requestsRoot");
        if (t.dueAt == 0) revert Missing("dueAt");
        if (t.dueAt > block.timestamp + LONGEST_MONTH) revert DueTooLate(t.dueAt, block.timestamp + LONGEST_MONTH);
        bytes32 structHash = keccak256(abi.encode(Statements.OPEN_ERASURE, t));
        batch = _batchOf(structHash);
        if (Batch.unwrap(_batches[batch]) != 0) revert BatchKnown(batch);
        TRAINING.checkStudy(t.study);
        bytes memory roster = RosterCode.load(MEMBERSHIP.rosterCode());
        if (!MEMBERSHIP.activeMembers().has(t.poster)) revert NotActive(t.poster);
        // A removed hospital still controls what it granted.
        if (RosterCode.ledgerAt(roster, t.controller) == address(0)) revert NotActive(t.controller);
        address ledger = RosterCode.ledgerAt(roster, t.poster);
        PackedSignatures.check(t.poster, ledger, _hashTypedDataV4(structHash), r, vs);
        bool own = t.poster == t.controller;
        Batch b = Batches.opened(uint256(own ? State.AUTHORISED : State.REQUESTED));
        emit ErasureOpened(batch, t.study, t.controller, t.poster, t.requestsRoot, t.dueAt, uint64(block.timestamp));
        bytes32 acc = _rolled(
            _accumulated(),
            keccak256(
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
            )
        );
        if (steps.evidence.length != 0) {
            if (!own) revert NotController(t.controller, t.poster);
            (b, acc) = _step(batch, t, b, steps, ledger, acc);
        }
        _batches[batch] = b;
        _store(acc);
    }

    /// @inheritdoc IUnlearningRegistry
    function authorise(OpenTerms calldata t, uint16 member, bytes32 r, bytes32 vs) external {
        (bytes32 batch, Batch b) = _known(t);
        if (_state(b) != State.REQUESTED) revert WrongState(batch, _state(b));
        _checkController(t, member, keccak256(abi.encode(Statements.AUTHORISE, batch, member)), r, vs);
        _batches[batch] = _in(b, State.AUTHORISED);
        emit ErasureAuthorised(batch);
        _record(keccak256(abi.encode(Tags.RECORD_ERASURE_AUTHORISED, batch)));
    }

    /// @inheritdoc IUnlearningRegistry
    function refuse(OpenTerms calldata t, uint16 member, uint8 ground, bytes32 r, bytes32 vs) external {
        (bytes32 batch, Batch b) = _known(t);
        if (_state(b) != State.REQUESTED && _state(b) != State.AUTHORISED) revert WrongState(batch, _state(b));
        if (ground == 0) revert Missing("ground");
        _checkController(t, member, keccak256(abi.encode(Statements.REFUSE, batch, member, ground)), r, vs);
        _batches[batch] = _in(b, State.REFUSED);
        emit ErasureRefused(batch, ground);
        _record(keccak256(abi.encode(Tags.RECORD_ERASURE_REFUSED, batch, ground)));
    }

    /// @inheritdoc IUnlearningRegistry
    function extend(OpenTerms calldata t, uint16 member, uint64 dueAt, bytes32 r, bytes32 vs) external {
        (bytes32 batch, Batch b) = _known(t);
        if (_state(b) >= State.CLOSED) revert WrongState(batch, _state(b));
        if (_extended[batch] != 0) revert AlreadyExtended(batch, _extended[batch]);
        if (block.timestamp > t.dueAt) revert ExtensionTooLate(t.dueAt, block.timestamp);
        uint256 last = uint256(t.dueAt) + LONGEST_EXTENSION;
        if (dueAt <= t.dueAt || dueAt > last) revert ExtensionOutOfBounds(dueAt, uint256(t.dueAt) + 1, last);
        _checkController(t, member, keccak256(abi.encode(Statements.EXTEND, batch, member, dueAt)), r, vs);
        _extended[batch] = dueAt;
        emit ErasureExtended(batch, dueAt);
        _record(keccak256(abi.encode(Tags.RECORD_ERASURE_EXTENDED, batch, dueAt)));
    }

    /// @inheritdoc IUnlearningRegistry
    function step(OpenTerms calldata t, uint16 member, Steps calldata steps) external {
        (bytes32 batch, Batch b) = _known(t);
        if (member != t.controller) revert NotController(t.controller, member);
        if (steps.evidence.length == 0) revert Missing("evidence");
        bytes32 acc;
        (b, acc) = _step(batch, t, b, steps, MEMBERSHIP.ledgerOf(member), _accumulated());
        _batches[batch] = b;
        _store(acc);
    }

    /// @inheritdoc IUnlearningRegistry
    function plan(
        OpenTerms calldata t,
        PlanTerms calldata p,
        ITrainingLedger.BaseProof calldata proof,
        uint32 signers,
        bytes calldata signatures
    ) external {
        (bytes32 batch, Batch b) = _known(t);
        // A hospital that is no member any more has no say in whether its patients' influence goes.
        bool alone = _state(b) < State.COPY_DELETED && !MEMBERSHIP.activeMembers().has(t.controller);
        if (_state(b) != State.COPY_DELETED && !alone) revert WrongState(batch, _state(b));
        uint32 roster = _checkPlan(batch, t, b, p, signers, signatures);
        uint32 branch = TRAINING.fork(
            ITrainingLedger.ForkTerms({
                study: t.study,
                batch: batch,
                parentBranch: p.parentBranch,
                baseHeight: p.baseHeight,
                baseModel: p.baseModel,
                branchSeed: p.branchSeed,
                targetHeight: p.targetHeight,
                rounds: p.rounds,
                dueAt: t.dueAt
            }),
            proof
        );
        bool replays = p.targetHeight != p.baseHeight;
        if (!replays) _planModel[batch] = p.baseModel;
        _batches[batch] = _in(b, State.PLANNED).stamped().planned(replays, alone, branch, roster);
        emit ErasurePlanned(
            batch,
            t.study,
            branch,
            p.parentBranch,
            p.baseHeight,
            p.baseModel,
            p.branchSeed,
            p.targetHeight,
            p.method,
            p.rounds
        );
        _record(keccak256(abi.encode(Tags.RECORD_ERASURE_PLANNED, batch, t.study, branch, p)));
    }

    /// @inheritdoc IUnlearningRegistry
    function attestPurge(OpenTerms calldata t, Purges calldata purges) external {
        (bytes32 batch, Batch b) = _known(t);
        if (_state(b) < State.PLANNED || _state(b) == State.REFUSED) revert WrongState(batch, _state(b));
        bytes32 acc;
        (b, acc) = _attest(batch, b, purges, _addresses(b), _accumulated());
        _batches[batch] = b;
        _store(acc);
    }

    /// @inheritdoc IUnlearningRegistry
    function verdicts(OpenTerms calldata t, Verdicts calldata given, Purges calldata purges) external {
        (bytes32 batch, Batch b) = _known(t);
        if (_state(b) < State.PLANNED || _state(b) == State.REFUSED) revert WrongState(batch, _state(b));
        bytes32 model = b.replays() ? TRAINING.caughtUp(t.study, b.branch()) : _planModel[batch];
        if (model == 0) revert NotCaughtUp(b.branch());
        (uint32 roster, uint8 wished) = TRAINING.voters(t.study);
        uint32 others = roster;
        if (roster.has(t.controller)) others &= ~Bitmaps.single(t.controller);
        bytes memory addresses = _addresses(b);
        bytes32 acc = _accumulated();
        (b, acc) = _judge(batch, b, given, others, model, addresses, acc);
        if (purges.members != 0) (b, acc) = _attest(batch, b, purges, addresses, acc);
        uint256 n = roster.count();
        uint256 least = Quorum.verdicts(n, others.count(), Quorum.faults(n, wished));
        bool confirmed = _state(b) < State.CONFIRMED && (b.confirmers() & others).count() >= least;
        if (confirmed) {
            b = _in(b, State.CONFIRMED);
            emit ErasureConfirmed(batch, b.branch(), model);
            acc = _rolled(acc, keccak256(abi.encode(Tags.RECORD_ERASURE_CONFIRMED, batch, b.branch(), model)));
            emit HeadMoved(batch, t.study, b.branch());
            acc = _rolled(acc, keccak256(abi.encode(Tags.RECORD_HEAD_MOVED, batch, t.study, b.branch())));
        }
        _batches[batch] = b;
        _store(acc);
        if (confirmed) TRAINING.headMoved(t.study);
    }

    /// @inheritdoc IUnlearningRegistry
    function attest(OpenTerms calldata t, uint8 level, uint16 seat, bytes32 evidence, bytes32 r, bytes32 vs) external {
        (bytes32 batch, Batch b) = _known(t);
        if (_state(b) < State.CONFIRMED || _state(b) == State.REFUSED) revert WrongState(batch, _state(b));
        // Where nothing was replayed there is no replay that anybody could have repeated.
        if (level != LEVEL_ATTACK_AUDIT && !(level == LEVEL_LOCAL_REPLAY && b.replays())) revert WrongLevel(level);
        if (evidence == 0) revert Missing("evidence");
        if (_attested[batch][level][seat]) revert AttestedBefore(batch, level, seat);
        address ledger = _auditorFor(t.study, seat);
        bytes32 structHash = keccak256(abi.encode(Statements.ATTEST, batch, level, seat, evidence));
        PackedSignatures.check(seat, ledger, _hashTypedDataV4(structHash), r, vs);
        _attested[batch][level][seat] = true;
        emit EvidenceAttested(batch, level, seat, evidence);
        _record(keccak256(abi.encode(Tags.RECORD_EVIDENCE_ATTESTED, batch, level, seat, evidence)));
    }

    /// @inheritdoc IUnlearningRegistry
    function stateOf(bytes32 batch) external view returns (BatchView memory) {
        Batch b = _stored(batch);
        return BatchView({
            state: _state(b),
            replays: b.replays(),
            branch: b.branch(),
            openedAt: b.openedAt(),
            at: b.at(),
            extendedTo: _extended[batch],
            planRoster: b.planRoster(),
            purged: b.purged(),
            confirmers: b.confirmers(),
            deniers: b.deniers()
        });
    }

    /// @inheritdoc IUnlearningRegistry
    function batchOf(OpenTerms calldata t) external pure returns (bytes32) {
        return _batchOf(keccak256(abi.encode(Statements.OPEN_ERASURE, t)));
    }

    /// @inheritdoc IUnlearningRegistry
    function holdsRequest(
        OpenTerms calldata t,
        bytes32 requestId,
        uint256 count,
        uint256 index,
        bytes32[] calldata path
    ) external view returns (bool) {
        _known(t);
        return MerkleMap.includes(t.requestsRoot, count, MerkleMap.Leaf(index, requestId, bytes32(0), path));
    }

    /// @inheritdoc IUnlearningRegistry
    function accumulator() external view returns (bytes32) {
        return _accumulated();
    }

    /// @dev The steps of one statement, of which each must be due.
    function _step(
        bytes32 batch,
        OpenTerms calldata t,
        Batch b,
        Steps calldata steps,
        address ledger,
        bytes32 acc
    ) private returns (Batch, bytes32) {
        State state = _state(b);
        if (b.alone()) revert WrongState(batch, state); // the copy first, and that is over
        for (uint256 i; i < steps.evidence.length; ++i) {
            uint8 due;
            (due, state) = _nextStep(batch, state);
            if (uint256(steps.first) + i != due) revert WrongStep(due, steps.first);
            if (state == State.EXCLUDED) b = b.stamped();
        }
        bytes32 evidence = keccak256(abi.encodePacked(steps.evidence));
        bytes32 structHash =
            keccak256(abi.encode(Statements.ERASURE_STEPS, batch, t.controller, steps.first, evidence));
        PackedSignatures.check(t.controller, ledger, _hashTypedDataV4(structHash), steps.r, steps.vs);
        emit ErasureStepped(batch, steps.first, steps.evidence);
        acc = _rolled(acc, keccak256(abi.encode(Tags.RECORD_ERASURE_STEPPED, batch, steps.first, evidence)));
        if (state == State.CLOSED) {
            uint32 exceptions;
            if (b.replays()) {
                (uint32 roster,) = TRAINING.voters(t.study);
                exceptions = (b.planRoster() | roster) & ~b.purged();
            }
            if (exceptions != 0) state = State.CLOSED_WITH_EXCEPTIONS;
            emit ErasureClosed(batch, exceptions);
            acc = _rolled(acc, keccak256(abi.encode(Tags.RECORD_ERASURE_CLOSED, batch, exceptions)));
        }
        return (_in(b, state), acc);
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

    /// @return roster Who votes, purges and confirms.
    function _checkPlan(
        bytes32 batch,
        OpenTerms calldata t,
        Batch b,
        PlanTerms calldata p,
        uint32 signers,
        bytes calldata signatures
    ) private view returns (uint32 roster) {
        (uint32 window, uint64 roundOpenedAt) = TRAINING.planTerms(t.study);
        uint256 until = uint256(b.openedAt()) + window;
        if (block.timestamp <= until) revert TooEarly(until, block.timestamp);
        if (roundOpenedAt != 0 && roundOpenedAt <= b.at()) revert RoundInFlight(roundOpenedAt, b.at());
        // The beacon of a replay must be its own; the root branch's seed is zero.
        if (p.branchSeed == 0 && p.targetHeight != p.baseHeight) revert Missing("branchSeed");
        uint8 wished;
        (roster, wished) = TRAINING.voters(t.study);
        uint256 n = roster.count();
        PackedSignatures.checkQuorum(
            _addresses(b),
            roster,
            signers,
            signatures,
            _hashTypedDataV4(keccak256(abi.encode(Statements.PLAN, batch, p))),
            Quorum.needed(n, Quorum.faults(n, wished))
        );
    }

    function _attest(bytes32 batch, Batch b, Purges calldata p, bytes memory addresses, bytes32 acc)
        private
        returns (Batch, bytes32)
    {
        uint256 n = p.members.count();
        if (p.inventories.length != n) revert InventoriesLength(p.inventories.length, n);
        PackedSignatures.checkLength(p.signatures, n);
        uint32 there = b.purged();
        bytes32[] memory inventories = new bytes32[](n);
        uint32 kept;
        {
            bytes32 domain = _domainSeparatorV4();
            uint256 k; // entries before this one
            n = 0; // entries kept
            for (uint16 i; p.members >> i != 0; ++i) {
                if (!p.members.has(i)) continue;
                bytes32 inventory = p.inventories[k];
                uint8 reason = _fault(
                    addresses,
                    there,
                    i,
                    PackedSignatures.typed(
                        domain, keccak256(abi.encode(Statements.PURGED, batch, i, FINAL_STAGE, inventory))
                    ),
                    p.signatures,
                    k++
                );
                if (reason != 0) {
                    emit EntrySkipped(batch, i, reason);
                    continue;
                }
                kept |= Bitmaps.single(i);
                inventories[n++] = inventory;
            }
        }
        if (kept == 0) return (b, acc);
        assembly ("memory-safe") {
            mstore(inventories, n) // those that were skipped lie behind the end
        }
        emit PurgesAttested(batch, kept, inventories);
        acc = _rolled(
            acc,
            keccak256(
                abi.encode(
                    Tags.RECORD_PURGES_ATTESTED, batch, kept, keccak256(abi.encodePacked(inventories))
                )
            )
        );
        return (b.withPurged(kept), acc);
    }

    function _judge(
        bytes32 batch,
        Batch b,
        Verdicts calldata given,
        uint32 others,
        bytes32 model,
        bytes memory addresses,
        bytes32 acc
    ) private returns (Batch, bytes32) {
        PackedSignatures.checkLength(given.signatures, given.members.count());
        uint32 there = b.confirmers() | b.deniers();
        uint32 kept;
        {
            bytes32 domain = _domainSeparatorV4();
            uint256 k; // entries before this one
            for (uint16 i; given.members >> i != 0; ++i) {
                if (!given.members.has(i)) continue;
                uint8 reason = _fault(
                    addresses,
                    there,
                    i,
                    PackedSignatures.typed(
                        domain,
                        keccak256(
                            abi.encode(Statements.VERDICT, batch, i, b.branch(), model, given.confirming.has(i))
                        )
                    ),
                    given.signatures,
                    k++
                );
                if (!others.has(i)) reason = Skips.UNKNOWN_MEMBER;
                if (reason != 0) emit EntrySkipped(batch, i, reason);
                else kept |= Bitmaps.single(i);
            }
        }
        if (kept == 0) return (b, acc);
        uint32 confirming = kept & given.confirming;
        emit VerdictsGiven(batch, b.branch(), model, kept, confirming);
        acc = _rolled(
            acc,
            keccak256(abi.encode(Tags.RECORD_VERDICTS_GIVEN, batch, b.branch(), model, kept, confirming))
        );
        return (b.withVerdicts(confirming, kept & ~confirming), acc);
    }

    /// @dev Why the `k`th entry, of member `i`, does not count; zero: it does. Of purges too, whose member may have left: it
    /// may hold copies.
    function _fault(
        bytes memory addresses,
        uint32 there,
        uint16 i,
        bytes32 digest,
        bytes calldata signatures,
        uint256 k
    ) private view returns (uint8) {
        address ledger = RosterCode.ledgerAt(addresses, i);
        if (ledger == address(0)) return Skips.UNKNOWN_MEMBER;
        if (there.has(i)) return Skips.DUPLICATE;
        (bytes32 r, bytes32 vs) = PackedSignatures.at(signatures, k);
        return PackedSignatures.signedBy(ledger, digest, r, vs) ? 0 : Skips.BAD_SIGNATURE;
    }

    /// @dev The keys of plans, purges and verdicts: those of the second in which the batch was opened.
    function _addresses(Batch b) private view returns (bytes memory) {
        return RosterCode.load(MEMBERSHIP.rosterAt(b.openedAt()));
    }

    function _batchOf(bytes32 structHash) private pure returns (bytes32) {
        return keccak256(abi.encode(Tags.BATCH, structHash));
    }

    /// @dev What a batch is about is what its id is the hash of: nobody needs to be believed, and no slot to be read.
    function _known(OpenTerms calldata t) private view returns (bytes32 batch, Batch b) {
        batch = _batchOf(keccak256(abi.encode(Statements.OPEN_ERASURE, t)));
        b = _stored(batch);
    }

    function _stored(bytes32 batch) private view returns (Batch b) {
        b = _batches[batch];
        if (Batch.unwrap(b) == 0) revert BatchUnknown(batch);
    }

    function _state(Batch b) private pure returns (State) {
        return State(b.state());
    }

    function _in(Batch b, State state) private pure returns (Batch) {
        return b.withState(uint256(state));
    }

    /// @dev The key of the auditor in `seat`, whose term runs and which is for `study` or for every one.
    function _auditorFor(bytes32 study, uint16 seat) private view returns (address ledger) {
        bytes32 seated;
        uint64 termEnd;
        (ledger, seated, termEnd) = MEMBERSHIP.auditorOf(seat);
        if (ledger == address(0)) revert IMembership.NoAuditor(seat);
        if (termEnd != 0 && termEnd <= block.timestamp) revert IMembership.TermOver(termEnd, block.timestamp);
        if (seated != 0 && seated != study) revert IMembership.SeatedForAnother(seat, seated, study);
    }

    function _checkController(OpenTerms calldata t, uint16 member, bytes32 structHash, bytes32 r, bytes32 vs)
        private
        view
    {
        if (member != t.controller) revert NotController(t.controller, member);
        PackedSignatures.check(member, MEMBERSHIP.ledgerOf(member), _hashTypedDataV4(structHash), r, vs);
    }
}
