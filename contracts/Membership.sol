// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {IConsentRegistry} from "./interfaces/IConsentRegistry.sol";
import {IMembership} from "./interfaces/IMembership.sol";
import {Accumulator} from "./libraries/Accumulator.sol";
import {Bitmaps} from "./libraries/Bitmaps.sol";
import {PackedSignatures} from "./libraries/PackedSignatures.sol";
import {Quorum} from "./libraries/Quorum.sol";
import {RosterCode} from "./libraries/RosterCode.sol";
import {Signers} from "./libraries/Signers.sol";
import {Statements} from "./libraries/Statements.sol";
import {Tags} from "./libraries/Tags.sol";

/// @title Membership
/// @notice The manual is in interfaces/IMembership.sol.
contract Membership is IMembership, Accumulator, EIP712 {
    using Bitmaps for uint32;

    uint256 private constant MAX_MEMBERS = 32;
    uint256 private constant MAX_ADDRESS_BYTES = 256;
    uint256 private constant MAX_TEXT = 64;
    /// @dev A member changes its own keys no oftener, so that nobody can outrun the votes of the others (each change voids
    /// the votes that name the epoch before it).
    uint64 private constant ROTATION_INTERVAL = 7 days;
    uint8 private constant MEMBER = 1;
    uint8 private constant AUDITOR = 2;

    /// @dev `speaks`: this is the key that member `index` has now, and the member takes part.
    struct Seat {
        uint8 role;
        uint16 index;
        bool speaks;
    }

    /// @dev What a change of keys is measured against.
    struct Keys {
        bytes32 peer; // keccak256 of the member's peer id
        uint64 rotatedAt; // by the member itself; zero: never
        uint64 logged; // entries of its log under anchored roots
        uint64 announced; // number of the address it announced last; zero: none
    }

    /// @dev A roster that rounds opened at or before `until` are still decided with.
    struct Retired {
        address roster;
        uint64 until;
    }

    struct Auditor {
        address ledger;
        uint64 termEnd;
        bytes32 study;
    }

    // One slot: where the addresses lie, the epoch, who takes part, when a member last rotated its keys (zero when a
    // revocation or recovery came after it), and whether the network has a successor.
    address private _roster;
    uint16 private _epoch;
    uint32 private _active;
    uint40 private _rotatedAt;
    bool private _moved;

    uint32 private _revoked;
    Retired[] private _retired;
    uint256 private _firstRetired; // those before are superseded by a revocation or recovery
    mapping(uint16 index => Keys) private _keys;

    Auditor[] private _auditors;
    mapping(bytes32 statement => bool) private _opened;
    mapping(address ledger => Seat) private _seats;
    mapping(bytes32 peerIdHash => bool) private _peers;

    /// @inheritdoc IMembership
    IMembership public immutable predecessor;
    /// @inheritdoc IMembership
    address public successor;
    /// @inheritdoc IMembership
    address public immutable consent;
    /// @inheritdoc IMembership
    address public immutable training;
    /// @inheritdoc IMembership
    address public immutable unlearning;

    /// @param members Founders, in index order; their own statements name this contract's address as it will be.
    /// @param auditors Founding auditors, for every study and without end.
    /// @param consent_ Where the deployer's next contract, the ConsentRegistry, will lie.
    /// @param training_ Where the TrainingLedger will lie.
    /// @param unlearning_ Where the UnlearningRegistry will lie.
    /// @param predecessor_ Membership of the deployment that this one continues, whose members voted for this address; zero:
    /// none. Then every index and seat given there has an entry: its own address and a Seat for this contract, or, when it is
    /// inactive there, an empty one.
    constructor(
        SeatInput[] memory members,
        SeatInput[] memory auditors,
        address consent_,
        address training_,
        address unlearning_,
        IMembership predecessor_
    ) EIP712("koinon", "1") {
        if (members.length > MAX_MEMBERS) revert NetworkFull(members.length);
        consent = consent_;
        training = training_;
        unlearning = unlearning_;
        predecessor = predecessor_;
        if (address(predecessor_) != address(0)) {
            _continue(predecessor_, members, auditors);
            return;
        }
        if (members.length < 2) revert TooFewFounders(members.length);
        _epoch = 1;
        bytes memory addresses;
        for (uint256 i; i < members.length; ++i) {
            _foundMember(uint16(i), members[i], 1);
            addresses = abi.encodePacked(addresses, members[i].ledger);
        }
        _roster = RosterCode.store(addresses);
        _active = uint32((uint256(1) << members.length) - 1);
        for (uint256 i; i < auditors.length; ++i) {
            _foundAuditor(uint16(i), auditors[i], bytes32(0), 0, 1);
        }
    }

    /// @dev The founding of a successor: same indexes, addresses, terms and numbers of log lines; the next epoch.
    function _continue(IMembership old, SeatInput[] memory members, SeatInput[] memory auditors) private {
        if (old.successor() != address(this)) revert NotSuccessor(old.successor());
        uint256 given = old.indexCount();
        if (members.length != given) revert SeatsWanted(given, members.length);
        uint256 seats = old.auditorCount();
        if (auditors.length != seats) revert SeatsWanted(seats, auditors.length);
        uint64 epoch_ = old.epoch() + 1;
        (_epoch, _active, _revoked) = (uint16(epoch_), old.activeMembers(), old.revokedMembers());
        bytes memory addresses;
        for (uint16 i; i < given; ++i) {
            address ledger = old.ledgerOf(i);
            addresses = abi.encodePacked(addresses, ledger);
            _keys[i].logged = old.loggedBy(i);
            if (_active.has(i)) {
                if (members[i].ledger != ledger) revert SeatChanged(i, ledger, members[i].ledger);
                _foundMember(i, members[i], epoch_);
            }
        }
        _roster = RosterCode.store(addresses);
        for (uint16 i; i < seats; ++i) {
            (address ledger, bytes32 study, uint64 termEnd) = old.auditorOf(i);
            if (termEnd == 0 || block.timestamp < termEnd) {
                if (auditors[i].ledger != ledger) revert SeatChanged(i, ledger, auditors[i].ledger);
                _foundAuditor(i, auditors[i], study, termEnd, epoch_);
            } else {
                _auditors.push(Auditor(ledger, termEnd, study));
            }
        }
    }

    /// @inheritdoc IMembership
    function succeed(address successor_, MemberVote[] calldata votes) external {
        if (successor_ == address(0) || successor_ == address(this)) revert NotSuccessor(successor_);
        // A founding that failed, or a wrong address, is mended by another vote; what stands is final.
        if (_moved && _founded(successor)) revert NetworkMoved(successor);
        _checkQuorum(keccak256(abi.encode(Statements.SUCCEED, _epoch, successor_)), votes);
        successor = successor_;
        _moved = true;
        uint64 now_ = ++_epoch;
        emit NetworkSucceeded(successor_, now_);
        _record(keccak256(abi.encode(Tags.RECORD_NETWORK_SUCCEEDED, successor_, now_)));
    }

    /// @inheritdoc IMembership
    function admit(SeatInput calldata seat, MemberVote[] calldata votes) external {
        bytes memory roster = RosterCode.load(_roster);
        uint256 index = (roster.length - 1) / 20;
        if (index == MAX_MEMBERS) revert NetworkFull(index);
        bytes32 seatHash = _seat(Seat(MEMBER, uint16(index), true), seat, Statements.ROLE_MEMBER);
        _checkVotes(keccak256(abi.encode(Statements.ADMIT, _epoch, seat.ledger, seatHash)), votes);
        _keys[uint16(index)].peer = keccak256(seat.peerId);
        // an index beyond the roster replaces nothing
        _roster = RosterCode.store(abi.encodePacked(RosterCode.replaced(roster, index, address(0)), seat.ledger));
        _active |= Bitmaps.single(uint16(index));
        _logMember(uint16(index), seat, ++_epoch);
        _tellKey(uint16(index), address(0), seat.ledger);
    }

    /// @inheritdoc IMembership
    function remove(uint16 index, MemberVote[] calldata votes) external {
        bool revoked = _revoked.has(index);
        if (!_active.has(index) && !revoked) revert NotActive(index);
        if (!revoked && _active.count() == 2) revert LastMembers(index);
        address old = ledgerOf(index);
        _checkVotes(keccak256(abi.encode(Statements.REMOVE, _epoch, index, old)), votes);
        _seats[old].speaks = false;
        _active &= ~Bitmaps.single(index);
        _revoked &= ~Bitmaps.single(index);
        uint64 now_ = ++_epoch;
        emit MemberRemoved(index, now_);
        _record(keccak256(abi.encode(Tags.RECORD_MEMBER_REMOVED, index, now_)));
        _tellKey(index, old, address(0));
    }

    /// @inheritdoc IMembership
    function rotate(uint16 index, KeysInput calldata keys, bytes calldata signature) external {
        _checkHere();
        if (!_active.has(index)) revert NotActive(index);
        Keys storage own = _keys[index];
        if (own.rotatedAt != 0 && block.timestamp < own.rotatedAt + ROTATION_INTERVAL) {
            revert RotatedLately(index, own.rotatedAt + ROTATION_INTERVAL);
        }
        bytes memory roster = RosterCode.load(_roster);
        address old = RosterCode.ledgerAt(roster, index);
        bytes32 keysHash = _takeKeys(index, old, keys);
        bytes32 structHash = keccak256(abi.encode(Statements.ROTATE, _epoch, index, keysHash));
        (bool signed, address recovered) = Signers.check(old, _hashTypedDataV4(structHash), signature);
        if (!signed) revert KeysNotSigned(index, old, recovered);
        own.rotatedAt = uint64(block.timestamp);
        if (keys.ledger != old) {
            _seats[old].speaks = false;
            _retired.push(Retired(_roster, uint64(block.timestamp)));
            _rotatedAt = uint40(block.timestamp);
            _roster = RosterCode.store(RosterCode.replaced(roster, index, keys.ledger));
        }
        uint64 now_ = ++_epoch;
        emit MemberRotated(index, keys.ledger, keys.peerId, keys.sealingKey, uint64(block.timestamp), now_);
        _record(_keysRecord(Tags.RECORD_MEMBER_ROTATED, index, keys, now_));
        if (keys.ledger != old) _tellKey(index, old, keys.ledger);
    }

    /// @inheritdoc IMembership
    function revoke(uint16 index, MemberVote[] calldata votes) external {
        if (!_active.has(index)) revert NotActive(index);
        if (_active.count() == 2) revert LastMembers(index);
        bytes memory roster = RosterCode.load(_roster);
        address old = RosterCode.ledgerAt(roster, index);
        _checkVotes(keccak256(abi.encode(Statements.REVOKE, _epoch, index, old)), votes);
        _active &= ~Bitmaps.single(index);
        _revoked |= Bitmaps.single(index);
        _seats[old].speaks = false;
        _replaceAtOnce(roster, index, RosterCode.NOBODY);
        uint64 now_ = ++_epoch;
        emit MemberRevoked(index, uint64(block.timestamp), now_);
        _record(keccak256(abi.encode(Tags.RECORD_MEMBER_REVOKED, index, block.timestamp, now_)));
        _tellKey(index, old, address(0));
    }

    /// @inheritdoc IMembership
    function recover(uint16 index, KeysInput calldata keys, MemberVote[] calldata votes) external {
        if (!_active.has(index) && !_revoked.has(index)) revert NotActive(index);
        bytes32 keysHash = _takeKeys(index, address(0), keys);
        _checkVotes(keccak256(abi.encode(Statements.RECOVER, _epoch, index, keysHash)), votes);
        _active |= Bitmaps.single(index);
        _revoked &= ~Bitmaps.single(index);
        bytes memory roster = RosterCode.load(_roster);
        address old = RosterCode.ledgerAt(roster, index);
        _seats[old].speaks = false;
        _replaceAtOnce(roster, index, keys.ledger);
        uint64 now_ = ++_epoch;
        emit MemberRecovered(index, keys.ledger, keys.peerId, keys.sealingKey, uint64(block.timestamp), now_);
        _record(_keysRecord(Tags.RECORD_MEMBER_RECOVERED, index, keys, now_));
        _tellKey(index, old, keys.ledger);
    }

    /// @inheritdoc IMembership
    function seatAuditor(SeatInput calldata seat, bytes32 study, uint64 termEnd, MemberVote[] calldata votes) external {
        if (termEnd <= block.timestamp) revert TermOver(termEnd, block.timestamp);
        uint16 number = uint16(_auditors.length);
        bytes32 seatHash = _seat(Seat(AUDITOR, number, false), seat, Statements.ROLE_AUDITOR);
        _checkVotes(
            keccak256(abi.encode(Statements.SEAT_AUDITOR, _epoch, seat.ledger, seatHash, study, termEnd)), votes
        );
        _auditors.push(Auditor(seat.ledger, termEnd, study));
        _logAuditor(number, seat, study, termEnd, ++_epoch);
    }

    /// @inheritdoc IMembership
    function endAuditor(uint16 seat, MemberVote[] calldata votes) external {
        if (seat >= _auditors.length) revert NoAuditor(seat);
        Auditor storage auditor = _auditors[seat];
        if (auditor.termEnd != 0 && auditor.termEnd <= block.timestamp) {
            revert TermOver(auditor.termEnd, block.timestamp);
        }
        _checkVotes(keccak256(abi.encode(Statements.END_AUDITOR, _epoch, seat, auditor.ledger)), votes);
        auditor.termEnd = uint64(block.timestamp);
        uint64 now_ = ++_epoch;
        emit AuditorEnded(seat, uint64(block.timestamp), now_);
        _record(keccak256(abi.encode(Tags.RECORD_AUDITOR_ENDED, seat, block.timestamp, now_)));
    }

    /// @inheritdoc IMembership
    function openAudit(uint16 member, uint16 seat, bytes32 study, bytes32 r, bytes32 vs) external {
        if (!_active.has(member)) revert NotActive(member);
        if (seat >= _auditors.length) revert NoAuditor(seat);
        Auditor memory auditor = _auditors[seat];
        if (auditor.termEnd != 0 && auditor.termEnd <= block.timestamp) {
            revert TermOver(auditor.termEnd, block.timestamp);
        }
        if (auditor.study != 0 && auditor.study != study) revert SeatedForAnother(seat, auditor.study, study);
        bytes32 structHash = keccak256(abi.encode(Statements.OPEN_AUDIT, member, seat, study));
        if (_opened[structHash]) revert AuditOpenedBefore(member, seat, study);
        PackedSignatures.check(member, ledgerOf(member), _hashTypedDataV4(structHash), r, vs);
        _opened[structHash] = true;
        emit AuditOpened(member, seat, study);
        _record(keccak256(abi.encode(Tags.RECORD_AUDIT_OPENED, member, seat, study)));
    }

    /// @inheritdoc IMembership
    function anchorLog(uint16 member, bytes32 root, uint64 entries, bytes32 r, bytes32 vs) external {
        _checkHere();
        if (!_active.has(member)) revert NotActive(member);
        Keys storage own = _keys[member];
        if (entries <= own.logged) revert LogNotLonger(member, entries, own.logged);
        bytes32 structHash = keccak256(abi.encode(Statements.ANCHOR_LOG, member, root, entries));
        PackedSignatures.check(member, ledgerOf(member), _hashTypedDataV4(structHash), r, vs);
        own.logged = entries;
        emit LogAnchored(member, root, entries);
        _record(keccak256(abi.encode(Tags.RECORD_LOG_ANCHORED, member, root, entries)));
    }

    /// @inheritdoc IMembership
    function announce(uint16 member, uint64 number, bytes calldata multiaddress, bytes32 r, bytes32 vs) external {
        if (!_active.has(member)) revert NotActive(member);
        if (multiaddress.length > MAX_ADDRESS_BYTES) revert AddressLength(multiaddress.length);
        Keys storage own = _keys[member];
        if (number <= own.announced) revert AnnouncementNotNewer(member, number, own.announced);
        bytes32 text = keccak256(multiaddress);
        bytes32 structHash = keccak256(abi.encode(Statements.ANNOUNCE, member, number, text));
        PackedSignatures.check(member, ledgerOf(member), _hashTypedDataV4(structHash), r, vs);
        own.announced = number;
        emit AddressAnnounced(member, number, multiaddress);
        _record(keccak256(abi.encode(Tags.RECORD_ADDRESS_ANNOUNCED, member, number, text)));
    }

    /// @inheritdoc IMembership
    function announced(uint16 member) external view returns (uint64) {
        return _keys[member].announced;
    }

    /// @inheritdoc IMembership
    function loggedBy(uint16 member) external view returns (uint64) {
        return _keys[member].logged;
    }

    /// @inheritdoc IMembership
    function epoch() external view returns (uint64) {
        return _epoch;
    }

    /// @inheritdoc IMembership
    function activeMembers() external view returns (uint32) {
        return _active;
    }

    /// @inheritdoc IMembership
    function memberCount() external view returns (uint256) {
        return _active.count();
    }

    /// @inheritdoc IMembership
    function revokedMembers() external view returns (uint32) {
        return _revoked;
    }

    /// @inheritdoc IMembership
    function indexCount() external view returns (uint256) {
        return (_roster.code.length - 1) / 20;
    }

    /// @inheritdoc IMembership
    function ledgerOf(uint16 index) public view returns (address) {
        return RosterCode.ledgerAt(RosterCode.load(_roster), index);
    }

    /// @inheritdoc IMembership
    function seatOf(address ledger) external view returns (uint8 role, uint16 index, bool active) {
        Seat memory seat = _seats[ledger];
        role = seat.role;
        index = seat.index;
        if (role == MEMBER) {
            active = seat.speaks;
        } else if (role == AUDITOR) {
            uint64 termEnd = _auditors[index].termEnd;
            active = termEnd == 0 || block.timestamp < termEnd;
        }
    }

    /// @inheritdoc IMembership
    function auditorCount() external view returns (uint256) {
        return _auditors.length;
    }

    /// @inheritdoc IMembership
    function auditorLedger(uint16 seat) external view returns (address) {
        return seat < _auditors.length ? _auditors[seat].ledger : address(0);
    }

    /// @inheritdoc IMembership
    function auditorOf(uint16 seat) external view returns (address ledger, bytes32 study, uint64 termEnd) {
        if (seat < _auditors.length) {
            Auditor memory auditor = _auditors[seat];
            return (auditor.ledger, auditor.study, auditor.termEnd);
        }
    }

    /// @inheritdoc IMembership
    function accumulator() external view returns (bytes32) {
        return _accumulated();
    }

    /// @inheritdoc IMembership
    function rosterCode() external view returns (address) {
        return _roster;
    }

    /// @inheritdoc IMembership
    function rosterAt(uint64 openedAt) public view returns (address roster) {
        roster = _roster;
        if (openedAt > _rotatedAt) return roster;
        uint256 first = _firstRetired;
        for (uint256 i = _retired.length; i > first && _retired[i - 1].until >= openedAt; --i) {
            roster = _retired[i - 1].roster;
        }
    }

    /// @inheritdoc IMembership
    function snapshot() external view returns (address, uint64, uint32, bytes32) {
        return (_roster, _epoch, _active, _accumulated());
    }

    /// @inheritdoc IMembership
    function roundSnapshot() external view returns (address, uint64, uint32, bytes32) {
        return (_roster, _epoch, _moved ? 0 : _active, _accumulated());
    }

    /// @inheritdoc IMembership
    function closing(uint64 openedAt) external view returns (uint64, uint32, bytes32, address) {
        return (_epoch, _moved ? 0 : _active, _accumulated(), rosterAt(openedAt));
    }

    /// @inheritdoc IMembership
    function peerKnown(bytes32 peerIdHash) public view returns (bool) {
        return _peers[peerIdHash] || (address(predecessor) != address(0) && predecessor.peerKnown(peerIdHash));
    }

    /// @dev The ConsentRegistry keeps who may grant with its own slots: no grant asks here.
    function _tellKey(uint16 index, address before, address ledger) private {
        IConsentRegistry(consent).keyChanged(index, before, ledger);
    }

    /// @dev Whether a deployment stands, to its last contract.
    function _founded(address membership) private view returns (bool) {
        if (membership.code.length == 0) return false;
        try IMembership(membership).unlearning() returns (address last) {
            return last.code.length != 0;
        } catch {
            return false;
        }
    }

    /// @dev Reverts when the network's affairs are decided at another deployment.
    function _checkHere() private view {
        if (_moved) revert NetworkMoved(successor);
    }

    /// @dev Checks an applicant and its own statement, and takes its address and peer id out of circulation.
    function _seat(Seat memory where, SeatInput memory seat, bytes32 roleHash) private returns (bytes32 seatHash) {
        _takeLedger(seat.ledger, where);
        _takePeer(seat.peerId);
        return _checkSeat(seat, roleHash);
    }

    /// @dev A founder keeps the address and peer id that it has at a predecessor.
    function _foundMember(uint16 index, SeatInput memory seat, uint64 epoch_) private {
        _foundSeat(Seat(MEMBER, index, true), seat, Statements.ROLE_MEMBER);
        _keys[index].peer = keccak256(seat.peerId);
        _logMember(index, seat, epoch_);
    }

    function _foundAuditor(uint16 number, SeatInput memory seat, bytes32 study, uint64 termEnd, uint64 epoch_) private {
        _foundSeat(Seat(AUDITOR, number, false), seat, Statements.ROLE_AUDITOR);
        _auditors.push(Auditor(seat.ledger, termEnd, study));
        _logAuditor(number, seat, study, termEnd, epoch_);
    }

    function _foundSeat(Seat memory where, SeatInput memory seat, bytes32 roleHash) private {
        if (seat.ledger == address(0) || _seats[seat.ledger].role != 0) revert LedgerTaken(seat.ledger);
        _seats[seat.ledger] = where;
        bytes32 peer = _checkPeer(seat.peerId);
        if (_peers[peer]) revert PeerTaken(seat.peerId);
        _peers[peer] = true;
        _checkSeat(seat, roleHash);
    }

    function _checkSeat(SeatInput memory seat, bytes32 roleHash) private view returns (bytes32 seatHash) {
        uint256 nameLength = bytes(seat.name).length;
        if (nameLength == 0 || nameLength > MAX_TEXT) revert NameLength(nameLength);
        if (seat.sealingKey == 0) revert NoSealingKey(seat.ledger);
        seatHash = Statements.hashSeat(roleHash, seat.peerId, seat.sealingKey, seat.name);
        (bool signed, address recovered) = Signers.check(seat.ledger, _hashTypedDataV4(seatHash), seat.signature);
        if (!signed) revert SeatNotSigned(seat.ledger, recovered);
    }

    /// @dev Checks a member's new keys and their own statement. Those that are new go out of circulation; the ledger key
    /// may stay when it is `kept`, the peer id when it is the one the member has.
    function _takeKeys(uint16 index, address kept, KeysInput calldata keys) private returns (bytes32 keysHash) {
        if (keys.sealingKey == 0) revert NoSealingKey(keys.ledger);
        if (keys.ledger != kept || kept == address(0)) _takeLedger(keys.ledger, Seat(MEMBER, index, true));
        bytes32 peer = keccak256(keys.peerId);
        if (peer != _keys[index].peer) {
            _takePeer(keys.peerId);
            _keys[index].peer = peer;
        }
        keysHash = Statements.hashKeys(index, keys.ledger, keys.peerId, keys.sealingKey);
        (bool signed, address recovered) = Signers.check(keys.ledger, _hashTypedDataV4(keysHash), keys.signature);
        if (!signed) revert KeysNotSigned(index, keys.ledger, recovered);
    }

    function _takeLedger(address ledger, Seat memory seat) private {
        if (ledger == address(0) || _seats[ledger].role != 0 || _seatedBefore(ledger)) revert LedgerTaken(ledger);
        _seats[ledger] = seat;
    }

    function _seatedBefore(address ledger) private view returns (bool) {
        if (address(predecessor) == address(0)) return false;
        (uint8 role,,) = predecessor.seatOf(ledger);
        return role != 0;
    }

    function _takePeer(bytes memory peerId) private {
        bytes32 peer = _checkPeer(peerId);
        if (peerKnown(peer)) revert PeerTaken(peerId);
        _peers[peer] = true;
    }

    function _checkPeer(bytes memory peerId) private pure returns (bytes32) {
        if (peerId.length == 0 || peerId.length > MAX_TEXT) revert PeerIdLength(peerId.length);
        return keccak256(peerId);
    }

    /// @dev Open rounds too are decided with this roster from now on, and with no earlier one.
    function _replaceAtOnce(bytes memory roster, uint16 index, address ledger) private {
        _roster = RosterCode.store(RosterCode.replaced(roster, index, ledger));
        _rotatedAt = 0;
        _firstRetired = _retired.length;
    }

    /// @dev As _checkQuorum, for what is decided where the members are.
    function _checkVotes(bytes32 structHash, MemberVote[] calldata votes) private view {
        _checkHere();
        _checkQuorum(structHash, votes);
    }

    /// @dev Reverts unless a quorum of the active members signed. A key's wrong signature is the carrier's fault and
    /// refuses the call; a wallet's wrong answer is the wallet's own affair: it is not counted, and hinders nobody.
    function _checkQuorum(bytes32 structHash, MemberVote[] calldata votes) private view {
        uint32 active = _active;
        uint32 voters;
        for (uint256 i; i < votes.length; ++i) {
            uint16 member = votes[i].member;
            if (member >= MAX_MEMBERS || (i != 0 && member <= votes[i - 1].member)) revert VotesOrder(member);
            voters |= Bitmaps.single(member);
        }
        if (voters & ~active != 0) revert PackedSignatures.NotOnRoster(voters & ~active);
        uint256 n = active.count();
        uint256 needed = Quorum.needed(n, Quorum.faults(n, n));
        if (votes.length < needed) revert PackedSignatures.QuorumNotReached(votes.length, needed);
        bytes32 digest = _hashTypedDataV4(structHash);
        bytes memory roster = RosterCode.load(_roster);
        uint256 counted;
        for (uint256 i; i < votes.length; ++i) {
            address ledger = RosterCode.ledgerAt(roster, votes[i].member);
            (bool signed, address recovered) = Signers.check(ledger, digest, votes[i].signature);
            if (signed) {
                ++counted;
            } else if (ledger.code.length == 0) {
                revert PackedSignatures.BadSignature(votes[i].member, ledger, recovered);
            }
        }
        if (counted < needed) revert PackedSignatures.QuorumNotReached(counted, needed);
    }

    function _keysRecord(bytes32 tag, uint16 index, KeysInput calldata keys, uint64 epoch_)
        private
        view
        returns (bytes32)
    {
        return keccak256(
            abi.encode(tag, index, keys.ledger, keccak256(keys.peerId), keys.sealingKey, block.timestamp, epoch_)
        );
    }

    function _logMember(uint16 index, SeatInput memory seat, uint64 epoch_) private {
        emit MemberAdmitted(index, seat.ledger, seat.peerId, seat.sealingKey, seat.name, epoch_);
        _record(
            keccak256(
                abi.encode(
                    Tags.RECORD_MEMBER_ADMITTED,
                    index,
                    seat.ledger,
                    keccak256(seat.peerId),
                    seat.sealingKey,
                    keccak256(bytes(seat.name)),
                    epoch_
                )
            )
        );
    }

    function _logAuditor(uint16 number, SeatInput memory seat, bytes32 study, uint64 termEnd, uint64 epoch_) private {
        emit AuditorSeated(number, seat.ledger, seat.peerId, seat.sealingKey, seat.name, study, termEnd, epoch_);
        _record(
            keccak256(
                abi.encode(
                    Tags.RECORD_AUDITOR_SEATED,
                    number,
                    seat.ledger,
                    keccak256(seat.peerId),
                    seat.sealingKey,
                    keccak256(bytes(seat.name)),
                    study,
                    termEnd,
                    epoch_
                )
            )
        );
    }
}
