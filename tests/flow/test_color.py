import numpy as np
import pytest

from twostream.flow.color import color_wheel, flow_to_color, full_colour_px


def colour_of(x: float, y: float, max_px: float = 1.0) -> list[int]:
    return flow_to_color(np.array([[[x, y]]], np.float32), max_px)[0, 0].tolist()


def test_the_four_directions_have_the_colours_of_the_middlebury_wheel():
    red, yellow, cyan, violet = colour_of(1, 0), colour_of(0, 1), colour_of(-1, 0), colour_of(0, -1)
    assert red == [255, 0, 0]
    assert yellow[0] == 255 and yellow[1] > 200 and yellow[2] == 0
    assert cyan[0] == 0 and cyan[1] > 200 and cyan[2] == 255
    assert 50 < violet[0] < 130 and violet[1] == 0 and violet[2] == 255


def test_stillness_is_white_and_half_speed_is_half_way_to_white():
    assert colour_of(0, 0) == [255, 255, 255]
    assert colour_of(1, 0, max_px=2) == [255, 127, 127]


def test_motion_beyond_the_maximum_is_darker_by_a_quarter():
    assert colour_of(3, 0) == [191, 0, 0]


def test_the_fastest_point_of_a_field_is_not_beyond_its_own_maximum():
    # With these the division by the greatest speed ends one bit above 1.
    for seed in range(20):
        flow = np.random.default_rng(seed).normal(0, 3, (40, 50, 2)).astype(np.float32)
        speed = np.linalg.norm(flow, axis=-1)
        fastest = np.unravel_index(speed.argmax(), speed.shape)
        assert flow_to_color(flow, float(speed.max()))[fastest].max() > 250  # a full colour, not three quarters


def test_rightward_motion_is_one_red_for_both_zeros():
    assert colour_of(1, -0.0) == colour_of(1, 0.0)


@pytest.mark.parametrize("unknown", [np.nan, np.inf, 1e10])
def test_unknown_motion_is_black_and_leaves_its_neighbours_alone(unknown):
    flow = np.array([[[unknown, 0], [1, 0]]], np.float32)
    assert flow_to_color(flow, 1.0)[0].tolist() == [[0, 0, 0], [255, 0, 0]]


def test_agrees_with_torchvision_on_random_flow():
    torch = pytest.importorskip("torch")
    from torchvision.utils import flow_to_image

    flow = np.random.default_rng(0).normal(0, 3, (40, 50, 2)).astype(np.float32)
    theirs = flow_to_image(torch.from_numpy(flow).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    ours = flow_to_color(flow, float(np.linalg.norm(flow, axis=-1).max()))
    # One level for the last bit of two ways to take an angle.
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_a_stack_of_fields_is_drawn_as_its_fields():
    flow = np.random.default_rng(1).normal(0, 1, (3, 8, 9, 2)).astype(np.float32)
    assert np.array_equal(flow_to_color(flow, 2.0), np.stack([flow_to_color(one, 2.0) for one in flow]))


@pytest.mark.parametrize("max_px", [0.0, -1.0, np.nan, np.inf])
def test_a_maximum_that_is_no_speed_is_refused(max_px):
    with pytest.raises(ValueError, match="max_px"):
        flow_to_color(np.zeros((2, 2, 2), np.float32), max_px)


def test_a_field_of_other_shape_is_refused():
    with pytest.raises(ValueError, match=r"\[4, 4, 3\]"):
        flow_to_color(np.zeros((4, 4, 3), np.float32), 1.0)


def test_the_wheel_shows_each_direction_where_it_points():
    wheel = color_wheel(101)
    assert wheel.shape == (101, 101, 3)
    assert wheel[50, 50].tolist() == [255, 255, 255]
    right, bottom = wheel[50, 98], wheel[98, 50]
    assert right[0] == 255 and right[1] < 20 and right[2] < 20
    assert bottom[0] == 255 and bottom[1] > 200 and bottom[2] < 20
    assert wheel[0, 0].tolist() == [255, 255, 255]


def test_full_colour_is_the_99th_percentile_of_speed_and_never_below_half_a_pixel():
    flow_px = np.zeros((10, 10, 2))
    assert full_colour_px(flow_px) == 0.5
    flow_px[..., 0] = np.arange(100).reshape(10, 10)
    assert full_colour_px(flow_px) == np.percentile(np.arange(100), 99)
