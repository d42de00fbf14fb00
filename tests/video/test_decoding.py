import av
import numpy as np
import pytest
from helpers import moving_texture, write_video

from twostream.video import VideoError, read_frames
from twostream.video.probe import probe


@pytest.mark.parametrize("ending, codec", [("avi", "mpeg4"), ("mp4", "mpeg4"), ("mkv", "mpeg4"), ("mov", "mjpeg")])
def test_frames_come_back_in_order_and_close_to_what_was_written(tmp_path, ending, codec):
    frames = moving_texture(8)
    decoded = list(read_frames(write_video(tmp_path / f"a.{ending}", frames, codec=codec)))
    assert len(decoded) == 8
    for one, other in zip(frames, decoded, strict=True):
        assert other.dtype == np.uint8 and other.shape == (48, 64, 3)
        assert np.abs(one.astype(int) - other).mean() < 14
    errors = [np.abs(frames[0].astype(int) - other).mean() for other in decoded]
    assert np.argmin(errors) == 0


def test_grey_frames_are_the_luma_of_the_colour_frames(tmp_path):
    path = write_video(tmp_path / "a.avi", moving_texture(3))
    colour, grey = next(read_frames(path)), next(read_frames(path, "gray"))
    luma = colour @ np.array([0.299, 0.587, 0.114])
    assert grey.shape == (48, 64)
    assert np.abs(grey - luma).mean() < 2


def test_names_are_data_and_never_protocols_or_patterns(tmp_path):
    for name in ["a [1] & 'b' \"c\"; #d!.avi", "concat:x.avi", "línea\nnueva %d.avi", "-y.avi"]:
        path = write_video(tmp_path / "plain.avi", moving_texture(3)).rename(tmp_path / name)
        assert probe(path).frames == 3


@pytest.mark.parametrize("name, codec", [("a.avi", "mpeg4"), ("b.avi", "mjpeg"), ("c.mkv", "ffv1")])
def test_grey_frames_are_what_ffmpeg_converts_them_to(tmp_path, name, codec):
    """Of luma from 16 to 235 and of the full range; checkered black and white reaches beyond both ends."""
    frames = [np.random.default_rng(i).choice([0, 255], (48, 70, 3)).astype(np.uint8) for i in range(3)]
    path = write_video(tmp_path / name, frames, codec=codec)
    with av.open(str(path)) as container:
        wanted = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    np.testing.assert_array_equal(list(read_frames(path, "gray")), wanted)


PLAYLISTS = {
    "a.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nb.ts\n#EXT-X-ENDLIST\n",
    "a.ts": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nb.ts\n#EXT-X-ENDLIST\n",
    "a.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/b.ts\n#EXT-X-ENDLIST\n",
    "a.ffconcat": "ffconcat version 1.0\nfile b.ts\n",
    "a.avi": "ffconcat version 1.0\nfile b.ts\n",
    "a.mpd": "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static'><Period><AdaptationSet>"
    "<Representation id='0'><BaseURL>b.ts</BaseURL></Representation></AdaptationSet></Period></MPD>",
    "a.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_file_never_makes_ffmpeg_open_another_one(tmp_path, name):
    write_video(tmp_path / "b.ts", moving_texture(9), codec="mpeg2video")
    (tmp_path / name).write_text(PLAYLISTS[name])
    with pytest.raises(VideoError, match="holds its video itself|Invalid data"):
        list(read_frames(tmp_path / name))
