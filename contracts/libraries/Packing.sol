// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Packing: records of one storage slot
/// @notice The TrainingLedger writes each of these once in a transaction. As Solidity structs in storage every field
/// would be its own read and write of the slot; packed by hand each is one.
library Packing {
    /// @notice A round's changing facts.
    /// @param openedAt Unix seconds.
    /// @param sealedAfter Zero until every expected member has committed or abstained; then seconds since openedAt, plus one.
    /// @param committed Who committed.
    /// @param abstained Who abstained.
    /// @param roster Who is asked and votes, fixed at open.
    /// @param suspended Who is not asked, of the roster.
    /// @param study Number of the study.
    /// @param branch Number of the branch.
    /// @param height Height on the branch, from 1.
    struct Round {
        uint40 openedAt;
        uint24 sealedAfter;
        uint32 committed;
        uint32 abstained;
        uint32 roster;
        uint32 suspended;
        uint16 study;
        uint16 branch;
        uint32 height;
    }

    /// @notice The terms of a study that every round reads. Seconds, but for the small numbers.
    struct Terms {
        uint32 rounds;
        uint8 f;
        uint8 minIncluded;
        uint8 suspendAfter;
        uint8 suspendRounds;
        uint32 scribe;
        uint32 grace;
        uint32 reveal;
        uint32 have;
        uint32 vote;
        uint32 maxRoundAge;
    }

    /// @notice Where a study stands.
    /// @param branch The branch that trains.
    /// @param branches Number of the newest branch.
    /// @param height Height of the newest round on `branch`, open or closed.
    /// @param finals Rounds on this ancestry that ended with a model.
    /// @param finalHeight Height of the newest recorded model.
    /// @param invited Who may join.
    /// @param joined Who joined.
    /// @param left Who left; nobody joins twice.
    /// @param fork Fork state: 0 none, 1 waits for the open round, 2 waits for the purge, 3 replaying.
    struct Progress {
        uint16 branch;
        uint16 branches;
        uint32 height;
        uint32 finals;
        uint32 finalHeight;
        uint32 invited;
        uint32 joined;
        uint32 left;
        uint8 fork;
    }

    function pack(Round memory r) internal pure returns (uint256) {
        return uint256(r.openedAt) | uint256(r.sealedAfter) << 40 | uint256(r.committed) << 64
            | uint256(r.abstained) << 96 | uint256(r.roster) << 128 | uint256(r.suspended) << 160
            | uint256(r.study) << 192 | uint256(r.branch) << 208 | uint256(r.height) << 224;
    }

    function toRound(uint256 w) internal pure returns (Round memory r) {
        r.openedAt = uint40(w);
        r.sealedAfter = uint24(w >> 40);
        r.committed = uint32(w >> 64);
        r.abstained = uint32(w >> 96);
        r.roster = uint32(w >> 128);
        r.suspended = uint32(w >> 160);
        r.study = uint16(w >> 192);
        r.branch = uint16(w >> 208);
        r.height = uint32(w >> 224);
    }

    function pack(Terms memory t) internal pure returns (uint256) {
        return uint256(t.rounds) | uint256(t.f) << 32 | uint256(t.minIncluded) << 40 | uint256(t.suspendAfter) << 48
            | uint256(t.suspendRounds) << 56 | uint256(t.scribe) << 64 | uint256(t.grace) << 96
            | uint256(t.reveal) << 128 | uint256(t.have) << 160 | uint256(t.vote) << 192
            | uint256(t.maxRoundAge) << 224;
    }

    function toTerms(uint256 w) internal pure returns (Terms memory t) {
        t.rounds = uint32(w);
        t.f = uint8(w >> 32);
        t.minIncluded = uint8(w >> 40);
        t.suspendAfter = uint8(w >> 48);
        t.suspendRounds = uint8(w >> 56);
        t.scribe = uint32(w >> 64);
        t.grace = uint32(w >> 96);
        t.reveal = uint32(w >> 128);
        t.have = uint32(w >> 160);
        t.vote = uint32(w >> 192);
        t.maxRoundAge = uint32(w >> 224);
    }

    function pack(Progress memory p) internal pure returns (uint256) {
        return uint256(p.branch) | uint256(p.branches) << 16 | uint256(p.height) << 32 | uint256(p.finals) << 64
            | uint256(p.finalHeight) << 96 | uint256(p.invited) << 128 | uint256(p.joined) << 160
            | uint256(p.left) << 192 | uint256(p.fork) << 224;
    }

    function toProgress(uint256 w) internal pure returns (Progress memory p) {
        p.branch = uint16(w);
        p.branches = uint16(w >> 16);
        p.height = uint32(w >> 32);
        p.finals = uint32(w >> 64);
        p.finalHeight = uint32(w >> 96);
        p.invited = uint32(w >> 128);
        p.joined = uint32(w >> 160);
        p.left = uint32(w >> 192);
        p.fork = uint8(w >> 224);
    }
}
