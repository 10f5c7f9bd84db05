// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title ITrainingLedger: studies, rounds and branches
/// @notice A study is a set of members, a spec by its hash, an initial model and terms. It advances by rounds on one
/// branch at a time; a round asks its roster for commitments, fixes who counts, and takes the first result that a quorum
/// of the roster signed. An erasure forks the study at an older model; the new branch then trains.
/// Events are the audit log. Storage holds only what later calls check.
/// Every statement is accepted from anybody who carries it; `msg.sender` means nothing, except that `fork`
/// and `headMoved` come from the UnlearningRegistry. Nobody owns or stops this contract.
/// All times are block timestamps in Unix seconds. A phase is a view of the timestamp: no transaction moves it, and the
/// transaction that acts on a deadline is what enforces it. The table of phases heads TrainingLedger.sol.
interface ITrainingLedger {
    /// @notice Where an open round is; NONE: it is not open. HAVE and VOTE belong to attempts 1 to 3.
    enum Phase {
        NONE,
        TRAINING,
        REVEAL,
        HAVE,
        VOTE,
        FAILED
    }

    /// @notice The statement CreateStudy: what a study is, once and for all.
    /// @param member The creator, an active and invited member.
    /// @param specHash Content root of the spec.
    /// @param initialModel Model root of the initial model, not zero.
    /// @param invited Bitmap of active members that may join.
    /// @param rounds Rounds with a model that end the study, from 1 to 2^21-1.
    /// @param f Faults wished; a round bears min(f, (n-1)/3).
    /// @param minIncluded Fewest included members of a model; zero: n-f (n = 3: two).
    /// @param scribeSeconds Window for training and the scribe's batch, at least 1.
    /// @param graceSeconds Window after it in which whoever is missing posts itself.
    /// @param revealSeconds Window for attempt 0 after the seal, at least 1.
    /// @param haveSeconds Window for bitmaps of attempt 1, at least 1; attempt a has it times 2^(a-1).
    /// @param voteSeconds Window for votes of attempt 1, at least 1; attempt a has it times 2^(a-1).
    /// @param purgeSeconds How long members wait after a plan for sets that they could not read before they purge by the plan
    /// alone, and after the verdicts for each other's purges before the certificate is made. No contract judges it.
    /// @param suspendAfter Rounds missed in a row that suspend, at most 15; zero: never.
    /// @param suspendRounds Rounds a suspension lasts, at most 14.
    /// @param maxRoundAge Seconds after which a round can only fail, more than scribe, grace and reveal together.
    /// @param erasureWindow Seconds an erasure batch waits for others to merge with before its plan.
    struct StudyTerms {
        uint16 member;
        bytes32 specHash;
        bytes32 initialModel;
        uint32 invited;
        uint32 rounds;
        uint8 f;
        uint8 minIncluded;
        uint32 scribeSeconds;
        uint32 graceSeconds;
        uint32 revealSeconds;
        uint32 haveSeconds;
        uint32 voteSeconds;
        uint32 purgeSeconds;
        uint8 suspendAfter;
        uint8 suspendRounds;
        uint32 maxRoundAge;
        uint32 erasureWindow;
    }

    /// @notice A branch of a continued study: where it left its parent, and the lineage of that checkpoint.
    struct BranchState {
        uint16 parent;
        uint32 baseHeight;
        uint32 baseFinals;
        bytes32 origin;
    }

    /// @notice 256 heights of a branch: `key` is branch << 32 | height >> 8, a bit is set for a height without a model.
    struct VoidWord {
        uint256 key;
        uint256 word;
    }

    /// @notice A study that goes on at a second deployment: its terms, which its id is the hash of, and its tree.
    /// @param branches From branch 1 on.
    /// @param voids Words other than zero, by key.
    struct Continuation {
        StudyTerms terms;
        BranchState[] branches;
        VoidWord[] voids;
    }

    /// @notice A member's commitment and its signature over Commit(roundId, member, updateRoot, datasetRoot, nextDatasetRoot).
    struct CommitEntry {
        uint16 member;
        bytes32 updateRoot;
        bytes32 datasetRoot;
        bytes32 nextDatasetRoot;
        bytes32 r;
        bytes32 vs;
    }

