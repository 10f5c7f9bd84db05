// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Packing: the words of one storage slot each in which the TrainingLedger keeps a study
/// @notice Read and written whole, once in a transaction. Fields are taken out by shifting: a struct in memory would cost
/// more than the slot's second read.

/// @notice What every end of a round reads. Written by joins, leaves and forks, and when a first member is missing.
/// rounds 24 | f 8 | minIncluded 8 | suspendAfter 4 | suspendRounds 4 | window 24 | reveal 32 | have 32 | vote 32 |
/// maxRoundAge 32 | joined 32 | branch 16 | fork 4 | watched 4. Times are seconds; `window` is scribe and grace together;
/// `branch` trains; `fork` is 0 none, 1 waits for the open round, 2 replaying, 3 waits for the verdicts
/// of a plan that replays nothing; `watched` is 1 while the word of Conduct may be other than zero.
type Course is uint256;

/// @notice Where the training branch stands, and its open round: the slot that commitments and results overwrite.
/// openedAt 40 | sealAfter 24 | committed 32 | abstained 32 | roster 32 | suspended 32 | height 21 | finals 21 |
/// finalHeight 21 | over 1. `sealAfter` is the seconds from the open to the seal: the whole window until the last answer cuts it
/// short. `height` is the newest round's, `finalHeight` that of the newest result, `finals` counts models;
/// `over` says that the newest round has ended and none has opened.
type Round is uint256;

/// @notice What rounds do not read. invited 32 | left 32 | erasureWindow 32.
type Roll is uint256;

/// @notice Where three branches begin, the lowest number first: parent 16 | baseHeight 21 | baseFinals 21 each; above them
/// what the newest of them replays for: targetFinals 21 | dueAt 40, when the head that it replaces leaves service. Two of
/// three branches overwrite a slot instead of taking a new one.
type Tree is uint256;

using Courses for Course global;
using Rounds for Round global;
using Rolls for Roll global;
using Trees for Tree global;

library Courses {
    function rounds(Course c) internal pure returns (uint256) {
        return uint24(Course.unwrap(c));
    }

    function f(Course c) internal pure returns (uint256) {
        return uint8(Course.unwrap(c) >> 24);
    }

    function minIncluded(Course c) internal pure returns (uint256) {
        return uint8(Course.unwrap(c) >> 32);
    }

    function suspendAfter(Course c) internal pure returns (uint8) {
        return uint8(Course.unwrap(c) >> 40) & 15;
    }

    function suspendRounds(Course c) internal pure returns (uint8) {
        return uint8(Course.unwrap(c) >> 44) & 15;
    }

    function window(Course c) internal pure returns (uint256) {
        return uint24(Course.unwrap(c) >> 48);
    }

    function reveal(Course c) internal pure returns (uint256) {
        return uint32(Course.unwrap(c) >> 72);
    }

    function have(Course c) internal pure returns (uint256) {
        return uint32(Course.unwrap(c) >> 104);
    }

    function vote(Course c) internal pure returns (uint256) {
        return uint32(Course.unwrap(c) >> 136);
    }

    function maxRoundAge(Course c) internal pure returns (uint256) {
        return uint32(Course.unwrap(c) >> 168);
    }

    function joined(Course c) internal pure returns (uint32) {
        return uint32(Course.unwrap(c) >> 200);
    }

    function branch(Course c) internal pure returns (uint16) {
        return uint16(Course.unwrap(c) >> 232);
    }

    function fork(Course c) internal pure returns (uint8) {
        return uint8(Course.unwrap(c) >> 248) & 15;
    }

    function watched(Course c) internal pure returns (bool) {
        return Course.unwrap(c) >> 252 != 0;
    }

    function withJoined(Course c, uint32 members) internal pure returns (Course) {
        return Course.wrap(Course.unwrap(c) & ~(uint256(type(uint32).max) << 200) | uint256(members) << 200);
    }

    function withBranch(Course c, uint16 number) internal pure returns (Course) {
        return Course.wrap(Course.unwrap(c) & ~(uint256(type(uint16).max) << 232) | uint256(number) << 232);
    }

    function withFork(Course c, uint8 state) internal pure returns (Course) {
        return Course.wrap(Course.unwrap(c) & ~(uint256(15) << 248) | uint256(state) << 248);
    }

    function withWatched(Course c, bool yes) internal pure returns (Course) {
        return Course.wrap(Course.unwrap(c) & ~(uint256(15) << 252) | uint256(yes ? 1 : 0) << 252);
    }
}

