// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Batches: an erasure batch in one word, of which the UnlearningRegistry keeps one slot each
/// @notice Only what a later call checks; what a batch is about is what its id is the hash of, and comes along in each call.
/// Lowest bits first: state 4 | replays 1 | alone 1 | unused 2 | branch 16 | openedAt 40 | since 32 | planRoster 32 | purged 32 |
/// confirmers 32 | deniers 32. `state` counts as IUnlearningRegistry.State, `replays` says that its plan forks,
/// `alone` that it was made without the controller's steps, `branch` is the plan's. `since` is seconds after openedAt: of the exclusion, and from the plan on of the plan. The four
/// bitmaps are sets of members: who was on the roster at the plan, who attested the purge, who confirmed, who denied.
type Batch is uint256;

using Batches for Batch global;

library Batches {
    uint256 private constant AT_REPLAYS = 4;
    uint256 private constant AT_ALONE = 5;
    uint256 private constant AT_BRANCH = 8;
    uint256 private constant AT_OPENED = 24;
    uint256 private constant AT_SINCE = 64;
    uint256 private constant AT_ROSTER = 96;
    uint256 private constant AT_PURGED = 128;
    uint256 private constant AT_CONFIRMERS = 160;
    uint256 private constant AT_DENIERS = 192;

    /// @notice A batch that is opened at this block's stamp.
    function opened(uint256 state_) internal view returns (Batch) {
        return Batch.wrap(state_ | block.timestamp << AT_OPENED);
    }

    function state(Batch b) internal pure returns (uint256) {
        return Batch.unwrap(b) & 15;
    }

    function replays(Batch b) internal pure returns (bool) {
        return Batch.unwrap(b) >> AT_REPLAYS & 1 == 1;
    }

    function branch(Batch b) internal pure returns (uint32) {
        return uint16(Batch.unwrap(b) >> AT_BRANCH);
    }

    function openedAt(Batch b) internal pure returns (uint40) {
        return uint40(Batch.unwrap(b) >> AT_OPENED);
    }

    /// @notice When it was excluded; from the plan on, when it was planned; before both, when it was opened.
    function at(Batch b) internal pure returns (uint40) {
        return openedAt(b) + uint32(Batch.unwrap(b) >> AT_SINCE);
    }

    function planRoster(Batch b) internal pure returns (uint32) {
        return uint32(Batch.unwrap(b) >> AT_ROSTER);
    }

    function purged(Batch b) internal pure returns (uint32) {
        return uint32(Batch.unwrap(b) >> AT_PURGED);
    }

    function confirmers(Batch b) internal pure returns (uint32) {
        return uint32(Batch.unwrap(b) >> AT_CONFIRMERS);
    }

    function deniers(Batch b) internal pure returns (uint32) {
        return uint32(Batch.unwrap(b) >> AT_DENIERS);
    }

    function withState(Batch b, uint256 state_) internal pure returns (Batch) {
        return Batch.wrap(Batch.unwrap(b) & ~uint256(15) | state_);
    }

    /// @notice With this block's stamp for `at`.
    function stamped(Batch b) internal view returns (Batch) {
        uint256 since = uint32(block.timestamp - openedAt(b));
        return Batch.wrap(Batch.unwrap(b) & ~(uint256(type(uint32).max) << AT_SINCE) | since << AT_SINCE);
    }

    function alone(Batch b) internal pure returns (bool) {
        return Batch.unwrap(b) >> AT_ALONE & 1 == 1;
    }

    /// @notice With a plan, whose fields were zero.
    function planned(Batch b, bool replays_, bool alone_, uint32 branch_, uint32 roster) internal pure returns (Batch) {
        return Batch.wrap(
            Batch.unwrap(b) | uint256(replays_ ? 1 : 0) << AT_REPLAYS | uint256(alone_ ? 1 : 0) << AT_ALONE
                | uint256(branch_) << AT_BRANCH | uint256(roster) << AT_ROSTER
        );
    }

    /// @notice With further members that attested the purge.
    function withPurged(Batch b, uint32 members) internal pure returns (Batch) {
        return Batch.wrap(Batch.unwrap(b) | uint256(members) << AT_PURGED);
    }

    /// @notice With further verdicts.
    function withVerdicts(Batch b, uint32 confirmed, uint32 denied) internal pure returns (Batch) {
        return Batch.wrap(
            Batch.unwrap(b) | uint256(confirmed) << AT_CONFIRMERS | uint256(denied) << AT_DENIERS
        );
    }
}
