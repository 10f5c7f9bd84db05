// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title IMembership: who is a member, who may audit, and where the other contracts are
/// @notice Members have an index from 0 that is never given twice; at most 32 are ever given in a network, because every
/// set of members is one uint32. A member is a ledger address (secp256k1), a libp2p peer id and an X25519 sealing key,
/// bound together by its own signed statement `Seat`. A removed member keeps its index and address in history.
/// Auditors have seats with numbers of their own, no bit and no vote.
/// Nobody owns this contract. The only authority is a quorum of the active members over one digest that names the
/// current epoch; every change raises the epoch by one, so no vote can be used twice. `msg.sender` means nothing.
///
/// | change | by | statement | in rounds that are open |
/// | --- | --- | --- | --- |
/// | admission | quorum | Admit, and the applicant's Seat | not on their rosters |
/// | removal | quorum | Remove | decides as before; gone from the next round on |
/// | rotation | the member's old key | Rotate, and the new key's Keys | old key; the new one from rounds opened later |
/// | revocation | quorum | Revoke | the key counts for nothing, at once; the seat stays, inactive |
/// | recovery | quorum | Recover, and the new key's Keys | the new key, at once; active from the next round on |
/// | auditor's end | quorum | EndAuditor | announces nothing any more |
/// | succession | quorum | Succeed | decides as before; none opens after it |
/// | opening to an auditor | the member's key | OpenAudit | changes nothing: that it hands keys out, and no epoch |
/// | address | the member's key | Announce | changes nothing: where others dial it, and no epoch |
///
/// Rounds here are also erasures: plans, purges and verdicts take the keys with which the batch was opened.
/// After a revocation or recovery every open round is decided with the keys of that moment: a member that rotated in the
/// same round signs again with its new key or misses the round. Rosters of open rounds never change.
/// The ledger address of a member may be a contract wallet (ERC-1271): it governs, by everything this contract checks.
/// Rounds, consents and erasures take signatures of keys only, 64 bytes each; a wallet takes no part in them.
interface IMembership {
    /// @notice An applicant and its own word for it.
    /// @param ledger Address of its ledger key, never seated before.
    /// @param peerId Its libp2p peer id, 1 to 64 bytes, never seated before.
    /// @param sealingKey Its X25519 public key, not zero.
    /// @param name What people call it, 1 to 64 bytes of UTF-8.
    /// @param signature By `ledger` over Seat(role, peerId, sealingKey, name): 65 bytes r, s, v, or what a wallet takes.
    struct SeatInput {
        address ledger;
        bytes peerId;
        bytes32 sealingKey;
        string name;
        bytes signature;
    }

    /// @notice A member's new keys and their own word for it.
    /// @param ledger Address of the new ledger key, never seated before (a rotation may keep the old one).
    /// @param peerId Its libp2p peer id, never seated before, or the one the member has.
    /// @param sealingKey Its X25519 public key, not zero.
    /// @param signature By `ledger` over Keys(member, ledger, peerId, sealingKey): 65 bytes r, s, v, or what a wallet takes.
    struct KeysInput {
        address ledger;
        bytes peerId;
        bytes32 sealingKey;
        bytes signature;
    }

    /// @notice One member's vote.
    /// @param signature 65 bytes r, s, v by its key, or what its contract wallet takes (ERC-1271).
    struct MemberVote {
        uint16 member;
        bytes signature;
    }

