"""Flow of many clips on one GPU: their processes decode and encode, and a server solves the frames of all in batches.

A clip's process shares a piece of memory with the server, puts a chunk of frames there, says so over a socket, and
finds the 8-bit codes of their flow in the same memory. The server puts chunks of one frame size together. Its batches
always have as many pairs as that size allows, with repeats where chunks do not fill one: what a pair comes out as does
not depend on its company then, and a GPU sees one shape a size, for which it can keep kernels and graphs.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import selectors
import shutil
import socket
import struct
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from twostream.errors import UserError

if TYPE_CHECKING:
    import torch

BATCH_PX = 1 << 23  # what keeps a large GPU busy
CHUNK_PX = 1 << 22  # bounds what a clip holds to 12.6 MB, however long it is
_MOST_PAIRS = 256
_SLOT = struct.Struct("<III")  # height, width and pairs of the memory whose descriptor comes along
_REQUEST = struct.Struct("<I")  # pairs to solve
_SOLVED = b"solved"
_MESSAGE = 4096  # bytes at most


class BatchSolver(Protocol):
    """A flow solver that takes many pairs of one size at once."""

    device: torch.device

    def match_batch(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Flow float32 [B, H, W, 2] in pixels of B pairs uint8 [B, H, W], all on the device."""


def solve_remotely(address: str, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Codes of the flow from every image to the next, uint8 [H, W, 2] each, from the server at an address.

    Args:
        address: of a `FlowServer` on this machine.
        images: uint8 [H, W], all of one size. They are taken a chunk at a time and not kept.

    Raises:
        UserError: the server cannot go on, or is gone.
    """
    images = iter(images)
    first = next(images, None)
    if first is None:
        return
    pairs = _pairs(CHUNK_PX, first.size)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server, _gone_is_said():
        server.connect(address)
        slot = _share_slot(server, *first.shape, pairs)
        slot.frames[0] = first
        while count := _fill(slot.frames[1:], images):
            server.send(_REQUEST.pack(count))
            reply = server.recv(_MESSAGE)
            if not reply:
                raise ConnectionResetError
            if reply != _SOLVED:
                raise UserError(reply.decode())
            for codes in slot.codes[:count]:
                yield codes.copy()
            slot.frames[0] = slot.frames[count]


def _fill(places: np.ndarray, images: Iterator[np.ndarray]) -> int:
    count = 0
    for place, image in zip(places, images):  # noqa: B905 - places first: none of the images is lost at their end
        place[:] = image
        count += 1
    return count


@contextlib.contextmanager
def _gone_is_said() -> Iterator[None]:
    try:
        yield
    except (ConnectionError, FileNotFoundError):
        raise UserError(
            "flow: the process that solves on the GPU is gone; start again, what is finished is kept"
        ) from None


class _Slot:
    """Memory that a client shares with the server: frames [pairs + 1, H, W] go in, codes [pairs, H, W, 2] come back."""

    def __init__(self, file: int, height: int, width: int, pairs: int) -> None:
        memory = np.frombuffer(mmap.mmap(file, _slot_bytes(height, width, pairs)), np.uint8)
        size = height * width
        self.frames = memory[: (pairs + 1) * size].reshape(pairs + 1, height, width)
        self.codes = memory[(pairs + 1) * size :].reshape(pairs, height, width, 2)


def _slot_bytes(height: int, width: int, pairs: int) -> int:
    return (3 * pairs + 1) * height * width


def _share_slot(server: socket.socket, height: int, width: int, pairs: int) -> _Slot:
    file = os.memfd_create("flow")  # has no name that could be left behind
    try:
        os.ftruncate(file, _slot_bytes(height, width, pairs))
        socket.send_fds(server, [_SLOT.pack(height, width, pairs)], [file])
        return _Slot(file, height, width, pairs)
    finally:
        os.close(file)


def _pairs(pixels: int, size: int) -> int:
    """How many pairs of `size` pixels `pixels` are for: a power of two, so that chunks fill a batch exactly."""
    return 1 << max(0, min(pixels // size, _MOST_PAIRS).bit_length() - 1)


class _Request(NamedTuple):
    client: socket.socket
    slot: _Slot
    count: int


class _Launched(NamedTuple):
    requests: list[_Request]
    codes: torch.Tensor  # uint8 [B, H, W, 2], on its way to the host
    ready: torch.cuda.Event | None


class FlowServer:
    """Solves what clients ask for in a thread of this process, from entering its context to leaving it.

    While the device works on a batch, the next one is put together; with that alone on its hands the thread can feed a
    GPU from many processes. A batch that does not fit the GPU's memory is halved, and so are those after it.

    Args:
        solver: takes batches; its device decides where.
        bound_px: bound of the codes, as for `encode_flow`.

    Attributes:
        address: for `solve_remotely`, in a folder that only this user can enter.
    """

    def __init__(self, solver: BatchSolver, bound_px: float) -> None:
        self._solver = solver
        self._scale = 127.0 / bound_px
        self._piece_px = BATCH_PX  # less once a batch did not fit
        self._slots: dict[socket.socket, _Slot] = {}
        self._requests: deque[_Request] = deque()
        self._failure = ""

    def __enter__(self) -> FlowServer:
        # A socket's address has 107 characters at most.
        self._folder = tempfile.mkdtemp(prefix="flow-", dir="/tmp" if len(tempfile.gettempdir()) > 80 else None)
        self.address = os.path.join(self._folder, "server")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(self.address)
        self._listener.listen(1024)
        self._stop, self._stopped = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._stopped, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="flow-server", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.close()
        self._thread.join()
        shutil.rmtree(self._folder)

    def _run(self) -> None:
        try:
            self._serve()
        finally:  # whoever waits for an answer learns that there will be none
            for key in list(self._selector.get_map().values()):
                key.fileobj.close()
            self._selector.close()

    def _serve(self) -> None:
        launched = None
        while self._listen(wait=not (self._requests or launched)):
            requests = self._next_batch()
            following = self._attempt(self._launch, requests, requests) if requests else None
            if launched:
                self._attempt(self._finish, launched, launched.requests)
            launched = following

    def _listen(self, wait: bool) -> bool:
        """Take in all that clients have to say; False once this server is to leave."""
        events = self._selector.select(None if wait else 0)
        while events:  # to the last: a batch should hold all that was waiting
            for key, _ in events:
                if key.fileobj is self._stopped:
                    return False
                if key.fileobj is self._listener:
                    self._selector.register(self._listener.accept()[0], selectors.EVENT_READ)
                else:
                    self._listen_to(key.fileobj)
            events = self._selector.select(0)
        return True

    def _listen_to(self, client: socket.socket) -> None:
        try:
            message, files, _, _ = socket.recv_fds(client, _MESSAGE, 1)
        except ConnectionError:
            message, files = b"", []
        if files:
            self._slots[client] = _Slot(files[0], *_SLOT.unpack(message))
            os.close(files[0])
        elif message:
            self._requests.append(_Request(client, self._slots[client], *_REQUEST.unpack(message)))
        else:  # done with its clip, or dead
            self._selector.unregister(client)
            self._slots.pop(client, None)
            self._requests = deque(request for request in self._requests if request.client is not client)
            client.close()

    def _next_batch(self) -> list[_Request]:
        """Take requests of one size, the longest waiting first, as many as a batch holds."""
        if not self._requests:
            return []
        shape = self._requests[0].slot.codes.shape
        room, taken, left = self._batch_pairs(shape), [], deque()
        for request in self._requests:
            if request.slot.codes.shape == shape and request.count <= room:
                room -= request.count
                taken.append(request)
            else:
                left.append(request)
        self._requests = left
        return taken

    def _batch_pairs(self, shape: tuple[int, ...]) -> int:
        return max(_pairs(BATCH_PX, shape[1] * shape[2]), shape[0])

    def _attempt(self, step, work, requests: list[_Request]) -> _Launched | None:
        """Do a step of the work; if it fails, all who wait and all who ask later are told why."""
        try:
            if not self._failure:
                return step(work)
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._failure = f"flow.device: {self._solver.device.type} failed ({reason[:300]}); try flow.device: cpu"
        self._answer(requests, self._failure.encode())
        return None

    def _answer(self, requests: list[_Request], message: bytes) -> None:
        for request in requests:
            with contextlib.suppress(OSError):  # it died; whoever started it knows
                request.client.send(message)

    def _launch(self, requests: list[_Request]) -> _Launched:
        """Start the device on a batch."""
        import torch

        on_gpu = self._solver.device.type == "cuda"
        height, width = requests[0].slot.frames.shape[1:]
        taken, pairs = sum(request.count for request in requests), self._batch_pairs(requests[0].slot.codes.shape)
        frames = torch.empty(pairs + len(requests), height, width, dtype=torch.uint8, pin_memory=on_gpu)
        host, first, at = frames.numpy(), [], 0
        for request in requests:
            host[at : at + request.count + 1] = request.slot.frames[: request.count + 1]
            first += range(at, at + request.count)
            at += request.count + 1
        first += itertools.repeat(first[-1], pairs - taken)
        # Whatever waits for the device here keeps the next batch from starting right after this one.
        index = torch.tensor(first, pin_memory=on_gpu).to(self._solver.device, non_blocking=True)
        codes = self._codes(frames[:at].to(self._solver.device, non_blocking=True), index)[:taken]
        if not on_gpu:
            return _Launched(requests, codes, None)
        on_host = torch.empty(codes.shape, dtype=torch.uint8, pin_memory=True)
        on_host.copy_(codes, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()
        return _Launched(requests, on_host, ready)

    def _codes(self, frames: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """Codes of the flow from each frame in `first` to the one after it, as `encode_flow` rounds them."""
        import torch

        while True:
            most = _pairs(self._piece_px, frames[0].numel())
            try:
                return torch.cat([self._codes_of_piece(frames, piece) for piece in first.split(most)])
            except torch.OutOfMemoryError:
                if most == 1:
                    raise
            # Out here, where the exception no longer holds what was allocated.
            self._piece_px = most // 2 * frames[0].numel()
            torch.cuda.empty_cache()

    def _codes_of_piece(self, frames: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        import torch

        flow_px = self._solver.match_batch(frames[first], frames[first + 1])
        return (flow_px * self._scale).round_().clamp_(-127, 127).add_(128).to(torch.uint8)

    def _finish(self, launched: _Launched) -> None:
        """Hand a batch's codes to those who asked for them."""
        if launched.ready is not None:
            launched.ready.synchronize()
        codes, at = launched.codes.numpy(), 0
        for request in launched.requests:
            request.slot.codes[: request.count] = codes[at : at + request.count]
            at += request.count
        self._answer(launched.requests, _SOLVED)