    /// @notice A member's signature over Abstain(roundId, member).
    struct AbstainEntry {
        uint16 member;
        bytes32 r;
        bytes32 vs;
    }

    /// @notice Whose blobs and keys a member holds, signed over Have(roundId, member, attempt, bitmap).
    struct HaveEntry {
        uint16 member;
        uint32 bitmap;
        bytes32 r;
        bytes32 vs;
    }

    /// @notice What a quorum says a round came to.
    /// @param outcome 1: a model; 2: no result, because fewer than minIncluded could be included.
    /// @param included Members whose updates count.
    /// @param codes 4 bits a member: 0, or the first rule its update broke (1 BAD_SEAL, 2 HEADER, 3 SHAPE, 4 RANGE,
    /// 5 TREE, 6 COUNT, 7 CONSENT, 8 POLICY). Members with a code are the invalid set.
    /// @param modelRoot The model after the round; after outcome 2 the parent's.
    /// @param trust The trust state, opaque here.
    /// @param commitRoot The rolling hash of the commitments, as this contract has it.
    /// @param consentAcc The ConsentRegistry's accumulator at the seal.
    struct Result {
        uint8 outcome;
        uint32 included;
        uint128 codes;
        bytes32 modelRoot;
        bytes trust;
        bytes32 commitRoot;
        bytes32 consentAcc;
    }

    /// @notice What a round stood on when it opened, as RoundOpened says it: with the chain, this contract and the study it
    /// makes the round's id. So a past round needs no storage to be named.
    struct Opening {
        uint32 branch;
        uint32 height;
        bytes32 parentResult;
        bytes32 parentModel;
        uint64 epoch;
        uint32 roster;
        uint32 suspended;
        bytes32 consentAcc;
        bytes32 membershipAcc;
        bytes32 previousBlock;
    }

    /// @notice That a model is a checkpoint: its place in the lineage, and the way from there to the newest result.
    /// @param parent Lineage of the result before it. Where a branch begins: the lineage of the checkpoint that it began at.
    /// @param named Hash of the result that made it. Where a branch begins: the erasure batch of that branch. Unused for the
    /// initial model.
    /// @param links For each later result of its branch, oldest first, up to the newest or to the one that the next branch on
    /// the way began at: H(link, height, modelRoot, resultHash).
    /// @param forks The branches on the way from the checkpoint's to the training branch, oldest first; none when it is that.
    struct BaseProof {
        bytes32 parent;
        bytes32 named;
        bytes32[] links;
        ForkProof[] forks;
    }

    /// @notice A branch on the way from a checkpoint to the training branch. Where it began is stored.
    /// @param batch The erasure that made it.
    /// @param baseModel The model it began with.
    /// @param links As in BaseProof.
    struct ForkProof {
        bytes32 batch;
        bytes32 baseModel;
        bytes32[] links;
    }

    /// @notice A signed statement as evidence.
    /// @param body Its fields, 32 bytes each, in the order of its EIP-712 type.
    struct SignedBody {
        bytes body;
        bytes32 r;
        bytes32 vs;
    }

    /// @notice The order of an erasure plan to this contract.
    /// @param study Which study.
    /// @param batch The erasure batch.
    /// @param parentBranch Branch of the checkpoint: the training branch or one it descends from.
    /// @param baseHeight Height of the checkpoint on it, 0 for the initial model.
    /// @param baseModel The model recorded there.
    /// @param branchSeed Seed of the new branch's beacons.
    /// @param targetHeight Closed height of the training branch up to which is replayed; equal to baseHeight: no fork.
    /// @param rounds Models that the branch makes in place of those above the checkpoint; at the last, as much of the study is
    /// done as at the target.
    /// @param dueAt When a tainted head leaves service.
    struct ForkTerms {
        bytes32 study;
        bytes32 batch;
        uint32 parentBranch;
        uint32 baseHeight;
        bytes32 baseModel;
        bytes32 branchSeed;
        uint32 targetHeight;
        uint32 rounds;
        uint64 dueAt;
    }

