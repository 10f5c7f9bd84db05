// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {IConsentRegistry} from "./interfaces/IConsentRegistry.sol";
import {IMembership} from "./interfaces/IMembership.sol";
import {Accumulator} from "./libraries/Accumulator.sol";
import {AnchorTree} from "./libraries/AnchorTree.sol";
import {Bitmaps} from "./libraries/Bitmaps.sol";
import {Duo} from "./libraries/Duo.sol";
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

    // Three kinds of slot, packed by hand: a batch builds the word once and writes it many times.
    //
    //   consent   form 32 | member 16 | grantedAt 40 | withdrawnAt 40    form zero: no grant is stored
    //   anchor    form 32 | member 16 | count 32     | anchoredAt 40     zero: unknown
    //
    //   speaker   member 16 | form 32 | speaks 1 | 7 unused | 200 bits of the hash of that form's id
    //
    // lowest bits first. One slot a consent, whether it is granted, withdrawn or both: the withdrawal of a stored grant
    // writes no new slot. A speaker is the key of an active member; Membership says when it changes. Its slot keeps the
    // number of the form that it granted with last, so that the next grant with that form reads no other. (Bits of the id
    // itself would not do: whoever grants may write any id.)
    uint256 private constant AT_MEMBER = 32;
    uint256 private constant AT_GRANTED = 48;
    uint256 private constant AT_WITHDRAWN = 88;
    uint256 private constant AT_COUNT = 48;
    uint256 private constant AT_ANCHORED = 80;
    uint256 private constant AT_FORM = 16;
    uint256 private constant SPEAKS = 1 << 48;
    uint256 private constant AT_FORM_MARK = 56;

    /// @dev A slot that is looked up once, read and written.
    struct Word {
        uint256 slot;
    }

    IMembership private immutable MEMBERSHIP;
    /// @dev What ended there has ended here, also when it ends later; what was granted there counts here.
    IConsentRegistry private immutable PREDECESSOR;

    FormData[] private _forms; // number n at n - 1
    bytes32[] private _formIds;
    mapping(bytes32 formId => uint32 number) private _formNumber;
    /// @dev The same number under study and form together: one read answers an anchor whether the form is the study's.
    mapping(bytes32 study => mapping(bytes32 formId => uint32 number)) private _studyForm;
    mapping(bytes32 consentId => Word) private _consents;
    mapping(bytes32 root => Word) private _anchors;
    mapping(address ledger => Word) private _speakers;

    constructor(IMembership membership) EIP712("koinon", "1") {
        if (membership.consent() != address(this)) revert MisplacedContract(membership.consent(), address(this));
        MEMBERSHIP = membership;
        IMembership before = membership.predecessor();
        PREDECESSOR = IConsentRegistry(address(before) == address(0) ? address(0) : before.consent());
        uint32 active = membership.activeMembers();
        for (uint16 i; active >> i != 0; ++i) {
            if (active.has(i)) _speakers[membership.ledgerOf(i)].slot = SPEAKS | i;
        }
    }

    /// @inheritdoc IConsentRegistry
    function keyChanged(uint16 member, address before, address ledger) external {
        if (msg.sender != address(MEMBERSHIP)) revert OnlyMembership(msg.sender);
        _speakers[before].slot = 0;
        if (ledger != address(0)) _speakers[ledger].slot = SPEAKS | member;
    }

    /// @inheritdoc IConsentRegistry
    function registerForm(FormData calldata form, uint16 member, bytes32 r, bytes32 vs) external {
        if (form.study == 0) revert FormField("study", 0);
        if (form.purposes & ~Duo.KNOWN != 0) revert FormUnknownPurposes(form.purposes & ~Duo.KNOWN);
        if (form.purposes & Duo.PERMISSIONS == 0) revert FormWithoutPermission(form.purposes);
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
        _studyForm[form.study][formId] = uint32(_forms.length);
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
        bytes32 acc = _accumulated();
        bytes32 domain = _domainSeparatorV4();
        for (uint256 i; i < entries.length; ++i) {
            GrantEntry calldata entry = entries[i];
            bytes32[] calldata ids = entry.consentIds;
            bytes32 formId = entry.formId;
            uint16 member = entry.member;
            (uint256 slot, uint8 fault) = _granting(domain, formId, member, _packed(ids), entry.r, entry.vs);
            for (uint256 j; j < ids.length; ++j) {
                bytes32 consentId = ids[j];
                uint8 reason = fault == 0 ? _grant(consentId, slot) : fault;
                if (reason == 0) acc = _logGranted(acc, consentId, formId, member);
                else emit EntrySkipped(consentId, member, reason);
            }
        }
        _store(acc);
    }

    /// @inheritdoc IConsentRegistry
    function grantOne(bytes32 formId, uint16 member, bytes32 consentId, bytes32 r, bytes32 vs) external {
        bytes32 packed;
        assembly ("memory-safe") {
            mstore(0x00, consentId)
            packed := keccak256(0x00, 0x20)
        }
        (uint256 slot, uint8 reason) = _granting(_domainSeparatorV4(), formId, member, packed, r, vs);
        if (reason == 0) reason = _grant(consentId, slot);
        if (reason == 0) _store(_logGranted(_accumulated(), consentId, formId, member));
        else emit EntrySkipped(consentId, member, reason);
    }

    /// @inheritdoc IConsentRegistry
    function anchor(AnchorEntry[] calldata entries) external {
        bytes32 acc = _accumulated();
        for (uint256 i; i < entries.length; ++i) {
            AnchorEntry calldata entry = entries[i];
            bytes32[] memory roots = entry.roots;
            bytes32 structHash = keccak256(
                abi.encode(
                    Statements.ANCHOR,
                    entry.study,
                    entry.formId,
                    entry.member,
                    entry.count,
                    keccak256(abi.encodePacked(roots))
                )
            );
            uint32 form = _studyForm[entry.study][entry.formId];
            uint256 word = _speakers[PackedSignatures.recover(_hashTypedDataV4(structHash), entry.r, entry.vs)].slot;
            uint8 fault = form != 0 && _says(word, entry.member) ? 0 : _fault(form, entry.member);
            if (fault == 0 && !AnchorTree.isCount(entry.count)) fault = Skips.MALFORMED;
            uint256 slot = form | uint256(entry.member) << AT_MEMBER | uint256(entry.count) << AT_COUNT
                | block.timestamp << AT_ANCHORED;
            uint256 kept;
            for (uint256 j; j < roots.length; ++j) {
                bytes32 root = roots[j];
                uint8 reason = fault == 0 ? _anchor(root, slot) : fault;
                if (reason == 0) roots[kept++] = root;
                else emit EntrySkipped(root, entry.member, reason);
            }
            if (kept == 0) continue;
            assembly ("memory-safe") {
                mstore(roots, kept) // those that were skipped lie behind the end
            }
            emit Anchored(entry.study, entry.formId, entry.member, entry.count, roots);
            acc = _rolled(
                acc,
                keccak256(
                    abi.encode(
                        Tags.RECORD_ANCHORED,
                        entry.study,
                        entry.formId,
                        entry.member,
                        entry.count,
                        keccak256(abi.encodePacked(roots))
                    )
                )
            );
        }
        _store(acc);
    }

    /// @inheritdoc IConsentRegistry
    function withdraw(WithdrawEntry[] calldata entries) external {
        bytes32 acc = _accumulated();
        bytes32 domain = _domainSeparatorV4();
        uint256 log;
        assembly ("memory-safe") {
            // The data of WithdrawnTogether, filled as entries count: at, offset of the ids, their length, the ids.
            log := mload(0x40)
            mstore(0x40, add(log, add(0x60, mul(entries.length, 0x20))))
            mstore(log, timestamp())
            mstore(add(log, 0x20), 0x40)
            mstore(add(log, 0x40), 0)
        }
        for (uint256 i; i < entries.length; ++i) {
            (bytes32 consentId, uint256 slot, uint8 reason) = _withdrawal(domain, entries[i]);
            if (reason != 0) {
                emit EntrySkipped(consentId, Skips.NO_MEMBER, reason);
                continue;
            }
            acc = _withdraw(acc, consentId, slot);
            assembly ("memory-safe") {
                let kept := add(mload(add(log, 0x40)), 1)
                mstore(add(log, 0x40), kept)
                mstore(add(log, add(0x40, mul(kept, 0x20))), consentId)
            }
        }
        bytes32 topic = WithdrawnTogether.selector;
        assembly ("memory-safe") {
            let kept := mload(add(log, 0x40))
            if kept { log1(log, add(0x60, mul(kept, 0x20)), topic) }
        }
        _store(acc);
    }

    /// @inheritdoc IConsentRegistry
    function withdrawOne(WithdrawEntry calldata entry) external {
        (bytes32 consentId, uint256 slot, uint8 reason) = _withdrawal(_domainSeparatorV4(), entry);
        if (reason == 0) _withdrawAlone(consentId, slot);
        else emit EntrySkipped(consentId, Skips.NO_MEMBER, reason);
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
        uint256 slot = _consents[consentId].slot;
        if (slot >> AT_WITHDRAWN != 0) revert AlreadyWithdrawn(consentId);
        (bool granted, uint16 hospital,) = _granted(consentId, anchorRoot, index, path);
        if (!granted || hospital != member) revert NotGrantedBy(consentId, member);
        bytes32 structHash = keccak256(abi.encode(Statements.WITHDRAW_BY_HOSPITAL, member, consentId));
        // A removed hospital may still end its patients' consents: the address stands in the roster's code for good.
        PackedSignatures.check(member, MEMBERSHIP.ledgerOf(member), _hashTypedDataV4(structHash), r, vs);
        _withdrawAlone(consentId, slot);
    }

    /// @inheritdoc IConsentRegistry
    function withdrawByQuorum(uint16 member, bytes32 consentId, uint32 signers, bytes calldata signatures) external {
        uint256 slot = _consents[consentId].slot;
        if (slot >> AT_WITHDRAWN != 0) revert AlreadyWithdrawn(consentId);
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
        _withdrawAlone(consentId, slot);
    }

    /// @inheritdoc IConsentRegistry
    function withdrawnAt(bytes32 consentId) public view returns (uint64 at) {
        at = uint64(_consents[consentId].slot >> AT_WITHDRAWN);
        if (address(PREDECESSOR) != address(0)) {
            uint64 before = PREDECESSOR.withdrawnAt(consentId);
            if (before != 0 && (at == 0 || before < at)) at = before;
        }
    }

    /// @inheritdoc IConsentRegistry
    function grantOf(bytes32 consentId) public view returns (GrantView memory) {
        uint256 slot = _consents[consentId].slot;
        uint32 form = uint32(slot);
        if (form == 0) {
            return address(PREDECESSOR) == address(0) ? GrantView(0, 0, 0, 0) : PREDECESSOR.grantOf(consentId);
        }
        return GrantView(
            _formIds[form - 1], _forms[form - 1].study, uint16(slot >> AT_MEMBER), uint40(slot >> AT_GRANTED)
        );
    }

    /// @inheritdoc IConsentRegistry
    function anchorOf(bytes32 root) public view returns (AnchorView memory) {
        uint256 slot = _anchors[root].slot;
        uint32 form = uint32(slot);
        if (form == 0) {
            return address(PREDECESSOR) == address(0) ? AnchorView(0, 0, 0, 0, 0) : PREDECESSOR.anchorOf(root);
        }
        return AnchorView(
            _formIds[form - 1],
            _forms[form - 1].study,
            uint16(slot >> AT_MEMBER),
            uint32(slot >> AT_COUNT),
            uint40(slot >> AT_ANCHORED)
        );
    }

    /// @inheritdoc IConsentRegistry
    function formOf(bytes32 formId) public view returns (FormData memory form) {
        uint32 number = _formNumber[formId];
        if (number != 0) form = _forms[number - 1];
        else if (address(PREDECESSOR) != address(0)) form = PREDECESSOR.formOf(formId);
    }

    /// @inheritdoc IConsentRegistry
    function isActive(bytes32 consentId, bytes32 anchorRoot, uint256 index, bytes32[] calldata path)
        external
        view
        returns (bool)
    {
        if (withdrawnAt(consentId) != 0) return false;
        (bool granted,, bytes32 formId) = _granted(consentId, anchorRoot, index, path);
        return granted && block.timestamp < formOf(formId).validTo;
    }

    /// @inheritdoc IConsentRegistry
    function accumulator() external view returns (bytes32) {
        return _accumulated();
    }

    /// @dev The slot of the consent that a holder's statement ends, or why it does not.
    function _withdrawal(bytes32 domain, WithdrawEntry calldata entry)
        private
        view
        returns (bytes32 consentId, uint256 slot, uint8 reason)
    {
        bytes32 digest;
        (consentId, digest) = _withdrawn(domain, entry);
        slot = _consents[consentId].slot;
        if (slot >> AT_WITHDRAWN != 0) reason = Skips.DUPLICATE;
        else if (!PackedSignatures.signedBy(entry.holder, digest, entry.r, entry.vs)) reason = Skips.BAD_SIGNATURE;
    }

    function _withdrawAlone(bytes32 consentId, uint256 slot) private {
        emit Withdrawn(consentId, uint64(block.timestamp));
        _store(_withdraw(_accumulated(), consentId, slot));
    }

    /// @dev Writes the tombstone.
    /// @return next The accumulator with its record, as _rolled gives it.
    function _withdraw(bytes32 acc, bytes32 consentId, uint256 slot) private returns (bytes32 next) {
        _consents[consentId].slot = slot | block.timestamp << AT_WITHDRAWN;
        bytes32 tag = Tags.RECORD_WITHDRAWN;
        assembly ("memory-safe") {
            let at := mload(0x40)
            mstore(at, tag)
            mstore(add(at, 0x20), consentId)
            mstore(add(at, 0x40), timestamp())
            mstore(0x20, keccak256(at, 0x60))
            mstore(0x00, acc)
            next := keccak256(0x00, 0x40)
        }
    }

    /// @dev H(consent, holder, holderSalt, binding), over words of the calldata, and what its holder signs to end it.
    function _withdrawn(bytes32 domain, WithdrawEntry calldata entry)
        private
        pure
        returns (bytes32 consentId, bytes32 digest)
    {
        bytes32 tag = Tags.CONSENT;
        bytes32 typeHash = Statements.WITHDRAW;
        address holder = entry.holder; // the compiler refuses a word with more than 20 bytes
        assembly ("memory-safe") {
            let at := mload(0x40)
            mstore(at, tag)
            mstore(add(at, 0x20), holder)
            calldatacopy(add(at, 0x40), add(entry, 0x20), 0x40)
            consentId := keccak256(at, 0x80)
            mstore(0x00, typeHash)
            mstore(0x20, consentId)
            mstore(at, shl(240, 0x1901))
            mstore(add(at, 2), domain)
            mstore(add(at, 34), keccak256(0x00, 0x40))
            digest := keccak256(at, 66)
        }
    }

    /// @dev keccak256(abi.encodePacked(ids)), without keeping a copy in memory.
    function _packed(bytes32[] calldata ids) private pure returns (bytes32 hash) {
        assembly ("memory-safe") {
            let at := mload(0x40)
            let size := mul(ids.length, 0x20)
            calldatacopy(at, ids.offset, size)
            hash := keccak256(at, size)
        }
    }

    /// @dev The hospital and form of a consent that is stored (`anchorRoot` zero) or in an anchor, here or before.
    function _granted(bytes32 consentId, bytes32 anchorRoot, uint256 index, bytes32[] calldata path)
        private
        view
        returns (bool granted, uint16 member, bytes32 formId)
    {
        if (anchorRoot == 0) {
            GrantView memory stored = grantOf(consentId);
            return (stored.formId != 0, stored.member, stored.formId);
        }
        AnchorView memory anchored = anchorOf(anchorRoot);
        if (anchored.formId != 0 && AnchorTree.contains(anchorRoot, anchored.count, consentId, index, path)) {
            return (true, anchored.member, anchored.formId);
        }
    }

    /// @dev What a consent's slot becomes by a hospital's statement, or why the statement does not hold.
    function _granting(bytes32 domain, bytes32 formId, uint16 member, bytes32 packed, bytes32 r, bytes32 vs)
        private
        returns (uint256 slot, uint8 fault)
    {
        bytes32 typeHash = Statements.GRANT;
        bytes32 structHash;
        uint256 mark;
        assembly ("memory-safe") {
            let at := mload(0x40)
            mstore(at, typeHash)
            mstore(add(at, 0x20), formId)
            mstore(add(at, 0x40), member)
            mstore(add(at, 0x60), packed)
            structHash := keccak256(at, 0x80)
            mark := shr(AT_FORM_MARK, keccak256(add(at, 0x20), 0x20))
        }
        Word storage speaker = _speakers[PackedSignatures.recover(PackedSignatures.typed(domain, structHash), r, vs)];
        uint256 word = speaker.slot;
        if (!_says(word, member)) return (0, _fault(_formNumber[formId], member));
        uint256 form = uint32(word >> AT_FORM);
        if (word >> AT_FORM_MARK != mark) {
            form = _formNumber[formId];
            if (form == 0) return (0, Skips.UNKNOWN_SUBJECT);
            speaker.slot = mark << AT_FORM_MARK | SPEAKS | form << AT_FORM | member;
        }
        slot = form | uint256(member) << AT_MEMBER | block.timestamp << AT_GRANTED;
    }

    /// @dev The event of a grant.
    /// @return next The accumulator with its record, as _rolled gives it.
    function _logGranted(bytes32 acc, bytes32 consentId, bytes32 formId, uint16 member)
        private
        returns (bytes32 next)
    {
        bytes32 tag = Tags.RECORD_GRANTED;
        bytes32 topic = Granted.selector;
        assembly ("memory-safe") {
            // abi.encode(tag, consentId, formId, member): the record, and without its tag the event's data
            let at := mload(0x40)
            mstore(at, tag)
            mstore(add(at, 0x20), consentId)
            mstore(add(at, 0x40), formId)
            mstore(add(at, 0x60), member)
            log1(add(at, 0x20), 0x60, topic)
            mstore(0x00, acc)
            mstore(0x20, keccak256(at, 0x80))
            next := keccak256(0x00, 0x40)
        }
    }

    /// @dev Whether a speaker's slot is one of `member`.
    function _says(uint256 word, uint16 member) private pure returns (bool) {
        return word & SPEAKS != 0 && uint16(word) == member;
    }

    /// @dev Why a hospital's statement does not hold that its key did not sign, or that is about no form.
    function _fault(uint32 form, uint16 member) private view returns (uint8) {
        if (form == 0) return Skips.UNKNOWN_SUBJECT;
        return member < 32 && MEMBERSHIP.activeMembers().has(member) ? Skips.BAD_SIGNATURE : Skips.UNKNOWN_MEMBER;
    }

    function _grant(bytes32 consentId, uint256 slot) private returns (uint8) {
        Word storage word = _consents[consentId];
        uint256 found = word.slot;
        if (found != 0) return uint32(found) != 0 ? Skips.DUPLICATE : Skips.WRONG_PHASE;
        if (consentId == 0) return Skips.MALFORMED;
        if (address(PREDECESSOR) != address(0) && PREDECESSOR.withdrawnAt(consentId) != 0) return Skips.WRONG_PHASE;
        word.slot = slot;
        return 0;
    }

    function _anchor(bytes32 root, uint256 slot) private returns (uint8) {
        if (root == 0) return Skips.MALFORMED;
        Word storage word = _anchors[root];
        if (word.slot != 0) return Skips.DUPLICATE;
        word.slot = slot;
        return 0;
    }

    function _checkMember(uint16 member, bytes32 structHash, bytes32 r, bytes32 vs) private view {
        (address pointer,, uint32 active,) = MEMBERSHIP.snapshot();
        if (!active.has(member)) revert NotActive(member);
        address ledger = RosterCode.ledgerAt(RosterCode.load(pointer), member);
        PackedSignatures.check(member, ledger, _hashTypedDataV4(structHash), r, vs);
    }
}