    /// @notice Member `index` takes part from `epoch` on.
    event MemberAdmitted(
        uint16 indexed index, address ledger, bytes peerId, bytes32 sealingKey, string name, uint64 epoch
    );
    /// @notice Member `index` takes no part from `epoch` on.
    event MemberRemoved(uint16 indexed index, uint64 epoch);
    /// @notice Member `index` has these keys from `epoch` on, by its own word. Rounds opened at or before `at` (Unix seconds)
    /// are decided with its old ledger key.
    event MemberRotated(
        uint16 indexed index, address ledger, bytes peerId, bytes32 sealingKey, uint64 at, uint64 epoch
    );
    /// @notice The key of member `index` counts for nothing from here on; its seat waits for new keys.
    event MemberRevoked(uint16 indexed index, uint64 at, uint64 epoch);
    /// @notice Member `index` has these keys from here on, by the word of the others, and takes part again.
    event MemberRecovered(
        uint16 indexed index, address ledger, bytes peerId, bytes32 sealingKey, uint64 at, uint64 epoch
    );
    /// @notice The members go on with the deployment whose Membership is `successor`: here no study is created and no round
    /// opens any more, but those of erasures under way, and no change of members, keys or seats is decided. Consents and
    /// erasures go on as before.
    event NetworkSucceeded(address successor, uint64 epoch);
    /// @notice The term of auditor `seat` ended at `termEnd` (Unix seconds), by votes.
    event AuditorEnded(uint16 indexed seat, uint64 termEnd, uint64 epoch);
    /// @notice `member` stands by the lines of its own log up to and with line `entries` (counted from 1 since the founding):
    /// those after its anchor before this one are the leaves under `root` (library AnchorTree). Changes no epoch.
    event LogAnchored(uint16 indexed member, bytes32 root, uint64 entries);
    /// @notice `member` is dialled at `multiaddress` from here on; empty: nowhere, it dials the others. Changes no epoch.
    /// Bytes and not a text: whether they are one is for the readers to judge, and must stop none of them.
    event AddressAnnounced(uint16 indexed member, uint64 number, bytes multiaddress);
    /// @notice `member` opened `study` to the auditor in `seat`: from here on it hands out the keys that the auditor's own
    /// announcement (ITrainingLedger.AuditAccessed) names, until the seat's term ends. Changes no epoch.
    event AuditOpened(uint16 indexed member, uint16 seat, bytes32 study);
    /// @notice An auditor has `seat` for `study` (zero: every study of the network) until `termEnd` (Unix seconds; zero:
    /// founding auditors, no end).
    event AuditorSeated(
        uint16 indexed seat,
        address ledger,
        bytes peerId,
        bytes32 sealingKey,
        string name,
        bytes32 study,
        uint64 termEnd,
        uint64 epoch
    );

    /// @notice No index is left: the network gave `given` of 32.
    error NetworkFull(uint256 given);
    /// @notice The members decide at `successor` now.
    error NetworkMoved(address successor);
    /// @notice The predecessor's members named `named`, which is not this contract; or none can succeed to itself.
    error NotSuccessor(address named);
    /// @notice The predecessor gave `wanted` indexes or auditor's seats, the founding names `got`.
    error SeatsWanted(uint256 wanted, uint256 got);
    /// @notice Who has the index or seat at the predecessor is `expected`, the founding names `got`.
    error SeatChanged(uint16 index, address expected, address got);
    /// @notice A network begins with at least two members.
    error TooFewFounders(uint256 members);
    /// @notice `ledger` has or had a seat.
    error LedgerTaken(address ledger);
    /// @notice A seat has or had this peer id.
    error PeerTaken(bytes peerId);
    /// @notice `length` bytes where 1 to 64 are wanted.
    error PeerIdLength(uint256 length);
    /// @notice `length` bytes where 1 to 64 are wanted.
    error NameLength(uint256 length);
    /// @notice The sealing key of `ledger` is zero.
    error NoSealingKey(address ledger);
    /// @notice Seat of `ledger` carries a signature that recovers to `recovered`.
    error SeatNotSigned(address ledger, address recovered);
    /// @notice Keys of member `index` or the order to take them want a signature of `expected`, this one is `recovered`'s.
    error KeysNotSigned(uint16 index, address expected, address recovered);
    /// @notice Member `index` changed its keys lately; it may again at `next` (Unix seconds).
    error RotatedLately(uint16 index, uint64 next);
    /// @notice `member` anchored `anchored` entries of its log already; an anchor names more of them, this one `entries`.
    error LogNotLonger(uint16 member, uint64 entries, uint64 anchored);
    /// @notice `member` has announced address number `announced` already; a new one has a greater number than `number`.
    error AnnouncementNotNewer(uint16 member, uint64 number, uint64 announced);
    /// @notice `length` bytes where at most 256 are wanted.
    error AddressLength(uint256 length);
    /// @notice No auditor has `seat`.
    error NoAuditor(uint16 seat);
    /// @notice Auditor `seat` is for `seated`, not for `study`.
    error SeatedForAnother(uint16 seat, bytes32 seated, bytes32 study);
    /// @notice `member` opened `study` to auditor `seat` before.
    error AuditOpenedBefore(uint16 member, uint16 seat, bytes32 study);
    /// @notice Votes come in ascending order of member indexes below 32, one each; `member` does not.
    error VotesOrder(uint16 member);
    /// @notice Member `index` is not active, or no such index was given.
    error NotActive(uint16 index);
    /// @notice Removing member `index` would leave fewer than two.
    error LastMembers(uint16 index);
    /// @notice The term ends at `termEnd`, which is not after `timestamp`.
    error TermOver(uint64 termEnd, uint256 timestamp);