library Rounds {
    /// @dev Heights, finals and rounds of a study end here: 21 bits.
    uint256 internal constant LAST_HEIGHT = (1 << 21) - 1;

    uint256 private constant OVER = 1 << 255;
    uint256 private constant STANDING = (~uint256(0) << 192) ^ OVER; // height, finals, finalHeight

    function openedAt(Round r) internal pure returns (uint256) {
        return uint40(Round.unwrap(r));
    }

    function sealTime(Round r) internal pure returns (uint256) {
        unchecked {
            return uint256(uint40(Round.unwrap(r))) + uint24(Round.unwrap(r) >> 40);
        }
    }

    function committed(Round r) internal pure returns (uint32) {
        return uint32(Round.unwrap(r) >> 64);
    }

    function abstained(Round r) internal pure returns (uint32) {
        return uint32(Round.unwrap(r) >> 96);
    }

    function roster(Round r) internal pure returns (uint32) {
        return uint32(Round.unwrap(r) >> 128);
    }

    function suspended(Round r) internal pure returns (uint32) {
        return uint32(Round.unwrap(r) >> 160);
    }

    function height(Round r) internal pure returns (uint32) {
        return uint32((Round.unwrap(r) >> 192) & LAST_HEIGHT);
    }

    function finals(Round r) internal pure returns (uint32) {
        return uint32((Round.unwrap(r) >> 213) & LAST_HEIGHT);
    }

    function finalHeight(Round r) internal pure returns (uint32) {
        return uint32((Round.unwrap(r) >> 234) & LAST_HEIGHT);
    }

    /// @notice Whether a round is open.
    function isOpen(Round r) internal pure returns (bool) {
        return openedAt(r) != 0 && Round.unwrap(r) & OVER == 0;
    }

    /// @notice With its newest round ended.
    function closed(Round r) internal pure returns (Round) {
        return Round.wrap(Round.unwrap(r) | OVER);
    }

    /// @notice Who is asked and has not answered.
    function waited(Round r) internal pure returns (uint32) {
        return roster(r) & ~(committed(r) | abstained(r) | suspended(r));
    }

    /// @notice Whether nobody is waited for any more.
    function full(Round r) internal pure returns (bool) {
        return waited(r) == 0;
    }

    /// @notice With new answers, and sealed at this block's stamp when they are the last.
    function answered(Round r, uint32 committed_, uint32 abstained_) internal view returns (Round after_) {
        after_ = Round.wrap(
            Round.unwrap(r) & ~(uint256(type(uint64).max) << 64) | uint256(committed_) << 64 | uint256(abstained_) << 96
        );
        if (full(after_)) after_ = _sealedAfter(after_, block.timestamp - openedAt(r));
    }

    /// @notice The next round, open from this block on; sealed as it opens when nobody is asked.
    function next(Round r, uint32 roster_, uint32 suspended_, uint256 window) internal view returns (Round) {
        if (roster_ == suspended_) window = 0;
        return Round.wrap(
            (Round.unwrap(r) & STANDING) + (uint256(1) << 192) | block.timestamp | window << 40
                | uint256(roster_) << 128 | uint256(suspended_) << 160
        );
    }

    /// @notice With a result at the height of the open round.
    function recorded(Round r, bool model) internal pure returns (Round) {
        return standing(r, height(r), uint256(finals(r)) + (model ? 1 : 0), height(r));
    }

    /// @notice With another standing.
    function standing(Round r, uint256 height_, uint256 finals_, uint256 finalHeight_) internal pure returns (Round) {
        return Round.wrap(Round.unwrap(r) & ~STANDING | height_ << 192 | finals_ << 213 | finalHeight_ << 234);
    }

    function _sealedAfter(Round r, uint256 seconds_) private pure returns (Round) {
        return Round.wrap(Round.unwrap(r) & ~(uint256(type(uint24).max) << 40) | seconds_ << 40);
    }
}

library Rolls {
    function invited(Roll r) internal pure returns (uint32) {
        return uint32(Roll.unwrap(r));
    }

    function left(Roll r) internal pure returns (uint32) {
        return uint32(Roll.unwrap(r) >> 32);
    }

    function erasureWindow(Roll r) internal pure returns (uint32) {
        return uint32(Roll.unwrap(r) >> 64);
    }

    function withLeft(Roll r, uint32 members) internal pure returns (Roll) {
        return Roll.wrap(Roll.unwrap(r) | uint256(members) << 32);
    }
}

library Trees {
    uint256 internal constant BRANCHES = 3;
    uint256 private constant BITS = 58;
    uint256 private constant AT_TARGET = BRANCHES * BITS;
    /// @notice No branch yet. The bit is in no field: it keeps the slot, and goes with the first branch.
    Tree internal constant UNPLANTED = Tree.wrap(1 << 255);

    /// @notice Where a branch begins.
    function base(Tree t, uint256 branch) internal pure returns (uint32 parent, uint32 height, uint32 finals) {
        uint256 word = Tree.unwrap(t) >> _shift(branch);
        parent = uint16(word);
        height = uint32((word >> 16) & Rounds.LAST_HEIGHT);
        finals = uint32((word >> 37) & Rounds.LAST_HEIGHT);
    }

    /// @notice Models that the newest of the three must have to have caught up.
    function targetFinals(Tree t) internal pure returns (uint32) {
        return uint32((Tree.unwrap(t) >> AT_TARGET) & Rounds.LAST_HEIGHT);
    }

    function dueAt(Tree t) internal pure returns (uint40) {
        return uint40(Tree.unwrap(t) >> AT_TARGET + 21);
    }

    /// @notice With a new branch, whose place was empty.
    /// @param base_ Of `packed`.
    /// @param aim_ Of `aim`.
    function planted(Tree t, uint256 branch, uint256 base_, uint256 aim_) internal pure returns (Tree) {
        uint256 kept = Tree.unwrap(t) & ((1 << AT_TARGET) - 1);
        return Tree.wrap(kept | base_ << _shift(branch) | aim_ << AT_TARGET);
    }

    /// @notice Where a branch begins. Each value fits its bits: a branch's number has 16, a round's height 21.
    function packed(uint256 parent_, uint256 height, uint256 finals) internal pure returns (uint256) {
        return parent_ | height << 16 | finals << 37;
    }

    /// @notice What a branch replays for; `due` is a month after a block's stamp at most.
    function aim(uint256 finals, uint256 due) internal pure returns (uint256) {
        return finals | due << 21;
    }

    function _shift(uint256 branch) private pure returns (uint256) {
        return branch % BRANCHES * BITS;
    }
}