    /// @notice An open round as a view, at this block's timestamp.
    /// @param quorum Equal votes that decide.
    /// @param attempt 0 until the first have window, then 1 to 3.
    /// @param sealTime When commitments ended, zero while they are accepted.
    /// @param revealEnd End of attempt 0's window, zero before the seal.
    /// @param haveEnd End of the current attempt's have window, zero before attempt 1.
    /// @param voteEnd End of the current attempt's vote window, zero before attempt 1.
    /// @param available What the have bitmaps of the current attempt make available: I. Zero before attempt 1.
    /// @param posted Whose have bitmap of the current attempt is here.
    /// @param failure While phase is FAILED and failRound was not called: the reason it will name.
    struct RoundView {
        uint32 branch;
        uint32 height;
        Phase phase;
        uint8 attempt;
        uint8 n;
        uint8 f;
        uint8 quorum;
        uint8 minIncluded;
        uint8 failure;
        uint32 roster;
        uint32 suspended;
        uint32 committed;
        uint32 abstained;
        uint32 available;
        uint32 posted;
        uint64 openedAt;
        uint64 sealTime;
        uint64 revealEnd;
        uint64 haveEnd;
        uint64 voteEnd;
    }

    /// @notice A study as a view.
    /// @param branch The branch that trains.
    /// @param height Its newest round, open or closed.
    /// @param finals Rounds of this ancestry that ended with a model.
    /// @param openRound The open round, zero when none is.
    /// @param forkState 0 no fork, 1 waits for the open round, 2 replaying, 3 waits for the verdicts of a
    /// plan that replays nothing.
    /// @param suspended Whom conduct so far suspends (a round's end takes one round off before the next opens).
    struct StudyView {
        uint32 branch;
        uint32 height;
        uint32 finals;
        uint32 invited;
        uint32 joined;
        uint32 left;
        uint32 suspended;
        bytes32 openRound;
        uint8 forkState;
        uint32 rounds;
    }

