// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Tags: the domain separators of everything koinon hashes
/// @notice `TAG(x) = keccak256(utf8("koinon/" + x + "/1"))`. A tagged hash is `keccak256(abi.encode(TAG, w1, w2, ...))`,
/// every word 32 bytes, so no two kinds of value can share a preimage.
library Tags {
    // Consents
    bytes32 internal constant CONSENT = keccak256("koinon/consent/1");
    bytes32 internal constant BIND = keccak256("koinon/bind/1");
    // Dataset map and anchor tree
    bytes32 internal constant MAP_LEAF = keccak256("koinon/map-leaf/1");
    bytes32 internal constant MAP_NODE = keccak256("koinon/map-node/1");
    bytes32 internal constant MAP = keccak256("koinon/map/1");
    bytes32 internal constant ANCHOR_LEAF = keccak256("koinon/anchor-leaf/1");
    bytes32 internal constant ANCHOR_NODE = keccak256("koinon/anchor-node/1");
    // Studies, rounds, branches, erasure batches
    bytes32 internal constant STUDY = keccak256("koinon/study/1");
    bytes32 internal constant ROUND = keccak256("koinon/round/1");
    bytes32 internal constant RESULT = keccak256("koinon/result/1");
    bytes32 internal constant BRANCH = keccak256("koinon/branch/1");
    bytes32 internal constant TREE = keccak256("koinon/tree/1");
    bytes32 internal constant LINEAGE = keccak256("koinon/lineage/1");
    bytes32 internal constant LINK = keccak256("koinon/link/1");
    bytes32 internal constant BATCH = keccak256("koinon/batch/1");
    // One tag per kind of accumulated record: "record-" and the event's name in kebab case
    bytes32 internal constant RECORD_MEMBER_ADMITTED = keccak256("koinon/record-member-admitted/1");
    bytes32 internal constant RECORD_MEMBER_REMOVED = keccak256("koinon/record-member-removed/1");
    bytes32 internal constant RECORD_AUDITOR_SEATED = keccak256("koinon/record-auditor-seated/1");
    bytes32 internal constant RECORD_MEMBER_ROTATED = keccak256("koinon/record-member-rotated/1");
    bytes32 internal constant RECORD_MEMBER_REVOKED = keccak256("koinon/record-member-revoked/1");
    bytes32 internal constant RECORD_MEMBER_RECOVERED = keccak256("koinon/record-member-recovered/1");
    bytes32 internal constant RECORD_AUDITOR_ENDED = keccak256("koinon/record-auditor-ended/1");
    bytes32 internal constant RECORD_NETWORK_SUCCEEDED = keccak256("koinon/record-network-succeeded/1");
    bytes32 internal constant RECORD_ADDRESS_ANNOUNCED = keccak256("koinon/record-address-announced/1");
    bytes32 internal constant RECORD_LOG_ANCHORED = keccak256("koinon/record-log-anchored/1");
    bytes32 internal constant RECORD_AUDIT_OPENED = keccak256("koinon/record-audit-opened/1");
    bytes32 internal constant RECORD_FORM_REGISTERED = keccak256("koinon/record-form-registered/1");
    bytes32 internal constant RECORD_GRANTED = keccak256("koinon/record-granted/1");
    bytes32 internal constant RECORD_ANCHORED = keccak256("koinon/record-anchored/1");
    bytes32 internal constant RECORD_WITHDRAWN = keccak256("koinon/record-withdrawn/1");
    bytes32 internal constant RECORD_ERASURE_OPENED = keccak256("koinon/record-erasure-opened/1");
    bytes32 internal constant RECORD_ERASURE_AUTHORISED = keccak256("koinon/record-erasure-authorised/1");
    bytes32 internal constant RECORD_ERASURE_REFUSED = keccak256("koinon/record-erasure-refused/1");
    bytes32 internal constant RECORD_ERASURE_EXTENDED = keccak256("koinon/record-erasure-extended/1");
    bytes32 internal constant RECORD_ERASURE_STEPPED = keccak256("koinon/record-erasure-stepped/1");
    bytes32 internal constant RECORD_ERASURE_PLANNED = keccak256("koinon/record-erasure-planned/1");
    bytes32 internal constant RECORD_PURGES_ATTESTED = keccak256("koinon/record-purges-attested/1");
    bytes32 internal constant RECORD_VERDICTS_GIVEN = keccak256("koinon/record-verdicts-given/1");
    bytes32 internal constant RECORD_ERASURE_CONFIRMED = keccak256("koinon/record-erasure-confirmed/1");
    bytes32 internal constant RECORD_HEAD_MOVED = keccak256("koinon/record-head-moved/1");
    bytes32 internal constant RECORD_ERASURE_CLOSED = keccak256("koinon/record-erasure-closed/1");
    bytes32 internal constant RECORD_EVIDENCE_ATTESTED = keccak256("koinon/record-evidence-attested/1");
}
