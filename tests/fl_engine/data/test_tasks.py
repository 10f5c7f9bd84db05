"""Built-in tasks: what they promise about hospitals, patients and pixels."""

import numpy as np
import pytest

from fl_engine.data.dataset import Role
from fl_engine.data.mri_quality import deal_sites
from fl_engine.data.nuclei import divide
from fl_engine.data.tasks import get_task, load_task
from fl_engine.errors import DataError, UnknownName


def test_mri_quality_deals_whole_hospitals_and_every_subject_once():
    members = load_task("mri-quality", 4)
    assert sum(len(member) for member in members) == 1101
    assert sum(int(member.y.sum()) for member in members) == 156
    subjects = [patient for member in members for patient in member.patients]
    assert len(set(subjects)) == 1101
    sites = [set(member.sites) for member in members]
    assert sum(map(len, sites)) == len(set.union(*sites)) == 17
    for member in members:
        assert member.input_shape == get_task("mri-quality").input_shape
        assert np.abs(member.x).max() <= 10
        assert member.patient_count(Role.TRAIN) >= 200
        assert member.patient_count(Role.TEST) > 40
        assert member.patients_simulated_from is None


def test_with_seventeen_members_each_is_a_hospital():
    members = load_task("mri-quality", 17)
    assert [len(set(member.sites)) for member in members] == [1] * 17
    assert len(members[0]) == 184  # NYU, the largest


def test_sites_go_to_the_member_with_the_fewest_rows():
    assert deal_sites(["a"] * 5 + ["b"] * 3 + ["c"] * 3 + ["d"], 2) == [["a", "d"], ["b", "c"]]


def test_nuclei_gives_patients_who_share_no_split_and_says_what_is_simulated():
    members = load_task("nuclei", 4)
    for member in members:
        assert member.input_shape == (1, 28, 28)
        assert set(member.y.tolist()) == {0, 1, 2}
        train, test = ({member.patients[i] for i in member.rows(role)} for role in (Role.TRAIN, Role.TEST))
        assert not train & test
        assert len(train) >= 32
        assert member.patients_simulated_from == "tiles"
        assert "Hospitals are simulated" in member.simulated[0]
    assert len({member.x.mean() for member in members}) == 4


def test_a_task_is_the_same_every_time():
    first, second = (load_task("nuclei", 2) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.x, other.x)
        assert one.patients == other.patients


@pytest.mark.parametrize("parts", range(1, 17))
def test_rectangles_are_disjoint_cover_everything_and_are_nearly_equal(parts):
    covered = np.zeros((512, 512), dtype=int)
    rectangles = divide((0, 0, 512, 512), parts)
    for top, left, height, width in rectangles:
        covered[top : top + height, left : left + width] += 1
    assert covered.min() == covered.max() == 1
    areas = [height * width for _, _, height, width in rectangles]
    assert max(areas) < 1.05 * min(areas)


@pytest.mark.parametrize("name, members", [("nuclei", 17), ("nuclei", 0), ("mri-quality", 18)])
def test_more_members_than_the_data_can_give_are_refused(name, members):
    with pytest.raises(DataError, match="members"):
        load_task(name, members)


def test_an_unknown_task_is_answered_with_the_known_ones():
    with pytest.raises(UnknownName, match="known: mri-quality, nuclei"):
        get_task("chest")
