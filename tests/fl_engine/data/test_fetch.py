"""Data packages: pinned, cached, and a clear error where they cannot be had."""

import pytest

from fl_engine.data.fetch import MRIQC_LEARN, Package, fetch, read_member
from fl_engine.errors import PackageUnavailable


def test_a_package_that_cannot_be_had_is_a_clear_error(tmp_path):
    absent = Package("koinon==0.0.0", "koinon-0.0.0-py3-none-any.whl", "0" * 64, "none", ("--no-index",))
    with pytest.raises(PackageUnavailable, match=r"not in the cache .*copy koinon-0\.0\.0"):
        fetch(absent, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_cached_wheel_with_other_bytes_is_not_used(tmp_path):
    offline = Package(
        MRIQC_LEARN.requirement, MRIQC_LEARN.filename, MRIQC_LEARN.sha256, MRIQC_LEARN.licence, ("--no-index",)
    )
    (tmp_path / offline.filename).write_bytes(b"something else")
    with pytest.raises(PackageUnavailable):
        fetch(offline, tmp_path)


def test_a_cached_wheel_is_used_without_the_registry(tmp_path):
    good = fetch(MRIQC_LEARN)
    (tmp_path / good.name).write_bytes(good.read_bytes())
    offline = Package(MRIQC_LEARN.requirement, good.name, MRIQC_LEARN.sha256, MRIQC_LEARN.licence, ("--no-index",))
    assert read_member(offline, "mriqc_learn/datasets/ds030.tsv", tmp_path).startswith(b"subject_id\tsite")
    with pytest.raises(PackageUnavailable, match=r"absent\.tsv"):
        read_member(offline, "absent.tsv", tmp_path)