    /// @notice Admit a member by votes Admit(epoch, ledger, seatHash) of the active members.
    /// @param votes Ascending by member.
    function admit(SeatInput calldata seat, MemberVote[] calldata votes) external;

    /// @notice Remove member `index`, also a revoked one, for good, by votes Remove(epoch, member, ledger).
    function remove(uint16 index, MemberVote[] calldata votes) external;

    /// @notice Change the keys of member `index`: ledger key, peer id, sealing key, any or all of them. At most once in
    /// seven days.
    /// @param keys The new keys, with the new ledger key's statement Keys(member, ledger, peerId, sealingKey).
    /// @param signature By the ledger key it has until now, over Rotate(epoch, member, keysHash).
    function rotate(uint16 index, KeysInput calldata keys, bytes calldata signature) external;

    /// @notice Suspend the key of member `index` at once, by votes Revoke(epoch, member, ledger). Its seat is inactive
    /// until `recover`.
    function revoke(uint16 index, MemberVote[] calldata votes) external;

    /// @notice Give member `index`, whose key is lost or revoked, new keys by votes Recover(epoch, member, keysHash).
    /// @param keys The new keys, with their own statement; the ledger key is another one.
    function recover(uint16 index, KeysInput calldata keys, MemberVote[] calldata votes) external;

    /// @notice Seat an auditor by votes SeatAuditor(epoch, ledger, seatHash, study, termEnd).
    /// @param study The one study it may audit, or zero for every study.
    /// @param termEnd Unix seconds, in the future.
    function seatAuditor(SeatInput calldata seat, bytes32 study, uint64 termEnd, MemberVote[] calldata votes) external;

    /// @notice End the term of auditor `seat` now, by votes EndAuditor(epoch, seat, ledger).
    function endAuditor(uint16 seat, MemberVote[] calldata votes) external;

    /// @notice Open a study to the auditor in a seat whose term runs and which is for it, by an active member's
    /// OpenAudit(member, seat, study): the second of the two words that an audit needs. Anybody may carry it, nobody twice.
    function openAudit(uint16 member, uint16 seat, bytes32 study, bytes32 r, bytes32 vs) external;

    /// @notice Go on with another deployment, by votes Succeed(epoch, successor). For good once all of it stands; until
    /// then another vote may name another one.
    /// @param successor_ Where its Membership will lie or lies.
    function succeed(address successor_, MemberVote[] calldata votes) external;

    /// @notice Anchor the next segment of an active member's own log, by its AnchorLog(member, root, entries). Anybody may
    /// carry it, nobody twice: `entries` grows.
    /// @param root Of the segment's lines; what they say is not on the chain.
    /// @param entries Lines of the log so far, this segment's included.
    function anchorLog(uint16 member, bytes32 root, uint64 entries, bytes32 r, bytes32 vs) external;

