// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC5267} from "@openzeppelin/contracts/interfaces/IERC5267.sol";
import {IConsentRegistry} from "../interfaces/IConsentRegistry.sol";
import {IMembership} from "../interfaces/IMembership.sol";
import {ITrainingLedger} from "../interfaces/ITrainingLedger.sol";
import {PackedSignatures} from "../libraries/PackedSignatures.sol";
import {Statements} from "../libraries/Statements.sol";
import {Tags} from "../libraries/Tags.sol";
import {Network} from "./support/Network.sol";

/// @notice A wallet of one key. What it does when asked is the test's choice.
contract Wallet {
    enum Manner {
        HONEST,
        REVERTS,
        BURNS,
        RUBBISH,
        SHORT,
        BOMB,
        WRITES
    }

    address internal immutable OWNER;
    Manner public manner;
    uint256 public written;

    constructor(address owner) {
        OWNER = owner;
    }

    function set(Manner manner_) external {
        manner = manner_;
    }

    function isValidSignature(bytes32 digest, bytes calldata signature) external returns (bytes4) {
        if (manner == Manner.REVERTS) revert("no");
        if (manner == Manner.BURNS) while (true) {}
        if (manner == Manner.RUBBISH) return 0xffffffff;
        if (manner == Manner.WRITES) written = 1;
        if (manner == Manner.SHORT) {
            assembly {
                mstore(0, shl(224, 0x1626ba7e))
                return(0, 4)
            }
        }
        if (manner == Manner.BOMB) {
            assembly {
                return(0, 30000)
            }
        }
        bytes32 r = bytes32(signature[:32]);
        bytes32 s = bytes32(signature[32:64]);
        return ecrecover(digest, uint8(signature[64]), r, s) == OWNER ? bytes4(0x1626ba7e) : bytes4(0);
    }
}

