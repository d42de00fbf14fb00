from __future__ import annotations

import pytest

from twostream.datasets.folder.grouping import groups_by_name, groups_by_pattern
from twostream.errors import UserError


def together(*paths: str) -> bool:
    groups = groups_by_name(paths)
    assert len(set(groups)) in (1, len(groups))
    return len(set(groups)) == 1


@pytest.mark.parametrize(
    "paths",
    [
        ("wave/TrumanShow_3.avi", "wave/TrumanShow_17.avi"),
        ("wave/beach-part1.mp4", "wave/beach-part2.mp4"),
        ("wave/beach part 1.mp4", "wave/Beach Part 02.mov"),
        ("wave/beach_take3.mp4", "wave/beach_c04.mp4"),
        ("wave/holiday12.mp4", "wave/holiday13.mp4"),
        ("wave/holiday.mp4", "wave/holiday (1).mp4", "wave/holiday - Copy.mp4", "wave/holiday - Copy (2).mp4"),
        ("wave/holiday_3.mp4", "wave/holiday_3 - Copy.mp4"),
        ("wave/anna_1.mp4", "run/anna_2.mp4"),
        ("wave/anna_wave_1.mp4", "run/anna_run_2.mp4"),
        ("climb_stairs/anna-climb-stairs-1.mp4", "sit/Anna_Sit_4.mp4"),
        ("wave/abcXYZ_-q_000010_000020.mp4", "wave/abcXYZ_-q_000110_000120.mp4"),
        ("wave/cam2_1.mp4", "run/cam2_2.mp4"),
        ("wave/video_12_1.mp4", "run/video_12_2.mp4"),
        ("Run/Run_11_1.mp4", "Run/Run_11_20.mp4"),
        ("Diving/v_Diving_g20_c01.avi", "Diving/v_Diving_g20_c04.avi"),
        ("wave/北京市场_1.mp4", "wave/北京市场_2.mp4"),
    ],
)
def test_names_that_differ_in_a_counter_share_a_source(paths):
    assert together(*paths)


@pytest.mark.parametrize(
    "paths",
    [
        ("wave/v1.avi", "wave/v2.avi"),
        ("wave/clip_01.avi", "wave/clip_02.avi"),
        ("wave/001.avi", "wave/002.avi"),
        ("wave/IMG_2041.mov", "wave/IMG_2042.mov"),
        ("wave/wave_1.avi", "wave/wave_2.avi"),
        ("wave/a.avi", "wave/b.avi"),
        ("climb_stairs/climb_stairs1.avi", "climb_stairs/climb_stairs2.avi"),
        ("wave/video (1).avi", "wave/video (2).avi"),
        ("wave/01.avi", "run/01.avi"),
        ("Run/Run_11_1.mp4", "Jump/Jump_11_1.mp4"),
        ("Run/Run_11_1.mp4", "Run/Run_1_1.mp4"),
        ("Diving/v_Diving_g20_c01.avi", "Biking/v_Biking_g20_c01.avi"),
        ("wave/anna_1.mp4", "wave/annabel_1.mp4"),
    ],
)
def test_names_that_tell_no_common_source_stand_alone(paths):
    assert not together(*paths)


def test_a_way_of_numbering_a_class_is_no_source():
    paths = [f"fight/fi{i:03d}.mp4" for i in range(9)] + [f"noFight/nofi{i:03d}.mp4" for i in range(9)]
    assert groups_by_name(paths) == paths
    assert len(set(groups_by_name([*paths, "noFight/beach_1.mp4"]))) == 19


def test_a_source_with_many_clips_of_a_class_is_no_way_of_numbering():
    paths = [f"fight/beach_party_{i}.mp4" for i in range(9)]
    assert len(set(groups_by_name(paths))) == 1
    assert (
        len(set(groups_by_name([f"fight/anna_{i}.mp4" for i in range(6)] + ["fight/bob_1.mp4", "fight/eva_1.mp4"])))
        == 3
    )


def test_the_pattern_gives_its_first_group_or_the_whole_match():
    paths = ["wave/s03_t1.avi", "run/s03_t2.avi", "run/s14_t1.avi"]
    assert groups_by_pattern(paths, r"^(s\d+)_") == ["s03", "s03", "s14"]
    assert groups_by_pattern(paths, r"s\d+") == ["s03", "s03", "s14"]
    with pytest.raises(UserError, match=r"dataset.group_pattern: 't2' finds no group in 'wave/s03_t1.avi' and 1 other"):
        groups_by_pattern(paths, "t2")
    with pytest.raises(UserError, match="finds no group"):
        groups_by_pattern(paths, "^(x?)s")
