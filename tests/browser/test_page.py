"""The page of `twostream serve` in a real browser."""

from __future__ import annotations

import threading

import pytest
from helpers import moving_texture, write_audio, write_video
from standin import StandIn, serving

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def video(tmp_path):
    """Three seconds."""
    return write_video(tmp_path / "a & b.mp4", moving_texture(75))


@pytest.fixture
def uploads(tmp_path):
    folder = tmp_path / "uploads"
    folder.mkdir()
    return folder


def predict(page, url, video, every="1"):
    """Open the page, give it the video and wait for the complete prediction."""
    page.goto(url)
    page.locator("#upload:enabled").wait_for()
    page.locator("#every").select_option(every)
    page.locator("#file").set_input_files(video)
    page.get_by_text("Done:").wait_for()


def test_a_video_is_shown_with_all_predictions_and_nothing_leaves_the_machine(page, seen, uploads, video, tmp_path):
    with serving(StandIn(), uploads) as site:
        predict(page, site.url, video)
        assert page.locator("#verdict").text_content() == "wave"
        assert page.locator("#tiles small").all_text_contents()[::2] == ["spatial", "temporal", "fusion"]
        assert page.locator("#charts svg[role=img]").count() == 3 * 5
        assert page.locator("#rows tr").count() == 3
        page.wait_for_function("document.getElementById('video').readyState >= 2")
        film = page.locator("#video")
        assert film.evaluate("v => [v.videoWidth, v.videoHeight, v.error]") == [128, 48, None]
        assert film.evaluate("v => v.duration") == pytest.approx(3.0, abs=0.1)
        assert page.locator("img").evaluate_all("all => all.every(one => one.naturalWidth > 0)")
        page.screenshot(path=tmp_path / "page.png", full_page=True)
        page.wait_for_timeout(200)
        assert not list(uploads.iterdir()), "the server keeps what the page has fetched"
    assert seen.errors == []
    assert seen.strangers() == []


def test_the_cursor_and_the_bars_follow_the_time_of_the_video(page, seen, uploads, video):
    with serving(StandIn(), uploads) as site:
        predict(page, site.url, video)
        film = page.locator("#video")
        for time, winner in [(0.4, "wave"), (1.5, "jump"), (2.6, "<b>kick</b> & run")]:
            film.evaluate("(v, time) => { v.pause(); v.currentTime = time; }", time)
            page.wait_for_function("winner => document.querySelector('#now span').textContent === winner", arg=winner)
            cursor = page.locator("#charts .cursor").first.get_attribute("d")
            assert float(cursor.removeprefix("M").split()[0]) == pytest.approx(1000 * time / 3, abs=2)
        assert page.locator("#moment").text_content() == "Now: 2.0 s to 3.0 s"
    assert seen.errors == []


def test_a_click_on_a_chart_goes_to_that_time(page, uploads, video):
    with serving(StandIn(), uploads) as site:
        predict(page, site.url, video)
        page.locator("#video").evaluate("v => v.pause()")
        chart = page.locator("#charts .row svg").first
        chart.scroll_into_view_if_needed()
        box = chart.bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        assert page.locator("#video").evaluate("v => v.currentTime") == pytest.approx(1.5, abs=0.05)


def test_events_stand_below_the_labels_of_a_file(page, seen, uploads, video, tmp_path):
    with serving(StandIn(), uploads) as site:
        predict(page, site.url, video)
        assert page.locator("#events .what").all_text_contents() == ["Prediction"]
        predicted = page.locator("#events .track i").count()
        assert predicted > 0
        for name, content in (
            ("a.vtt", "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nwave\n\n00:00:02.000 --> 00:00:03.000\njump\n"),
            ("a.csv", "video,start,end,label\na.mp4,0,1.5,wave\na.mp4,2,3,jump\n"),
        ):
            (tmp_path / name).write_text(content)
            page.locator("#truth").set_input_files(tmp_path / name)
            page.get_by_text("Truth").wait_for()
            assert page.locator("#events .what").all_text_contents() == ["Truth", "Prediction"]
            bars = page.locator("#events .track").first.locator("i")
            assert bars.all_text_contents() == ["wave", "jump"]
            assert bars.first.evaluate("bar => [bar.style.left, bar.style.width]") == ["0%", "50%"]
        page.screenshot(path=tmp_path / "events.png", full_page=True)
    assert seen.errors == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_fits_a_phone(new_page, seen, uploads, video, dark, tmp_path):
    page = new_page(400, 800, dark)
    with serving(StandIn(classes=[f"a_rather_long_name_of_a_class_{n}" for n in range(9)]), uploads) as site:
        predict(page, site.url, video)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        ink, paper = page.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
        brightness = [sum(map(int, colour[4:-1].split(", "))) for colour in (ink, paper)]
        assert (brightness[0] > brightness[1]) == dark
        page.screenshot(path=tmp_path / "phone.png", full_page=True)
    assert seen.errors == []


