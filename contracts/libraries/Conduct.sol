// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Conduct: who misses rounds, and who is not waited for
/// @notice One word a study: 4 bits a member of missed rounds in a row (low half) and 4 bits of rounds still suspended
/// (high half). A suspended member is not asked to contribute; it votes as ever, and comes back by itself.
library Conduct {
    /// @notice How a round ended for its roster, as sets of members.
    /// @param suspended Was not asked.
    /// @param present Contributed, and its blobs were available: its count of misses starts anew.
    /// @param missing Neither contributed nor abstained, or its blobs were not available.
    struct Outcome {
        uint32 suspended;
        uint32 present;
        uint32 missing;
    }

    /// @notice The members that `word` suspends.
    function suspended(uint256 word) internal pure returns (uint32 bits) {
        uint256 left = word >> 128;
        for (uint256 i; left >> (4 * i) != 0; ++i) {
            if ((left >> (4 * i)) & 15 != 0) bits |= uint32(1) << uint32(i);
        }
    }

    /// @notice The word after a round.
    /// @param after_ Misses in a row that suspend; zero never does.
    /// @param rounds Rounds a suspension lasts, at most 14.
    function settle(uint256 word, Outcome memory o, uint8 after_, uint8 rounds) internal pure returns (uint256) {
        if (word == 0 && o.missing == 0) return 0; // nobody had missed, nobody does
        uint256 concerned = uint256(o.suspended) | o.present | o.missing;
        for (uint256 i; concerned >> i != 0; ++i) {
            if ((o.suspended >> i) & 1 == 1) {
                if (_left(word, i) != 0) word -= uint256(1) << (128 + 4 * i);
            } else if ((o.present >> i) & 1 == 1) {
                word = _setMissed(word, i, 0);
            } else if ((o.missing >> i) & 1 == 1 && after_ != 0) {
                uint256 missed = _missed(word, i) + 1;
                if (missed >= after_) {
                    missed = 0;
                    if (_left(word, i) < rounds) word = _setLeft(word, i, rounds);
                }
                word = _setMissed(word, i, missed);
            }
        }
        return word;
    }

    /// @notice The word after member `index` was shown to contradict itself.
    /// @param rounds Rounds it is suspended from the next open on. One more is written for a member that the open round
    /// already suspends, because that round's end takes one off.
    function punish(uint256 word, uint256 index, uint8 rounds, bool suspendedNow) internal pure returns (uint256) {
        uint256 left = suspendedNow ? uint256(rounds) + 1 : rounds;
        return left > _left(word, index) ? _setLeft(word, index, left) : word;
    }

    function _missed(uint256 word, uint256 i) private pure returns (uint256) {
        return (word >> (4 * i)) & 15;
    }

    function _left(uint256 word, uint256 i) private pure returns (uint256) {
        return (word >> (128 + 4 * i)) & 15;
    }

    function _setMissed(uint256 word, uint256 i, uint256 value) private pure returns (uint256) {
        return word & ~(uint256(15) << (4 * i)) | value << (4 * i);
    }

    function _setLeft(uint256 word, uint256 i, uint256 value) private pure returns (uint256) {
        return word & ~(uint256(15) << (128 + 4 * i)) | value << (128 + 4 * i);
    }
}
