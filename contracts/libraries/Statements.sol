// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Statements: the EIP-712 types that members, auditors and patients sign
/// @notice The struct hash of a statement whose fields are all static is `keccak256(abi.encode(TYPE, fields...))`.
/// Types that no contract checks (they stay off chain, marked so below) are listed too: this is the whole table.
library Statements {
    // Membership
    bytes32 internal constant SEAT = keccak256("Seat(string role,bytes peerId,bytes32 sealingKey,string name)");
    bytes32 internal constant ADMIT = keccak256("Admit(uint64 epoch,address ledger,bytes32 seatHash)");
    bytes32 internal constant REMOVE = keccak256("Remove(uint64 epoch,uint16 member,address ledger)");
    bytes32 internal constant SEAT_AUDITOR =
        keccak256("SeatAuditor(uint64 epoch,address ledger,bytes32 seatHash,bytes32 study,uint64 termEnd)");
    bytes32 internal constant KEYS = keccak256("Keys(uint16 member,address ledger,bytes peerId,bytes32 sealingKey)");
    bytes32 internal constant ROTATE = keccak256("Rotate(uint64 epoch,uint16 member,bytes32 keysHash)");
    bytes32 internal constant REVOKE = keccak256("Revoke(uint64 epoch,uint16 member,address ledger)");
    bytes32 internal constant RECOVER = keccak256("Recover(uint64 epoch,uint16 member,bytes32 keysHash)");
    bytes32 internal constant END_AUDITOR = keccak256("EndAuditor(uint64 epoch,uint16 seat,address ledger)");
    bytes32 internal constant SUCCEED = keccak256("Succeed(uint64 epoch,address successor)");
    bytes32 internal constant ANCHOR_LOG = keccak256("AnchorLog(uint16 member,bytes32 root,uint64 entries)");
    bytes32 internal constant ANNOUNCE = keccak256("Announce(uint16 member,uint64 number,bytes multiaddress)");
    bytes32 internal constant OPEN_AUDIT = keccak256("OpenAudit(uint16 member,uint16 seat,bytes32 study)");
    bytes32 internal constant BUNDLE = keccak256("Bundle(string role,uint16 seat,bytes32 manifest)"); // off chain

    // TrainingLedger
    bytes32 internal constant CREATE_STUDY = keccak256(
        "CreateStudy(uint16 member,bytes32 specHash,bytes32 initialModel,uint32 invited,uint32 rounds,uint8 f,uint8 minIncluded,uint32 scribeSeconds,uint32 graceSeconds,uint32 revealSeconds,uint32 haveSeconds,uint32 voteSeconds,uint32 purgeSeconds,uint8 suspendAfter,uint8 suspendRounds,uint32 maxRoundAge,uint32 erasureWindow)"
    );
    bytes32 internal constant JOIN = keccak256("Join(bytes32 study,uint16 member)");
    bytes32 internal constant LEAVE = keccak256("Leave(bytes32 study,uint16 member)");
    bytes32 internal constant COMMIT = keccak256(
        "Commit(bytes32 roundId,uint16 member,bytes32 updateRoot,bytes32 datasetRoot,bytes32 nextDatasetRoot)"
    );
    bytes32 internal constant ABSTAIN = keccak256("Abstain(bytes32 roundId,uint16 member)");
    bytes32 internal constant HAVE = keccak256("Have(bytes32 roundId,uint16 member,uint8 attempt,uint32 bitmap)");
    bytes32 internal constant VOTE = keccak256("Vote(bytes32 roundId,uint8 attempt,uint32 set,bytes32 resultHash)");
    bytes32 internal constant CLOSE = keccak256("Close(bytes32 study,uint32 branch,uint32 height,bytes32 resultHash)"); // off chain
    bytes32 internal constant AUDIT_ACCESS = keccak256(
        "AuditAccess(bytes32 study,uint16 seat,uint32 fromHeight,uint32 toHeight,bytes32 ground)"
    );

    // ConsentRegistry
    bytes32 internal constant FORM = keccak256(
        "Form(bytes32 study,uint32 purposes,bytes32 textHash,uint8 custody,uint8 basis,uint40 validTo,uint8 onWithdrawal)"
    );
    bytes32 internal constant REGISTER_FORM = keccak256("RegisterForm(uint16 member,bytes32 formId)");
    bytes32 internal constant GRANT = keccak256("Grant(bytes32 formId,uint16 member,bytes32[] consentIds)");
    bytes32 internal constant ANCHOR = keccak256(
        "Anchor(bytes32 study,bytes32 formId,uint16 member,uint32 count,bytes32[] roots)"
    );
    bytes32 internal constant WITHDRAW = keccak256("Withdraw(bytes32 consentId)");
    bytes32 internal constant WITHDRAW_BY_HOSPITAL = keccak256("WithdrawByHospital(uint16 member,bytes32 consentId)");
    bytes32 internal constant WITHDRAW_BY_QUORUM = keccak256(
        "WithdrawByQuorum(uint64 epoch,uint16 member,bytes32 consentId)"
    );

    // UnlearningRegistry
    bytes32 internal constant REQUEST_ERASURE = keccak256("RequestErasure(bytes32 consentId,bytes32 study)"); // off chain
    bytes32 internal constant OPEN_ERASURE = keccak256(
        "OpenErasure(bytes32 study,uint16 controller,uint16 poster,bytes32 requestsRoot,uint64 dueAt)"
    );
    bytes32 internal constant AUTHORISE = keccak256("Authorise(bytes32 batch,uint16 member)");
    bytes32 internal constant REFUSE = keccak256("Refuse(bytes32 batch,uint16 member,uint8 ground)");
    bytes32 internal constant EXTEND = keccak256("Extend(bytes32 batch,uint16 member,uint64 dueAt)");
    bytes32 internal constant ERASURE_STEPS = keccak256(
        "ErasureSteps(bytes32 batch,uint16 member,uint8 first,bytes32[] evidence)"
    );
    bytes32 internal constant PLAN = keccak256(
        "Plan(bytes32 batch,uint32 parentBranch,uint32 baseHeight,bytes32 baseModel,bytes32 branchSeed,uint32 targetHeight,uint8 method,uint32 rounds)"
    );
    bytes32 internal constant PURGED = keccak256("Purged(bytes32 batch,uint16 member,uint8 stage,bytes32 inventory)");
    bytes32 internal constant VERDICT = keccak256(
        "Verdict(bytes32 batch,uint16 member,uint32 branch,bytes32 headModel,bool confirmed)"
    );
    bytes32 internal constant ATTEST = keccak256("Attest(bytes32 batch,uint8 level,uint16 seat,bytes32 evidence)");
    bytes32 internal constant TOMBSTONE = keccak256("Tombstone(uint16 member,bytes32 content,uint8 reason,bytes32 subject)"); // off chain
    bytes32 internal constant RECEIPT = keccak256("Receipt(uint16 member,bytes32 statement,uint64 receivedAt)"); // off chain
    bytes32 internal constant CERTIFICATE = keccak256("Certificate(uint16 member,bytes32 digest)"); // off chain

    bytes32 internal constant ROLE_MEMBER = keccak256("member");
    bytes32 internal constant ROLE_AUDITOR = keccak256("auditor");

    /// @notice Struct hash of Seat: what an applicant signs about its own keys.
    /// @param role ROLE_MEMBER or ROLE_AUDITOR (the hash of the role's text, as EIP-712 encodes strings).
    function hashSeat(bytes32 role, bytes memory peerId, bytes32 sealingKey, string memory name)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(SEAT, role, keccak256(peerId), sealingKey, keccak256(bytes(name))));
    }

    /// @notice Struct hash of Keys: what a member's new ledger key signs about the keys of its seat.
    function hashKeys(uint16 member, address ledger, bytes memory peerId, bytes32 sealingKey)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(KEYS, member, ledger, keccak256(peerId), sealingKey));
    }
}
