// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ITrainingLedger} from "./ITrainingLedger.sol";

/// @title IUnlearningRegistry: erasures, from the request to the closed record
/// @notice A batch gathers the erasure requests of one hospital (the controller) for one study and window. What is on
/// chain is a root over salted request ids: no consent, no count, no reason.
/// The controller alone authorises or refuses, excludes, deletes and delivers. The study's roster votes the plan, attests
/// purges and, without the controller, confirms what the replay came to. Nothing that needs others delays what the
/// controller owes, and `dueAt` stands from the first record: at most 31 days ahead (a relay may be late, so it may be past).
/// The controller may extend it once, before it passes, by at most 61 days (Art. 12(3) GDPR); the reason is no matter of the
/// chain. An extension buys time for the work, not for the use: a model that an erasure taints leaves service at the first
/// due date all the same.
///
/// Once an erasure is confirmed, auditors may put on record that they looked behind the members' word (attest). That moves
/// no batch to another state, and nothing waits for it.
///
/// Whoever calls names a batch by its OpenErasure, of which the batch's id is the hash: so a batch takes one slot. What
/// several members sign at about the same time travels in one transaction and is one event.
///
///  state                    reached by                                              from
///  REQUESTED                openErasure by another member (a relay)                 -
///  AUTHORISED               openErasure by the controller, or authorise             REQUESTED
///  EXCLUDED                 step 1 (may come with openErasure, and with step 2): no active consent of the batch is trained on    AUTHORISED
///  COPY_DELETED             step 2: the hospital's research copy is gone            EXCLUDED
///  PLANNED                  plan by a quorum, after the window                      COPY_DELETED; any state before it
///                                                                                   where the controller is no active member,
///                                                                                   which then takes no step any more
///  CONFIRMED                enough verdicts, once a replay has caught up; the       PLANNED
///                           head moves
///  CERTIFICATE_DELIVERED    step 3                                                  CONFIRMED
///  LINK_DESTROYED           step 4                                                  CERTIFICATE_DELIVERED
///  CLOSED, or               step 5                                                  LINK_DESTROYED
///  CLOSED_WITH_EXCEPTIONS   step 5 while a member's purge is missing                LINK_DESTROYED
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
    /// @param dueAt When the statutory clock ends, Unix seconds, not zero, at most 31 days after the block.
    struct OpenTerms {
        bytes32 study;
        uint16 controller;
        uint16 poster;
        bytes32 requestsRoot;
        uint64 dueAt;
    }

    /// @notice The statement Plan without its batch, equal for every voter.
    /// @param parentBranch Branch of the checkpoint: the training branch or one it descends from.
    /// @param baseHeight Height of the checkpoint; 0 is the initial model.
    /// @param baseModel The model recorded there.
    /// @param branchSeed Seed of the new branch's beacons, not zero when it forks.
    /// @param targetHeight Height of the training branch to catch up with; equal to baseHeight: the batch's consents were
    /// never included, nothing is replayed.
    /// @param method How the members unlearn, by its number in node/methods.py; 0: nothing is replayed. No contract judges it.
    /// @param rounds Models that the new branch makes in place of those it replays.
    struct PlanTerms {
        uint32 parentBranch;
        uint32 baseHeight;
        bytes32 baseModel;
        bytes32 branchSeed;
        uint32 targetHeight;
        uint8 method;
        uint32 rounds;
    }

    /// @notice Purges of members, each signed over Purged(batch, member, 1, inventory). The same statement with stage 0, of the
    /// old updates concerned and the old checkpoints, is made among members: it gets its maker the keys of the replay.
    /// @param members Whose; a bitmap. The entries below are in ascending order of members.
    /// @param inventories For each member, the hash of what it deleted and what remains.
    /// @param signatures For each member 64 bytes (r, vs).
    struct Purges {
        uint32 members;
        bytes32[] inventories;
        bytes signatures;
    }

    /// @notice Verdicts of members, each signed over Verdict(batch, member, branch, headModel, confirmed): the replay's branch
    /// and the model with which it caught up; without a fork, the training branch and the checkpoint of the plan.
    /// @param members Whose; a bitmap.
    /// @param confirming Which of them recomputed to that model; the others deny it.
    /// @param signatures For each member 64 bytes (r, vs), in ascending order of members.
    struct Verdicts {
        uint32 members;
        uint32 confirming;
        bytes signatures;
    }

    /// @notice Steps of the controller, one after the other, signed over ErasureSteps(batch, member, first, evidence).
    /// @param first Number of the first.
    /// @param evidence A hash for each.
    struct Steps {
        uint8 first;
        bytes32[] evidence;
        bytes32 r;
        bytes32 vs;
    }

    /// @notice A batch as a view: what later calls check. When each state was reached is the time of its event's block.
    /// @param replays Whether its plan forks.
    /// @param branch The plan's branch.
    /// @param at When it was excluded; from the plan on, when it was planned.
    /// @param extendedTo The later due date, zero when it was not extended.
    /// @param planRoster Who was on the study's roster at the plan.
    /// @param purged Members that attested their purge.
    /// @param confirmers Members with a confirming verdict.
    /// @param deniers Members with a verdict against.
    struct BatchView {
        State state;
        bool replays;
        uint32 branch;
        uint40 openedAt;
        uint40 at;
        uint64 extendedTo;
        uint32 planRoster;
        uint32 purged;
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
    /// @notice The controller extended the due date, once; the reason stays with it.
    event ErasureExtended(bytes32 indexed batch, uint64 dueAt);
    /// @notice The controller did steps, one for each evidence: 1 excluded, 2 copy deleted, 3 certificate delivered, 4 link
    /// destroyed, 5 closed.
    event ErasureStepped(bytes32 indexed batch, uint8 first, bytes32[] evidence);
    /// @notice The roster agreed on a plan. `branch` is parentBranch when nothing is replayed.
    event ErasurePlanned(
        bytes32 indexed batch,
        bytes32 indexed study,
        uint32 branch,
        uint32 parentBranch,
        uint32 baseHeight,
        bytes32 baseModel,
        bytes32 branchSeed,
        uint32 targetHeight,
        uint8 method,
        uint32 rounds
    );
    /// @notice Members attest what they deleted: an inventory for each, ascending.
    event PurgesAttested(bytes32 indexed batch, uint32 members, bytes32[] inventories);
    /// @notice Members recomputed the branch; those in `confirming` agree, the others deny.
    event VerdictsGiven(bytes32 indexed batch, uint32 branch, bytes32 headModel, uint32 members, uint32 confirming);
    /// @notice Enough members other than the controller confirmed.
    event ErasureConfirmed(bytes32 indexed batch, uint32 branch, bytes32 headModel);
    /// @notice The head that serves is on `branch` and clean for this batch.
    event HeadMoved(bytes32 indexed batch, bytes32 indexed study, uint32 branch);
    /// @notice The record is closed. `exceptions`: members whose purge is missing.
    event ErasureClosed(bytes32 indexed batch, uint32 exceptions);
    /// @notice The auditor in `seat` says that it holds evidence about the erasure, whose hash is `evidence`. `level` 3: an
    /// executor repeated the controller's training in the rounds of the replay, bit for bit, and this is the hash of its
    /// report; 4: the hash of the report of an attack on the model. Whether the report is true, the contract cannot say.
    event EvidenceAttested(bytes32 indexed batch, uint8 level, uint16 seat, bytes32 evidence);
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
    /// @notice The due date is later than a month allows.
    error DueTooLate(uint64 dueAt, uint256 last);
    /// @notice The due date was extended before, to `dueAt`.
    error AlreadyExtended(bytes32 batch, uint64 dueAt);
    /// @notice An extension is accepted up to the due date itself.
    error ExtensionTooLate(uint64 dueAt, uint256 timestamp);
    /// @notice An extension leads to a date from `first` to `last`.
    error ExtensionOutOfBounds(uint64 dueAt, uint256 first, uint256 last);
    /// @notice Purges need an inventory for each member.
    error InventoriesLength(uint256 length, uint256 expected);
    /// @notice A plan is accepted after `until`.
    error TooEarly(uint256 until, uint256 timestamp);
    /// @notice A round that opened before the exclusion is open: it may be a last use.
    error RoundInFlight(uint64 openedAt, uint64 excludedAt);
    /// @notice The replay on `branch` has not caught up.
    error NotCaughtUp(uint32 branch);
    /// @notice No auditor attests evidence of this level: there are 3 and 4, and 3 only where the plan forked.
    error WrongLevel(uint8 level);
    /// @notice The auditor in `seat` attested evidence of this level about the batch before.
    error AttestedBefore(bytes32 batch, uint8 level, uint16 seat);
    /// @notice The contract does not lie where Membership says it does.
    error MisplacedContract(address expected, address got);

    /// @notice Open a batch by the poster's statement OpenErasure.
    /// @param steps First steps that come along, where the controller opens; no evidence: none.
    /// @return batch Its id.
    function openErasure(OpenTerms calldata terms, bytes32 r, bytes32 vs, Steps calldata steps)
        external
        returns (bytes32 batch);

    /// @notice Authorise a batch that another member opened, by Authorise(batch, member) of the controller.
    function authorise(OpenTerms calldata terms, uint16 member, bytes32 r, bytes32 vs) external;

    /// @notice Refuse a batch by Refuse(batch, member, ground) of the controller.
    /// @param ground Legal ground, not zero.
    function refuse(OpenTerms calldata terms, uint16 member, uint8 ground, bytes32 r, bytes32 vs) external;

    /// @notice Extend a batch's due date by Extend(batch, member, dueAt) of the controller: once, not after it has passed,
    /// and by at most 61 days (two further months).
    function extend(OpenTerms calldata terms, uint16 member, uint64 dueAt, bytes32 r, bytes32 vs) external;

    /// @notice Record steps of the controller in the order of the table, as many as are due.
    function step(OpenTerms calldata terms, uint16 member, Steps calldata steps) external;

    /// @notice Fix a batch's plan by a quorum's votes and fork the study, which has no other unconfirmed plan. The first round
    /// of the replay opens with it, or with the end of the round that is open. The
    /// controller's steps come first, unless it is no active member: its voice is not needed for what is in the model.
    /// @param proof That the checkpoint is one; no member signs it.
    /// @param signers Bitmap of the voters, of the study's roster.
    /// @param signatures 64 bytes (r, vs) for each voter, ascending.
    function plan(
        OpenTerms calldata terms,
        PlanTerms calldata planTerms,
        ITrainingLedger.BaseProof calldata proof,
        uint32 signers,
        bytes calldata signatures
    ) external;

    /// @notice Bring purge attestations. Skipped and logged: DUPLICATE, BAD_SIGNATURE, UNKNOWN_MEMBER (no such index).
    function attestPurge(OpenTerms calldata terms, Purges calldata purges) external;

    /// @notice Bring verdicts once the replay has caught up. n-1-f confirming members other than the controller (n < 4:
    /// one) confirm the erasure. Skipped and logged: DUPLICATE, BAD_SIGNATURE (also one over another branch or model),
    /// UNKNOWN_MEMBER (not on the roster, or the controller). Late ones are on record until the next plan replays.
    /// @param purges Attestations that come along, as attestPurge takes them; may be none.
    function verdicts(OpenTerms calldata terms, Verdicts calldata given, Purges calldata purges) external;

    /// @notice Put an auditor's evidence about a confirmed erasure on record, by Attest(batch, level, seat, evidence) of the
    /// auditor in `seat`: once for each level and seat. Its term runs, and it is seated for the batch's study or for every
    /// one. Reverts, in this order, with BatchUnknown, WrongState (before CONFIRMED, or REFUSED), WrongLevel, Missing,
    /// AttestedBefore, Membership's NoAuditor, TermOver and SeatedForAnother, and BadSignature.
    /// @param level 3: local replay, only of a batch whose plan forked; 4: attack audit.
    /// @param seat Of the auditor; the key that it has when the statement arrives.
    /// @param evidence Hash of its report, not zero; the report is not on the chain.
    function attest(OpenTerms calldata terms, uint8 level, uint16 seat, bytes32 evidence, bytes32 r, bytes32 vs)
        external;

    /// @notice A batch. Reverts with BatchUnknown.
    function stateOf(bytes32 batch) external view returns (BatchView memory);
    /// @notice The id of the batch that a statement OpenErasure opens.
    function batchOf(OpenTerms calldata terms) external pure returns (bytes32);
    /// @notice Whether a request is one of a batch of `count` requests.
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
