"""What a complete decode reports: sound files have no reason, and others are named for what is wrong with them."""

import av
import numpy as np
import pytest
from helpers import moving_texture, write_audio, write_video
from odd_videos import damaged, encode, texture, with_encryption

from twostream.video import VideoError, read_frames
from twostream.video.probe import probe


def test_probe_counts_decoded_frames_and_size(tmp_path):
    path = write_video(tmp_path / "a.avi", moving_texture(12), rate=30)
    found = probe(path)
    assert (found.frames, found.width, found.height, found.fps) == (12, 64, 48, 30.0)
    assert found.readable and found.reason == ""


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda path: path.write_bytes(b""), "empty file"),
        (lambda path: path.write_text("not a film\n" * 50), "not a video"),
        (lambda path: write_video(path, moving_texture(1)), "a single frame"),
        (lambda path: write_video(path, moving_texture(9, height=8, width=64)), "smaller than 16"),
    ],
)
def test_unusable_files_say_why(tmp_path, make, words):
    path = tmp_path / "odd.avi"
    make(path)
    found = probe(path)
    assert not found.readable
    assert words in found.reason and "\n" not in found.reason


@pytest.mark.parametrize("ending", ["avi", "mkv", "flv"])
def test_a_file_cut_in_half_is_unreadable_and_says_how_much_is_left(tmp_path, ending):
    codec = "mjpeg" if ending == "avi" else None  # frames of equal size, so that half the bytes hold half of them
    path = write_video(tmp_path / f"a.{ending}", moving_texture(60, 120, 160), codec=codec)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = probe(path)
    assert not found.readable
    assert f"cut short: {found.frames} of about 6" in found.reason
    assert 2 <= found.frames < 50


@pytest.mark.slow
@pytest.mark.parametrize("name", ["d.mp4", "b.mkv", "c.webm", "j.wmv", "k.mxf"])
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_file_whose_end_is_missing_is_cut_short(sound_files, tmp_path, name, share):
    path = tmp_path / name
    content = (sound_files / name).read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    found = probe(path)
    assert not found.readable
    assert found.reason.startswith(f"cut short: {found.frames} of about ")
    assert abs(int(found.reason.split("about ")[1].split()[0]) - 80) < 5


def test_losing_the_last_frame_does_not_cost_the_clip(tmp_path):
    path = write_video(tmp_path / "a.avi", moving_texture(60), codec="mjpeg")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * 0.93)])
    assert probe(path).readable


def test_audio_only_has_no_video_stream(tmp_path):
    path = write_audio(tmp_path / "a.avi")
    assert probe(path).reason == "no video stream"
    with pytest.raises(VideoError, match="no video stream"):
        next(read_frames(path))


def test_a_missing_file_is_a_reason_not_a_crash(tmp_path):
    assert "No such file" in probe(tmp_path / "none.avi").reason


def test_a_track_without_a_decoder_is_named(tmp_path):
    path = encode(tmp_path / "a.avi", "mpeg4", texture(5))
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"QZXW"))
    assert probe(path).reason == "no decoder for codec QZXW"
    with pytest.raises(VideoError, match="no decoder"):
        next(read_frames(path))


def test_a_git_lfs_pointer_is_named(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * "0" + "\nsize 12345\n")
    assert probe(path).reason == "a Git LFS pointer instead of the video: run `git lfs pull`"


@pytest.mark.parametrize("flags", ["faststart", "frag_keyframe+empty_moov"])
def test_an_encrypted_video_is_refused(tmp_path, flags):
    options = {
        "encryption_scheme": "cenc-aes-ctr",
        "encryption_key": 32 * "a",
        "encryption_kid": 32 * "b",
        "movflags": flags,
    }
    path = encode(tmp_path / "a.mp4", "libx264", texture(), options={"g": "5"}, container_options=options)
    assert probe(path).reason == "encrypted: decrypt it first"
    with pytest.raises(VideoError, match="encrypted"):
        list(read_frames(path))


def test_an_encrypted_webm_is_refused(tmp_path):
    path = encode(tmp_path / "a.webm", "libvpx", texture(), container_options={"live": "1"})
    path.write_bytes(with_encryption(path.read_bytes()))
    assert probe(path).reason == "encrypted: decrypt it first"


@pytest.mark.parametrize(
    "disposition, reason", [(1 << 10, "no video stream, only a cover image"), (0, "a single frame")]
)
def test_sound_with_a_cover_image_is_no_video(tmp_path, disposition, reason):
    cover = encode(tmp_path / "cover.avi", "mjpeg", texture(1), "yuvj420p", flags=(2, 2))
    path = tmp_path / "a.m4a.mp4"
    with av.open(str(cover)) as given, av.open(str(path), "w") as container:
        audio = container.add_stream("aac", rate=48000)
        image = container.add_stream_from_template(given.streams.video[0])
        image.disposition = disposition
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.int16), format="s16", layout="mono")
        sound.sample_rate = 48000
        packet = next(given.demux(video=0))
        packet.stream, packet.pts, packet.dts = image, 0, 0
        container.mux(packet)
        container.mux(audio.encode(sound))
        container.mux(audio.encode())
    assert probe(path).reason.startswith(reason)