/// @notice Rotation, revocation, recovery, the end of an auditor's term, contract wallets, signing domains.
contract GovernanceTest is Network {
    event MemberRotated(
        uint16 indexed index, address ledger, bytes peerId, bytes32 sealingKey, uint64 at, uint64 epoch
    );
    event MemberRevoked(uint16 indexed index, uint64 at, uint64 epoch);
    event AuditOpened(uint16 indexed member, uint16 seat, bytes32 study);
    event AuditorEnded(uint16 indexed seat, uint64 termEnd, uint64 epoch);

    uint256 internal constant FRESH = uint256(keccak256("fresh key"));
    bytes32 internal constant MODEL = keccak256("model");

    // -------------------------------------------------------------------------------------------- statements

    function keysOf(uint16 index, uint256 key, bytes memory peerId)
        internal
        view
        returns (IMembership.KeysInput memory keys)
    {
        keys.ledger = vm.addr(key);
        keys.peerId = peerId;
        keys.sealingKey = keccak256(abi.encode("sealing", key));
        keys.signature = sign65(key, address(membership), hashOf(index, keys));
    }

    function freshKeys(uint16 index) internal view returns (IMembership.KeysInput memory) {
        return keysOf(index, FRESH, abi.encodePacked("fresh peer", index));
    }

    function hashOf(uint16 index, IMembership.KeysInput memory keys) internal pure returns (bytes32) {
        return Statements.hashKeys(index, keys.ledger, keys.peerId, keys.sealingKey);
    }

    function rotateHash(uint16 index, IMembership.KeysInput memory keys, uint64 epoch) internal pure returns (bytes32) {
        return keccak256(abi.encode(Statements.ROTATE, epoch, index, hashOf(index, keys)));
    }

    function rotateSigned(uint16 index, IMembership.KeysInput memory keys) internal view returns (bytes memory) {
        return sign65(memberKey(index), address(membership), rotateHash(index, keys, membership.epoch()));
    }

    function rotate(uint16 index, uint256 key) internal {
        IMembership.KeysInput memory keys = keysOf(index, key, abi.encodePacked("peer of", key));
        membership.rotate(index, keys, rotateSigned(index, keys));
        rotated[index] = key;
    }

    function revokeVotes(uint16 index, uint64 epoch, uint32 signers)
        internal
        view
        returns (IMembership.MemberVote[] memory)
    {
        return ballot(signers, keccak256(abi.encode(Statements.REVOKE, epoch, index, membership.ledgerOf(index))));
    }

    function recoverVotes(uint16 index, IMembership.KeysInput memory keys, uint64 epoch, uint32 signers)
        internal
        view
        returns (IMembership.MemberVote[] memory)
    {
        return ballot(signers, keccak256(abi.encode(Statements.RECOVER, epoch, index, hashOf(index, keys))));
    }

    // ---------------------------------------------------------------------------------------------- rotation

    function test_rotationTakesOldKeyAndNewKey() public {
        found(4);
        IMembership.KeysInput memory keys = freshKeys(1);
        bytes memory good = rotateSigned(1, keys);
        bytes memory bySomebody = sign65(memberKey(2), address(membership), rotateHash(1, keys, 1));
        vm.expectRevert(
            abi.encodeWithSelector(IMembership.KeysNotSigned.selector, 1, vm.addr(memberKey(1)), vm.addr(memberKey(2)))
        );
        membership.rotate(1, keys, bySomebody);
        bytes memory proof = keys.signature;
        keys.signature = sign65(memberKey(1), address(membership), hashOf(1, keys)); // the old key for the new one
        vm.expectRevert(
            abi.encodeWithSelector(IMembership.KeysNotSigned.selector, 1, vm.addr(FRESH), vm.addr(memberKey(1)))
        );
        membership.rotate(1, keys, good);
        keys.signature = proof;
        bytes32 before = membership.accumulator();
        vm.expectEmit(true, false, false, true, address(membership));
        emit MemberRotated(1, keys.ledger, keys.peerId, keys.sealingKey, uint64(START), 2);
        membership.rotate(1, keys, good);
        bytes32 record = keccak256(
            abi.encode(
                Tags.RECORD_MEMBER_ROTATED,
                uint256(1),
                keys.ledger,
                keccak256(keys.peerId),
                keys.sealingKey,
                uint256(START),
                uint256(2)
            )
        );
        same(membership.accumulator(), keccak256(abi.encode(before, record)), "accumulator");
        same(membership.epoch(), 2, "epoch");
        same(membership.activeMembers(), 15, "active");
        same(membership.indexCount(), 4, "no new index");
        holds(membership.ledgerOf(1) == vm.addr(FRESH), "new address");
        (uint8 role, uint16 index, bool active) = membership.seatOf(vm.addr(memberKey(1)));
        holds(role == 1 && index == 1 && !active, "the old address is known and takes no part");
        (role, index, active) = membership.seatOf(vm.addr(FRESH));
        holds(role == 1 && index == 1 && active, "the new one does");
        vm.expectRevert(); // the same statement again: another epoch, another key
        membership.rotate(1, keys, good);
    }

    function test_aRotationKeepsWhatItDoesNotChange() public {
        found(4);
        IMembership.KeysInput memory keys = keysOf(1, memberKey(1), abi.encodePacked("peer", memberKey(1)));
        keys.sealingKey = keccak256("another sealing key");
        keys.signature = sign65(memberKey(1), address(membership), hashOf(1, keys));
        address blob = membership.rosterCode();
        membership.rotate(1, keys, rotateSigned(1, keys));
        holds(membership.rosterCode() == blob, "no new roster for an old ledger key");
        holds(membership.ledgerOf(1) == vm.addr(memberKey(1)), "address");
    }

    function test_keysThatAnybodyEverHadAreRefused() public {
        found(4);
        IMembership.KeysInput memory keys = keysOf(1, memberKey(2), "new peer");
        bytes memory signature = rotateSigned(1, keys);
        vm.expectRevert(abi.encodeWithSelector(IMembership.LedgerTaken.selector, vm.addr(memberKey(2))));
        membership.rotate(1, keys, signature);
        keys = keysOf(1, FRESH, abi.encodePacked("peer", memberKey(2)));
        signature = rotateSigned(1, keys);
        vm.expectRevert(abi.encodeWithSelector(IMembership.PeerTaken.selector, keys.peerId));
        membership.rotate(1, keys, signature);
        rotate(1, FRESH);
        vm.warp(START + 8 days);
        rotated[1] = 0; // back to the first key
        keys = keysOf(1, memberKey(1), "newer peer");
        rotated[1] = FRESH;
        signature = rotateSigned(1, keys);
        vm.expectRevert(abi.encodeWithSelector(IMembership.LedgerTaken.selector, keys.ledger));
        membership.rotate(1, keys, signature);
    }

    function test_aMemberRotatesOnceInSevenDays() public {
        found(4);
        rotate(1, FRESH);
        IMembership.KeysInput memory keys = keysOf(1, FRESH + 1, "next peer");
        bytes memory signature = rotateSigned(1, keys);
        vm.warp(START + 7 days - 1);
        vm.expectRevert(abi.encodeWithSelector(IMembership.RotatedLately.selector, 1, START + 7 days));
        membership.rotate(1, keys, signature);
        vm.warp(START + 7 days);
        membership.rotate(1, keys, signature);
    }

    function test_anOpenRoundIsDecidedWithTheKeysItOpenedWith() public {
        bytes32 roundId = start(4);
        vm.warp(START + 5);
        uint256 old = memberKey(1);
        rotate(1, FRESH);
        vm.recordLogs();
        commit(roundId, 2);
        same(vm.getRecordedLogs()[0].topics[0], keccak256("EntrySkipped(bytes32,uint16,uint8)"), "the new key waits");
        rotated[1] = old;
        vm.warp(START + 6); // the next round opens a second after the rotation
        bytes32 next = finish(roundId, 15, MODEL);
        vm.recordLogs();
        commit(next, 2);
        same(vm.getRecordedLogs()[0].topics[0], keccak256("EntrySkipped(bytes32,uint16,uint8)"), "the old key is gone");
        rotated[1] = FRESH;
        finish(next, 15, keccak256("model 2"));
    }

    function test_aRoundOfTheSameSecondKeepsTheOldKeys() public {
        bytes32 roundId = start(4);
        uint256 old = memberKey(1);
        rotate(1, FRESH);
        holds(membership.rosterAt(uint64(START)) != membership.rosterCode(), "as before the rotation");
        holds(membership.rosterAt(uint64(START + 1)) == membership.rosterCode(), "a second later: as now");
        rotated[1] = old;
        finish(roundId, 15, MODEL);
    }

    function test_rostersOfThePastAreFoundAmongSeveralRotations() public {
        found(4);
        address[5] memory blobs;
        blobs[0] = membership.rosterCode();
        for (uint16 i; i < 4; ++i) {
            vm.warp(START + 10 * (uint256(i) + 1));
            rotate(i, FRESH + i);
            blobs[i + 1] = membership.rosterCode();
        }
        for (uint256 i; i < 5; ++i) {
            holds(membership.rosterAt(uint64(START + 10 * i + 1)) == blobs[i], "just after a rotation");
            holds(membership.rosterAt(uint64(START + 10 * i + 10)) == blobs[i], "at the next one's second");
        }
    }

    // -------------------------------------------------------------------------------- revocation and recovery

    function speaks(uint256 key) internal view returns (bool active) {
        (,, active) = membership.seatOf(vm.addr(key));
    }

    function test_whoSpeaksFollowsEveryChangeOfKeys() public {
        found(5);
        uint256 old = memberKey(3);
        membership.revoke(3, revokeVotes(3, 1, 7 | 16));
        holds(!speaks(old), "a revoked key");
        IMembership.KeysInput memory keys = freshKeys(3);
        membership.recover(3, keys, recoverVotes(3, keys, 2, 7 | 16));
        holds(!speaks(old) && speaks(FRESH), "the recovered seat's new key");
        keys = keysOf(2, FRESH + 1, "another peer");
        uint256 lost = memberKey(2);
        rotated[3] = FRESH;
        membership.recover(2, keys, recoverVotes(2, keys, 3, 3 | 8 | 16));
        holds(!speaks(lost) && speaks(FRESH + 1), "a key that was lost and never revoked");
        bytes32 structHash = keccak256(abi.encode(Statements.REMOVE, uint64(4), uint16(4), vm.addr(memberKey(4))));
        rotated[2] = FRESH + 1;
        membership.remove(4, ballot(15, structHash));
        holds(!speaks(memberKey(4)), "a removed one");
        holds(speaks(memberKey(0)) && speaks(memberKey(1)), "the others");
    }

    function test_aRevokedKeyDecidesNothingFromThenOn() public {
        bytes32 roundId = start(4);
        vm.warp(START + 5);
        IMembership.MemberVote[] memory votes = revokeVotes(3, 1, 3);
        vm.expectRevert(abi.encodeWithSelector(PackedSignatures.QuorumNotReached.selector, 2, 3));
        membership.revoke(3, votes);
        votes = revokeVotes(3, 1, 7);
        vm.expectEmit(true, false, false, true, address(membership));
        emit MemberRevoked(3, uint64(START + 5), 2);
        membership.revoke(3, votes);
        same(membership.activeMembers(), 7, "inactive");
        same(membership.revokedMembers(), 8, "its seat waits");
        same(membership.indexCount(), 4, "the index stays");
        // not in the round that is open
        vm.recordLogs();
        commit(roundId, 8);
        same(vm.getRecordedLogs()[0].topics[0], keccak256("EntrySkipped(bytes32,uint16,uint8)"), "no commitment");
        commit(roundId, 7);
        vm.warp(START + SEAL + 1);
        ITrainingLedger.Result memory result = resultOf(7, 0, MODEL);
        bytes memory signatures = votesOf(roundId, 0, 7, result, 15);
        vm.expectRevert(
            abi.encodeWithSelector(PackedSignatures.BadSignature.selector, 3, address(1), vm.addr(memberKey(3)))
        );
        training.finalise(study, roundId, 0, result, 15, signatures);
        finalise(roundId, 0, 7, result, 7); // the others lose nothing
        same(training.roundOf(study, training.openRound(study)).roster, 7, "the next roster is without it");
        // not in votes, not about itself, not about its studies
        votes = revokeVotes(2, 2, 12);
        vm.expectRevert(abi.encodeWithSelector(PackedSignatures.NotOnRoster.selector, 8));
        membership.revoke(2, votes);
        IMembership.KeysInput memory keys = freshKeys(3);
        bytes memory signature = rotateSigned(3, keys);
        vm.expectRevert(abi.encodeWithSelector(IMembership.NotActive.selector, 3));
        membership.rotate(3, keys, signature);
        (bytes32 r, bytes32 vs) =
            sign(memberKey(3), address(training), keccak256(abi.encode(Statements.LEAVE, study, uint16(3))));
        vm.expectRevert();
        training.leave(study, 3, r, vs);
    }

    function test_recoveryGivesTheSeatBackWithNewKeys() public {
        bytes32 roundId = start(4);
        vm.warp(START + 5);
        membership.revoke(3, revokeVotes(3, 1, 7));
        IMembership.KeysInput memory keys = freshKeys(3);
        IMembership.MemberVote[] memory votes = recoverVotes(3, keys, 2, 1);
        vm.expectRevert(abi.encodeWithSelector(PackedSignatures.QuorumNotReached.selector, 1, 2));
        membership.recover(3, keys, votes);
        votes = recoverVotes(3, keys, 2, 3);
        membership.recover(3, keys, votes);
        same(membership.activeMembers(), 15, "active");
        same(membership.revokedMembers(), 0, "nothing waits");
        holds(membership.ledgerOf(3) == vm.addr(FRESH), "new address under the old index");
        vm.expectRevert(); // the same votes again
        membership.recover(3, keys, votes);
        uint256 old = memberKey(3);
        vm.recordLogs();
        commit(roundId, 8);
        same(vm.getRecordedLogs()[0].topics[0], keccak256("EntrySkipped(bytes32,uint16,uint8)"), "the stolen key");
        rotated[3] = FRESH;
        finish(roundId, 15, MODEL); // the new key counts at once: the round's roster never changed
        rotated[3] = old;
    }

    function test_aLostKeyIsReplacedWithoutARevocation() public {
        found(4);
        IMembership.KeysInput memory keys = freshKeys(3);
        membership.recover(3, keys, recoverVotes(3, keys, 1, 7));
        holds(membership.ledgerOf(3) == vm.addr(FRESH), "new address");
        same(membership.activeMembers(), 15, "active as before");
    }

    function test_aRemovedMemberIsNotRecovered() public {
        found(4);
        membership.remove(
            3, ballot(7, keccak256(abi.encode(Statements.REMOVE, uint64(1), uint16(3), membership.ledgerOf(3))))
        );
        IMembership.KeysInput memory keys = freshKeys(3);
        IMembership.MemberVote[] memory votes = recoverVotes(3, keys, 2, 7);
        vm.expectRevert(abi.encodeWithSelector(IMembership.NotActive.selector, 3));
        membership.recover(3, keys, votes);
    }

    function test_aRevokedMemberMayBeRemovedForGood() public {
        found(4);
        membership.revoke(3, revokeVotes(3, 1, 7));
        membership.remove(
            3, ballot(3, keccak256(abi.encode(Statements.REMOVE, uint64(2), uint16(3), membership.ledgerOf(3))))
        );
        same(membership.revokedMembers(), 0, "nothing waits");
        IMembership.KeysInput memory keys = freshKeys(3);
        IMembership.MemberVote[] memory votes = recoverVotes(3, keys, 3, 3);
        vm.expectRevert(abi.encodeWithSelector(IMembership.NotActive.selector, 3));
        membership.recover(3, keys, votes);
    }

    function test_theKeysOfARevocationCountForRoundsOpenedBefore() public {
        bytes32 roundId = start(5);
        vm.warp(START + 5);
        uint256 old = memberKey(1);
        rotate(1, FRESH);
        membership.revoke(4, revokeVotes(4, 2, 15));
        holds(membership.rosterAt(uint64(START)) == membership.rosterCode(), "the newest keys for every round");
        rotated[1] = old;
        vm.recordLogs();
        commit(roundId, 2);
        same(vm.getRecordedLogs()[0].topics[0], keccak256("EntrySkipped(bytes32,uint16,uint8)"), "the old key is gone");
        rotated[1] = FRESH;
        commit(roundId, 15);
        vm.warp(START + SEAL + 1);
        finalise(roundId, 0, 15, resultOf(15, 0, MODEL), 15);
    }

    function test_theLastTwoKeepTheirKeys() public {
        found(2);
        IMembership.MemberVote[] memory votes = revokeVotes(1, 1, 3);
        vm.expectRevert(abi.encodeWithSelector(IMembership.LastMembers.selector, 1));
        membership.revoke(1, votes);
    }

    // ------------------------------------------------------------------------------------------------ replay

    function testFuzz_votesForOneActAreNoVotesForAnother(uint8 act, uint8 wrong, uint64 epoch) public {
        found(4);
        act = act % 4;
        wrong = wrong % 4;
        epoch = wrong == act ? (epoch == 1 ? 2 : epoch) : 1;
        IMembership.KeysInput memory keys = freshKeys(3);
        IMembership.MemberVote[] memory votes = ballot(15, structOf(wrong, epoch, keys));
        vm.expectRevert();
        this.perform(act, keys, votes);
        same(membership.epoch(), 1, "nothing changed");
        same(membership.activeMembers(), 15, "nobody left");
        this.perform(act, keys, ballot(7, structOf(act, 1, keys)));
        same(membership.epoch(), 2, "one change");
    }

    function testFuzz_votesOfAnotherChainOrContractAreNoVotes(uint8 act, uint64 chain, address contract_) public {
        found(4);
        act = act % 4;
        vm.assume(chain != block.chainid && chain != 0 && contract_ != address(membership));
        IMembership.KeysInput memory keys = freshKeys(3);
        bytes32 structHash = structOf(act, 1, keys);
        uint256 here = block.chainid;
        vm.chainId(chain);
        IMembership.MemberVote[] memory elsewhere = ballot(15, structHash);
        vm.chainId(here);
        vm.expectRevert();
        this.perform(act, keys, elsewhere);
        vm.expectRevert();
        this.perform(act, keys, ballotOf(15, contract_, structHash));
        same(membership.epoch(), 1, "nothing changed");
    }

    function testFuzz_onlyAQuorumChangesMembership(uint8 act, uint32 signers) public {
        found(7);
        act = act % 4;
        signers = signers & 127;
        IMembership.KeysInput memory keys = freshKeys(3);
        IMembership.MemberVote[] memory votes = ballot(signers, structOf(act, 1, keys));
        if (count(signers) < 5) {
            vm.expectRevert(abi.encodeWithSelector(PackedSignatures.QuorumNotReached.selector, count(signers), 5));
            this.perform(act, keys, votes);
            same(membership.epoch(), 1, "nothing changed");
        } else {
            this.perform(act, keys, votes);
            same(membership.epoch(), 2, "one change");
        }
    }

    function test_oneMemberVotesOnce() public {
        found(4);
        IMembership.MemberVote[] memory votes = revokeVotes(3, 1, 7);
        votes[1] = votes[0];
        vm.expectRevert(abi.encodeWithSelector(IMembership.VotesOrder.selector, 0));
        membership.revoke(3, votes);
        votes[1].member = 32;
        vm.expectRevert(abi.encodeWithSelector(IMembership.VotesOrder.selector, 32));
        membership.revoke(3, votes);
    }

    function structOf(uint8 act, uint64 epoch, IMembership.KeysInput memory keys) internal view returns (bytes32) {
        if (act == 0) return keccak256(abi.encode(Statements.REMOVE, epoch, uint16(3), membership.ledgerOf(3)));
        if (act == 1) return keccak256(abi.encode(Statements.REVOKE, epoch, uint16(3), membership.ledgerOf(3)));
        if (act == 2) return keccak256(abi.encode(Statements.RECOVER, epoch, uint16(3), hashOf(3, keys)));
        return keccak256(abi.encode(Statements.END_AUDITOR, epoch, uint16(0), membership.auditorLedger(0)));
    }

    function perform(uint8 act, IMembership.KeysInput calldata keys, IMembership.MemberVote[] calldata votes) external {
        if (act == 0) membership.remove(3, votes);
        else if (act == 1) membership.revoke(3, votes);
        else if (act == 2) membership.recover(3, keys, votes);
        else membership.endAuditor(0, votes);
    }

    // --------------------------------------------------------------------------------------------- auditors

    function test_anAuditorsTermIsEndedByVotes() public {
        start(4);
        IMembership.MemberVote[] memory votes = ballot(7, structOf(3, 1, freshKeys(3)));
        vm.expectRevert(abi.encodeWithSelector(IMembership.NoAuditor.selector, 1));
        membership.endAuditor(1, votes);
        vm.warp(START + 9);
        vm.expectEmit(true, false, false, true, address(membership));
        emit AuditorEnded(0, uint64(START + 9), 2);
        membership.endAuditor(0, votes);
        (,, bool active) = membership.seatOf(vm.addr(auditorKey(0)));
        holds(!active, "its term is over");
        bytes32 structHash =
            keccak256(abi.encode(Statements.AUDIT_ACCESS, study, uint16(0), uint32(1), uint32(2), keccak256("ground")));
        (bytes32 r, bytes32 vs) = sign(auditorKey(0), address(training), structHash);
        vm.expectRevert();
        training.auditAccess(study, 0, 1, 2, keccak256("ground"), r, vs);
        vm.expectRevert(abi.encodeWithSelector(IMembership.TermOver.selector, START + 9, START + 9));
        membership.endAuditor(0, votes);
    }

    // ----------------------------------------------------------------------------------------------- wallets

    function admitWallet(Wallet wallet, uint256 owner) internal {
        IMembership.SeatInput memory seat = seatInput(owner, false, "wallet", address(membership));
        seat.ledger = address(wallet);
        bytes32 seatHash = Statements.hashSeat(Statements.ROLE_MEMBER, seat.peerId, seat.sealingKey, seat.name);
        membership.admit(
            seat, ballot(7, keccak256(abi.encode(Statements.ADMIT, membership.epoch(), seat.ledger, seatHash)))
        );
    }

    function test_aWalletIsSeatedVotesRotatesAndIsRotatedTo() public {
        found(3);
        Wallet wallet = new Wallet(vm.addr(FRESH));
        admitWallet(wallet, FRESH);
        holds(membership.ledgerOf(3) == address(wallet), "seated");
        rotated[3] = FRESH; // its owner signs for it
        membership.endAuditor(0, ballot(11, structOf(3, 2, freshKeys(3)))); // two keys and the wallet: three of four
        Wallet next = new Wallet(vm.addr(FRESH + 1));
        IMembership.KeysInput memory keys;
        keys.ledger = address(next);
        keys.peerId = "peer of the next wallet";
        keys.sealingKey = keccak256("its sealing key");
        keys.signature = sign65(FRESH + 1, address(membership), hashOf(3, keys));
        membership.rotate(3, keys, rotateSigned(3, keys));
        holds(membership.ledgerOf(3) == address(next), "rotated");
    }

    function test_aBadWalletIsNoVoteAndHindersNobody() public {
        found(3);
        Wallet wallet = new Wallet(vm.addr(FRESH));
        admitWallet(wallet, FRESH);
        rotated[3] = FRESH;
        IMembership.KeysInput memory keys = keysOf(2, FRESH + 1, "another peer");
        for (uint256 manner = 1; manner < 7; ++manner) {
            wallet.set(Wallet.Manner(manner));
            IMembership.MemberVote[] memory votes = ballot(11, structOf(3, 2, keys));
            uint256 before = gasleft();
            vm.expectRevert(abi.encodeWithSelector(PackedSignatures.QuorumNotReached.selector, 2, 3));
            membership.endAuditor(0, votes);
            holds(before - gasleft() < 400_000, "a wallet spends no more than its allowance");
        }
        same(wallet.written(), 0, "a static call writes nothing");
        // with three keys the wallet's vote is not needed, and does no harm
        membership.endAuditor(0, ballot(15, structOf(3, 2, keys)));
        // and a bad wallet is removed like anybody
        membership.remove(3, ballot(7, structOf(0, 3, keys)));
        same(membership.activeMembers(), 7, "removed");
    }

    function test_aWalletTakesNoPartInRounds() public {
        found(3);
        admitWallet(new Wallet(vm.addr(FRESH)), FRESH);
        rotated[3] = FRESH;
        ITrainingLedger.StudyTerms memory t = terms(4);
        study = createStudy(t);
        (bytes32 r, bytes32 vs) =
            sign(memberKey(3), address(training), keccak256(abi.encode(Statements.JOIN, study, uint16(3))));
        vm.expectRevert(
            abi.encodeWithSelector(PackedSignatures.BadSignature.selector, 3, membership.ledgerOf(3), vm.addr(FRESH))
        );
        training.join(study, 3, r, vs);
    }

    function test_highSIsNoSignature() public {
        found(4);
        IMembership.MemberVote[] memory votes = ballot(7, structOf(3, 1, freshKeys(3)));
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(memberKey(0), digest(address(membership), structOf(3, 1, freshKeys(3))));
        uint256 order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
        votes[0].signature = abi.encodePacked(r, bytes32(order - uint256(s)), v == 27 ? uint8(28) : uint8(27));
        vm.expectRevert(
            abi.encodeWithSelector(PackedSignatures.BadSignature.selector, 0, vm.addr(memberKey(0)), address(0))
        );
        membership.endAuditor(0, votes);
    }

    // --------------------------------------------------------------------------------------------- consents

    function test_withdrawalsGoOnForHospitalsThatRotatedOrWereRevoked() public {
        start(4);
        bytes32 formId;
        {
            IConsentRegistry.FormData memory form =
                IConsentRegistry.FormData(study, 5, keccak256("text"), 3, 1, 1_893_456_000, 3);
            formId = keccak256(abi.encode(Statements.FORM, form));
            (bytes32 r, bytes32 vs) =
                sign(memberKey(3), address(consent), keccak256(abi.encode(Statements.REGISTER_FORM, uint16(3), formId)));
            consent.registerForm(form, 3, r, vs);
        }
        bytes32[] memory ids = new bytes32[](2);
        (ids[0], ids[1]) = (keccak256("first"), keccak256("second"));
        IConsentRegistry.GrantEntry[] memory entries = new IConsentRegistry.GrantEntry[](1);
        {
            bytes32 structHash =
                keccak256(abi.encode(Statements.GRANT, formId, uint16(3), keccak256(abi.encodePacked(ids))));
            (bytes32 r, bytes32 vs) = sign(memberKey(3), address(consent), structHash);
            entries[0] = IConsentRegistry.GrantEntry(formId, 3, ids, r, vs);
        }
        consent.grant(entries);
        rotate(3, FRESH);
        withdrawByHospital(ids[0]); // by the key it has now
        same(consent.withdrawnAt(ids[0]), block.timestamp, "withdrawn by the rotated key");
        membership.revoke(3, revokeVotes(3, 2, 7));
        vm.expectRevert();
        this.withdrawByHospital(ids[1]);
        bytes32 structHash = keccak256(abi.encode(Statements.WITHDRAW_BY_QUORUM, uint64(3), uint16(3), ids[1]));
        consent.withdrawByQuorum(3, ids[1], 3, signAll(3, address(consent), structHash));
        same(consent.withdrawnAt(ids[1]), block.timestamp, "withdrawn for the revoked hospital");
    }

    /// @dev Whether hospital `member` can grant a new consent with `key`.
    function grantsWith(uint16 member, uint256 key, bytes32 formId) internal returns (bool) {
        bytes32[] memory ids = new bytes32[](1);
        ids[0] = keccak256(abi.encode("granted", member, key, block.timestamp, membership.epoch()));
        IConsentRegistry.GrantEntry[] memory e = new IConsentRegistry.GrantEntry[](1);
        (bytes32 r, bytes32 vs) = sign(
            key,
            address(consent),
            keccak256(abi.encode(Statements.GRANT, formId, member, keccak256(abi.encodePacked(ids))))
        );
        e[0] = IConsentRegistry.GrantEntry(formId, member, ids, r, vs);
        consent.grant(e);
        return consent.grantOf(ids[0]).formId != 0;
    }

    /// @dev Membership tells the ConsentRegistry of every change: the old key grants nothing from that call on.
    function test_onlyTheKeyThatAMemberHasNowGrants() public {
        start(4);
        IConsentRegistry.FormData memory form =
            IConsentRegistry.FormData(study, 5, keccak256("text"), 3, 1, 1_893_456_000, 3);
        bytes32 formId = keccak256(abi.encode(Statements.FORM, form));
        uint256 old = memberKey(3);
        (bytes32 r, bytes32 vs) =
            sign(old, address(consent), keccak256(abi.encode(Statements.REGISTER_FORM, uint16(3), formId)));
        consent.registerForm(form, 3, r, vs);
        holds(grantsWith(3, old, formId), "a founder's");
        holds(!grantsWith(2, old, formId), "another's key");
        rotate(3, FRESH);
        holds(!grantsWith(3, old, formId), "the one before the rotation");
        holds(grantsWith(3, FRESH, formId), "the one after it");
        membership.revoke(3, revokeVotes(3, 2, 7));
        holds(!grantsWith(3, FRESH, formId), "a revoked one");
    }

    function withdrawByHospital(bytes32 id) public {
        (bytes32 r, bytes32 vs) =
            sign(memberKey(3), address(consent), keccak256(abi.encode(Statements.WITHDRAW_BY_HOSPITAL, uint16(3), id)));
        consent.withdrawByHospital(3, id, 0, 0, new bytes32[](0), r, vs);
    }

    // ---------------------------------------------------------------------------------------------- domains

    function test_everyContractTellsItsSigningDomain() public {
        found(4);
        address[4] memory all = [address(membership), address(consent), address(training), address(unlearning)];
        for (uint256 i; i < 4; ++i) {
            (
                bytes1 fields,
                string memory name,
                string memory version,
                uint256 chainId,
                address verifyingContract,
                bytes32 salt,
                uint256[] memory extensions
            ) = IERC5267(all[i]).eip712Domain();
            holds(fields == hex"0f", "name, version, chain id, contract");
            same(keccak256(bytes(name)), keccak256("koinon"), "name");
            same(keccak256(bytes(version)), keccak256("1"), "version");
            same(chainId, block.chainid, "chain id");
            holds(verifyingContract == all[i], "contract");
            holds(salt == 0 && extensions.length == 0, "no salt, no extensions");
        }
    }

    // ------------------------------------------------------------------------------------------------- logs

    function anchoring(uint16 member, bytes32 root, uint64 entries) internal view returns (bytes32 r, bytes32 vs) {
        bytes32 structHash = keccak256(abi.encode(Statements.ANCHOR_LOG, member, root, entries));
        return sign(memberKey(member), address(membership), structHash);
    }

    function test_aLogIsAnchoredByItsMemberOnceAndChangesNoEpoch() public {
        found(3);
        bytes32 before = membership.accumulator();
        uint64 epoch = membership.epoch();
        (bytes32 r, bytes32 vs) = anchoring(1, bytes32("root"), 5);
        vm.prank(address(0xdead)); // anybody carries it
        membership.anchorLog(1, bytes32("root"), 5, r, vs);
        same(membership.loggedBy(1), 5, "entries");
        same(membership.epoch(), epoch, "epoch");
        bytes32 record = keccak256(abi.encode(Tags.RECORD_LOG_ANCHORED, uint16(1), bytes32("root"), uint64(5)));
        same(membership.accumulator(), keccak256(abi.encodePacked(before, record)), "accumulator");
        vm.expectRevert(abi.encodeWithSelector(IMembership.LogNotLonger.selector, uint16(1), uint64(5), uint64(5)));
        membership.anchorLog(1, bytes32("root"), 5, r, vs);
    }

    function test_aLogAnchorOfAnotherIsRefused() public {
        found(3);
        (bytes32 r, bytes32 vs) = anchoring(1, bytes32("root"), 5);
        vm.expectRevert(); // the recovered address is anybody's
        membership.anchorLog(0, bytes32("root"), 5, r, vs);
        vm.expectRevert();
        membership.anchorLog(1, bytes32("root"), 6, r, vs);
        vm.expectRevert(abi.encodeWithSelector(IMembership.NotActive.selector, uint16(40)));
        membership.anchorLog(40, bytes32("root"), 5, r, vs);
    }

    // -------------------------------------------------------------------------------------------- openings to auditors

    function opening(uint16 member, uint16 seat, bytes32 study) internal view returns (bytes32 r, bytes32 vs) {
        bytes32 structHash = keccak256(abi.encode(Statements.OPEN_AUDIT, member, seat, study));
        return sign(memberKey(member), address(membership), structHash);
    }

    function seatForOne(bytes32 study_, uint64 termEnd) internal {
        IMembership.SeatInput memory seat = seatInput(auditorKey(1), true, "second auditor", address(membership));
        bytes32 seatHash = Statements.hashSeat(Statements.ROLE_AUDITOR, seat.peerId, seat.sealingKey, seat.name);
        bytes32 statement =
            keccak256(abi.encode(Statements.SEAT_AUDITOR, uint64(1), seat.ledger, seatHash, study_, termEnd));
        membership.seatAuditor(seat, study_, termEnd, ballot(7, statement));
    }

    function test_aMemberOpensAStudyToAnAuditorOnce() public {
        found(3);
        bytes32 one = keccak256("one study");
        seatForOne(one, uint64(START + 100));
        bytes32 before = membership.accumulator();
        (bytes32 r, bytes32 vs) = opening(1, 1, one);
        vm.expectEmit(true, false, false, true, address(membership));
        emit AuditOpened(1, 1, one);
        vm.prank(address(0xdead)); // anybody carries it
        membership.openAudit(1, 1, one, r, vs);
        same(membership.epoch(), 2, "epoch");
        bytes32 record = keccak256(abi.encode(Tags.RECORD_AUDIT_OPENED, uint16(1), uint16(1), one));
        same(membership.accumulator(), keccak256(abi.encodePacked(before, record)), "accumulator");
        vm.expectRevert(abi.encodeWithSelector(IMembership.AuditOpenedBefore.selector, uint16(1), uint16(1), one));
        membership.openAudit(1, 1, one, r, vs);
        (r, vs) = opening(2, 0, keccak256("another")); // the founding auditor's seat is for every study
        membership.openAudit(2, 0, keccak256("another"), r, vs);
    }

    function test_anOpeningForAnotherStudyAfterTheTermOrByAnotherIsRefused() public {
        found(3);
        bytes32 one = keccak256("one study");
        bytes32 other = keccak256("another");
        seatForOne(one, uint64(START + 100));
        (bytes32 r, bytes32 vs) = opening(1, 1, other);
        vm.expectRevert(abi.encodeWithSelector(IMembership.SeatedForAnother.selector, uint16(1), one, other));
        membership.openAudit(1, 1, other, r, vs);
        (r, vs) = opening(1, 1, one);
        vm.expectRevert(); // the recovered address is anybody's
        membership.openAudit(2, 1, one, r, vs);
        vm.expectRevert(abi.encodeWithSelector(IMembership.NoAuditor.selector, uint16(2)));
        membership.openAudit(1, 2, one, r, vs);
        vm.expectRevert(abi.encodeWithSelector(IMembership.NotActive.selector, uint16(40)));
        membership.openAudit(40, 1, one, r, vs);
        vm.warp(START + 100);
        vm.expectRevert(abi.encodeWithSelector(IMembership.TermOver.selector, START + 100, START + 100));
        membership.openAudit(1, 1, one, r, vs);
    }

    // -------------------------------------------------------------------------------------------- addresses

    function announcing(uint16 member, uint64 number, bytes memory text) internal view returns (bytes32 r, bytes32 vs) {
        bytes32 structHash = keccak256(abi.encode(Statements.ANNOUNCE, member, number, keccak256(text)));
        return sign(memberKey(member), address(membership), structHash);
    }

    function test_aMemberSaysWhereItIsDialledAndChangesNoEpoch() public {
        found(3);
        bytes32 before = membership.accumulator();
        uint64 epoch = membership.epoch();
        (bytes32 r, bytes32 vs) = announcing(1, 1, "/dns4/one.example/tcp/41001");
        vm.prank(address(0xdead)); // anybody carries it
        membership.announce(1, 1, "/dns4/one.example/tcp/41001", r, vs);
        same(membership.announced(1), 1, "number");
        same(membership.epoch(), epoch, "epoch");
        bytes32 text = keccak256("/dns4/one.example/tcp/41001");
        bytes32 record = keccak256(abi.encode(Tags.RECORD_ADDRESS_ANNOUNCED, uint16(1), uint64(1), text));
        same(membership.accumulator(), keccak256(abi.encodePacked(before, record)), "accumulator");
        (r, vs) = announcing(1, 7, "");
        membership.announce(1, 7, "", r, vs); // it dials the others
        (r, vs) = announcing(1, 7, "/ip4/192.0.2.1/tcp/1");
        vm.expectRevert(
            abi.encodeWithSelector(IMembership.AnnouncementNotNewer.selector, uint16(1), uint64(7), uint64(7))
        );
        membership.announce(1, 7, "/ip4/192.0.2.1/tcp/1", r, vs);
    }

    function test_anAddressOfAnotherOrAVeryLongOneIsRefused() public {
        found(3);
        bytes memory text = "/ip4/192.0.2.1/tcp/1";
        (bytes32 r, bytes32 vs) = announcing(1, 1, text);
        vm.expectRevert(); // the recovered address is anybody's
        membership.announce(0, 1, text, r, vs);
        vm.expectRevert();
        membership.announce(1, 2, text, r, vs);
        vm.expectRevert();
        membership.announce(1, 1, "/ip4/192.0.2.2/tcp/1", r, vs);
        vm.expectRevert(abi.encodeWithSelector(IMembership.NotActive.selector, uint16(40)));
        membership.announce(40, 1, text, r, vs);
        bytes memory long = new bytes(257);
        (r, vs) = announcing(1, 1, long);
        vm.expectRevert(abi.encodeWithSelector(IMembership.AddressLength.selector, uint256(257)));
        membership.announce(1, 1, long, r, vs);
    }
}