    /// @notice Say where an active member is dialled, by its Announce(member, number, multiaddress). Anybody may carry it,
    /// nobody twice: `number` grows.
    /// @param multiaddress As libp2p writes it, in ASCII, such as /dns4/koinon.hospital.example/tcp/41001; at most 256 bytes.
    function announce(uint16 member, uint64 number, bytes calldata multiaddress, bytes32 r, bytes32 vs) external;

    /// @notice Number of the address that `member` announced last; zero: none.
    function announced(uint16 member) external view returns (uint64);

    /// @notice Lines of the log of `member` that are under anchored roots.
    function loggedBy(uint16 member) external view returns (uint64);

    /// @notice Number of changes so far, from 1 (the founding).
    function epoch() external view returns (uint64);
    /// @notice Bitmap of the members that take part now.
    function activeMembers() external view returns (uint32);
    /// @notice Number of members that take part now.
    function memberCount() external view returns (uint256);
    /// @notice Bitmap of the members whose key is revoked and not yet replaced.
    function revokedMembers() external view returns (uint32);
    /// @notice Number of indexes given, removed members included.
    function indexCount() external view returns (uint256);
    /// @notice Address of member `index`, also of a removed one; 1 for a revoked one, zero when no such index was given.
    function ledgerOf(uint16 index) external view returns (address);
    /// @notice What seat `ledger` has.
    /// @return role 0 none, 1 member, 2 auditor.
    /// @return index Member index or auditor seat.
    /// @return active Whether it takes part now (an auditor: its term is running).
    function seatOf(address ledger) external view returns (uint8 role, uint16 index, bool active);
    /// @notice Number of auditor seats given.
    function auditorCount() external view returns (uint256);
    /// @notice Address of the auditor in `seat`, zero when no such seat was given.
    function auditorLedger(uint16 seat) external view returns (address);
    /// @notice An auditor's seat. `ledger` is zero when no such seat was given.
    function auditorOf(uint16 seat) external view returns (address ledger, bytes32 study, uint64 termEnd);
    /// @notice Rolling hash over all events of this contract.
    function accumulator() external view returns (bytes32);
    /// @notice Address whose code holds every member's address (library RosterCode).
    function rosterCode() external view returns (address);
    /// @notice As `rosterCode`, with the keys that decide a round or erasure opened at `openedAt` (Unix seconds): those before any
    /// rotation stamped then or later, but for revocations and recoveries, which take effect at once.
    function rosterAt(uint64 openedAt) external view returns (address);
    /// @notice All that another registry needs, in one call.
    /// @param roster Address whose code holds every member's address (library RosterCode).
    function snapshot() external view returns (address roster, uint64 epoch, uint32 active, bytes32 accumulator);
    /// @notice As `snapshot`, for whoever opens a round: nobody is active once the network has a successor.
    function roundSnapshot()
        external
        view
        returns (address roster, uint64 epoch, uint32 active, bytes32 accumulator);
    /// @notice `roundSnapshot` and `rosterAt` in one, for whoever ends a round opened at `openedAt` and opens the next one.
    /// @param deciding Address whose code holds the keys that decide the round that ends.
    function closing(uint64 openedAt)
        external
        view
        returns (uint64 epoch, uint32 active, bytes32 accumulator, address deciding);
    /// @notice Whether a seat here or at a predecessor has or had a peer id with this keccak256.
    function peerKnown(bytes32 peerIdHash) external view returns (bool);
    /// @notice Membership of the deployment that this one continues, zero: none.
    function predecessor() external view returns (IMembership);
    /// @notice Membership of the deployment that continues this one, zero: none.
    function successor() external view returns (address);
    /// @notice The ConsentRegistry of this network.
    function consent() external view returns (address);
    /// @notice The TrainingLedger of this network.
    function training() external view returns (address);
    /// @notice The UnlearningRegistry of this network.
    function unlearning() external view returns (address);
}
