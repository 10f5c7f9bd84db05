// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ITrainingLedger} from "./ITrainingLedger.sol";

/// @title IUnlearningRegistry: erasures, from the request to the closed record
/// @notice A batch gathers the erasure requests of one hospital (the controller) for one study and window. What is on
/// chain is a root over salted request ids: no consent, no count, no reason.
/// The controller alone authorises or refuses, excludes, deletes and delivers. The study's roster votes the plan, attests
/// purges and, without the controller, confirms what the replay came to. Nothing that needs others delays what the
/// controller owes, and `dueAt` stands from the first record.
///
///  state                    reached by                                              from
///  REQUESTED                openErasure by another member (a relay)                 -
///  AUTHORISED               openErasure by the controller, or authorise             REQUESTED
///  EXCLUDED                 step 1: no active consent of the batch is trained on    AUTHORISED
///  COPY_DELETED             step 2: the hospital's research copy is gone            EXCLUDED
///  PLANNED                  plan by a quorum, after the window                      COPY_DELETED
///  REPLAYING                openReplay after the stage 0 purges                     PLANNED, when the plan forks
///  CONFIRMED                enough verdicts; the head moves                         REPLAYING; PLANNED without a fork
///  CERTIFICATE_DELIVERED    step 3                                                  CONFIRMED
///  LINK_DESTROYED           step 4                                                  CERTIFICATE_DELIVERED
///  CLOSED, or               step 5                                                  LINK_DESTROYED
///  CLOSED_WITH_EXCEPTIONS   step 5 while a member's stage 1 purge is missing        LINK_DESTROYED
///  REFUSED                  refuse, with a ground                                   REQUESTED, AUTHORISED
///
/// All times are block timestamps in Unix seconds. `msg.sender` means nothing.
interface IUnlearningRegistry {
    /// @notice Where a batch is; the table above.
    enum State {
        NONE,
        REQUESTED,
        AUTHORISED,
        EXCLUDED,
        COPY_DELETED,
        PLANNED,
        REPLAYING,
        CONFIRMED,
        CERTIFICATE_DELIVERED,
        LINK_DESTROYED,
        CLOSED,
        CLOSED_WITH_EXCEPTIONS,
        REFUSED
    }

    /// @notice The statement OpenErasure.
    /// @param study Which study.
    /// @param controller The hospital whose patients ask.
    /// @param poster The member that opens the batch, itself the controller or a relay.
    /// @param requestsRoot Root of the sorted map requestId -> 0, not zero.
    /// @param dueAt When the statutory clock ends, Unix seconds, not zero.
    struct OpenTerms {
        bytes32 study;
        uint16 controller;
        uint16 poster;
        bytes32 requestsRoot;
        uint64 dueAt;
    }

    /// @notice The statement Plan, equal for every voter.
    /// @param batch Which batch.
    /// @param parentBranch Branch of the checkpoint: the training branch or one it descends from.
    /// @param baseHeight Height of the checkpoint; 0 is the initial model.
    /// @param baseModel The model recorded there.
    /// @param branchSeed Seed of the new branch's beacons, not zero when it forks.
    /// @param targetHeight Height of the training branch to catch up with; equal to baseHeight: the batch's consents were
    /// never included, nothing is replayed.
    struct PlanTerms {
        bytes32 batch;
        uint32 parentBranch;
        uint32 baseHeight;
        bytes32 baseModel;
        bytes32 branchSeed;
        uint32 targetHeight;
    }

    /// @notice A member's purge, signed over Purged(batch, member, stage, inventory).
    /// @param stage 0: the old updates concerned and the old checkpoints, before the replay reveals anything; 1: the rest.
    /// @param inventory Hash of what was deleted and what remains.
    struct PurgeEntry {
        uint16 member;
        uint8 stage;
        bytes32 inventory;
        bytes32 r;
        bytes32 vs;
    }

    /// @notice A member's verdict, signed over Verdict(batch, member, branch, headModel, confirmed).
    /// @param branch The replay's branch (without a fork: the training branch of the plan).
    /// @param headModel The model with which the replay caught up (without a fork: the plan's checkpoint).
    /// @param confirmed Whether the member recomputed to that model.
    struct VerdictEntry {
        uint16 member;
        uint32 branch;
        bytes32 headModel;
        bool confirmed;
        bytes32 r;
        bytes32 vs;
    }

