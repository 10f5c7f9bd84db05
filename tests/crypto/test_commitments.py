from __future__ import annotations

import itertools

import pytest

from crypto.commitments import ConsentOpening, binding, check_consent_id, consent_id, doc_commit, leaf_key, request_id
from crypto.digest import Digest, hash_words
from crypto.errors import EncodingError, RootMismatch

HOLDER = bytes(range(20))
A, B, C, D = (Digest(bytes([i]) * 32) for i in range(1, 5))


def test_an_opening_leads_to_its_consent_id() -> None:
    opening = ConsentOpening(HOLDER, A, B, D, C)
    bound = hash_words("bind", hash_words("doc", B, D), hash_words("leaf", C))
    assert opening.consent_id == hash_words("consent", HOLDER, A, bound)
    assert opening.consent_id == consent_id(HOLDER, A, binding(doc_commit(B, D), leaf_key(C)))
    check_consent_id(opening.consent_id, HOLDER, A, opening.doc_commit, opening.leaf_key)


@pytest.mark.parametrize("secrets", list(itertools.product([A, B], repeat=3)))
def test_two_equal_secrets_are_refused(secrets: tuple[Digest, Digest, Digest]) -> None:
    holder_salt, doc_salt, leaf_secret = secrets
    with pytest.raises(EncodingError, match="equals"):
        ConsentOpening(HOLDER, holder_salt, doc_salt, D, leaf_secret)


def test_another_opening_is_refused_with_both_values() -> None:
    opening = ConsentOpening(HOLDER, A, B, D, C)
    with pytest.raises(RootMismatch) as caught:
        check_consent_id(opening.consent_id, HOLDER, A, opening.doc_commit, leaf_key(D))
    assert caught.value.expected == opening.consent_id
    assert caught.value.got != opening.consent_id


def test_fresh_openings_differ_and_show_nothing() -> None:
    one, two = ConsentOpening.fresh(HOLDER, D), ConsentOpening.fresh(HOLDER, D)
    assert len({one.holder_salt, one.doc_salt, one.leaf_secret, two.holder_salt, two.doc_salt, two.leaf_secret}) == 6
    assert one.leaf_secret.hex() not in repr(one)
    assert one.consent_id.hex() not in repr(one)


def test_a_request_needs_a_salt() -> None:
    with pytest.raises(EncodingError):
        request_id(bytes(32), A)
