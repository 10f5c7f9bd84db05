// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IConsentRegistry} from "../../interfaces/IConsentRegistry.sol";
import {IMembership} from "../../interfaces/IMembership.sol";
import {ITrainingLedger} from "../../interfaces/ITrainingLedger.sol";
import {IUnlearningRegistry} from "../../interfaces/IUnlearningRegistry.sol";
import {Statements} from "../../libraries/Statements.sol";
import {Tags} from "../../libraries/Tags.sol";
import {Checks} from "./Checks.sol";

/// @notice A network of n founding members with known keys, deployed from the committed artifacts, and short ways to sign
/// and to carry statements. Times: scribe 100, grace 20, reveal 60, have 40, vote 60, purge 120, window 100 seconds.
abstract contract Network is Checks {
    uint256 internal constant START = 1_800_000_000;
    uint32 internal constant SEAL = 120; // scribe + grace
    uint32 internal constant REVEAL = 60;
    uint32 internal constant HAVE = 40;
    uint32 internal constant VOTE = 60;

    IMembership internal membership;
    IConsentRegistry internal consent;
    ITrainingLedger internal training;
    IUnlearningRegistry internal unlearning;
    bytes32 internal study;

    // ------------------------------------------------------------------------------------------------- keys

    mapping(uint256 index => uint256 key) internal rotated;

    /// @notice The key a member signs with: the one it was founded with, or the one a test put in its place.
    function memberKey(uint256 index) internal view returns (uint256) {
        return rotated[index] != 0 ? rotated[index] : uint256(keccak256(abi.encode("member", index)));
    }

    function auditorKey(uint256 seat) internal pure returns (uint256) {
        return uint256(keccak256(abi.encode("auditor", seat)));
    }

    function domain(address verifier) internal view returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("koinon"),
                keccak256("1"),
                block.chainid,
                verifier
            )
        );
    }

    function digest(address verifier, bytes32 structHash) internal view returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", domain(verifier), structHash));
    }

    function sign(uint256 key, address verifier, bytes32 structHash) internal view returns (bytes32 r, bytes32 vs) {
        (uint8 v, bytes32 r_, bytes32 s) = vm.sign(key, digest(verifier, structHash));
        return (r_, bytes32(uint256(s) | uint256(v - 27) << 255));
    }

    /// @dev A signature in the domain of any chain and contract.
    function signFor(uint256 key, uint256 chainId, address verifier, bytes32 structHash)
        internal
        pure
        returns (bytes32, bytes32)
    {
        bytes32 domain_ = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("koinon"),
                keccak256("1"),
                chainId,
                verifier
            )
        );
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, keccak256(abi.encodePacked(hex"1901", domain_, structHash)));
        return (r, bytes32(uint256(s) | uint256(v - 27) << 255));
    }

    /// @notice Packed signatures of `signers` over one statement.
    function signAll(uint32 signers, address verifier, bytes32 structHash) internal view returns (bytes memory all) {
        for (uint256 i; i < 32; ++i) {
            if ((signers >> i) & 1 == 1) {
                (bytes32 r, bytes32 vs) = sign(memberKey(i), verifier, structHash);
                all = abi.encodePacked(all, r, vs);
            }
        }
    }

    /// @notice Votes of `signers` as Membership takes them.
    function ballot(uint32 signers, bytes32 structHash) internal view returns (IMembership.MemberVote[] memory votes) {
        return ballotOf(signers, address(membership), structHash);
    }

    /// @notice Votes over a statement for another domain than Membership's.
    function ballotOf(uint32 signers, address verifier, bytes32 structHash)
        internal
        view
        returns (IMembership.MemberVote[] memory votes)
    {
        votes = new IMembership.MemberVote[](count(signers));
        uint256 k;
        for (uint16 i; i < 32; ++i) {
            if ((signers >> i) & 1 == 1) {
                votes[k++] = IMembership.MemberVote(i, sign65(memberKey(i), verifier, structHash));
            }
        }
    }

    /// @notice 65 bytes r, s, v.
    function sign65(uint256 key, address verifier, bytes32 structHash) internal view returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest(verifier, structHash));
        return abi.encodePacked(r, s, v);
    }

    // ------------------------------------------------------------------------------------------- deployment

    function seatInput(uint256 key, bool auditor, string memory name, address verifier)
        internal
        view
        returns (IMembership.SeatInput memory input)
    {
        input.ledger = vm.addr(key);
        input.peerId = abi.encodePacked("peer", key);
        input.sealingKey = keccak256(abi.encode("sealing", key));
        input.name = name;
        bytes32 structHash = Statements.hashSeat(
            auditor ? Statements.ROLE_AUDITOR : Statements.ROLE_MEMBER, input.peerId, input.sealingKey, name
        );
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest(verifier, structHash));
        input.signature = abi.encodePacked(r, s, v);
    }

    function creationCode(string memory name) internal view returns (bytes memory) {
        return vm.parseJsonBytes(vm.readFile(string.concat("artifacts/", name, ".json")), ".bytecode");
    }

    function deploy(bytes memory code) internal returns (address where) {
        assembly {
            where := create(0, add(code, 32), mload(code))
            if iszero(where) {
                returndatacopy(0, 0, returndatasize())
                revert(0, returndatasize())
            }
        }
    }

    /// @notice A network of `n` members and one auditor.
    function found(uint256 n) internal {
        vm.warp(START);
        vm.roll(100);
        deployFour(seatsOf(everyone(n), n, nextMembership()), IMembership(address(0)), new ITrainingLedger.Continuation[](0));
    }

    /// @notice Where the next deployment will have its Membership.
    function nextMembership() internal view returns (address) {
        return vm.computeCreateAddress(address(this), vm.getNonce(address(this)));
    }

    /// @notice The members vote for `successor`.
    function succeed(address successor, uint32 signers) internal {
        bytes32 structHash = keccak256(abi.encode(Statements.SUCCEED, membership.epoch(), successor));
        membership.succeed(successor, ballot(signers, structHash));
    }

    /// @notice The network goes on with a second deployment; `membership` and the others are the new ones then.
    function move(ITrainingLedger.Continuation[] memory continued) internal {
        uint256 n = membership.indexCount();
        succeed(nextMembership(), membership.activeMembers());
        deployFour(seatsOf(membership.activeMembers(), n, nextMembership()), membership, continued);
    }

    /// @notice Seats of `members` out of `n`, for a Membership that will lie at `where`.
    function seatsOf(uint32 members, uint256 n, address where)
        internal
        view
        returns (IMembership.SeatInput[] memory seats)
    {
        seats = new IMembership.SeatInput[](n);
        for (uint256 i; i < n; ++i) {
            if ((members >> i) & 1 == 1) seats[i] = seatInput(memberKey(i), false, "hospital", where);
        }
    }

    function deployFour(
        IMembership.SeatInput[] memory members,
        IMembership predecessor,
        ITrainingLedger.Continuation[] memory continued
    ) internal {
        uint256 nonce = vm.getNonce(address(this));
        IMembership.SeatInput[] memory auditors = new IMembership.SeatInput[](1);
        auditors[0] = seatInput(auditorKey(0), true, "auditor", nextMembership());
        address[3] memory others;
        for (uint256 i; i < 3; ++i) {
            others[i] = vm.computeCreateAddress(address(this), nonce + 1 + i);
        }
        membership = IMembership(
            deploy(
                abi.encodePacked(
                    creationCode("Membership"),
                    abi.encode(members, auditors, others[0], others[1], others[2], predecessor)
                )
            )
        );
        consent = IConsentRegistry(deploy(abi.encodePacked(creationCode("ConsentRegistry"), abi.encode(membership))));
        training = ITrainingLedger(deploy(abi.encodePacked(creationCode("TrainingLedger"), abi.encode(membership, continued))));
        unlearning =
            IUnlearningRegistry(deploy(abi.encodePacked(creationCode("UnlearningRegistry"), abi.encode(membership))));
    }

    // ---------------------------------------------------------------------------------------------- studies

    function everyone(uint256 n) internal pure returns (uint32) {
        return uint32((uint256(1) << n) - 1);
    }

    function terms(uint256 n) internal pure returns (ITrainingLedger.StudyTerms memory t) {
        t.member = 0;
        t.specHash = keccak256("spec");
        t.initialModel = keccak256("initial model");
        t.invited = everyone(n);
        t.rounds = 20;
        t.f = 10; // more than any roster here bears: f = (n-1)/3
        t.scribeSeconds = 100;
        t.graceSeconds = 20;
        t.revealSeconds = REVEAL;
        t.haveSeconds = HAVE;
        t.voteSeconds = VOTE;
        t.purgeSeconds = 120;
        t.suspendAfter = 2;
        t.suspendRounds = 3;
        t.maxRoundAge = 10_000;
        t.erasureWindow = 100;
    }

    function removeMember(uint16 index) internal {
        uint32 voters = membership.activeMembers() & ~(uint32(1) << index);
        bytes32 structHash =
            keccak256(abi.encode(Statements.REMOVE, membership.epoch(), index, membership.ledgerOf(index)));
        membership.remove(index, ballot(voters, structHash));
    }

    function createStudy(ITrainingLedger.StudyTerms memory t) internal returns (bytes32) {
        bytes32 structHash = keccak256(abi.encode(Statements.CREATE_STUDY, t));
        (bytes32 r, bytes32 vs) = sign(memberKey(t.member), address(training), structHash);
        return training.createStudy(t, r, vs);
    }

    function joinStudy(bytes32 study_, uint16 member) internal {
        (bytes32 r, bytes32 vs) =
            sign(memberKey(member), address(training), keccak256(abi.encode(Statements.JOIN, study_, member)));
        training.join(study_, member, r, vs);
    }

    function leaveStudy(bytes32 study_, uint16 member) internal {
        (bytes32 r, bytes32 vs) =
            sign(memberKey(member), address(training), keccak256(abi.encode(Statements.LEAVE, study_, member)));
        training.leave(study_, member, r, vs);
    }

    /// @notice A study that everybody joined: its first round is open.
    function start(ITrainingLedger.StudyTerms memory t) internal returns (bytes32 roundId) {
        study = createStudy(t);
        for (uint16 i; i < 32; ++i) {
            if ((t.invited >> i) & 1 == 1) joinStudy(study, i);
        }
        return training.openRound(study);
    }

    function start(uint256 n) internal returns (bytes32 roundId) {
        found(n);
        return start(terms(n));
    }

    // ----------------------------------------------------------------------------------------------- rounds

    function commitOf(bytes32 roundId, uint16 member) internal view returns (ITrainingLedger.CommitEntry memory e) {
        e.member = member;
        e.updateRoot = keccak256(abi.encode("update", roundId, member));
        e.datasetRoot = keccak256(abi.encode("dataset", member));
        (e.r, e.vs) = sign(
            memberKey(member),
            address(training),
            keccak256(abi.encode(Statements.COMMIT, roundId, member, e.updateRoot, e.datasetRoot, e.nextDatasetRoot))
        );
    }

    function commitsOf(bytes32 roundId, uint32 members)
        internal
        view
        returns (ITrainingLedger.CommitEntry[] memory entries)
    {
        entries = new ITrainingLedger.CommitEntry[](count(members));
        uint256 k;
        for (uint16 i; i < 32; ++i) {
            if ((members >> i) & 1 == 1) entries[k++] = commitOf(roundId, i);
        }
    }

    function commit(bytes32 roundId, uint32 members) internal {
        training.postCommits(study, roundId, commitsOf(roundId, members));
    }

    function abstain(bytes32 roundId, uint16 member) internal {
        ITrainingLedger.AbstainEntry[] memory entries = new ITrainingLedger.AbstainEntry[](1);
        entries[0].member = member;
        (entries[0].r, entries[0].vs) =
            sign(memberKey(member), address(training), keccak256(abi.encode(Statements.ABSTAIN, roundId, member)));
        training.postAbstains(study, roundId, entries);
    }

    function haveOf(bytes32 roundId, uint8 attempt, uint16 member, uint32 bitmap)
        internal
        view
        returns (ITrainingLedger.HaveEntry memory e)
    {
        e.member = member;
        e.bitmap = bitmap;
        (e.r, e.vs) = sign(
            memberKey(member),
            address(training),
            keccak256(abi.encode(Statements.HAVE, roundId, member, attempt, bitmap))
        );
    }

    /// @notice Each of `members` posts the same bitmap.
    function have(bytes32 roundId, uint8 attempt, uint32 members, uint32 bitmap) internal {
        ITrainingLedger.HaveEntry[] memory entries = new ITrainingLedger.HaveEntry[](count(members));
        uint256 k;
        for (uint16 i; i < 32; ++i) {
            if ((members >> i) & 1 == 1) entries[k++] = haveOf(roundId, attempt, i, bitmap);
        }
        training.postHaves(study, roundId, attempt, entries);
    }

    function resultOf(uint32 included, uint128 codes, bytes32 model)
        internal
        view
        returns (ITrainingLedger.Result memory result)
    {
        result.outcome = 1;
        result.included = included;
        result.codes = codes;
        result.modelRoot = model;
        result.trust = hex"0102";
        result.commitRoot = training.commitRootOf(study);
        result.consentAcc = consent.accumulator();
    }

    function resultHashOf(ITrainingLedger.Result memory x) internal pure returns (bytes32) {
        return keccak256(
            abi.encode(
                Tags.RESULT, x.outcome, x.included, x.codes, x.modelRoot, keccak256(x.trust), x.commitRoot, x.consentAcc
            )
        );
    }

    function votesOf(bytes32 roundId, uint8 attempt, uint32 set, ITrainingLedger.Result memory result, uint32 signers)
        internal
        view
        returns (bytes memory)
    {
        return signAll(
            signers,
            address(training),
            keccak256(abi.encode(Statements.VOTE, roundId, attempt, set, resultHashOf(result)))
        );
    }

    /// @notice A result as a proof of a checkpoint needs it.
    struct Recorded {
        uint32 branch;
        uint32 height;
        bytes32 model;
        bytes32 resultHash;
    }

    mapping(bytes32 study => Recorded[]) internal results;

    function headModel() internal view returns (bytes32 model) {
        (,,, model,,) = training.head(study);
    }

    function lineageOf(bytes32 parent, uint32 height, bytes32 model, bytes32 resultHash)
        internal
        pure
        returns (bytes32)
    {
        return lineageOf(parent, linkOf(height, model, resultHash));
    }

    function linkOf(uint32 height, bytes32 model, bytes32 resultHash) internal pure returns (bytes32) {
        return keccak256(abi.encode(Tags.LINK, height, model, resultHash));
    }

    function lineageOf(bytes32 parent, bytes32 link) internal pure returns (bytes32) {
        return keccak256(abi.encode(Tags.LINEAGE, parent, link));
    }

    /// @notice Proof that `branch`, which begins at `baseHeight` with lineage `base` for batch `batch`, has a checkpoint at
    /// `height`; up to its results at `last`.
    function proofOf(uint32 branch, bytes32 base, uint32 baseHeight, bytes32 batch, uint32 height, uint32 last)
        internal
        view
        returns (ITrainingLedger.BaseProof memory proof)
    {
        Recorded[] storage all = results[study];
        uint256 later;
        for (uint256 i; i < all.length; ++i) {
            if (all[i].branch == branch && all[i].height > height && all[i].height <= last) ++later;
        }
        proof.parent = base;
        proof.named = height == baseHeight ? batch : bytes32(0);
        proof.links = new bytes32[](later);
        uint256 k;
        for (uint256 i; i < all.length; ++i) {
            Recorded storage x = all[i];
            if (x.branch != branch || x.height > last) continue;
            if (x.height < height) proof.parent = lineageOf(proof.parent, x.height, x.model, x.resultHash);
            if (x.height == height) proof.named = x.resultHash;
            if (x.height > height) proof.links[k++] = linkOf(x.height, x.model, x.resultHash);
        }
    }

    function finalise(bytes32 roundId, uint8 attempt, uint32 set, ITrainingLedger.Result memory result, uint32 signers)
        internal
    {
        ITrainingLedger.RoundView memory v = training.roundOf(study, roundId);
        training.finalise(study, roundId, attempt, result, signers, votesOf(roundId, attempt, set, result, signers));
        results[study].push(Recorded(v.branch, v.height, result.modelRoot, resultHashOf(result)));
    }

    /// @notice `members` commit, and the round ends with `model` in attempt 0. Returns the next round.
    function finish(bytes32 roundId, uint32 members, bytes32 model) internal returns (bytes32) {
        commit(roundId, members);
        ITrainingLedger.RoundView memory v = training.roundOf(study, roundId);
        if (v.phase == ITrainingLedger.Phase.TRAINING) vm.warp(v.openedAt + SEAL + 1);
        finalise(roundId, 0, members, resultOf(members, 0, model), v.roster);
        vm.warp(block.timestamp + 1);
        vm.roll(block.number + 1);
        return training.openRound(study);
    }

    function count(uint32 bits) internal pure returns (uint256 c) {
        for (uint256 i; i < 32; ++i) {
            c += (bits >> i) & 1;
        }
    }

    /// @notice What the open round stood on; it opened in this block or in the one before.
    function openingOf(bytes32 roundId) internal view returns (ITrainingLedger.Opening memory o) {
        ITrainingLedger.RoundView memory v = training.roundOf(study, roundId);
        (,, bytes32 lineage, bytes32 model,,) = training.head(study);
        o = ITrainingLedger.Opening(
            v.branch,
            v.height,
            lineage,
            model,
            membership.epoch(),
            v.roster,
            v.suspended,
            consent.accumulator(),
            membership.accumulator(),
            blockhash(block.number - 1)
        );
        if (roundIdOf(o) != roundId) o.previousBlock = blockhash(block.number - 2);
        same(roundIdOf(o), roundId, "the opening names the round");
    }

    function roundIdOf(ITrainingLedger.Opening memory o) internal view returns (bytes32) {
        return keccak256(abi.encode(Tags.ROUND, block.chainid, address(training), study, o));
    }

    function phaseOf(bytes32 roundId) internal view returns (uint256) {
        (ITrainingLedger.Phase phase,) = training.phase(study, roundId);
        return uint256(phase);
    }

    function phaseIs(bytes32 roundId, ITrainingLedger.Phase phase, uint8 attempt) internal view {
        (ITrainingLedger.Phase got, uint8 gotAttempt) = training.phase(study, roundId);
        same(uint256(got), uint256(phase), "phase");
        same(gotAttempt, attempt, "attempt");
    }

    function wrongPhase(bytes32 roundId, ITrainingLedger.Phase phase, uint8 attempt)
        internal
        pure
        returns (bytes memory)
    {
        return abi.encodeWithSelector(ITrainingLedger.WrongPhase.selector, roundId, phase, attempt);
    }
}