    /// @notice A step of the controller, signed over ErasureStep(batch, member, number, evidence).
    struct StepEntry {
        uint8 number;
        bytes32 evidence;
        bytes32 r;
        bytes32 vs;
    }

    /// @notice A batch as a view: what later calls check. When each state was reached is the time of its event's block.
    /// @param replays Whether its plan forks.
    /// @param branch The plan's branch.
    /// @param targetFinals Finals with which the replay has caught up.
    /// @param purgedPair Members that attested stage 0.
    /// @param purgedAll Members that attested stage 1.
    /// @param confirmers Members with a confirming verdict.
    /// @param deniers Members with a verdict against.
    struct BatchView {
        bytes32 study;
        uint16 controller;
        uint64 dueAt;
        State state;
        bool replays;
        uint32 branch;
        uint32 targetFinals;
        uint40 openedAt;
        uint40 excludedAt;
        uint40 plannedAt;
        uint32 purgedPair;
        uint32 purgedAll;
        uint32 confirmers;
        uint32 deniers;
    }

    /// @notice A batch is open: AUTHORISED when `poster` is `controller`, else REQUESTED. `batch` is
    /// H(batch, struct hash of OpenErasure).
    event ErasureOpened(
        bytes32 indexed batch,
        bytes32 indexed study,
        uint16 controller,
        uint16 poster,
        bytes32 requestsRoot,
        uint64 dueAt,
        uint64 openedAt
    );
    /// @notice The controller authorised a batch that another member opened.
    event ErasureAuthorised(bytes32 indexed batch);
    /// @notice The controller refused, on a legal ground.
    event ErasureRefused(bytes32 indexed batch, uint8 ground);
    /// @notice The controller did a step: 1 excluded, 2 copy deleted, 3 certificate delivered, 4 link destroyed, 5 closed.
    event ErasureStepped(bytes32 indexed batch, uint8 step, bytes32 evidence);
    /// @notice The roster agreed on a plan. `branch` is parentBranch when nothing is replayed.
    event ErasurePlanned(
        bytes32 indexed batch,
        bytes32 indexed study,
        uint32 branch,
        uint32 parentBranch,
        uint32 baseHeight,
        bytes32 baseModel,
        bytes32 branchSeed,
        uint32 targetHeight
    );
    /// @notice A member attests what it deleted.
    event PurgeAttested(bytes32 indexed batch, uint16 indexed member, uint8 stage, bytes32 inventory);
    /// @notice The replay may begin; from here on the base checkpoint serves.
    event ReplayOpened(bytes32 indexed batch, uint32 branch);
    /// @notice A member recomputed the new branch, and agrees or not.
    event VerdictGiven(
        bytes32 indexed batch, uint16 indexed member, uint32 branch, bytes32 headModel, bool confirmed
    );
    /// @notice Enough members other than the controller confirmed.
    event ErasureConfirmed(bytes32 indexed batch, uint32 branch, bytes32 headModel);
    /// @notice The head that serves is on `branch` and clean for this batch.
    event HeadMoved(bytes32 indexed batch, bytes32 indexed study, uint32 branch);
    /// @notice The record is closed. `exceptions`: members whose stage 1 purge is missing.
    event ErasureClosed(bytes32 indexed batch, uint32 exceptions);
    /// @notice An entry of a batch call did not count. `subject` is the erasure batch; reasons in the library Skips.
    event EntrySkipped(bytes32 indexed subject, uint16 member, uint8 reason);

