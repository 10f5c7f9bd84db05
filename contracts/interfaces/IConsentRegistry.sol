// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title IConsentRegistry: which consents exist, and which have ended
/// @notice A consent is one patient's, at one hospital, for one study. Nothing personal is here: a consent is
/// `consentId = H(consent, holderAddress, holderSalt, binding)`, a hash over three independent secrets and a key made for
/// this consent alone. What patients share is in a registered form. A grant is the hospital's attestation, stored singly
/// or, in production, as the root of a padded tree of at least 32 consents.
/// A withdrawal is a tombstone by consentId. It can be written by anyone who carries the holder's statement, whether or
/// not a grant is known here, can never be undone or outrun by a later grant, and never waits for anybody.
/// All times are block timestamps. `msg.sender` means nothing.
interface IConsentRegistry {
    /// @notice A form: what its patients agreed to. formId is the EIP-712 struct hash of Form.
    /// @param study The study it is for.
    /// @param purposes GA4GH DUO codes as a mask (library Duo): at least one permission, no unknown bit.
    /// @param textHash Hash of the text that was signed.
    /// @param custody 1 hospital-attested, 2 patient-signed, 3 synthetic.
    /// @param basis 1 consent, 2 law, 3 opt-out.
    /// @param validTo Unix seconds, midnight UTC on the first day of a quarter: the first moment it is no longer valid.
    /// @param onWithdrawal 1 stop, 2 stop and delete, 3 stop, delete and unlearn.
    struct FormData {
        bytes32 study;
        uint32 purposes;
        bytes32 textHash;
        uint8 custody;
        uint8 basis;
        uint40 validTo;
        uint8 onWithdrawal;
    }

    /// @notice Grants that are stored one by one, and their hospital's signature over
    /// Grant(formId, member, consentIds). The form's hash names the study.
    struct GrantEntry {
        bytes32 formId;
        uint16 member;
        bytes32[] consentIds;
        bytes32 r;
        bytes32 vs;
    }

    /// @notice Roots of anchors of `count` leaves each, and their hospital's signature over
    /// Anchor(study, formId, member, count, roots).
    struct AnchorEntry {
        bytes32 study;
        bytes32 formId;
        uint16 member;
        uint32 count;
        bytes32[] roots;
        bytes32 r;
        bytes32 vs;
    }

    /// @notice The opening of a consentId (its docCommit and leafKey stay hidden in `binding`) and the holder's signature
    /// over Withdraw(consentId).
    struct WithdrawEntry {
        address holder;
        bytes32 holderSalt;
        bytes32 binding;
        bytes32 r;
        bytes32 vs;
    }

    /// @notice A stored grant as a view.
    /// @param formId Zero when no grant is stored.
    /// @param study The form's study.
    /// @param member The hospital.
    /// @param grantedAt Unix seconds.
    struct GrantView {
        bytes32 formId;
        bytes32 study;
        uint16 member;
        uint64 grantedAt;
    }

    /// @notice An anchor as a view.
    /// @param formId Zero when the root is unknown.
    /// @param study The form's study.
    /// @param member The hospital.
    /// @param count Leaves, dummies included.
    /// @param anchoredAt Unix seconds.
    struct AnchorView {
        bytes32 formId;
        bytes32 study;
        uint16 member;
        uint32 count;
        uint64 anchoredAt;
    }

    /// @notice A form may be used in grants from now on.
    event FormRegistered(
        bytes32 indexed formId,
        bytes32 indexed study,
        uint32 purposes,
        bytes32 textHash,
        uint8 custody,
        uint8 basis,
        uint40 validTo,
        uint8 onWithdrawal
    );
    /// @notice Hospital `member` attests a consent.
    event Granted(bytes32 consentId, bytes32 formId, uint16 member);
    /// @notice Hospital `member` attests the consents under each of `roots`, at most `count` a root.
    event Anchored(bytes32 indexed study, bytes32 indexed formId, uint16 member, uint32 count, bytes32[] roots);
    /// @notice A consent ended. Who ended it and why is not said.
    event Withdrawn(bytes32 consentId, uint64 at);
    /// @notice The consents that ended in one call of `withdraw`, in this order; each is a record of its own.
    event WithdrawnTogether(uint64 at, bytes32[] consentIds);
    /// @notice An entry of a batch did not count. `subject` is its consentId or root; reasons in the library Skips.
    event EntrySkipped(bytes32 indexed subject, uint16 member, uint8 reason);