    /// @notice A study exists. `study` is H(study, struct hash of CreateStudy).
    event StudyCreated(bytes32 indexed study, StudyTerms terms);
    /// @notice A study of the predecessor goes on here from where it stood. `tree` is the rolling hash over its branches and
    /// voids: tree' = H(tree, tree, words of the entry), from zero.
    event StudyContinued(
        bytes32 indexed study,
        uint32 joined,
        uint32 left,
        uint32 branch,
        uint32 height,
        uint32 finals,
        bytes32 lineage,
        bytes32 model,
        bytes32 tree
    );
    /// @notice A member takes part from the next round that opens.
    event Joined(bytes32 indexed study, uint16 indexed member);
    /// @notice A member takes no part from the next round that opens, for good.
    event Left(bytes32 indexed study, uint16 indexed member);
    /// @notice A round is open. Its position in the chain is the snapshot for consents, roster and keys. `roundId` is
    /// H(round, chain id, this contract, study, branch, height, parentResult, parentModel, epoch, roster, suspended,
    /// consentAcc, membershipAcc, previousBlock). `parentResult` is the lineage of the newest result of the branch:
    /// H(lineage, lineage before it, H(link, height, modelRoot, resultHash)), from `baseResult` of the branch or, on branch 0,
    /// from zero. It names every result it descends from.
    /// @param standing Lowest bits first: branch 32 | height 32 | epoch 64 | roster 32 | suspended 32 | f 8 | quorum 8 |
    /// openedAt 40 (Unix seconds).
    event RoundOpened(
        bytes32 indexed roundId,
        bytes32 indexed study,
        uint256 standing,
        bytes32 parentResult,
        bytes32 parentModel,
        bytes32 consentAcc,
        bytes32 membershipAcc,
        bytes32 previousBlock
    );
    /// @notice Members committed, in this order.
    /// @param members A byte each, the first one lowest.
    /// @param roots Of each: updateRoot, datasetRoot, nextDatasetRoot, 96 bytes.
    event Committed(bytes32 indexed roundId, uint256 members, bytes roots);
    /// @notice A member sits this round out. No reason is asked.
    event Abstained(bytes32 indexed roundId, uint16 indexed member);
    /// @notice A member says whose blobs and keys it holds.
    event HavePosted(bytes32 indexed roundId, uint8 attempt, uint16 indexed member, uint32 bitmap);
    /// @notice A round has its result, for good. `resultHash` is H(result, outcome, included, codes, modelRoot,
    /// keccak256(trust), commitRoot, consentAcc).
    /// @param decided Lowest bits first: branch 16 | height 24 | attempt 8 | outcome 8 | included 32 | codes 128 |
    /// signers 32.
    event RoundFinal(
        bytes32 indexed roundId,
        bytes32 indexed study,
        uint256 decided,
        bytes32 modelRoot,
        bytes trust,
        bytes32 commitRoot,
        bytes32 consentAcc,
        bytes32 resultHash
    );
    /// @notice A round ended without a result. reason 1: too few commitments, nothing was revealed;
    /// 2: no result in any attempt; 3: too old.
    event RoundFailed(bytes32 indexed roundId, bytes32 indexed study, uint32 branch, uint32 height, uint8 reason);
    /// @notice A replay ended without the models that it was to make: too many of its heights in a row had none, or fewer than
    /// two members were left. `model` is the one it has, the checkpoint where no round of it was agreed; the verdicts are
    /// about it. The study goes on from there.
    event ReplayGivenUp(bytes32 indexed study, uint32 branch, bytes32 model);
    /// @notice A member signed two statements that exclude each other. kind 1 Commit, 2 Vote, 3 Have.
    event Equivocated(bytes32 indexed roundId, uint16 indexed member, uint8 kind);
    /// @notice An auditor announces that it will open the rounds `fromHeight` to `toHeight`.
    event AuditAccessed(
        bytes32 indexed study, uint16 indexed seat, uint32 fromHeight, uint32 toHeight, bytes32 ground
    );
    /// @notice A branch is registered. It trains once its replay opens. Its first round has `baseResult` = H(branch, study,
    /// batch, parent, baseHeight, baseModel, lineage of that checkpoint) for parentResult.
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
    /// @notice An entry of a batch did not count. `subject` is the roundId; reasons in the library Skips.
    event EntrySkipped(bytes32 indexed subject, uint16 member, uint8 reason);

