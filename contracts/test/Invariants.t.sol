// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IConsentRegistry} from "../interfaces/IConsentRegistry.sol";
import {IMembership} from "../interfaces/IMembership.sol";
import {ITrainingLedger} from "../interfaces/ITrainingLedger.sol";
import {Actors} from "./support/Actors.sol";
import {Checks} from "./support/Checks.sol";

/// @notice What holds whatever anybody does, in whatever order. 10,000 calls (foundry.toml).
contract InvariantsTest is Checks {
    uint256 internal constant PATIENTS = 6;

    Actors internal actors;
    IMembership internal membership;
    IConsentRegistry internal consent;
    ITrainingLedger internal training;
    bytes32 internal study;

    function setUp() public {
        actors = new Actors();
        (membership, consent, training, study) = actors.contracts();
    }

    /// @notice forge calls the actors and nobody else.
    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(actors);
    }

    /// @notice One campaign for all of them: each is checked after every call.
    function invariant_whateverAnybodyDoes() public view {
        withdrawnStaysWithdrawnAndIsNeverActive();
        membershipIsWhatQuorumsMadeIt();
        everyHeightHasOneResultAndKeepsIt();
        bitmapsOfTheOpenRoundAgree();
    }

    /// @notice The actors reach what the rules are about; an invariant over calls that all fail would hold, too.
    function test_theActorsReachWhatTheRulesAreAbout() public {
        actors.relayChanged(1, 0, keccak256("other"));
        actors.commitEveryone();
        actors.finaliseAny(0, 0, 0, keccak256("model"), true);
        actors.commitSome(3);
        for (uint256 i; i < 4; ++i) {
            actors.wait(239);
        }
        actors.failTheRound();
        actors.grantOne(0, 0);
        actors.withdrawOne(0, true);
        actors.withdrawOne(1, false);
        actors.removeOne(4, 15);
        actors.admitOne(15);
        same(actors.finalised(), 1, "finalised");
        same(actors.failed(), 1, "failed");
        same(actors.forged(), 1, "forged");
        same(actors.granted(), 1, "granted");
        same(actors.withdrawn(), 1, "withdrawn");
        same(actors.expectedActive(), 47, "members");
        invariant_whateverAnybodyDoes();
    }

    function withdrawnStaysWithdrawnAndIsNeverActive() internal view {
        for (uint256 i; i < PATIENTS; ++i) {
            bytes32 id = actors.consentId(i);
            uint64 at = actors.withdrawnAt(i);
            same(consent.withdrawnAt(id), at, "time of the withdrawal");
            bool active = consent.isActive(id, 0, 0, new bytes32[](0));
            holds(active == (at == 0 && actors.everGranted(i)), "active");
        }
    }

    function membershipIsWhatQuorumsMadeIt() internal view {
        same(membership.activeMembers(), actors.expectedActive(), "active members");
        same(membership.epoch(), actors.expectedEpoch(), "epoch");
        for (uint16 i; i < membership.indexCount(); ++i) {
            (uint8 role, uint16 index, bool active) = membership.seatOf(membership.ledgerOf(i));
            holds(role == 1 && index == i, "a member's seat");
            holds(active == ((actors.expectedActive() >> i) & 1 == 1), "who speaks is who takes part");
        }
    }

    function everyHeightHasOneResultAndKeepsIt() internal view {
        (,, bytes32 lineage, bytes32 model,,) = training.head(study);
        same(lineage, actors.lineage(), "lineage of all results");
        same(model, actors.model(), "model of the newest result");
        ITrainingLedger.StudyView memory s = training.studyOf(study);
        same(actors.finalised() + actors.failed(), actors.heights(), "closed heights");
        same(s.height, s.openRound == 0 ? actors.heights() : actors.heights() + 1, "height");
        if (s.openRound != 0) same(actors.resultsOf(s.openRound), 0, "results of the open round");
    }

    function bitmapsOfTheOpenRoundAgree() internal view {
        bytes32 roundId = training.openRound(study);
        if (roundId == 0) return;
        ITrainingLedger.RoundView memory v = training.roundOf(study, roundId);
        holds(v.roster >> membership.indexCount() == 0, "an index that nobody has is on the roster");
        same(v.suspended & ~v.roster, 0, "suspended outside the roster");
        same((v.committed | v.abstained) & ~(v.roster & ~v.suspended), 0, "answers of who was not asked");
        same(v.committed & v.abstained, 0, "committed and abstained");
        same(v.available & ~v.committed, 0, "available without a commitment");
        same(v.posted & ~v.roster, 0, "bitmaps of who has no vote");
        holds(v.quorum * 2 > v.n + v.f, "two quorums share an honest member");
    }
}
