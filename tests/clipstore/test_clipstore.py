import io
import zipfile

import cv2
import numpy as np
import pytest
from helpers import moving_texture

from twostream.clipstore import ClipReader, decode_frame, encode_frame, write_clip
from twostream.clipstore.frames import stored_size
from twostream.errors import UserError
from twostream.flow.encoding import decode_flow, encode_flow


def _codes(count: int = 5, height: int = 48, width: int = 64) -> list[np.ndarray]:
    y, x = np.mgrid[:height, :width]
    return [encode_flow(np.stack([x * 0.05 + i, y * -0.05], -1).astype(np.float32), 20.0) for i in range(count)]


def test_any_archive_tool_reads_a_clip_file(tmp_path):
    path = tmp_path / "a.zip"
    frames = moving_texture(4)
    write_clip(path, iter(frames), 95, {"modality": "rgb"})
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["00001.jpg", "00002.jpg", "00003.jpg", "00004.jpg"]
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
        image = cv2.imdecode(np.frombuffer(archive.read("00003.jpg"), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(image.astype(int) - frames[2]).mean() < 6


def test_the_same_frames_give_the_same_bytes(tmp_path):
    for name in ("a.zip", "b.zip"):
        write_clip(tmp_path / name, moving_texture(3), 90, {"modality": "rgb", "source": "x"})
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_reading_gives_the_asked_frames_in_the_asked_order(tmp_path):
    frames = moving_texture(6)
    write_clip(tmp_path / "a.zip", frames, 95, {"modality": "rgb"})
    with ClipReader(tmp_path / "a.zip") as clip:
        assert len(clip) == 6 and (clip.meta["width"], clip.meta["height"]) == (64, 48)
        read = clip.read([4, 0, 4])
    for i, image in zip([4, 0, 4], read, strict=True):
        assert np.abs(image.astype(int) - frames[i]).mean() < 6


def test_flow_survives_the_store_within_its_resolution(tmp_path):
    codes = _codes()
    write_clip(tmp_path / "a.zip", codes, 95, {"modality": "flow"})
    with ClipReader(tmp_path / "a.zip") as clip:
        read = clip.read(range(5))
    assert read.shape == (5, 48, 64, 2)
    difference = decode_flow(read, 20.0) - decode_flow(np.stack(codes), 20.0)
    assert np.abs(difference).max() < 0.6 and np.abs(difference).mean() < 0.1


def test_zero_motion_stays_exactly_zero(tmp_path):
    write_clip(tmp_path / "a.zip", [encode_flow(np.zeros((48, 64, 2), np.float32), 20.0)], 50, {"modality": "flow"})
    with ClipReader(tmp_path / "a.zip") as clip:
        assert not decode_flow(clip.read([0]), 20.0).any()


@pytest.mark.parametrize(
    "size, short, stored",
    [
        ((320, 240), 240, (320, 240)),
        ((320, 240), 120, (160, 120)),
        ((64, 48), 256, (64, 48)),
        ((1920, 800), 256, (616, 256)),
    ],
)
def test_stored_size_keeps_the_aspect_and_never_enlarges(size, short, stored):
    assert stored_size(*size, short) == stored


@pytest.mark.parametrize("keep", [0, 10, 0.5, -1])
def test_a_damaged_file_is_one_line_that_names_it(tmp_path, keep):
    path = tmp_path / "a.zip"
    write_clip(path, moving_texture(4), 90, {"modality": "rgb"})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match="a.zip: not a sound clip file"):
        ClipReader(path)


def test_a_frame_with_broken_bytes_is_named(tmp_path):
    path = tmp_path / "a.zip"
    write_clip(path, moving_texture(4), 90, {"modality": "rgb"})
    data = bytearray(path.read_bytes())
    second = data.index(b"00002.jpg") + 9
    data[second : second + 200] = bytes(200)
    path.write_bytes(data)
    with ClipReader(path) as clip:
        assert clip.read([0]).shape == (1, 48, 64, 3)
        with pytest.raises(UserError, match="frame 2"):
            clip.read([0, 1])


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    def frames():
        yield from moving_texture(2)
        raise RuntimeError("decoder fell over")

    with pytest.raises(RuntimeError):
        write_clip(tmp_path / "a.zip", frames(), 90, {"modality": "rgb"})
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_zip_is_refused(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.txt", "hello")
    (tmp_path / "a.zip").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="not a sound clip file"):
        ClipReader(tmp_path / "a.zip")


def test_codes_give_the_same_jpeg_whatever_their_order_in_memory():
    codes = np.random.default_rng(0).integers(1, 256, (16, 24, 2), dtype=np.uint8)
    planar = np.ascontiguousarray(codes.transpose(0, 2, 1)).transpose(0, 2, 1)
    assert encode_frame(planar, 90) == encode_frame(codes, 90)


def test_a_flipped_bit_of_a_frame_is_one_line_although_it_can_be_decoded(tmp_path):
    write_clip(tmp_path / "clip.zip", [np.full((32, 40, 3), 90, np.uint8)] * 2, 90, {"modality": "rgb"})
    with ClipReader(tmp_path / "clip.zip") as clip:
        offset, size, _ = clip._entries[1].tolist()
    content = bytearray((tmp_path / "clip.zip").read_bytes())
    content[offset + size - 8] ^= 1  # in the coefficients
    decode_frame(bytes(content[offset : offset + size]), "rgb")
    (tmp_path / "clip.zip").write_bytes(content)
    with ClipReader(tmp_path / "clip.zip") as clip, pytest.raises(UserError, match=r"clip\.zip: .* \(frame 2 .*delete"):
        clip.check()