    /// @notice The term `field` has the value `got`.
    error BadTerms(string field, uint256 got);
    /// @notice The study exists already.
    error StudyKnown(bytes32 study);
    /// @notice The study still has an open round or a fork where it comes from.
    error StudyNotAtRest(bytes32 study, bytes32 openRound, uint8 forkState);
    /// @notice No such study.
    error StudyUnknown(bytes32 study);
    /// @notice Member `index` is not active, or no such index was given.
    error NotActive(uint16 index);
    /// @notice Member `index` was not invited.
    error NotInvited(bytes32 study, uint16 index);
    /// @notice Member `index` joined already.
    error AlreadyJoined(bytes32 study, uint16 index);
    /// @notice Member `index` has left already.
    error AlreadyLeft(bytes32 study, uint16 index);
    /// @notice The study's open round is `open` (zero: none is open, or there is no such study), not this one.
    error RoundNotOpen(bytes32 study, bytes32 roundId, bytes32 open);
    /// @notice The round is in `phase` of `attempt`, where this is not accepted.
    error WrongPhase(bytes32 roundId, Phase phase, uint8 attempt);
    /// @notice The result decides over `got`, where the round's set is `expected`.
    error WrongSet(uint32 expected, uint32 got);
    /// @notice Members are both included and invalid.
    error IncludedAndInvalid(uint32 members);
    /// @notice `code` of member `index` is none of 0 to 8.
    error BadCode(uint16 index, uint8 code);
    /// @notice `included` members are included, of at least `least`, which does not go with `outcome`.
    error WrongOutcome(uint8 outcome, uint256 included, uint256 least);
    /// @notice A result without a model must keep the parent's.
    error ModelChanged(bytes32 expected, bytes32 got);
    /// @notice A model root is zero.
    error NoModel();
    /// @notice The commitments of the round have another root.
    error WrongCommitRoot(bytes32 expected, bytes32 got);
    /// @notice Nothing opens: a round is open, the study is over, waits for joins, or has fewer than two members.
    error NothingToOpen(bytes32 study);
    /// @notice The evidence is not of `kind`.
    error BadKind(uint8 kind);
    /// @notice Body number `which` has `length` bytes, where statements of this kind have `expected`.
    error BadEvidence(uint8 which, uint256 length, uint256 expected);
    /// @notice Body number `which` does not name the round, member or attempt it should.
    error OffSubject(uint8 which);
    /// @notice Both bodies say the same.
    error NoContradiction();
    /// @notice This was reported, or announced, already.
    error AlreadyKnown(bytes32 id);
    /// @notice Seat `seat` may not audit this study now.
    error NoSuchSeat(uint16 seat);
    /// @notice Heights `from` to `to` are no range.
    error BadRange(uint32 from, uint32 to);
    /// @notice Only the UnlearningRegistry may say this.
    error OnlyUnlearning(address sender);
    /// @notice A plan of the study is not confirmed yet.
    error ForkActive(bytes32 study);
    /// @notice The fork of this study is in state `state`.
    error ForkState(bytes32 study, uint8 state);
    /// @notice `branch` is not the training branch nor an ancestor of it at `height`.
    error NotOnAncestry(uint32 branch, uint32 height);
    /// @notice The proof of the checkpoint leads to lineage `got`, where the study has `expected`; for the initial model,
    /// both are models.
    error WrongCheckpoint(bytes32 expected, bytes32 got);
    /// @notice `target` is not from `first`, the checkpoint or the training branch's base, to `last`, its newest closed height.
    error BadTarget(uint32 target, uint32 first, uint32 last);
    /// @notice A branch would make `rounds` models where the training branch has `finals` up to the target.
    error TooManyRounds(uint32 rounds, uint32 finals);
    /// @notice The contract does not lie where Membership says it does.
    error MisplacedContract(address expected, address got);

    /// @notice Create a study by its creator's statement.
    /// @return study Its id.
    function createStudy(StudyTerms calldata terms, bytes32 r, bytes32 vs) external returns (bytes32 study);

    /// @notice Join by the statement Join(study, member). The first round opens with the last invited member that joins.
    function join(bytes32 study, uint16 member, bytes32 r, bytes32 vs) external;

    /// @notice Leave, or decline the invitation, by the statement Leave(study, member). Takes effect with the next round.
    function leave(bytes32 study, uint16 member, bytes32 r, bytes32 vs) external;

    /// @notice Open the next round where an end or a join did not: after removals or declined invitations.
    function resume(bytes32 study) external;

    /// @notice Bring commitments while the round is in TRAINING. Skipped and logged: DUPLICATE (committed or abstained),
    /// BAD_SIGNATURE, UNKNOWN_MEMBER (not on the roster), WRONG_PHASE (suspended), MALFORMED (updateRoot zero).
    function postCommits(bytes32 study, bytes32 roundId, CommitEntry[] calldata entries) external;

    /// @notice Bring abstentions while the round is in TRAINING. Skips as postCommits.
    function postAbstains(bytes32 study, bytes32 roundId, AbstainEntry[] calldata entries) external;

    /// @notice Bring have bitmaps in the have window of `attempt`. Skipped and logged: DUPLICATE, BAD_SIGNATURE,
    /// UNKNOWN_MEMBER, MALFORMED (a bit that did not commit).
    function postHaves(bytes32 study, bytes32 roundId, uint8 attempt, HaveEntry[] calldata entries) external;

    /// @notice End a round by equal votes Vote(roundId, attempt, set, resultHash) and open the next one. Attempt 0: any
    /// time from the seal until the round ends, set = all that committed. Attempts 1 to 3: in their vote window,
    /// set = what is available.
    /// @param signers Bitmap of the voters, of the roster.
    /// @param signatures 64 bytes (r, vs) for each voter, ascending.
    function finalise(
        bytes32 study,
        bytes32 roundId,
        uint8 attempt,
        Result calldata result,
        uint32 signers,
        bytes calldata signatures
    ) external;

