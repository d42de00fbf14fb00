import threading
import time

import pytest

from twostream.errors import UserError
from twostream.inference.serve import jobs as module
from twostream.inference.serve.jobs import MOST_JOBS, Busy, Jobs


@pytest.fixture
def gate():
    return threading.Event()


def queue_of(tmp_path, work):
    jobs = Jobs(tmp_path, work)
    jobs.open()
    return jobs


def uploaded(jobs):
    job = jobs.admit(None)
    job.upload.write_bytes(b"video")
    jobs.enqueue(job)
    return job


def until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.005)


def blocking(gate, order=None):
    """Work that notes the job, then waits for the gate, watching whether it is cancelled."""

    def work(job):
        if order is not None:
            order.append(job)
        job.playback.write_bytes(b"playback")
        while not gate.wait(0.005):
            job.check()

    return work


def test_jobs_run_one_at_a_time_in_the_order_of_their_uploads(tmp_path, gate):
    order = []
    jobs = queue_of(tmp_path, blocking(gate, order))
    first, second, third = (uploaded(jobs) for _ in range(3))
    until(lambda: order == [first])
    assert [jobs.ahead(job) for job in (first, second, third)] == [0, 1, 2]
    assert [job.state for job in (first, second, third)] == ["reading", "waiting", "waiting"]
    gate.set()
    until(lambda: third.state == "done")
    assert order == [first, second, third]
    jobs.close()


def test_the_upload_goes_when_the_job_is_done_and_the_playback_when_it_is_forgotten(tmp_path, gate):
    gate.set()
    jobs = queue_of(tmp_path, blocking(gate))
    job = uploaded(jobs)
    until(lambda: job.state == "done")
    assert list(tmp_path.iterdir()) == [job.playback]
    jobs.forget(job)
    assert not list(tmp_path.iterdir()) and jobs.get(job.id) is None
    jobs.close()


def test_a_running_job_that_is_forgotten_stops_and_leaves_nothing(tmp_path, gate):
    jobs = queue_of(tmp_path, blocking(gate))
    first, second = uploaded(jobs), uploaded(jobs)
    until(lambda: first.state == "reading")
    jobs.forget(first)
    until(lambda: second.state == "reading")
    assert not first.upload.exists() and not first.playback.exists()
    jobs.close()
    assert not list(tmp_path.iterdir())


def test_a_waiting_job_that_is_forgotten_never_runs(tmp_path, gate):
    order = []
    jobs = queue_of(tmp_path, blocking(gate, order))
    first, second, third = (uploaded(jobs) for _ in range(3))
    jobs.forget(second)
    assert jobs.ahead(third) == 1 and not second.upload.exists()
    gate.set()
    until(lambda: third.state == "done")
    assert order == [first, third]
    jobs.close()


def test_the_number_of_jobs_is_limited_and_a_forgotten_job_frees_a_place(tmp_path, gate):
    jobs = queue_of(tmp_path, blocking(gate))
    taken = [jobs.admit(None) for _ in range(MOST_JOBS)]
    with pytest.raises(Busy):
        jobs.admit(None)
    jobs.forget(taken[3])
    jobs.admit(None)
    jobs.close()


def test_the_names_of_jobs_cannot_be_guessed(tmp_path, gate):
    jobs = Jobs(tmp_path, blocking(gate))
    names = {jobs.admit(None).id for _ in range(MOST_JOBS)}
    assert len(names) == MOST_JOBS and min(map(len, names)) >= 22  # 128 bits in base 64


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("{upload}: no video stream; give a video file"), "This file: no video stream; give a video file"),
        (OSError(28, "No space left on device"), "The server failed: No space left on device."),
        (ZeroDivisionError("secret detail"), "The server failed on this video"),
    ],
)
def test_a_failure_is_a_message_without_paths_and_the_next_job_runs(tmp_path, capsys, error, message):
    done = []

    def work(job):
        if not done:
            done.append(job)
            error.args = tuple(str(part).replace("{upload}", str(job.upload)) for part in error.args)
            raise error

    jobs = queue_of(tmp_path, work)
    first, second = uploaded(jobs), uploaded(jobs)
    until(lambda: second.state == "done")
    assert first.state == "failed" and first.message.startswith(message)
    assert str(tmp_path) not in first.message and "secret" not in first.message
    assert ("ZeroDivisionError: secret detail" in capsys.readouterr().err) == isinstance(error, ZeroDivisionError)
    assert not first.upload.exists()
    jobs.close()


def test_a_job_whose_page_has_gone_is_forgotten_and_one_whose_page_is_there_is_not(tmp_path, gate, monkeypatch):
    jobs = queue_of(tmp_path, blocking(gate))
    gone, there, sending = uploaded(jobs), uploaded(jobs), jobs.admit(None)
    now = time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: now + module.LOST_AFTER + 1)
    there.seen = module.time.monotonic()
    jobs.sweep()
    assert jobs.get(gone.id) is None and jobs.get(there.id) is there and jobs.get(sending.id) is sending
    until(lambda: there.state == "reading")
    jobs.close()


def test_a_result_that_is_not_fetched_is_removed_after_a_while(tmp_path, gate, monkeypatch):
    gate.set()
    jobs = queue_of(tmp_path, blocking(gate))
    job = uploaded(jobs)
    until(lambda: job.state == "done")
    ended = job.ended
    for later, kept in [(module.KEEP - 1, True), (module.KEEP + 1, False)]:
        monkeypatch.setattr(module.time, "monotonic", lambda later=later: ended + later)
        jobs.sweep()
        assert (jobs.get(job.id) is job) == kept == job.playback.exists()
    monkeypatch.undo()
    jobs.close()


def test_closing_ends_the_running_job_and_removes_all_files(tmp_path, gate):
    order = []
    jobs = queue_of(tmp_path, blocking(gate, order))
    running, waiting = uploaded(jobs), uploaded(jobs)
    until(lambda: running.state == "reading")
    jobs.close()
    assert not list(tmp_path.iterdir())
    assert running.state == waiting.state == "failed" and order == [running]
    with pytest.raises(Busy):
        jobs.admit(None)
