// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IConsentRegistry} from "../../interfaces/IConsentRegistry.sol";
import {IMembership} from "../../interfaces/IMembership.sol";
import {ITrainingLedger} from "../../interfaces/ITrainingLedger.sol";
import {Quorum} from "../../libraries/Quorum.sol";
import {Statements} from "../../libraries/Statements.sol";
import {Tags} from "../../libraries/Tags.sol";
import {Network} from "./Network.sol";

/// @notice Everybody who acts on a network, in any order and with any mistake: five members, patients, an outsider with
/// keys of its own, and relayers that change what they carry. Keeps what must have come of it, for the invariants.
contract Actors is Network {
    uint256 internal constant MEMBERS = 5;
    uint256 internal constant PATIENTS = 6;
    uint40 internal constant VALID_TO = 1_806_537_600; // 2027-04-01

    bytes32 public formId;
    uint32 public expectedActive = 31;
    uint64 public expectedEpoch = 1;
    uint256 public finalised;
    uint256 public failed;
    uint256 public granted;
    uint256 public withdrawn;
    uint256 public forged;
    mapping(bytes32 roundId => uint256) public resultsOf;
    mapping(uint256 patient => uint64) public withdrawnAt;
    mapping(uint256 patient => bool) public everGranted;
    uint32 public heights; // closed
    bytes32 public model; // of the newest result
    bytes32 public lineage; // of every result
    uint32 internal lastHeight;
    uint32 internal lastFinals;

    constructor() {
        start(MEMBERS);
        (,, lineage, model,,) = training.head(study);
        IConsentRegistry.FormData memory f = IConsentRegistry.FormData(study, 3, keccak256("text"), 1, 1, VALID_TO, 3);
        formId = keccak256(abi.encode(Statements.FORM, f));
        (bytes32 r, bytes32 vs) =
            sign(memberKey(0), address(consent), keccak256(abi.encode(Statements.REGISTER_FORM, uint16(0), formId)));
        consent.registerForm(f, 0, r, vs);
    }

    // ------------------------------------------------------------------------------------------------- time

    function wait(uint256 span) public {
        vm.warp(block.timestamp + span % 240);
        vm.roll(block.number + 1);
    }

    // ----------------------------------------------------------------------------------------------- rounds

    function commitSome(uint32 members) public {
        bytes32 roundId = training.openRound(study);
        if (roundId == 0) return;
        try training.postCommits(study, roundId, commitsOf(roundId, members % 256)) {} catch {} // indexes never given, too
        advanced();
    }

    function commitEveryone() public {
        commitSome(31);
    }

    function abstainOne(uint16 member) public {
        bytes32 roundId = training.openRound(study);
        if (roundId == 0) return;
        member %= 8; // indexes that were never given, too
        ITrainingLedger.AbstainEntry[] memory e = new ITrainingLedger.AbstainEntry[](1);
        e[0].member = member;
        (e[0].r, e[0].vs) =
            sign(memberKey(member), address(training), keccak256(abi.encode(Statements.ABSTAIN, roundId, member)));
        try training.postAbstains(study, roundId, e) {} catch {}
        advanced();
    }

    function haveSome(uint32 members, uint32 bitmap, uint8 attempt) public {
        bytes32 roundId = training.openRound(study);
        if (roundId == 0) return;
        attempt = attempt % 4;
        bitmap %= 64;
        members %= 64;
        ITrainingLedger.HaveEntry[] memory e = new ITrainingLedger.HaveEntry[](count(members));
        uint256 k;
        for (uint16 i; i < 32; ++i) {
            if ((members >> i) & 1 == 1) e[k++] = haveOf(roundId, attempt, i, bitmap);
        }
        try training.postHaves(study, roundId, attempt, e) {} catch {}
        advanced();
    }

    function finaliseAny(uint32 set, uint32 signers, uint8 attempt, bytes32 made, bool honest) public {
        bytes32 roundId = training.openRound(study);
        if (roundId == 0) return;
        ITrainingLedger.RoundView memory v = training.roundOf(study, roundId);
        (set, signers, attempt) = honest ? (v.committed, v.roster, uint8(0)) : (set % 64, signers % 64, attempt % 5);
        ITrainingLedger.Result memory x = resultOf(set, 0, made);
        if (count(set) < v.minIncluded) {
            x.outcome = 2;
            x.modelRoot = model;
        }
        bytes memory votes = votesOf(roundId, attempt, set, x, signers);
        try training.finalise(study, roundId, attempt, x, signers, votes) {
            ++resultsOf[roundId];
            ++finalised;
            holds(set & ~v.roster == 0, "only the roster is included");
            holds(set & ~v.committed == 0, "only commitments are included");
            holds(signers & ~v.roster == 0, "only the roster votes");
            holds(count(signers) >= v.quorum, "only a quorum decides");
            model = x.modelRoot;
            lineage = lineageOf(lineage, ++heights, model, resultHashOf(x));
        } catch {}
        advanced();
    }

    function failTheRound() public {
        bytes32 roundId = training.openRound(study);
        if (roundId == 0) return;
        try training.failRound(study, roundId) {
            ++failed;
            ++heights;
        } catch {}
        advanced();
    }

    // ------------------------------------------------------------------------------------- what relayers change

    /// @notice A relayer changes one field of what a member signed: nothing of it counts.
    function relayChanged(uint16 member, uint8 field, bytes32 other) public {
        bytes32 roundId = training.openRound(study);
        if (roundId == 0) return;
        member %= uint16(MEMBERS);
        ITrainingLedger.CommitEntry[] memory e = commitsOf(roundId, uint32(1) << member);
        field %= 4;
        if (field == 0) e[0].updateRoot = other;
        if (field == 1) e[0].datasetRoot = other;
        if (field == 2) e[0].nextDatasetRoot = keccak256(abi.encode(other));
        if (field == 3) e[0].member = (member + 1) % uint16(MEMBERS);
        uint32 before = training.roundOf(study, roundId).committed;
        try training.postCommits(study, roundId, e) {
            holds(training.roundOf(study, roundId).committed == before, "a changed statement counted");
        } catch {}
        ++forged;
    }

    // ---------------------------------------------------------------------------------------------- consents

    function grantOne(uint256 patient, uint16 member) public {
        patient %= PATIENTS;
        member %= 8;
        IConsentRegistry.GrantEntry[] memory e = new IConsentRegistry.GrantEntry[](1);
        e[0].formId = formId;
        e[0].member = member;
        e[0].consentIds = new bytes32[](1);
        e[0].consentIds[0] = consentId(patient);
        (e[0].r, e[0].vs) = sign(
            memberKey(member),
            address(consent),
            keccak256(abi.encode(Statements.GRANT, formId, member, keccak256(abi.encodePacked(e[0].consentIds))))
        );
        bool expected = withdrawnAt[patient] == 0 && !everGranted[patient] && (expectedActive >> member) & 1 == 1;
        consent.grant(e);
        if (expected) {
            everGranted[patient] = true;
            ++granted;
        }
    }

    function withdrawOne(uint256 patient, bool byTheHolder) public {
        patient %= PATIENTS;
        IConsentRegistry.WithdrawEntry[] memory e = new IConsentRegistry.WithdrawEntry[](1);
        e[0].holder = vm.addr(holderKey(patient));
        e[0].holderSalt = keccak256(abi.encode("salt", patient));
        e[0].binding = keccak256(abi.encode("binding", patient));
        (e[0].r, e[0].vs) = sign(
            holderKey(byTheHolder ? patient : patient + 1),
            address(consent),
            keccak256(abi.encode(Statements.WITHDRAW, consentId(patient)))
        );
        consent.withdraw(e);
        if (byTheHolder && withdrawnAt[patient] == 0) {
            withdrawnAt[patient] = uint64(block.timestamp);
            ++withdrawn;
        }
    }

    // -------------------------------------------------------------------------------------------- membership

    function removeOne(uint16 member, uint32 signers) public {
        member %= 8;
        signers %= 64;
        if (count(expectedActive) <= 4) return; // rounds should go on
        bytes32 structHash = keccak256(abi.encode(Statements.REMOVE, expectedEpoch, member, vm.addr(memberKey(member))));
        bytes memory votes = signAll(signers, address(membership), structHash);
        bool allowed =
            (expectedActive >> member) & 1 == 1 && signers & ~expectedActive == 0 && count(signers) >= quorumNow();
        try membership.remove(member, ballot(signers, structHash)) {
            holds(allowed, "removed without a quorum");
            expectedActive &= ~(uint32(1) << member);
            ++expectedEpoch;
        } catch {
            holds(!allowed, "a quorum's removal was refused");
        }
    }

    function admitOne(uint32 signers) public {
        signers %= 64;
        uint256 index = membership.indexCount();
        if (index >= 8) return;
        IMembership.SeatInput memory seat = seatInput(memberKey(index), false, "hospital", address(membership));
        bytes32 seatHash = Statements.hashSeat(Statements.ROLE_MEMBER, seat.peerId, seat.sealingKey, seat.name);
        bytes32 structHash = keccak256(abi.encode(Statements.ADMIT, expectedEpoch, seat.ledger, seatHash));
        bool allowed = signers & ~expectedActive == 0 && count(signers) >= quorumNow();
        try membership.admit(seat, ballot(signers, structHash)) {
            holds(allowed, "admitted without a quorum");
            expectedActive |= uint32(1) << uint32(index);
            ++expectedEpoch;
        } catch {
            holds(!allowed, "a quorum's admission was refused");
        }
    }

    // ------------------------------------------------------------------------------------------------- views

    function consentId(uint256 patient) public pure returns (bytes32) {
        return keccak256(
            abi.encode(
                Tags.CONSENT,
                vm.addr(holderKey(patient)),
                keccak256(abi.encode("salt", patient)),
                keccak256(abi.encode("binding", patient))
            )
        );
    }

    function contracts() public view returns (IMembership, IConsentRegistry, ITrainingLedger, bytes32) {
        return (membership, consent, training, study);
    }

    function holderKey(uint256 patient) internal pure returns (uint256) {
        return uint256(keccak256(abi.encode("holder", patient)));
    }

    function quorumNow() internal view returns (uint256) {
        uint256 n = count(expectedActive);
        return Quorum.needed(n, Quorum.faults(n, n));
    }

    /// @dev A study's height and count of models never go back.
    function advanced() internal {
        ITrainingLedger.StudyView memory s = training.studyOf(study);
        holds(s.height >= lastHeight, "the height went back");
        holds(s.finals >= lastFinals, "a final round was taken back");
        (lastHeight, lastFinals) = (s.height, s.finals);
    }
}
