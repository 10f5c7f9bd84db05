// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {Bitmaps} from "../../libraries/Bitmaps.sol";
import {Conduct} from "../../libraries/Conduct.sol";
import {Course, Round, Rounds} from "../../libraries/Packing.sol";
import {PackedSignatures} from "../../libraries/PackedSignatures.sol";
import {Quarters} from "../../libraries/Quarters.sol";
import {Quorum} from "../../libraries/Quorum.sol";
import {RosterCode} from "../../libraries/RosterCode.sol";
import {Checks} from "../support/Checks.sol";

/// @notice The small libraries, against plain loops.
contract SmallLibrariesTest is Checks {
    function test_fuzz_countIsTheNumberOfBits(uint256 word) public pure {
        uint256 all;
        uint256 low;
        for (uint256 i; i < 256; ++i) {
            all += (word >> i) & 1;
            if (i < 32) low += (word >> i) & 1;
        }
        same(Bitmaps.count(uint32(word)), low, "32 bits");
        same(Bitmaps.countWord(word), all, "256 bits");
    }

    function test_fuzz_noIndexBeyondTheBitmapIsInIt(uint32 bits, uint16 index) public pure {
        bool expected = index < 32 && (uint256(bits) / 2 ** index) % 2 == 1;
        holds(Bitmaps.has(bits, index) == expected, "membership");
        if (index < 32) same(Bitmaps.single(index), uint32(2 ** uint256(index)), "single");
    }

    function test_fuzz_twoQuorumsShareAnHonestMember(uint8 n_, uint8 wished) public pure {
        uint256 n = uint256(n_) % 31 + 2;
        uint256 f = Quorum.faults(n, wished);
        uint256 q = Quorum.needed(n, f);
        holds(2 * q - n > f, "two quorums share more than f members");
        holds(q <= n - f, "the members that are not faulty form one");
        holds(3 * f < n, "f is borne");
        if (n >= 4) holds(Quorum.verdicts(n, n - 1, f) > f, "an honest member confirms");
        holds(Quorum.holders(f) > f && Quorum.holders(f) <= n, "an honest holder, and not more than there are");
    }

    function test_fuzz_writtenFieldsComeBackAndOthersStay(uint256 word, uint32 members, uint16 branch, uint8 state)
        public
        pure
    {
        Course c = Course.wrap(word);
        Course d = c.withJoined(members).withBranch(branch).withFork(state & 15).withWatched(members > branch);
        holds(d.joined() == members && d.branch() == branch && d.fork() == state & 15, "written");
        holds(d.watched() == (members > branch), "flag");
        same(uint200(Course.unwrap(d)), uint200(word), "the terms stay");
        c = d.withJoined(c.joined()).withBranch(c.branch()).withFork(c.fork());
        same(Course.unwrap(c) << 4, word << 4, "taken back");
    }

    function test_fuzz_aRoundsWordKeepsItsFields(uint256 word, uint32 committed, uint32 abstained) public {
        vm.warp(1_800_000_000);
        Round r = Round.wrap(word);
        same(r.openedAt(), uint40(word), "opened");
        Round a = Round.wrap(word & ~uint256(type(uint40).max) | (block.timestamp - 7)).answered(committed, abstained);
        holds(a.committed() == committed && a.abstained() == abstained, "answers");
        holds(a.roster() == r.roster() && a.suspended() == r.suspended() && a.height() == r.height(), "the rest");
        if (a.full()) same(a.sealTime(), block.timestamp, "sealed by the last answer");
        else same(a.sealTime() + 7, block.timestamp + uint24(word >> 40), "not sealed");
        Round s = r.standing(1, 2, 3);
        holds(s.height() == 1 && s.finals() == 2 && s.finalHeight() == 3, "standing");
        same(uint192(Round.unwrap(s)), uint192(word), "the round stays");
        Round n = s.next(committed, committed & abstained, 99);
        holds(n.roster() == committed && n.suspended() == committed & abstained, "roster");
        holds(n.committed() == 0 && n.abstained() == 0 && n.openedAt() == block.timestamp, "nobody answered");
        holds(n.height() == 2 && n.finals() == 2 && n.finalHeight() == 3, "one higher");
        same(n.sealTime(), block.timestamp + (n.full() ? 0 : 99), "window");
        n = s.recorded(true);
        holds(n.height() == 1 && n.finals() == 3 && n.finalHeight() == 1, "a model");
        n = s.recorded(false);
        holds(n.height() == 1 && n.finals() == 2 && n.finalHeight() == 1, "no model");
        holds(r.height() <= Rounds.LAST_HEIGHT, "bound");
    }

    function test_fuzz_signaturesAreReadAsOpenZeppelinReadsThem(bytes32 domain, bytes32 r, bytes32 vs, uint8 change)
        public
    {
        bytes32 digest = PackedSignatures.typed(domain, r);
        holds(digest == MessageHashUtils.toTypedDataHash(domain, r), "digest");
        if (change % 4 != 3) {
            uint256 key = uint256(keccak256(abi.encode(r))) >> 1 | 1; // below the order
            uint256 s;
            uint8 v;
            (v, r, vs) = vm.sign(key, digest);
            s = uint256(vs);
            if (change % 4 == 1) s = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141 - s; // the higher
            if (change % 4 == 2) digest = keccak256(abi.encode(digest)); // another's
            vs = bytes32(s | uint256(v - 27) << 255);
        }
        (address expected,,) = ECDSA.tryRecover(digest, r, vs);
        holds(PackedSignatures.recover(digest, r, vs) == expected, "recovered");
        holds(PackedSignatures.signedBy(expected, digest, r, vs) == (expected != address(0)), "signed by");
    }

    function test_quarterBoundaries() public pure {
        uint256 t = 0; // 1 January 1970
        uint256 found;
        // every day of 400 years: a boundary four times a year, and never on another day
        for (uint256 year = 1970; year < 2030; ++year) {
            bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            uint256[12] memory months = [uint256(31), leap ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
            for (uint256 month; month < 12; ++month) {
                for (uint256 day; day < months[month]; ++day) {
                    bool boundary = month % 3 == 0 && day == 0;
                    if (Quarters.isBoundary(t) != boundary) revert Differs("day", t, boundary ? 1 : 0);
                    if (boundary) ++found;
                    t += 1 days;
                }
            }
        }
        same(found, 240, "four a year");
        holds(!Quarters.isBoundary(1), "a second after");
        holds(Quarters.isBoundary(4_102_444_800), "1 January 2100");
        holds(Quarters.isBoundary(4_110_220_800), "1 April 2100, no leap year");
    }

    function test_rosterCodeAnswersZeroBeyondItsEnd() public {
        bytes memory packed;
        for (uint160 i = 1; i <= 5; ++i) {
            packed = abi.encodePacked(packed, address(i));
        }
        bytes memory roster = RosterCode.load(RosterCode.store(packed));
        for (uint160 i; i < 5; ++i) {
            holds(RosterCode.ledgerAt(roster, i) == address(i + 1), "address");
        }
        holds(RosterCode.ledgerAt(roster, 5) == address(0), "behind the last");
        holds(RosterCode.ledgerAt(roster, type(uint256).max) == address(0), "far beyond");
    }

    function test_fuzz_conductTouchesOnlyWhomTheRoundConcerns(uint256 seed) public pure {
        // a state as rounds make it: misses below 3, suspensions up to 4
        uint256 word;
        for (uint256 i; i < 32; ++i) {
            uint256 x = uint256(keccak256(abi.encode(seed, i)));
            word |= (x % 3) << (4 * i) | ((x >> 8) % 5) << (128 + 4 * i);
        }
        uint32 suspended = uint32(uint256(keccak256(abi.encode(seed, "s"))));
        uint32 present = uint32(uint256(keccak256(abi.encode(seed, "p")))) & ~suspended;
        uint32 missing = uint32(uint256(keccak256(abi.encode(seed, "m")))) & ~suspended & ~present;
        uint256 next = Conduct.settle(word, Conduct.Outcome(suspended, present, missing), 3, 4);
        for (uint256 i; i < 32; ++i) {
            uint256 missed = (word >> (4 * i)) & 15;
            uint256 left = (word >> (128 + 4 * i)) & 15;
            if ((suspended >> i) & 1 == 1) {
                left = left == 0 ? 0 : left - 1;
            } else if ((present >> i) & 1 == 1) {
                missed = 0;
            } else if ((missing >> i) & 1 == 1) {
                if (++missed == 3) (missed, left) = (0, 4);
            }
            same((next >> (4 * i)) & 15, missed, "missed");
            same((next >> (128 + 4 * i)) & 15, left, "left");
            holds(Bitmaps.has(Conduct.suspended(next), uint16(i)) == (left != 0), "suspended");
        }
    }

    function test_zeroSuspendAfterNeverSuspends() public pure {
        same(Conduct.settle(0, Conduct.Outcome(0, 0, type(uint32).max), 0, 3), 0, "nobody");
    }
}