def test_a_dropped_file_is_taken(page, uploads, video):
    with serving(StandIn(), uploads) as site:
        page.goto(site.url)
        page.locator("#upload:enabled").wait_for()
        page.evaluate(
            """async bytes => {
                const dataTransfer = new DataTransfer();
                dataTransfer.items.add(new File([new Uint8Array(bytes)], "dropped.mp4"));
                document.body.dispatchEvent(new DragEvent("drop", {dataTransfer, bubbles: true, cancelable: true}));
            }""",
            list(video.read_bytes()),
        )
        page.get_by_text("Done:").wait_for()
        assert page.locator("#name").text_content() == "dropped.mp4"


def test_the_keyboard_is_enough_and_the_focus_is_never_lost(page, seen, uploads, video):
    predictor = StandIn(gate=threading.Event())
    page.on("filechooser", lambda chooser: chooser.set_files(video))
    with serving(predictor, uploads) as site:
        page.goto(site.url)
        page.locator("#upload:enabled").wait_for()
        page.locator("#every").select_option("1")
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "file"
        page.keyboard.press("Space")
        page.get_by_text("Predicting").wait_for()
        assert page.evaluate("document.activeElement.id") == "cancel"
        predictor.gate.set()
        page.get_by_text("Done:").wait_for()
        assert page.evaluate("document.activeElement.id") == "verdict"
        for stop in ("play", "time"):
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.id") == stop
        page.keyboard.press("End")
        page.get_by_text("Now: 2.0 s to 3.0 s").wait_for()
    assert seen.errors == []


def test_a_file_that_is_no_video_gives_a_message_and_another_can_follow(page, seen, uploads, video, tmp_path):
    (tmp_path / "notes.txt").write_text("no video " * 100)
    with serving(StandIn(), uploads) as site:
        page.goto(site.url)
        page.locator("#upload:enabled").wait_for()
        for bad in (tmp_path / "notes.txt", write_audio(tmp_path / "sound.wav")):
            page.locator("#file").set_input_files(bad)
            message = page.locator("#problem:visible")
            message.wait_for()
            assert "video" in message.text_content() and str(uploads) not in message.text_content()
        page.locator("#file").set_input_files(video)
        page.get_by_text("Done:").wait_for()
        assert page.locator("#problem").is_hidden()
    assert seen.errors == []


def test_a_file_beyond_the_limit_is_not_sent(page, seen, uploads, tmp_path):
    (tmp_path / "large.mp4").write_bytes(b"0" * 1_100_000)
    with serving(StandIn(), uploads, max_megabytes=1) as site:
        page.goto(site.url)
        page.locator("#upload:enabled").wait_for()
        assert "Up to 1 MB and 60 seconds" in page.locator("#limits").text_content()
        page.locator("#file").set_input_files(tmp_path / "large.mp4")
        page.locator("#problem:visible").wait_for()
        assert "large.mp4 has 1.1 MB; this page takes up to 1 MB" in page.locator("#problem").text_content()
    assert not [url for url in seen.requests if "/jobs" in url]


def test_two_pages_wait_for_each_other_and_one_can_cancel(new_page, seen, uploads, video):
    predictor = StandIn(gate=threading.Event())
    first, second = new_page(), new_page()
    with serving(predictor, uploads) as site:
        for page in (first, second):
            page.goto(site.url)
            page.locator("#upload:enabled").wait_for()
            page.locator("#file").set_input_files(video)
            words = "Predicting" if page is first else "one video is before yours"
            page.locator("#status").get_by_text(words).wait_for()
        first.locator("#cancel").click()
        first.get_by_text("Cancelled.").wait_for()
        second.get_by_text("Predicting").wait_for()
        predictor.gate.set()
        second.get_by_text("Done:").wait_for()
        assert len(predictor.asked) == 2
    assert seen.errors == []


def test_closing_the_page_ends_its_job(new_page, uploads, video, monkeypatch):
    monkeypatch.setattr("twostream.inference.serve.jobs.LOST_AFTER", 0.5)
    with serving(StandIn(gate=threading.Event()), uploads) as site:
        page = new_page()
        page.goto(site.url)
        page.locator("#upload:enabled").wait_for()
        page.locator("#file").set_input_files(video)
        page.get_by_text("Predicting").wait_for()
        assert list(uploads.iterdir())
        page.close()
        wait = threading.Event()
        for _ in range(60):
            if not list(uploads.iterdir()):
                break
            wait.wait(0.1)
        assert not list(uploads.iterdir())
