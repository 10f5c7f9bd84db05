// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title IMembership: who is a member, who may audit, and where the other contracts are
/// @notice Members have an index from 0 that is never given twice; at most 32 are ever given in a network, because every
/// set of members is one uint32. A member is a ledger address (secp256k1), a libp2p peer id and an X25519 sealing key,
/// bound together by its own signed statement `Seat`. A removed member keeps its index and address in history.
/// Auditors have seats with numbers of their own, no bit and no vote.
/// Nobody owns this contract. The only authority is a quorum of the active members over one digest that names the
/// current epoch; every change raises the epoch by one, so no vote can be used twice. `msg.sender` means nothing.
/// Changes reach a study's rounds when its next round opens.
interface IMembership {
    /// @notice An applicant and its own word for it.
    /// @param ledger Address of its ledger key, never seated before.
    /// @param peerId Its libp2p peer id, 1 to 64 bytes, never seated before.
    /// @param sealingKey Its X25519 public key, not zero.
    /// @param name What people call it, 1 to 64 bytes of UTF-8.
    /// @param signature 65 bytes r, s, v by `ledger` over Seat(role, peerId, sealingKey, name).
    struct SeatInput {
        address ledger;
        bytes peerId;
        bytes32 sealingKey;
        string name;
        bytes signature;
    }

    /// @notice Member `index` takes part from `epoch` on.
    event MemberAdmitted(
        uint16 indexed index, address ledger, bytes peerId, bytes32 sealingKey, string name, uint64 epoch
    );
    /// @notice Member `index` takes no part from `epoch` on.
    event MemberRemoved(uint16 indexed index, uint64 epoch);
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
    /// @notice Member `index` is not active, or no such index was given.
    error NotActive(uint16 index);
    /// @notice Removing member `index` would leave fewer than two.
    error LastMembers(uint16 index);
    /// @notice The term ends at `termEnd`, which is not after `timestamp`.
    error TermOver(uint64 termEnd, uint256 timestamp);

    /// @notice Admit a member by votes Admit(epoch, ledger, seatHash) of the active members.
    /// @param signers Bitmap of the voters.
    /// @param signatures 64 bytes (r, vs) for each voter, ascending.
    function admit(SeatInput calldata seat, uint32 signers, bytes calldata signatures) external;

    /// @notice Remove member `index` by votes Remove(epoch, member, ledger).
    function remove(uint16 index, uint32 signers, bytes calldata signatures) external;

    /// @notice Seat an auditor by votes SeatAuditor(epoch, ledger, seatHash, study, termEnd).
    /// @param study The one study it may audit, or zero for every study.
    /// @param termEnd Unix seconds, in the future.
    function seatAuditor(
        SeatInput calldata seat,
        bytes32 study,
        uint64 termEnd,
        uint32 signers,
        bytes calldata signatures
    ) external;

    /// @notice Number of changes so far, from 1 (the founding).
    function epoch() external view returns (uint64);
    /// @notice Bitmap of the members that take part now.
    function activeMembers() external view returns (uint32);
    /// @notice Number of members that take part now.
    function memberCount() external view returns (uint256);
    /// @notice Number of indexes given, removed members included.
    function indexCount() external view returns (uint256);
    /// @notice Address of member `index`, also of a removed one; zero when no such index was given.
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
    /// @notice All that another registry needs, in one call.
    /// @param roster Address whose code holds every member's address (library RosterCode).
    function snapshot() external view returns (address roster, uint64 epoch, uint32 active, bytes32 accumulator);
    /// @notice The ConsentRegistry of this network.
    function consent() external view returns (address);
    /// @notice The TrainingLedger of this network.
    function training() external view returns (address);
    /// @notice The UnlearningRegistry of this network.
    function unlearning() external view returns (address);
}