    /// @notice End a round whose phase is FAILED and open the next one from the same parent. The third in a row that ends a
    /// replay's height without a model gives the replay up (`ReplayGivenUp`).
    function failRound(bytes32 study, bytes32 roundId) external;

    /// @notice Show two statements of one member that exclude each other: two commitments of one round, two votes or two
    /// have bitmaps of one attempt. Suspends the member from the next open on, once for each round and kind. The round may
    /// be long over: `opening` names it.
    /// @param openedAt When it opened (Unix seconds): the member's key of that time is looked for, unless it was revoked since.
    function reportEquivocation(
        bytes32 study,
        Opening calldata opening,
        uint64 openedAt,
        uint8 kind,
        uint16 member,
        SignedBody calldata a,
        SignedBody calldata b
    ) external;

    /// @notice Announce an audit by the auditor's statement AuditAccess(study, seat, fromHeight, toHeight, ground).
    function auditAccess(
        bytes32 study,
        uint16 seat,
        uint32 fromHeight,
        uint32 toHeight,
        bytes32 ground,
        bytes32 r,
        bytes32 vs
    ) external;

    /// @notice Fork a study for an erasure plan (UnlearningRegistry only). The first round of the new branch opens, and its base
    /// model serves, from now on; where a round is open, from its end on.
    /// @return branch The new branch; the training branch when nothing has to be replayed.
    function fork(ForkTerms calldata terms, BaseProof calldata proof) external returns (uint32 branch);

    /// @notice The plan is confirmed: the training branch's newest model serves from now on (UnlearningRegistry only).
    function headMoved(bytes32 study) external;

    /// @notice The open round, at this block's timestamp. Reverts with RoundNotOpen for any other.
    function roundOf(bytes32 study, bytes32 roundId) external view returns (RoundView memory);
    /// @notice Phase and attempt of the open round at this block's timestamp; NONE for any other.
    function phase(bytes32 study, bytes32 roundId) external view returns (Phase phase, uint8 attempt);
    /// @notice A study. Reverts with StudyUnknown.
    function studyOf(bytes32 study) external view returns (StudyView memory);
    /// @notice The open round, zero when none is.
    function openRound(bytes32 study) external view returns (bytes32);
    /// @notice The model that serves.
    /// @return branch Its branch.
    /// @return height Its height, 0 for the initial model.
    /// @return lineage Its place in its ancestry: what the next round has for parentResult; where a branch begins, the
    /// branch's baseResult, or zero for the initial model.
    /// @return model Its model root.
    /// @return tainted Whether an erasure plan found that it must not have learned what it did.
    /// @return inService False for a tainted model after the erasure's due date.
    function head(bytes32 study)
        external
        view
        returns (uint32 branch, uint32 height, bytes32 lineage, bytes32 model, bool tainted, bool inService);
    /// @notice The model with which a branch had as many finals as the one it replays, or with which its replay was given
    /// up; zero: neither yet.
    function caughtUp(bytes32 study, uint32 branch) external view returns (bytes32);
    /// @notice Rolling hash of the open round's commitments: root' = keccak256(abi.encode(root, struct hash)) from zero,
    /// in posting order; of the last round between rounds.
    function commitRootOf(bytes32 study) external view returns (bytes32);
    /// @notice Reverts with StudyUnknown when there is no such study.
    function checkStudy(bytes32 study) external view;
    /// @notice Who would be asked by a round that opened now.
    /// @return roster The members.
    /// @return f The study's wish.
    function voters(bytes32 study) external view returns (uint32 roster, uint8 f);
    /// @notice What a plan waits for.
    /// @return erasureWindow The study's term.
    /// @return openedAt When the open round opened, zero when none is open.
    function planTerms(bytes32 study) external view returns (uint32 erasureWindow, uint64 openedAt);
}
