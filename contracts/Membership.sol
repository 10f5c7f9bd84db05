// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {IMembership} from "./interfaces/IMembership.sol";
import {Accumulator} from "./libraries/Accumulator.sol";
import {Bitmaps} from "./libraries/Bitmaps.sol";
import {PackedSignatures} from "./libraries/PackedSignatures.sol";
import {Quorum} from "./libraries/Quorum.sol";
import {RosterCode} from "./libraries/RosterCode.sol";
import {Statements} from "./libraries/Statements.sol";
import {Tags} from "./libraries/Tags.sol";

/// @title Membership
/// @notice The manual is in interfaces/IMembership.sol.
contract Membership is IMembership, Accumulator, EIP712 {
    using Bitmaps for uint32;

    uint256 private constant MAX_MEMBERS = 32;
    uint256 private constant MAX_TEXT = 64;
    uint8 private constant MEMBER = 1;
    uint8 private constant AUDITOR = 2;

    struct Seat {
        uint8 role;
        uint16 index;
    }

    struct Auditor {
        address ledger;
        uint64 termEnd;
        bytes32 study;
    }

    // One slot: where the addresses lie, the epoch, and who takes part.
    address private _roster;
    uint64 private _epoch;
    uint32 private _active;

    Auditor[] private _auditors;
    mapping(address ledger => Seat) private _seats;
    mapping(bytes32 peerIdHash => bool) private _peers;

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
    constructor(
        SeatInput[] memory members,
        SeatInput[] memory auditors,
        address consent_,
        address training_,
        address unlearning_
    ) EIP712("koinon", "1") {
        if (members.length < 2) revert TooFewFounders(members.length);
        if (members.length > MAX_MEMBERS) revert NetworkFull(members.length);
        consent = consent_;
        training = training_;
        unlearning = unlearning_;
        _epoch = 1;
        bytes memory addresses;
        for (uint256 i; i < members.length; ++i) {
            _seat(MEMBER, uint16(i), members[i], Statements.ROLE_MEMBER);
            addresses = abi.encodePacked(addresses, members[i].ledger);
            _logMember(uint16(i), members[i], 1);
        }
        _roster = RosterCode.store(addresses);
        _active = uint32((uint256(1) << members.length) - 1);
        for (uint256 i; i < auditors.length; ++i) {
            _seat(AUDITOR, uint16(i), auditors[i], Statements.ROLE_AUDITOR);
            _auditors.push(Auditor(auditors[i].ledger, 0, bytes32(0)));
            _logAuditor(uint16(i), auditors[i], bytes32(0), 0, 1);
        }
    }

    /// @inheritdoc IMembership
    function admit(SeatInput calldata seat, uint32 signers, bytes calldata signatures) external {
        bytes memory addresses = _addresses();
        uint256 index = addresses.length / 20;
        if (index == MAX_MEMBERS) revert NetworkFull(index);
        bytes32 seatHash = _seat(MEMBER, uint16(index), seat, Statements.ROLE_MEMBER);
        _checkVotes(keccak256(abi.encode(Statements.ADMIT, _epoch, seat.ledger, seatHash)), signers, signatures);
        _roster = RosterCode.store(abi.encodePacked(addresses, seat.ledger));
        _active |= Bitmaps.single(uint16(index));
        _logMember(uint16(index), seat, ++_epoch);
    }

    /// @inheritdoc IMembership
    function remove(uint16 index, uint32 signers, bytes calldata signatures) external {
        if (!_active.has(index)) revert NotActive(index);
        if (_active.count() == 2) revert LastMembers(index);
        _checkVotes(keccak256(abi.encode(Statements.REMOVE, _epoch, index, ledgerOf(index))), signers, signatures);
        _active &= ~Bitmaps.single(index);
        uint64 now_ = ++_epoch;
        emit MemberRemoved(index, now_);
        _record(keccak256(abi.encode(Tags.RECORD_MEMBER_REMOVED, index, now_)));
    }

    /// @inheritdoc IMembership
    function seatAuditor(
        SeatInput calldata seat,
        bytes32 study,
        uint64 termEnd,
        uint32 signers,
        bytes calldata signatures
    ) external {
        if (termEnd <= block.timestamp) revert TermOver(termEnd, block.timestamp);
        uint16 number = uint16(_auditors.length);
        bytes32 seatHash = _seat(AUDITOR, number, seat, Statements.ROLE_AUDITOR);
        _checkVotes(
            keccak256(abi.encode(Statements.SEAT_AUDITOR, _epoch, seat.ledger, seatHash, study, termEnd)),
            signers,
            signatures
        );
        _auditors.push(Auditor(seat.ledger, termEnd, study));
        _logAuditor(number, seat, study, termEnd, ++_epoch);
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
    function indexCount() external view returns (uint256) {
        return _addresses().length / 20;
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
            active = _active.has(index);
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
    function snapshot() external view returns (address, uint64, uint32, bytes32) {
        return (_roster, _epoch, _active, _accumulated());
    }

    /// @dev Checks an applicant and its own statement, and takes its address and peer id out of circulation.
    function _seat(uint8 role, uint16 index, SeatInput memory seat, bytes32 roleHash)
        private
        returns (bytes32 seatHash)
    {
        if (seat.peerId.length == 0 || seat.peerId.length > MAX_TEXT) revert PeerIdLength(seat.peerId.length);
        uint256 nameLength = bytes(seat.name).length;
        if (nameLength == 0 || nameLength > MAX_TEXT) revert NameLength(nameLength);
        if (seat.sealingKey == 0) revert NoSealingKey(seat.ledger);
        if (_seats[seat.ledger].role != 0) revert LedgerTaken(seat.ledger);
        bytes32 peer = keccak256(seat.peerId);
        if (_peers[peer]) revert PeerTaken(seat.peerId);
        seatHash = Statements.hashSeat(roleHash, seat.peerId, seat.sealingKey, seat.name);
        (address recovered,,) = ECDSA.tryRecover(_hashTypedDataV4(seatHash), seat.signature);
        if (recovered == address(0) || recovered != seat.ledger) revert SeatNotSigned(seat.ledger, recovered);
        _seats[seat.ledger] = Seat(role, index);
        _peers[peer] = true;
    }

    function _checkVotes(bytes32 structHash, uint32 signers, bytes calldata signatures) private view {
        uint256 n = _active.count();
        PackedSignatures.checkQuorum(
            RosterCode.load(_roster),
            _active,
            signers,
            signatures,
            _hashTypedDataV4(structHash),
            Quorum.needed(n, Quorum.faults(n, n))
        );
    }

    /// @dev Every address given, 20 bytes each, without the blob's leading zero byte.
    function _addresses() private view returns (bytes memory addresses) {
        bytes memory code = RosterCode.load(_roster);
        addresses = new bytes(code.length - 1);
        for (uint256 i; i < addresses.length; ++i) {
            addresses[i] = code[i + 1];
        }
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
