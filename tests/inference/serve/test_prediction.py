import pytest
from helpers import moving_texture, write_audio, write_video
from standin import StandIn

from twostream.errors import UserError
from twostream.inference.serve.jobs import Cancelled, Job
from twostream.inference.serve.prediction import count_packets, describe, make_work


def job_of(tmp_path, video, every=None):
    return Job("x", video, tmp_path / "playback.webm", every)


def test_a_job_gets_every_window_and_their_mean(tmp_path):
    predictor = StandIn()
    job = job_of(tmp_path, write_video(tmp_path / "a.mp4", moving_texture(60)), every=1.0)
    make_work(predictor, 60)(job)
    assert [(w["start"], w["end"], w["frames"]) for w in job.windows] == [(0, 1, 25), (1, 2, 25), (2, 2.4, 10)]
    assert {name: len(values) for name, values in job.windows[0]["probabilities"].items()} == {
        "spatial": 6,
        "temporal": 6,
        "fusion": 6,
    }
    sure = 2.718281828**6 / (2.718281828**6 + 5)  # the softmax of (6, 0, 0, 0, 0, 0)
    assert job.windows[1]["probabilities"]["fusion"][1] == pytest.approx(sure, abs=1e-4)
    expected = [(sure + 2 * (1 - sure) / 5) / 3] * 3 + [(1 - sure) / 5] * 3
    assert job.result["overall"]["fusion"] == pytest.approx(expected, abs=1e-4)
    assert job.result["seconds"] == pytest.approx(2.4) and job.result["frames"] == 60
    assert job.result["full_colour_px"] == pytest.approx(2.0)
    assert job.result["warning"] == ""
    assert job.progress == 1.0 and job.playback.stat().st_size > 0


def test_a_cancelled_job_ends_at_the_next_frame(tmp_path):
    job = job_of(tmp_path, write_video(tmp_path / "a.mp4", moving_texture(30)))
    predictor = StandIn()
    take = predictor.window

    def window(*arguments):
        job.cancelled.set()
        return take(*arguments)

    predictor.window = window
    with pytest.raises(Cancelled):
        make_work(predictor, 60)(job)
    assert job.windows == []


def test_packets_are_counted_without_decoding(tmp_path):
    assert count_packets(write_video(tmp_path / "a.mp4", moving_texture(37)), 10) == 37
    assert count_packets(write_video(tmp_path / "a.avi", moving_texture(12), codec="mjpeg"), 10) == 12


@pytest.mark.parametrize("ending", ["mkv", "avi"])
def test_a_video_that_is_cut_short_is_taken_with_a_warning(tmp_path, ending):
    whole = write_video(tmp_path / f"a.{ending}", moving_texture(100)).read_bytes()
    (tmp_path / f"cut.{ending}").write_bytes(whole[: len(whole) * 2 // 3])
    job = job_of(tmp_path, tmp_path / f"cut.{ending}")
    make_work(StandIn(), 60)(job)
    frames = job.result["frames"]
    assert 2 < frames < 80
    assert job.result["warning"].startswith(f"Cut short: {frames} of about 10")


def test_a_long_video_is_refused_by_its_header_and_by_its_packets(tmp_path):
    long = write_video(tmp_path / "a.mkv", moving_texture(100))  # 4 s
    assert count_packets(long, 4.0) == 100
    for limit in (3.5, 1.0):  # within and beyond the second of grace that headers have
        with pytest.raises(UserError, match=f"longer than {limit:g} seconds"):
            count_packets(long, limit)


def test_a_file_without_video_is_refused_in_one_line(tmp_path):
    (tmp_path / "text").write_text("not a video\n" * 100)
    (tmp_path / "noise").write_bytes(bytes(range(256)) * 40)
    for path in (tmp_path / "text", tmp_path / "noise", write_audio(tmp_path / "sound.mkv")):
        with pytest.raises(UserError, match="video") as caught:
            count_packets(path, 10)
        assert str(path) not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{video}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {video}\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 26\n",
    ],
    ids=["hls", "concat", "sdp"],
)
def test_a_list_that_names_other_files_is_no_video(tmp_path, playlist):
    write_video(tmp_path / "secret.ts", moving_texture(20))
    (tmp_path / "list").write_text(playlist.format(video="secret.ts"))
    with pytest.raises(UserError, match="not a video that can be read"):
        count_packets(tmp_path / "list", 10)


def test_a_video_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("twostream.inference.serve.prediction.MOST_PIXELS", 48 * 64 - 1)
    with pytest.raises(UserError, match="64x48 pixels, more than this page takes"):
        count_packets(write_video(tmp_path / "a.mp4", moving_texture(5)), 10)


def test_measuring_can_be_cancelled(tmp_path):
    def check():
        raise Cancelled

    with pytest.raises(Cancelled):
        count_packets(write_video(tmp_path / "a.mp4", moving_texture(5)), 10, check)


def test_each_stream_has_the_colour_that_the_report_gives_it():
    streams = {"a": "flow", "b": "rgb", "c": "flow", "d": "rgb"}
    tokens = {source["name"]: source["token"] for source in describe(StandIn(streams=streams))["sources"]}
    assert tokens == {"a": "flow", "b": "rgb", "c": "extra1", "d": "extra2", "fusion": "fusion"}


def test_class_names_are_made_printable():
    assert describe(StandIn(classes=["a\nb", "\u202eevil", "ok"]))["classes"] == ["a␊b", "\ufffdevil", "ok"]
