// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IMembership} from "../interfaces/IMembership.sol";
import {PackedSignatures} from "../libraries/PackedSignatures.sol";
import {Statements} from "../libraries/Statements.sol";
import {Tags} from "../libraries/Tags.sol";
import {Network} from "./support/Network.sol";

contract MembershipTest is Network {
    event MemberAdmitted(
        uint16 indexed index, address ledger, bytes peerId, bytes32 sealingKey, string name, uint64 epoch
    );
    event MemberRemoved(uint16 indexed index, uint64 epoch);

    IMembership.MemberVote[] internal noVotes;

    function admitVotes(IMembership.SeatInput memory seat, uint64 epoch, uint32 signers)
        internal
        view
        returns (IMembership.MemberVote[] memory)
    {
        bytes32 seatHash = Statements.hashSeat(Statements.ROLE_MEMBER, seat.peerId, seat.sealingKey, seat.name);
        return ballot(signers, keccak256(abi.encode(Statements.ADMIT, epoch, seat.ledger, seatHash)));
    }

    function applicant(uint256 index) internal view returns (IMembership.SeatInput memory) {
        return seatInput(memberKey(index), false, "new hospital", address(membership));
    }

    function admit(uint256 index) internal {
        IMembership.SeatInput memory seat = applicant(index);
        uint32 all = membership.activeMembers();
        membership.admit(seat, admitVotes(seat, membership.epoch(), all));
    }

    function removeVotes(uint16 index, uint64 epoch, uint32 signers)
        internal
        view
        returns (IMembership.MemberVote[] memory)
    {
        return ballot(signers, keccak256(abi.encode(Statements.REMOVE, epoch, index, membership.ledgerOf(index))));
    }

    function test_foundersAreSeated() public {
        found(4);
        same(membership.activeMembers(), 15, "active");
        same(membership.memberCount(), 4, "members");
        same(membership.indexCount(), 4, "indexes");
        same(membership.epoch(), 1, "epoch");
        for (uint16 i; i < 4; ++i) {
            holds(membership.ledgerOf(i) == vm.addr(memberKey(i)), "ledger address");
            (uint8 role, uint16 index, bool active) = membership.seatOf(vm.addr(memberKey(i)));
            holds(role == 1 && index == i && active, "seat");
        }
        holds(membership.ledgerOf(4) == address(0), "no such index");
        (uint8 auditor,, bool inTerm) = membership.seatOf(vm.addr(auditorKey(0)));
        holds(auditor == 2 && inTerm, "auditor");
        holds(membership.auditorLedger(0) == vm.addr(auditorKey(0)), "auditor's address");
        holds(membership.auditorLedger(1) == address(0), "no such seat");
        same(membership.auditorCount(), 1, "seats");
        holds(membership.consent() == address(consent), "consent");
        holds(membership.training() == address(training), "training");
        holds(membership.unlearning() == address(unlearning), "unlearning");
    }

    function test_accumulatorRollsOverTheFounding() public {
        found(2);
        bytes32 acc;
        for (uint256 i; i < 2; ++i) {
            IMembership.SeatInput memory seat = seatInput(memberKey(i), false, "hospital", address(membership));
            acc = keccak256(abi.encode(acc, memberRecord(i, seat, 1)));
        }
        IMembership.SeatInput memory a = seatInput(auditorKey(0), true, "auditor", address(membership));
        bytes32 record = keccak256(
            abi.encode(
                Tags.RECORD_AUDITOR_SEATED,
                uint256(0),
                a.ledger,
                keccak256(a.peerId),
                a.sealingKey,
                keccak256(bytes(a.name)),
                bytes32(0),
                uint256(0),
                uint256(1)
            )
        );
        same(membership.accumulator(), keccak256(abi.encode(acc, record)), "accumulator");
    }

    function memberRecord(uint256 index, IMembership.SeatInput memory seat, uint256 epoch)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(
            abi.encode(
                Tags.RECORD_MEMBER_ADMITTED,
                index,
                seat.ledger,
                keccak256(seat.peerId),
                seat.sealingKey,
                keccak256(bytes(seat.name)),
                epoch
            )
        );
    }

    function test_admissionNeedsAQuorumOfThisEpoch() public {
        found(4);
        IMembership.SeatInput memory seat = applicant(4);
        IMembership.MemberVote[] memory votes = admitVotes(seat, 1, 3);
        vm.expectRevert(abi.encodeWithSelector(PackedSignatures.QuorumNotReached.selector, 2, 3));
        membership.admit(seat, votes);
        votes = admitVotes(seat, 2, 7);
        vm.expectRevert(); // signed for another epoch: recovers to nobody
        membership.admit(seat, votes);
        votes = admitVotes(seat, 1, 7);
        vm.expectEmit(true, false, false, true, address(membership));
        emit MemberAdmitted(4, seat.ledger, seat.peerId, seat.sealingKey, seat.name, 2);
        membership.admit(seat, votes);
        same(membership.activeMembers(), 31, "active");
        same(membership.epoch(), 2, "epoch");
        holds(membership.ledgerOf(4) == seat.ledger, "address");
        holds(membership.ledgerOf(0) == vm.addr(memberKey(0)), "earlier addresses stay");
        vm.expectRevert(abi.encodeWithSelector(IMembership.LedgerTaken.selector, seat.ledger));
        membership.admit(seat, votes);
    }

    function test_votersOutsideTheRosterRefused() public {
        found(4);
        IMembership.SeatInput memory seat = applicant(4);
        IMembership.MemberVote[] memory votes = admitVotes(seat, 1, 0x17);
        vm.expectRevert(abi.encodeWithSelector(PackedSignatures.NotOnRoster.selector, 16));
        membership.admit(seat, votes);
        votes = admitVotes(seat, 1, 0x80000007);
        vm.expectRevert(abi.encodeWithSelector(PackedSignatures.NotOnRoster.selector, 0x80000000));
        membership.admit(seat, votes);
    }

    function test_seatMustBeSignedByItsOwnKey() public {
        found(4);
        IMembership.SeatInput memory seat = applicant(4);
        seat.sealingKey = keccak256("another key");
        IMembership.MemberVote[] memory votes = admitVotes(seat, 1, 7);
        vm.expectRevert();
        membership.admit(seat, votes);
        seat = seatInput(memberKey(4), true, "new hospital", address(membership)); // signed for an auditor's seat
        votes = admitVotes(seat, 1, 7);
        vm.expectRevert();
        membership.admit(seat, votes);
    }

    function test_badSeatFieldsRefused() public {
        found(4);
        IMembership.SeatInput memory seat = applicant(4);
        seat.peerId = "";
        vm.expectRevert(abi.encodeWithSelector(IMembership.PeerIdLength.selector, 0));
        membership.admit(seat, noVotes);
        seat.peerId = new bytes(65);
        vm.expectRevert(abi.encodeWithSelector(IMembership.PeerIdLength.selector, 65));
        membership.admit(seat, noVotes);
        seat = applicant(4);
        seat.name = "";
        vm.expectRevert(abi.encodeWithSelector(IMembership.NameLength.selector, 0));
        membership.admit(seat, noVotes);
        seat = applicant(4);
        seat.sealingKey = 0;
        vm.expectRevert(abi.encodeWithSelector(IMembership.NoSealingKey.selector, seat.ledger));
        membership.admit(seat, noVotes);
        seat = applicant(4);
        seat.peerId = abi.encodePacked("peer", memberKey(0));
        vm.expectRevert(abi.encodeWithSelector(IMembership.PeerTaken.selector, seat.peerId));
        membership.admit(seat, noVotes);
    }

    function test_removalKeepsIndexAndVotesDoNotHitASuccessor() public {
        found(4);
        IMembership.MemberVote[] memory votes = removeVotes(3, 1, 7);
        vm.expectEmit(true, false, false, true, address(membership));
        emit MemberRemoved(3, 2);
        membership.remove(3, votes);
        same(membership.activeMembers(), 7, "active");
        holds(membership.ledgerOf(3) == vm.addr(memberKey(3)), "history keeps the address");
        vm.expectRevert(abi.encodeWithSelector(IMembership.NotActive.selector, 3));
        membership.remove(3, votes);
        admit(5);
        holds(membership.ledgerOf(4) == vm.addr(memberKey(5)), "the index after the removed one");
        same(membership.activeMembers(), 23, "active");
    }

    function test_removedMemberHasNoVote() public {
        found(4);
        membership.remove(3, removeVotes(3, 1, 7));
        IMembership.SeatInput memory seat = applicant(4);
        IMembership.MemberVote[] memory votes = admitVotes(seat, 2, 11);
        vm.expectRevert(abi.encodeWithSelector(PackedSignatures.NotOnRoster.selector, 8));
        membership.admit(seat, votes);
    }

    function test_theLastTwoMembersStay() public {
        found(2);
        IMembership.MemberVote[] memory votes = removeVotes(1, 1, 3);
        vm.expectRevert(abi.encodeWithSelector(IMembership.LastMembers.selector, 1));
        membership.remove(1, votes);
    }

    function test_thirtyTwoIndexesAreGivenAtMost() public {
        found(31);
        admit(31);
        same(membership.activeMembers(), type(uint32).max, "all bits");
        IMembership.SeatInput memory seat = applicant(32);
        vm.expectRevert(abi.encodeWithSelector(IMembership.NetworkFull.selector, 32));
        membership.admit(seat, noVotes);
    }

    function test_networkNeedsTwoFounders() public {
        vm.expectRevert(abi.encodeWithSelector(IMembership.TooFewFounders.selector, 1));
        this.foundWith(1);
        vm.expectRevert(abi.encodeWithSelector(IMembership.NetworkFull.selector, 33));
        this.foundWith(33);
    }

    function foundWith(uint256 n) external {
        found(n);
    }

    function test_auditorSeatedForOneStudyAndATerm() public {
        found(4);
        IMembership.SeatInput memory seat = seatInput(auditorKey(1), true, "second auditor", address(membership));
        bytes32 seatHash = Statements.hashSeat(Statements.ROLE_AUDITOR, seat.peerId, seat.sealingKey, seat.name);
        bytes32 forStudy = keccak256("study");
        uint64 end = uint64(START + 1000);
        IMembership.MemberVote[] memory votes =
            ballot(7, keccak256(abi.encode(Statements.SEAT_AUDITOR, uint64(1), seat.ledger, seatHash, forStudy, end)));
        vm.expectRevert(abi.encodeWithSelector(IMembership.TermOver.selector, START, START));
        membership.seatAuditor(seat, forStudy, uint64(START), votes);
        membership.seatAuditor(seat, forStudy, end, votes);
        (address ledger, bytes32 study_, uint64 termEnd) = membership.auditorOf(1);
        holds(ledger == seat.ledger && study_ == forStudy && termEnd == end, "seat");
        (,, bool active) = membership.seatOf(seat.ledger);
        holds(active, "in term");
        vm.warp(end);
        (,, active) = membership.seatOf(seat.ledger);
        holds(!active, "term over");
        same(membership.activeMembers(), 15, "no bit and no vote");
        same(membership.epoch(), 2, "epoch");
    }
}
