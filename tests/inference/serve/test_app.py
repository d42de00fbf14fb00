"""The server over real connections, with requests of a browser and of an attacker."""

import http.client
import json
import threading
import time

import pytest
from helpers import moving_texture, write_video
from standin import StandIn, serving


@pytest.fixture
def video(tmp_path):
    return write_video(tmp_path / "a.mp4", moving_texture(50)).read_bytes()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "kept").mkdir()
    return tmp_path / "kept"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A server for tests that leave nothing in it."""
    with serving(StandIn(), tmp_path_factory.mktemp("site")) as running:
        yield running


def send(site, video, query="", **headers):
    status, body, _ = site.request("POST", f"/jobs{query}", video, **headers)
    return status, json.loads(body)


def events(site, name, last=None):
    """All events of a job: (kind, data)."""
    headers = {} if last is None else {"Last_Event_ID": str(last)}
    _, body, _ = site.request("GET", f"/jobs/{name}/events", **headers)
    blocks = [
        dict(line.split(": ", 1) for line in block.splitlines()) for block in body.decode().split("\n\n") if block
    ]
    return [(block["event"], json.loads(block["data"])) for block in blocks]


def until(condition, seconds=8.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.01)


def test_a_video_goes_in_and_windows_a_result_and_a_video_come_out(folder, video):
    with serving(StandIn(), folder) as site:
        status, answer = send(site, video, "?every=1")
        assert status == 201
        received = events(site, answer["id"])
        assert [data["start"] for kind, data in received if kind == "window"] == [0.0, 1.0]
        assert received[-1][0] == "state" and received[-1][1]["state"] == "done"
        assert received[-1][1]["result"]["seconds"] == 2.0
        status, playback, headers = site.request("GET", f"/jobs/{answer['id']}/video")
        assert status == 200 and headers["content-type"] == "video/webm" and playback[:4] == b"\x1a\x45\xdf\xa3"
        assert site.request("DELETE", f"/jobs/{answer['id']}")[0] == 204
        assert site.request("GET", f"/jobs/{answer['id']}/video")[0] == 404
        assert not list(folder.iterdir())


def test_a_page_that_comes_back_gets_only_the_windows_it_lacks(folder, video):
    with serving(StandIn(), folder) as site:
        name = send(site, video, "?every=0.4")[1]["id"]
        assert sum(kind == "window" for kind, _ in events(site, name)) == 5
        assert [data["start"] for kind, data in events(site, name, last=2) if kind == "window"] == [1.2, 1.6]


def test_an_upload_over_the_limit_is_refused_with_or_without_a_declared_length(folder):
    with serving(StandIn(), folder, max_megabytes=0.1) as site:
        status, answer = send(site, b"0" * 100_001)
        assert status == 413 and answer["error"] == "The file is larger than 0.1 MB, the limit of this page."

        def chunks():  # no length is declared
            for _ in range(11):
                yield b"0" * 10_000

        status, answer = send(site, chunks())
        assert status == 413 and not list(folder.iterdir())
        status, _ = send(site, b"0" * 100_000)
        assert status == 201


def test_a_longer_video_than_the_limit_gets_a_message(folder, video):
    with serving(StandIn(), folder, max_seconds=1.5) as site:
        kind, state = events(site, send(site, video)[1]["id"])[-1]
        assert state["state"] == "failed"
        assert state["message"] == "The video is longer than 1.5 seconds, the limit of this page."
        until(lambda: not list(folder.iterdir()))


def test_empty_and_meaningless_requests_get_a_message(folder):
    with serving(StandIn(), folder) as site:
        assert send(site, b"") == (400, {"error": "This file is empty."})
        state = events(site, send(site, b"nonsense" * 50)[1]["id"])[-1][1]
        assert state["state"] == "failed" and state["message"].startswith("This file is not a video that can be read")
        for every in ("0", "-1", "nan", "inf", "soon", "1e9"):
            status, answer = send(site, b"x", f"?every={every}")
            assert status == 400 and answer["error"] == "A window lasts from 0.2 to 600 seconds."
        until(lambda: not list(folder.iterdir()))


def test_a_bug_is_printed_in_the_terminal_and_not_shown_on_the_page(folder, video, capfd):
    with serving(StandIn(break_with=ZeroDivisionError("inner detail")), folder) as site:
        state = events(site, send(site, video)[1]["id"])[-1][1]
        assert state["state"] == "failed" and "inner" not in state["message"]
    assert "ZeroDivisionError: inner detail" in capfd.readouterr().err


def test_too_many_jobs_are_refused(folder, video, monkeypatch):
    monkeypatch.setattr("twostream.inference.serve.jobs.MOST_JOBS", 2)
    gate = threading.Event()
    with serving(StandIn(gate=gate), folder) as site:
        names = [send(site, video)[1]["id"] for _ in range(2)]
        status, answer = send(site, video)
        assert status == 503 and "waiting" in answer["error"]
        site.request("DELETE", f"/jobs/{names[1]}")
        assert send(site, video)[0] == 201


def test_an_upload_that_breaks_off_leaves_nothing(folder, capfd):
    with serving(StandIn(), folder) as site:
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
        connection.putrequest("POST", "/jobs")
        connection.putheader("Content-Length", "1000000")
        connection.endheaders(b"0" * 70_000)
        until(lambda: list(folder.iterdir()))
        connection.close()
        until(lambda: not list(folder.iterdir()))
        assert site.app.state.jobs._jobs == {}
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_page_that_goes_away_ends_its_job(folder, video, monkeypatch, capfd):
    monkeypatch.setattr("twostream.inference.serve.jobs.LOST_AFTER", 0.3)
    with serving(StandIn(gate=threading.Event()), folder) as site:
        name = send(site, video)[1]["id"]
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
        connection.request("GET", f"/jobs/{name}/events")
        assert b"event: state" in connection.getresponse().read1()
        job = site.app.state.jobs.get(name)
        time.sleep(1.5)
        assert not job.cancelled.is_set(), "the page still listens"
        connection.sock.close()
        connection.close()
        until(job.cancelled.is_set)
        until(lambda: not list(folder.iterdir()))
    assert "Traceback" not in capfd.readouterr().err


def test_the_end_of_the_server_ends_jobs_and_pages_and_removes_all_files(folder, video, capfd):
    with serving(StandIn(gate=threading.Event()), folder) as site:
        name = send(site, video)[1]["id"]
        listener = threading.Thread(target=lambda: events(site, name))
        listener.start()
        until(lambda: site.app.state.jobs.get(name).state == "running")
        start = time.monotonic()
    assert time.monotonic() - start < 5
    listener.join(5)
    assert not listener.is_alive() and not list(folder.iterdir())
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:80", "127.0.0.1.nip.io", "a@127.0.0.1", ""])
def test_a_host_that_is_not_this_server_is_refused(site, host):
    status, body, _ = site.request("GET", "/", Host=host)
    assert status == 403 and b"<html" not in body


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST", "192.0.2.7"])
def test_hosts_of_this_server_are_answered(site, host):
    assert site.request("GET", "/", Host=f"{host}:{site.port}")[0] == 200


def test_a_request_that_another_site_makes_a_browser_send_is_refused(folder, video):
    with serving(StandIn(), folder) as site:
        own = f"http://127.0.0.1:{site.port}"
        for origin in ("http://evil.example", "null", "http://127.0.0.1:1", f"{own}.evil.example"):
            assert site.request("POST", "/jobs", video, Origin=origin)[0] == 403
        for kind in ("cross-site", "same-site"):
            assert site.request("POST", "/jobs", video, Sec_Fetch_Site=kind)[0] == 403
            assert site.request("DELETE", "/jobs/x", Sec_Fetch_Site=kind)[0] == 403
        assert not list(folder.iterdir())
        assert send(site, video, Origin=own, Sec_Fetch_Site="same-origin")[0] == 201


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/model", "/wheel.png", "/nothing", "/jobs/x/events"])
def test_every_response_has_security_headers(site, path):
    headers = site.request("GET", path)[2]
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy and "http" not in policy and "*" not in policy
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_no_path_of_a_request_reaches_the_disk(site):
    (site.folder.parent / "secret.webm").write_bytes(b"secret")
    for path in ("/jobs/..%2Fsecret/video", "/jobs/../secret.webm", "/../../secret.webm", "/%2e%2e/secret.webm"):
        status, body, _ = site.request("GET", path)
        assert status == 404 and b"secret" not in body


def test_the_page_holds_no_script_or_style_in_itself_and_nothing_remote(site):
    page, script, style = (site.request("GET", path)[1].decode() for path in ("/", "/page.js", "/page.css"))
    assert "style=" not in page and "<style" not in page and "<script>" not in page and "onclick" not in page
    assert "://" not in page and "url(" not in style
    assert script.count("://") == script.count('"http://www.w3.org/2000/svg"') == 1
    assert "innerHTML" not in script and "insertAdjacentHTML" not in script
