// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {IConsentRegistry} from "./interfaces/IConsentRegistry.sol";
import {IMembership} from "./interfaces/IMembership.sol";
import {Accumulator} from "./libraries/Accumulator.sol";
import {AnchorTree} from "./libraries/AnchorTree.sol";
import {Bitmaps} from "./libraries/Bitmaps.sol";
import {PackedSignatures} from "./libraries/PackedSignatures.sol";
import {Quarters} from "./libraries/Quarters.sol";
import {Quorum} from "./libraries/Quorum.sol";
import {RosterCode} from "./libraries/RosterCode.sol";
import {Skips} from "./libraries/Skips.sol";
import {Statements} from "./libraries/Statements.sol";
import {Tags} from "./libraries/Tags.sol";

/// @title ConsentRegistry
/// @notice The manual is in interfaces/IConsentRegistry.sol.
contract ConsentRegistry is IConsentRegistry, Accumulator, EIP712 {
    using Bitmaps for uint32;

    /// @dev One slot a consent, whether it is granted, withdrawn or both: a withdrawal of a stored grant writes no new slot.
    struct Consent {
        uint32 form; // number of the form, zero when no grant is stored
        uint16 member;
        uint40 grantedAt;
        uint40 withdrawnAt;
    }

    struct AnchorRecord {
        uint32 form; // number of the form, zero when unknown
        uint16 member;
        uint32 count;
        uint40 anchoredAt;
    }

    IMembership private immutable MEMBERSHIP;

    FormData[] private _forms; // number n at n - 1
    bytes32[] private _formIds;
    mapping(bytes32 formId => uint32 number) private _formNumber;
    mapping(bytes32 consentId => Consent) private _consents;
    mapping(bytes32 root => AnchorRecord) private _anchors;

    constructor(IMembership membership) EIP712("koinon", "1") {
        if (membership.consent() != address(this)) revert MisplacedContract(membership.consent(), address(this));
        MEMBERSHIP = membership;
    }

    /// @inheritdoc IConsentRegistry
    function registerForm(FormData calldata form, uint16 member, bytes32 r, bytes32 vs) external {
        if (form.study == 0) revert FormField("study", 0);
        if (form.textHash == 0) revert FormField("textHash", 0);
        if (form.custody == 0 || form.custody > 3) revert FormField("custody", form.custody);
        if (form.basis == 0 || form.basis > 3) revert FormField("basis", form.basis);
        if (form.onWithdrawal == 0 || form.onWithdrawal > 3) revert FormField("onWithdrawal", form.onWithdrawal);
        if (!Quarters.isBoundary(form.validTo)) revert FormField("validTo", form.validTo);
        bytes32 formId = keccak256(abi.encode(Statements.FORM, form));
        if (_formNumber[formId] != 0) revert FormKnown(formId);
        _checkMember(member, keccak256(abi.encode(Statements.REGISTER_FORM, member, formId)), r, vs);
        _forms.push(form);
        _formIds.push(formId);
        _formNumber[formId] = uint32(_forms.length);
        emit FormRegistered(
            formId,
            form.study,
            form.purposes,
            form.textHash,
            form.custody,
            form.basis,
            form.validTo,
            form.onWithdrawal
        );
        _record(keccak256(abi.encode(Tags.RECORD_FORM_REGISTERED, formId, form)));
    }

    /// @inheritdoc IConsentRegistry
    function grant(GrantEntry[] calldata entries) external {
        (address pointer,, uint32 active,) = MEMBERSHIP.snapshot();
        bytes memory roster = RosterCode.load(pointer);
        for (uint256 i; i < entries.length; ++i) {
            GrantEntry calldata entry = entries[i];
            (uint8 reason, uint32 form) = _grantFault(entry, active, roster);
            if (reason != 0) {
                emit EntrySkipped(entry.consentId, entry.member, reason);
                continue;
            }
            _consents[entry.consentId] = Consent(form, entry.member, uint40(block.timestamp), 0);
            emit Granted(entry.consentId, entry.study, entry.formId, entry.member);
            _record(
                keccak256(
                    abi.encode(Tags.RECORD_GRANTED, entry.consentId, entry.study, entry.formId, entry.member)
                )
            );
        }
    }

    /// @inheritdoc IConsentRegistry
    function anchor(
        bytes32 study,
        bytes32 formId,
        uint16 member,
        bytes32 root,
        uint32 count,
        bytes32 r,
        bytes32 vs
    ) external {
        uint32 form = _formNumber[formId];
        if (form == 0) revert FormUnknown(formId);
        bytes32 formStudy = _forms[form - 1].study;
        if (formStudy != study) revert FormOfAnotherStudy(formStudy, study);
        if (root == 0) revert AnchorEmpty();
        if (!AnchorTree.isCount(count)) revert AnchorCount(count);
        if (_anchors[root].form != 0) revert AnchorKnown(root);
        _checkMember(member, keccak256(abi.encode(Statements.ANCHOR, study, formId, member, root, count)), r, vs);
        _anchors[root] = AnchorRecord(form, member, count, uint40(block.timestamp));
        emit Anchored(root, study, formId, member, count);
        _record(keccak256(abi.encode(Tags.RECORD_ANCHORED, root, study, formId, member, count)));
    }

    /// @inheritdoc IConsentRegistry
    function withdraw(WithdrawEntry[] calldata entries) external {
        for (uint256 i; i < entries.length; ++i) {
            WithdrawEntry calldata entry = entries[i];
            bytes32 consentId =
                keccak256(abi.encode(Tags.CONSENT, entry.holder, entry.holderSalt, entry.binding));
            if (_consents[consentId].withdrawnAt != 0) {
                emit EntrySkipped(consentId, Skips.NO_MEMBER, Skips.DUPLICATE);
                continue;
            }
            bytes32 digest = _hashTypedDataV4(keccak256(abi.encode(Statements.WITHDRAW, consentId)));
            if (!PackedSignatures.signedBy(entry.holder, digest, entry.r, entry.vs)) {
                emit EntrySkipped(consentId, Skips.NO_MEMBER, Skips.BAD_SIGNATURE);
                continue;
            }
            _withdraw(consentId);
        }
    }

    /// @inheritdoc IConsentRegistry
    function withdrawByHospital(
        uint16 member,
        bytes32 consentId,
        bytes32 anchorRoot,
        uint256 index,
        bytes32[] calldata path,
        bytes32 r,
        bytes32 vs
    ) external {
        if (_consents[consentId].withdrawnAt != 0) revert AlreadyWithdrawn(consentId);
        (uint32 form, uint16 hospital) = _granted(consentId, anchorRoot, index, path);
        if (form == 0 || hospital != member) revert NotGrantedBy(consentId, member);
        bytes32 structHash = keccak256(abi.encode(Statements.WITHDRAW_BY_HOSPITAL, member, consentId));
        // A removed hospital may still end its patients' consents: the address stands in the roster's code for good.
        PackedSignatures.check(member, MEMBERSHIP.ledgerOf(member), _hashTypedDataV4(structHash), r, vs);
        _withdraw(consentId);
    }

    /// @inheritdoc IConsentRegistry
    function withdrawByQuorum(uint16 member, bytes32 consentId, uint32 signers, bytes calldata signatures) external {
        if (_consents[consentId].withdrawnAt != 0) revert AlreadyWithdrawn(consentId);
        (address pointer, uint64 epoch, uint32 active,) = MEMBERSHIP.snapshot();
        bytes memory roster = RosterCode.load(pointer);
        if (active.has(member)) revert StillMember(member);
        if (RosterCode.ledgerAt(roster, member) == address(0)) revert NotActive(member);
        uint256 n = active.count();
        PackedSignatures.checkQuorum(
            roster,
            active,
            signers,
            signatures,
            _hashTypedDataV4(keccak256(abi.encode(Statements.WITHDRAW_BY_QUORUM, epoch, member, consentId))),
            Quorum.needed(n, Quorum.faults(n, n))
        );
        _withdraw(consentId);
    }

    /// @inheritdoc IConsentRegistry
    function withdrawnAt(bytes32 consentId) external view returns (uint64) {
        return _consents[consentId].withdrawnAt;
    }

    /// @inheritdoc IConsentRegistry
    function grantOf(bytes32 consentId) external view returns (GrantView memory) {
        Consent memory consent = _consents[consentId];
        if (consent.form == 0) return GrantView(0, 0, 0, 0);
        return GrantView(
            _formIds[consent.form - 1], _forms[consent.form - 1].study, consent.member, consent.grantedAt
        );
    }

    /// @inheritdoc IConsentRegistry
    function anchorOf(bytes32 root) external view returns (AnchorView memory) {
        AnchorRecord memory record = _anchors[root];
        if (record.form == 0) return AnchorView(0, 0, 0, 0, 0);
        return AnchorView(
            _formIds[record.form - 1], _forms[record.form - 1].study, record.member, record.count, record.anchoredAt
        );
    }

    /// @inheritdoc IConsentRegistry
    function formOf(bytes32 formId) external view returns (FormData memory form) {
        uint32 number = _formNumber[formId];
        if (number != 0) form = _forms[number - 1];
    }

    /// @inheritdoc IConsentRegistry
    function isActive(bytes32 consentId, bytes32 anchorRoot, uint256 index, bytes32[] calldata path)
        external
        view
        returns (bool)
    {
        if (_consents[consentId].withdrawnAt != 0) return false;
        (uint32 form,) = _granted(consentId, anchorRoot, index, path);
        return form != 0 && block.timestamp < _forms[form - 1].validTo;
    }

    /// @inheritdoc IConsentRegistry
    function accumulator() external view returns (bytes32) {
        return _accumulated();
    }

    function _withdraw(bytes32 consentId) private {
        _consents[consentId].withdrawnAt = uint40(block.timestamp);
        emit Withdrawn(consentId, uint64(block.timestamp));
        _record(keccak256(abi.encode(Tags.RECORD_WITHDRAWN, consentId, uint64(block.timestamp))));
    }

    /// @dev The form and hospital of a consent that is stored (`anchorRoot` zero) or in an anchor; form zero: neither.
    function _granted(bytes32 consentId, bytes32 anchorRoot, uint256 index, bytes32[] calldata path)
        private
        view
        returns (uint32 form, uint16 member)
    {
        if (anchorRoot == 0) {
            Consent memory consent = _consents[consentId];
            return (consent.form, consent.member);
        }
        AnchorRecord memory record = _anchors[anchorRoot];
        if (record.form != 0 && AnchorTree.contains(anchorRoot, record.count, consentId, index, path)) {
            return (record.form, record.member);
        }
    }

    function _grantFault(GrantEntry calldata entry, uint32 active, bytes memory roster)
        private
        view
        returns (uint8 reason, uint32 form)
    {
        form = _formNumber[entry.formId];
        if (form == 0) return (Skips.UNKNOWN_SUBJECT, 0);
        if (_forms[form - 1].study != entry.study || entry.consentId == 0) return (Skips.MALFORMED, 0);
        if (!active.has(entry.member)) return (Skips.UNKNOWN_MEMBER, 0);
        Consent memory consent = _consents[entry.consentId];
        if (consent.form != 0) return (Skips.DUPLICATE, 0);
        if (consent.withdrawnAt != 0) return (Skips.WRONG_PHASE, 0);
        bytes32 structHash =
            keccak256(abi.encode(Statements.GRANT, entry.study, entry.formId, entry.member, entry.consentId));
        address ledger = RosterCode.ledgerAt(roster, entry.member);
        if (!PackedSignatures.signedBy(ledger, _hashTypedDataV4(structHash), entry.r, entry.vs)) {
            return (Skips.BAD_SIGNATURE, 0);
        }
    }

    function _checkMember(uint16 member, bytes32 structHash, bytes32 r, bytes32 vs) private view {
        (address pointer,, uint32 active,) = MEMBERSHIP.snapshot();
        if (!active.has(member)) revert NotActive(member);
        address ledger = RosterCode.ledgerAt(RosterCode.load(pointer), member);
        PackedSignatures.check(member, ledger, _hashTypedDataV4(structHash), r, vs);
    }
}