@pytest.mark.parametrize("ending", ["mkv", "mp4", "avi"])
def test_a_video_without_frames_is_named(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    found = probe(path)
    assert found.frames == 0 and not found.readable
    assert found.reason and "\n" not in found.reason


FASTSTART = {"movflags": "faststart"}  # the index first, or nothing can be read of a file with a damaged end
TO_DAMAGE = {
    "a.avi": ("mpeg4", {}),
    "b.mkv": ("libx264", {}),
    "c.webm": ("libvpx", {}),
    "d.mp4": ("libx264", FASTSTART),
    "e.mov": ("mpeg4", FASTSTART),
    "f.ts": ("mpeg2video", {}),
    "g.ts": ("libx264", {}),
    "h.mpg": ("mpeg1video", {}),
    "i.flv": ("flv", {}),
    "j.wmv": ("wmv2", {}),
    "k.mxf": ("mpeg2video", {}),
    "l.mp4": ("libx264", {"movflags": "frag_keyframe+empty_moov"}),
    "m.mp4": ("libx264", {"movflags": "frag_keyframe"}),
    "n.mp4": ("libx264", {"movflags": "dash+delay_moov"}),
    "o.ivf": ("libvpx", {}),
    "p.asf": ("msmpeg4", {}),
}


@pytest.fixture(scope="module")
def sound_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    for name, (codec, options) in TO_DAMAGE.items():
        encoder = {"g": "10", "b": "1000000"}
        encode(folder / name, codec, moving_texture(80, 96, 128), options=encoder, container_options=options)
    return folder


@pytest.mark.parametrize("kind", ["zeros", "noise", "cut"])
@pytest.mark.parametrize("name", TO_DAMAGE)
def test_a_video_that_lost_its_middle_is_unreadable(sound_files, name, kind):
    assert probe(sound_files / name).reason == ""
    found = probe(damaged(sound_files / name, kind))
    assert not found.readable
    assert found.frames < 64
    assert found.reason.startswith(("damaged: ", "cut short: ", "not a video"))


@pytest.mark.parametrize("kind", ["zeros", "noise"])
def test_a_stream_without_time_stamps_that_lost_its_middle_is_unreadable(tmp_path, kind):
    path = encode(tmp_path / "a.m2v", "mpeg2video", moving_texture(80, 96, 128), options={"g": "10", "b": "1000000"})
    assert probe(path).reason == ""
    assert probe(damaged(path, kind)).reason.startswith("damaged: ")


@pytest.mark.parametrize("name", ["a.avi", "b.mkv", "c.webm", "j.wmv"])
def test_a_clip_that_lost_a_tenth_at_its_end_is_used_and_says_so(sound_files, tmp_path, name):
    content = (sound_files / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(0.88 * len(content))])
    found = probe(tmp_path / name)
    assert found.readable and 64 < found.frames < 78
    assert found.reason.startswith(f"cut short but used: {found.frames} of about ")


@pytest.mark.parametrize("name", [name for name in TO_DAMAGE if name != "o.ivf"])  # nothing after it can be found
def test_a_small_damage_does_not_cost_the_clip(sound_files, name):
    found = probe(damaged(sound_files / name, "noise", 0.6, 0.61))
    assert found.readable, found.reason
    assert found.frames >= 64


@pytest.mark.parametrize("codec", ["mpeg4", "mjpeg", "libx264"])
def test_frames_of_noise_are_unreadable(tmp_path, codec):
    """Headers and sizes of all packets are sound, as in a file that was encrypted by an unknown program."""
    pixel_format, flags = ("yuvj420p", (2, 2)) if codec == "mjpeg" else ("yuv420p", (0, 2))
    path = encode(tmp_path / "a.mkv", codec, texture(), pixel_format, flags=flags)
    noise, target = np.random.default_rng(0), tmp_path / "noise.mkv"
    with av.open(str(path)) as given, av.open(str(target), "w") as copy:
        stream = copy.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                data = np.frombuffer(bytes(packet), np.uint8).copy()
                data[12:] = noise.integers(0, 256, len(data) - 12)
                changed = av.Packet(data.tobytes())
                changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
                changed.is_keyframe, changed.stream = packet.is_keyframe, stream
                copy.mux(changed)
    found = probe(target)
    assert not found.readable
    assert found.reason.startswith(("damaged", "cut short", "no frame"))
