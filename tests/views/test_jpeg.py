"""Our JPEG reader against Pillow's decoder and resizing: two other implementations."""

import io

import cv2
import numpy as np
import pytest
from helpers import moving_texture
from PIL import Image

from twostream.views.jpeg import YCC_TO_RGB, BadJpegError, Crop, read_crops

GREY = np.array([[1.0, 0.0]])
HALVES = np.eye(2, 3)


def _jpeg(image, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", **{"quality": 92, **options})
    return buffer.getvalue()


def _read(data, crop, matrix):
    out = np.empty((len(matrix), 1, crop.size, crop.size), np.uint8)
    read_crops([data], crop, matrix, 0, out)
    return out[:, 0]


def _pillow(data, crop, left=0):
    left += crop.left
    image = Image.open(io.BytesIO(data)).crop((left, crop.top, left + crop.side, crop.top + crop.side))
    image = np.asarray(image.resize((crop.size, crop.size), Image.Resampling.BILINEAR))
    return image[..., None].transpose(2, 0, 1) if image.ndim == 2 else image.transpose(2, 0, 1)


CROPS = [(0, 0, 96, 96), (24, 8, 64, 64), (31, 5, 90, 112), (3, 7, 77, 50), (60, 15, 81, 45), (11, 0, 33, 100)]


@pytest.mark.parametrize("left, top, side, size", CROPS)
@pytest.mark.parametrize("quality", [30, 92, 100])
def test_grey_crops_are_pillows_to_a_level(left, top, side, size, quality):
    image = np.random.default_rng(0).integers(0, 256, (96, 144)).astype(np.uint8)  # every frequency
    data = _jpeg(image, quality=quality)
    crop = Crop(144, 96, left, top, side, size)
    assert np.abs(_read(data, crop, GREY).astype(int) - _pillow(data, crop)).max() <= 1 + (side > size)


@pytest.mark.parametrize("left, top, side, size", CROPS)
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_colour_crops_are_pillows_but_for_how_chroma_is_interpolated(left, top, side, size, subsampling):
    data = _jpeg(moving_texture(1, 96, 144)[0] // 2 + 64, subsampling=subsampling)
    crop = Crop(144, 96, left, top, side, size)
    apart = _read(data, crop, YCC_TO_RGB).astype(int) - _pillow(data, crop)
    luma = np.tensordot([0.299, 0.587, 0.114], apart, 1)
    assert np.abs(luma).max() <= 2
    assert np.abs(apart).max() <= 3 if subsampling == 0 else np.abs(apart).mean() < 1.5


@pytest.mark.parametrize("left, top, side, size", CROPS)
def test_both_halves_of_flow_are_cropped_alike_and_do_not_blend(left, top, side, size):
    first, second = moving_texture(1, 96, 144)[0][..., 0] // 2, 255 - moving_texture(1, 96, 144)[0][..., 1] // 2
    data = _jpeg(np.hstack([first, second]), quality=95)
    crop = Crop(144, 96, left, top, side, size, halves=2)
    expected = np.concatenate([_pillow(data, crop), _pillow(data, crop, 144)])
    assert np.abs(_read(data, crop, HALVES).astype(int) - expected).max() <= 1


def test_a_mirrored_crop_is_the_mirror_image():
    data = _jpeg(moving_texture(1, 96, 144)[0])
    plain, mirrored = (_read(data, Crop(144, 96, 13, 7, 61, 50, mirror), YCC_TO_RGB) for mirror in (False, True))
    assert np.array_equal(mirrored, plain[..., ::-1])


@pytest.mark.parametrize("reduce", [2, 4, 8])
def test_a_small_result_is_decoded_at_the_reduced_scale_of_libjpeg(reduce):
    image = moving_texture(1, 96, 144)[0]
    size = 64 // reduce
    data = np.frombuffer(_jpeg(image[..., 0]), np.uint8)
    expected = cv2.imdecode(data, getattr(cv2, f"IMREAD_REDUCED_GRAYSCALE_{reduce}"))
    expected = expected[16 // reduce :, 32 // reduce :][:size, :size]
    assert np.abs(_read(data.tobytes(), Crop(144, 96, 32, 16, 64, size), GREY)[0].astype(int) - expected).max() <= 1
    data = np.frombuffer(_jpeg(image), np.uint8)  # chroma at half resolution: of it, half as much is left out
    expected = cv2.imdecode(data, getattr(cv2, f"IMREAD_REDUCED_COLOR_{reduce}"))[..., ::-1].transpose(2, 0, 1)
    expected = expected[:, 16 // reduce :, 32 // reduce :][:, :size, :size]
    assert np.abs(_read(data.tobytes(), Crop(144, 96, 32, 16, 64, size), YCC_TO_RGB).astype(int) - expected).max() <= 3


def test_sizes_that_no_block_divides_are_read():
    image = moving_texture(1, 53, 75)[0]
    data = _jpeg(image)
    crop = Crop(75, 53, 22, 0, 53, 53)
    assert np.abs(_read(data, crop, YCC_TO_RGB).astype(int) - _pillow(data, crop)).mean() < 1.2


def test_values_are_clipped_not_wrapped():
    data = _jpeg(np.full((16, 16), 200, np.uint8))
    crop = Crop(16, 16, 0, 0, 16, 16)
    assert (_read(data, crop, np.array([[2.0, 0.0]])) == 255).all()
    assert (_read(data, crop, np.array([[-1.0, 0.0]])) == 0).all()


def test_pictures_are_read_in_order_into_one_array():
    images = [np.full((16, 16), value, np.uint8) for value in (10, 90, 200)]
    out = np.empty((1, 3, 16, 16), np.uint8)
    read_crops([_jpeg(image) for image in images], Crop(16, 16, 0, 0, 16, 16), GREY, 0, out)
    assert out[0, :, 5, 5].tolist() == [10, 90, 200]


@pytest.mark.parametrize("keep", [0, 2, 30, 300, 0.6])
def test_a_picture_cut_short_is_refused_and_its_place_is_told(keep):
    data = _jpeg(np.random.default_rng(0).integers(0, 256, (96, 144)).astype(np.uint8))
    short = data[: int(len(data) * keep) if isinstance(keep, float) else keep]
    out = np.empty((1, 2, 96, 96), np.uint8)
    with pytest.raises(BadJpegError) as caught:
        read_crops([data, short], Crop(144, 96, 0, 0, 96, 96), GREY, 0, out)
    assert caught.value.number == 1


@pytest.mark.parametrize("among", [700, None], ids=["header", "anywhere"])
def test_damage_never_crashes_or_hangs(among):
    """Some bytes changed: a result or a refusal."""
    rng = np.random.default_rng(0)
    data = _jpeg(moving_texture(1, 48, 64)[0])
    refused = 0
    for _ in range(400):
        damaged = bytearray(data)
        for place in rng.integers(2, among or len(data), 3):
            damaged[place] = rng.integers(256)
        try:
            _read(bytes(damaged), Crop(64, 48, 0, 0, 48, 48), YCC_TO_RGB)
        except BadJpegError:
            refused += 1
    assert 0 < refused < 400


def test_a_header_that_claims_to_be_longer_than_the_file_is_refused():
    data = bytearray(_jpeg(moving_texture(1, 48, 64)[0]))
    at = data.index(b"\xff\xda")
    data[at + 2 : at + 4] = b"\xff\xff"
    with pytest.raises(BadJpegError, match="cut short"):
        _read(bytes(data), Crop(64, 48, 0, 0, 48, 48), YCC_TO_RGB)


@pytest.mark.parametrize("options", [{"progressive": True}, {"restart_marker_blocks": 4}])
def test_other_kinds_of_jpeg_are_refused(options):
    data = _jpeg(moving_texture(1, 48, 64)[0], **options)
    with pytest.raises(BadJpegError, match="baseline"):
        _read(data, Crop(64, 48, 0, 0, 48, 48), YCC_TO_RGB)


def test_a_picture_of_another_size_is_refused():
    with pytest.raises(BadJpegError, match="64x48"):
        _read(_jpeg(moving_texture(1, 48, 64)[0]), Crop(64, 40, 0, 0, 40, 40), YCC_TO_RGB)
