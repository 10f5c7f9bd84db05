// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Duo: the GA4GH Data Use Ontology as bits of a form's purposes
/// @notice Made by scripts/build_duo from duo.toml; do not edit. Bits 0 to 7 are permissions (alternatives), bits 8
/// to 31 modifiers (constraints).
library Duo {
    /// @notice DUO:0000004, permission: no restriction.
    uint32 internal constant NRES = 1 << 0;
    /// @notice DUO:0000042, permission: general research use.
    uint32 internal constant GRU = 1 << 1;
    /// @notice DUO:0000006, permission: health or medical or biomedical research.
    uint32 internal constant HMB = 1 << 2;
    /// @notice DUO:0000007, permission: disease specific research.
    uint32 internal constant DS = 1 << 3;
    /// @notice DUO:0000011, permission: population origins or ancestry research only.
    uint32 internal constant POA = 1 << 4;
    /// @notice DUO:0000012, modifier: research specific restrictions.
    uint32 internal constant RS = 1 << 8;
    /// @notice DUO:0000015, modifier: no general methods research.
    uint32 internal constant NMDS = 1 << 9;
    /// @notice DUO:0000016, modifier: genetic studies only.
    uint32 internal constant GSO = 1 << 10;
    /// @notice DUO:0000018, modifier: not for profit, non commercial use only.
    uint32 internal constant NPUNCU = 1 << 11;
    /// @notice DUO:0000019, modifier: publication required.
    uint32 internal constant PUB = 1 << 12;
    /// @notice DUO:0000020, modifier: collaboration required.
    uint32 internal constant COL = 1 << 13;
    /// @notice DUO:0000021, modifier: ethics approval required.
    uint32 internal constant IRB = 1 << 14;
    /// @notice DUO:0000022, modifier: geographical restriction.
    uint32 internal constant GS = 1 << 15;
    /// @notice DUO:0000024, modifier: publication moratorium.
    uint32 internal constant MOR = 1 << 16;
    /// @notice DUO:0000025, modifier: time limit on use.
    uint32 internal constant TS = 1 << 17;
    /// @notice DUO:0000026, modifier: user specific restriction.
    uint32 internal constant US = 1 << 18;
    /// @notice DUO:0000027, modifier: project specific restriction.
    uint32 internal constant PS = 1 << 19;
    /// @notice DUO:0000028, modifier: institution specific restriction.
    uint32 internal constant IS = 1 << 20;
    /// @notice DUO:0000029, modifier: return to database or resource.
    uint32 internal constant RTN = 1 << 21;
    /// @notice DUO:0000043, modifier: clinical care use.
    uint32 internal constant CC = 1 << 22;
    /// @notice DUO:0000044, modifier: population origins or ancestry research prohibited.
    uint32 internal constant NPOA = 1 << 23;
    /// @notice DUO:0000045, modifier: not for profit organisation use only.
    uint32 internal constant NPU = 1 << 24;
    /// @notice DUO:0000046, modifier: non commercial use only.
    uint32 internal constant NCU = 1 << 25;
    /// @notice All permissions: a form has one of them at least.
    uint32 internal constant PERMISSIONS = 0x0000001f;
    /// @notice All codes.
    uint32 internal constant KNOWN = 0x03ffff1f;
}
