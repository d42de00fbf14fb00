from __future__ import annotations

import os
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from twostream.errors import UserError
from twostream.flow import gpu_server as flowserver
from twostream.flow.batch import BatchSolver
from twostream.flow.encoding import encode_flow
from twostream.flow.gpu_server import FlowServer, solve_remotely
from twostream.flow.methods.tvl1 import PRESETS
from twostream.flow.methods.tvl1.torch import Tvl1Torch

BOUND = 8.0


class Differences(BatchSolver):
    """Stands for a solver: x is the difference of the images, y the first one, in sixteenths of a pixel."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.shapes = []

    def match_batch(self, first, second):
        self.shapes.append(tuple(first.shape))
        return torch.stack([second.float() - first.float(), first.float() - 128], -1) / 16


def _images(count: int, height: int = 16, width: int = 24, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, height, width), dtype=np.uint8))


def _codes(solver, images: list[np.ndarray]) -> list[np.ndarray]:
    """The same without a server, pair by pair."""
    pairs = zip(images, images[1:], strict=False)
    tensors = ((torch.tensor(first)[None], torch.tensor(second)[None]) for first, second in pairs)
    return [encode_flow(solver.match_batch(*pair)[0].numpy(), BOUND) for pair in tensors]


def _small(monkeypatch, chunk_pairs: int, batch_pairs: int, size: int = 16 * 24) -> None:
    monkeypatch.setattr(flowserver, "CHUNK_PX", chunk_pairs * size)
    monkeypatch.setattr(flowserver, "BATCH_PX", batch_pairs * size)


@pytest.mark.parametrize("count", [0, 1, 2, 4, 5, 6, 9, 13])
def test_every_image_is_solved_with_the_next_whatever_their_number(monkeypatch, count):
    _small(monkeypatch, 4, 8)
    images = _images(count)
    with FlowServer(Differences(), BOUND) as server:
        codes = list(solve_remotely(server.address, iter(images)))
    np.testing.assert_array_equal(codes, _codes(Differences(), images))


def test_codes_are_rounded_and_clipped_as_on_the_cpu():
    """Every half step that 8 bits know, as a difference of two images, and motion beyond the bound on both sides."""
    first, second = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))

    class Halves(Differences):
        def match_batch(self, first, second):
            return super().match_batch(first, second) * (8 / 127 * 8)  # steps of half a code

    with FlowServer(Halves(), BOUND) as server:
        (codes,) = solve_remotely(server.address, [first, second])
    np.testing.assert_array_equal(codes, _codes(Halves(), [first, second])[0])
    assert codes.min() == 1 and codes.max() == 255


def test_clips_of_different_sizes_at_once_each_get_their_own(monkeypatch):
    _small(monkeypatch, 4, 8)
    clips = [_images(20 + i, *[(16, 24), (24, 16), (30, 40)][i % 3], seed=i) for i in range(12)]
    solver = Differences()
    with FlowServer(solver, BOUND) as server, ThreadPoolExecutor(12) as pool:
        results = list(pool.map(lambda images: list(solve_remotely(server.address, images)), clips))
    for codes, images in zip(results, clips, strict=True):
        np.testing.assert_array_equal(codes, _codes(Differences(), images))
    assert set(solver.shapes) == {(8, 16, 24), (8, 24, 16), (2, 30, 40)}  # one shape a size, however full


def test_waiting_chunks_share_a_batch(monkeypatch):
    _small(monkeypatch, 4, 8)
    solver, go = Differences(), threading.Event()
    fast = solver.match_batch

    def slow(first, second):
        go.wait(10)
        return fast(first, second)

    solver.match_batch = slow
    with FlowServer(solver, BOUND) as server, ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(lambda i: list(solve_remotely(server.address, _images(5, seed=i))), i) for i in range(5)]
        time.sleep(0.3)
        go.set()
        for i, codes in enumerate(waiting):
            np.testing.assert_array_equal(codes.result(), _codes(Differences(), _images(5, seed=i)))
    assert len(solver.shapes) <= 4  # five chunks of half a batch: one went alone, the others by twos


def test_tvl1_does_not_depend_on_what_shares_its_batch(monkeypatch):
    _small(monkeypatch, 2, 4, 40 * 56)
    clips = [_images(4, 40, 56, seed=i) for i in range(3)]
    solver = Tvl1Torch(PRESETS["fast"], "cpu")
    alone = [[encode_flow(flow, BOUND).tobytes() for flow in solver.sequence(images)] for images in clips]
    with FlowServer(solver, BOUND) as server, ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda images: [c.tobytes() for c in solve_remotely(server.address, images)], clips))
    assert together == alone


def test_a_batch_that_does_not_fit_is_halved_and_so_are_those_after_it(monkeypatch):
    _small(monkeypatch, 8, 8)

    class Small(Differences):
        def match_batch(self, first, second):
            flow = super().match_batch(first, second)
            if len(first) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return flow

    solver, images = Small(), _images(17)
    with FlowServer(solver, BOUND) as server:
        codes = list(solve_remotely(server.address, images))
    np.testing.assert_array_equal(codes, _codes(Differences(), images))
    assert [shape[0] for shape in solver.shapes] == [8, 4] + 8 * [2]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("lost\nstack"), MemoryError()]
)
def test_a_failure_is_one_line_for_everyone_and_nobody_hangs(monkeypatch, error):
    _small(monkeypatch, 4, 4)

    class Broken(Differences):
        def match_batch(self, first, second):
            raise error

    with FlowServer(Broken(), BOUND) as server, ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(list, solve_remotely(server.address, _images(9))) for _ in range(3)]
        messages = {str(done.exception(timeout=20)) for done in waiting}
        with pytest.raises(UserError):
            list(solve_remotely(server.address, _images(3)))
    (message,) = messages
    assert message.startswith("flow.device: ") and "\n" not in message
    assert (str(error).splitlines() or ["MemoryError"])[0] in message


def test_a_client_that_dies_holds_nobody_up(monkeypatch):
    _small(monkeypatch, 4, 4)
    with FlowServer(Differences(), BOUND) as server:
        for last_words in (0, 1, 2):
            dying = flowserver._Connection(server.address)
            if last_words > 0:
                frames, _ = dying.shared(16, 24)
                frames[:] = 0
            if last_words > 1:
                dying._socket.send(flowserver._REQUEST.pack(16, 24, 4))
            dying.close()
        given_up = solve_remotely(server.address, _images(9))
        next(given_up)
        given_up.close()
        images = _images(9, seed=1)
        np.testing.assert_array_equal(list(solve_remotely(server.address, images)), _codes(Differences(), images))


def test_clients_of_a_server_that_has_ended_fail_with_one_line(monkeypatch):
    _small(monkeypatch, 4, 4)
    with FlowServer(Differences(), BOUND) as server:
        halfway = solve_remotely(server.address, _images(9))
        next(halfway)
    for codes in (halfway, solve_remotely(server.address, _images(9))):
        with pytest.raises(UserError, match="is gone; run again"):
            list(codes)
    assert not os.path.exists(os.path.dirname(server.address))


def test_only_a_few_images_are_alive_however_long_the_clip(monkeypatch):
    _small(monkeypatch, 16, 16)
    alive, most = weakref.WeakSet(), 0

    class Image(np.ndarray):
        __hash__ = object.__hash__

    def images():
        nonlocal most
        for image in np.broadcast_to(_images(1)[0], (500, 16, 24)):
            image = image.copy().view(Image)
            alive.add(image)
            most = max(most, len(alive))
            yield image

    with FlowServer(Differences(), BOUND) as server:
        assert sum(1 for _ in solve_remotely(server.address, images())) == 499
    assert most <= 3


@pytest.mark.parametrize("height, width", [(16, 16), (48, 64), (256, 344), (2160, 3840)])
def test_shared_memory_holds_a_chunk_and_is_bounded(height, width):
    memory = np.empty(4 * max(flowserver.CHUNK_PX, height * width), np.uint8)
    frames, codes = flowserver._views(memory, height, width)
    pairs = len(codes)
    assert frames.shape == (pairs + 1, height, width) and codes.shape == (pairs, height, 2, width)
    assert not np.shares_memory(frames, codes) and frames.size + codes.size <= memory.size
    assert flowserver._pairs(flowserver.BATCH_PX, height * width) % pairs == 0


def test_the_clips_of_a_process_share_one_connection_and_one_memory(monkeypatch):
    _small(monkeypatch, 8, 8, 30 * 40)
    created = []
    create = os.memfd_create
    monkeypatch.setattr(os, "memfd_create", lambda name: created.append(name) or create(name))
    with FlowServer(Differences(), BOUND) as server:
        for seed, size in enumerate([(16, 24), (30, 40), (24, 16), (16, 24)]):
            images = _images(11, *size, seed=seed)
            np.testing.assert_array_equal(list(solve_remotely(server.address, images)), _codes(Differences(), images))
        assert len(server._memory) == 1
    assert len(created) == 1


def test_clips_of_one_process_at_the_same_time_do_not_mix(monkeypatch):
    _small(monkeypatch, 4, 4)
    one, two = _images(9, seed=1), _images(9, seed=2)
    with FlowServer(Differences(), BOUND) as server:
        results = zip(solve_remotely(server.address, one), solve_remotely(server.address, two), strict=True)
        codes = [np.stack(clip) for clip in zip(*results, strict=True)]
    np.testing.assert_array_equal(codes[0], _codes(Differences(), one))
    np.testing.assert_array_equal(codes[1], _codes(Differences(), two))


def test_codes_lie_in_memory_as_they_are_encoded():
    with FlowServer(Differences(), BOUND) as server:
        (codes,) = solve_remotely(server.address, _images(2))
    assert codes.shape == (16, 24, 2) and codes.transpose(0, 2, 1).flags.c_contiguous


def test_a_call_of_cuda_without_memory_halves_the_batch_too(monkeypatch):
    _small(monkeypatch, 4, 4)

    class Recording(Differences):
        def match_batch(self, first, second):
            if len(first) > 2:
                raise RuntimeError("CUDA error: out of memory")
            return super().match_batch(first, second)

    images = _images(5)
    with FlowServer(Recording(), BOUND) as server:
        np.testing.assert_array_equal(list(solve_remotely(server.address, images)), _codes(Differences(), images))