    /// @notice The batch exists already.
    error BatchKnown(bytes32 batch);
    /// @notice No such batch.
    error BatchUnknown(bytes32 batch);
    /// @notice `field` of a statement is zero.
    error Missing(string field);
    /// @notice Member `index` is not active, or no such index was given.
    error NotActive(uint16 index);
    /// @notice The statement is by member `got`, the controller is `expected`.
    error NotController(uint16 expected, uint16 got);
    /// @notice The batch is in `state`, where this is not accepted.
    error WrongState(bytes32 batch, State state);
    /// @notice Step `got` where `expected` comes next.
    error WrongStep(uint8 expected, uint8 got);
    /// @notice A plan is accepted after `until`.
    error TooEarly(uint256 until, uint256 timestamp);
    /// @notice A round that opened before the exclusion is open: it may be a last use.
    error RoundInFlight(uint64 openedAt, uint64 excludedAt);
    /// @notice Batch `active` of this study is planned and not confirmed.
    error PlanActive(bytes32 study, bytes32 active);
    /// @notice `attested` members purged, of a roster of `roster`; fewer do only after `until`, and never below `least`.
    error PurgeMissing(uint32 attested, uint32 roster, uint256 least, uint256 until);
    /// @notice The replay has not caught up with `targetFinals`.
    error NotCaughtUp(uint32 branch, uint32 targetFinals);
    /// @notice The contract does not lie where Membership says it does.
    error MisplacedContract(address expected, address got);

    /// @notice Open a batch by the poster's statement OpenErasure.
    /// @return batch Its id.
    function openErasure(OpenTerms calldata terms, bytes32 r, bytes32 vs) external returns (bytes32 batch);

    /// @notice Authorise a batch that another member opened, by Authorise(batch, member) of the controller.
    function authorise(bytes32 batch, uint16 member, bytes32 r, bytes32 vs) external;

    /// @notice Refuse a batch by Refuse(batch, member, ground) of the controller.
    /// @param ground Legal ground, not zero.
    function refuse(bytes32 batch, uint16 member, uint8 ground, bytes32 r, bytes32 vs) external;

    /// @notice Record steps of the controller in the order of the table, as many as are due.
    function step(bytes32 batch, uint16 member, StepEntry[] calldata entries) external;

    /// @notice Fix a batch's plan by a quorum's votes and fork the study.
    /// @param proof That the checkpoint is one; no member signs it.
    /// @param signers Bitmap of the voters, of the study's roster.
    /// @param signatures 64 bytes (r, vs) for each voter, ascending.
    function plan(
        PlanTerms calldata terms,
        ITrainingLedger.BaseProof calldata proof,
        uint32 signers,
        bytes calldata signatures
    ) external;

    /// @notice Bring purge attestations. Skipped and logged: DUPLICATE, BAD_SIGNATURE, UNKNOWN_MEMBER (no such index),
    /// WRONG_PHASE (stage 0 of a plan without a fork), MALFORMED (stage above 1).
    function attestPurge(bytes32 batch, PurgeEntry[] calldata entries) external;

    /// @notice Open the replay once every member of the roster attested stage 0, or n-f of them (n = 3: two) did and
    /// purgeSeconds have passed since the plan. Whoever has not attested gets no key of the replay until it does.
    /// @param entries Attestations that come along, as attestPurge takes them; may be none.
    function openReplay(bytes32 batch, PurgeEntry[] calldata entries) external;

    /// @notice Bring verdicts once the replay has caught up. n-1-f confirming members other than the controller (n < 4:
    /// one) confirm the erasure. Skipped and logged: DUPLICATE, BAD_SIGNATURE, UNKNOWN_MEMBER (not on the roster, or the
    /// controller), MALFORMED (another branch or model).
    function verdicts(bytes32 batch, VerdictEntry[] calldata entries) external;

    /// @notice A batch. Reverts with BatchUnknown.
    function stateOf(bytes32 batch) external view returns (BatchView memory);
    /// @notice The batch of the study that is planned and not confirmed, zero when none is.
    function activePlan(bytes32 study) external view returns (bytes32);
    /// @notice Whether a request is one of a batch of `count` requests.
    /// @param terms What the batch's id is the hash of: its OpenErasure.
    /// @param requestId H(request, requestSalt, consentId).
    function holdsRequest(
        OpenTerms calldata terms,
        bytes32 requestId,
        uint256 count,
        uint256 index,
        bytes32[] calldata path
    ) external view returns (bool);
    /// @notice Rolling hash over all events of this contract but EntrySkipped.
    function accumulator() external view returns (bytes32);
}