    /// @notice The form is registered already.
    error FormKnown(bytes32 formId);
    /// @notice `field` of a form has the value `got`, which is none of those listed above.
    error FormField(string field, uint256 got);
    /// @notice `purposes` has no permission of the library Duo: such a form allows nothing.
    error FormWithoutPermission(uint32 purposes);
    /// @notice `bits` of the purposes stand for no code of the library Duo.
    error FormUnknownPurposes(uint32 bits);
    /// @notice Member `index` is not active, or no such index was given.
    error NotActive(uint16 index);
    /// @notice Member `index` was not removed: it withdraws for its patients itself.
    error StillMember(uint16 index);
    /// @notice This consent has ended already.
    error AlreadyWithdrawn(bytes32 consentId);
    /// @notice Nothing shown says that `member` granted this consent.
    error NotGrantedBy(bytes32 consentId, uint16 member);
    /// @notice Only Membership calls this.
    error OnlyMembership(address caller);
    /// @notice The contract does not lie where Membership says it does.
    error MisplacedContract(address expected, address got);

    /// @notice Membership says that `ledger` is from now on the key of `member`, in place of `before`; zero: it has none, or
    /// had none. Reverts for any other caller.
    function keyChanged(uint16 member, address before, address ledger) external;

    /// @notice Register a form, by an active member's statement RegisterForm(member, formId).
    function registerForm(FormData calldata form, uint16 member, bytes32 r, bytes32 vs) external;

    /// @notice Store grants, of any hospitals. What does not count is skipped and logged, consent by consent: DUPLICATE
    /// (granted before), WRONG_PHASE (withdrawn before), MALFORMED (a zero id); and all consents of a statement that
    /// does not hold: UNKNOWN_SUBJECT (no such form), UNKNOWN_MEMBER (not active), BAD_SIGNATURE.
    function grant(GrantEntry[] calldata entries) external;

    /// @notice Store one grant, as `grant` does by an entry of one consent: for less gas.
    function grantOne(bytes32 formId, uint16 member, bytes32 consentId, bytes32 r, bytes32 vs) external;

    /// @notice Anchor many grants, of any hospitals. What does not count is skipped and logged, root by root: DUPLICATE
    /// (anchored before), MALFORMED (a zero root, or `count` is no power of two from 32 to 2^20); and all roots of a
    /// statement that does not hold: UNKNOWN_SUBJECT (the study has no such form), UNKNOWN_MEMBER (not active),
    /// BAD_SIGNATURE.
    function anchor(AnchorEntry[] calldata entries) external;

    /// @notice End consents by their holders' statements. Skipped and logged: DUPLICATE, BAD_SIGNATURE.
    function withdraw(WithdrawEntry[] calldata entries) external;

    /// @notice End one consent by its holder's statement, as `withdraw` does: for less gas.
    function withdrawOne(WithdrawEntry calldata entry) external;

    /// @notice End a consent by the statement WithdrawByHospital(member, consentId) of the hospital that granted it,
    /// also of one that was removed since.
    /// @param anchorRoot Root of the anchor that holds it; zero when the grant is stored.
    /// @param index Leaf of the anchor.
    /// @param path Siblings, lowest first.
    function withdrawByHospital(
        uint16 member,
        bytes32 consentId,
        bytes32 anchorRoot,
        uint256 index,
        bytes32[] calldata path,
        bytes32 r,
        bytes32 vs
    ) external;

    /// @notice End a consent of a hospital that was removed, by votes WithdrawByQuorum(epoch, member, consentId) of the
    /// active members. The votes stand for the link between consent and hospital, which may have left with the hospital.
    function withdrawByQuorum(uint16 member, bytes32 consentId, uint32 signers, bytes calldata signatures) external;

    /// @notice When the consent ended, Unix seconds; zero: it has not.
    function withdrawnAt(bytes32 consentId) external view returns (uint64);
    /// @notice The stored grant, empty when there is none (an anchored consent has none).
    function grantOf(bytes32 consentId) external view returns (GrantView memory);
    /// @notice The anchor, empty when the root is unknown.
    function anchorOf(bytes32 root) external view returns (AnchorView memory);
    /// @notice The form, empty (study zero) when unknown.
    function formOf(bytes32 formId) external view returns (FormData memory);
    /// @notice Whether the consent is granted, not ended and not expired at this block's timestamp.
    /// @param anchorRoot Root of the anchor that holds it; zero (index and path empty) when the grant is stored.
    function isActive(bytes32 consentId, bytes32 anchorRoot, uint256 index, bytes32[] calldata path)
        external
        view
        returns (bool);
    /// @notice Rolling hash over all events of this contract but EntrySkipped.
    function accumulator() external view returns (bytes32);
}
