"""Solve the flow of many clips on one GPU: their processes decode and encode, one server solves batches for all.

    process of a clip (`solve_remotely`)          thread of the server (`FlowServer`)
    connect                                  -->  accept
    create shared memory, send its descriptor ->  map the same memory
    write frames, send size and number of pairs -> queue the request
                                                  copy several requests to the GPU, solve, copy the codes back
    read the 8-bit codes                     <--  write the codes, send "solved" (or an error message)
    ... until the clip ends; the next clip of the process uses the same connection and memory

The memory stays because the first access to a new page costs more than copying its content. Only chunks of one frame
size share a batch. All batches of a size have the same number of pairs, filled up with repeats
of the last one: the flow of a pair then does not depend on the other clips, and the GPU sees one shape per size, for
which it keeps kernels and graphs.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import selectors
import shutil
import socket
import struct
import tempfile
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from twostream.errors import UserError, reason

if TYPE_CHECKING:
    import torch

    from twostream.flow.batch import BatchSolver

BATCH_PX = 1 << 23  # enough to keep a large GPU busy
CHUNK_PX = 1 << 22  # bounds the memory per process to 16.8 MB, however long a clip is
_MAX_PAIRS = 256
_MEMORY = struct.Struct("<Q")  # bytes of the shared memory whose descriptor is sent with it
_REQUEST = struct.Struct("<III")  # height, width and number of pairs to solve
_SOLVED = b"solved"
_MAX_MESSAGE = 4096  # bytes


def solve_remotely(address: str, images: Iterable[np.ndarray]) -> Generator[np.ndarray]:
    """Yield the codes of the flow from every image to the next, uint8 [H, W, 2], solved by a server.

    Args:
        address: of a `FlowServer` on this machine.
        images: uint8 [H, W], all of one size; read chunk by chunk.

    Raises:
        UserError: the server failed or has ended.
    """
    images = iter(images)
    first = next(images, None)
    if first is None:
        return
    height, width = first.shape
    with _lost_server_is_user_error(), _connection(address) as connection:
        frames, codes = connection.shared(height, width)
        frames[0] = first
        while count := _fill(frames[1:], images):
            connection.solve(height, width, count)
            for solved in codes[:count]:
                yield solved.copy().transpose(0, 2, 1)  # keeps the order in memory, which is that of the encoded image
            frames[0] = frames[count]


def _fill(frames: np.ndarray, images: Iterator[np.ndarray]) -> int:
    """Copy images to `frames` until one of them ends; return how many."""
    count = 0
    for frame, image in zip(frames, images):  # noqa: B905 - `frames` first, or zip would lose an image at their end
        frame[:] = image
        count += 1
    return count


@contextlib.contextmanager
def _lost_server_is_user_error() -> Iterator[None]:
    try:
        yield
    except (ConnectionError, FileNotFoundError):
        raise UserError(
            "flow: the process that solves on the GPU is gone; run again, finished clips are kept"
        ) from None


class _Connection:
    """A client's connection to a server, with the memory that both share."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.connect(address)
        self._memory = np.empty(0, np.uint8)

    def shared(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Return frames and codes in the shared memory, as `_views`; larger memory is shared first where it is needed.

        Pages that are never accessed take no memory.
        """
        size = 4 * max(CHUNK_PX, height * width)
        if size > len(self._memory):
            file = os.memfd_create("flow")  # has no name that could be left behind
            try:
                os.ftruncate(file, size)
                socket.send_fds(self._socket, [_MEMORY.pack(size)], [file])
                self._memory = _mapped(file, size)
            finally:
                os.close(file)
        return _views(self._memory, height, width)

    def solve(self, height: int, width: int, pairs: int) -> None:
        """Wait until the server has solved the first `pairs` pairs of the shared frames."""
        self._socket.send(_REQUEST.pack(height, width, pairs))
        reply = self._socket.recv(_MAX_MESSAGE)
        if not reply:
            raise ConnectionResetError
        if reply != _SOLVED:
            raise UserError(reply.decode())

    def close(self) -> None:
        self._socket.close()


_idle: list[_Connection] = []  # of this process, for its next clips


@contextlib.contextmanager
def _connection(address: str) -> Iterator[_Connection]:
    """Lend a connection to a server; it is kept for the next clip unless the block fails or is left early."""
    connection = _idle.pop() if _idle else None
    if connection is None or connection.address != address:
        if connection is not None:
            connection.close()
        connection = _Connection(address)
    try:
        yield connection
    except BaseException:
        connection.close()
        raise
    _idle.append(connection)


def _mapped(file: int, size: int) -> np.ndarray:
    return np.frombuffer(mmap.mmap(file, size), np.uint8)


def _views(memory: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the frames [pairs + 1, H, W] and the codes [pairs, H, 2, W] of a chunk in shared memory."""
    size = height * width
    pairs = _pairs(CHUNK_PX, size)
    end = (pairs + 1) * size
    return (
        memory[:end].reshape(pairs + 1, height, width),
        memory[end : end + 2 * pairs * size].reshape(pairs, height, 2, width),
    )


def _pairs(pixels: int, size: int) -> int:
    """Return how many pairs of `size` pixels fit into `pixels`, a power of two, so that chunks fill a batch exactly."""
    return 1 << max(0, min(pixels // size, _MAX_PAIRS).bit_length() - 1)


class _Request(NamedTuple):
    client: socket.socket
    frames: np.ndarray  # uint8 [pairs + 1, H, W]
    codes: np.ndarray  # uint8 [pairs, H, 2, W]


class _Launched(NamedTuple):
    requests: list[_Request]
    codes: torch.Tensor  # uint8 [B, H, 2, W], on its way to the host
    ready: torch.cuda.Event | None


def _batch_pairs(size: tuple[int, ...]) -> int:
    """Return how many pairs of frames of a (height, width) are solved in one batch."""
    return _pairs(BATCH_PX, math.prod(size))


class FlowServer:
    """A context manager that solves the requests of clients in a thread of this process.

    The thread packs the next batch while the device works on one. A batch that does not fit into the GPU's memory is
    solved in halves, and so are all later ones.

    Args:
        solver: the solver, on its device.
        bound_px: bound of the codes, as for `encode_flow`.

    Attributes:
        address: for `solve_remotely`; a socket in a folder that only this user can enter.
    """

    def __init__(self, solver: BatchSolver, bound_px: float) -> None:
        self._solver = solver
        self._bound_px = bound_px
        self._part_px = BATCH_PX  # less once a batch did not fit
        self._memory: dict[socket.socket, np.ndarray] = {}
        self._requests: deque[_Request] = deque()
        self._failure = ""

    def __enter__(self) -> FlowServer:
        # The address of a socket has at most 107 characters.
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
        finally:  # close all sockets, so that waiting clients fail instead of hanging
            for key in list(self._selector.get_map().values()):
                cast(socket.socket, key.fileobj).close()
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
        """Receive all messages of clients; return False once the server is to stop."""
        events = self._selector.select(None if wait else 0)
        while events:  # until none is left: a batch should hold all waiting requests
            for key, _ in events:
                if key.fileobj is self._stopped:
                    return False
                if key.fileobj is self._listener:
                    self._selector.register(self._listener.accept()[0], selectors.EVENT_READ)
                else:
                    self._listen_to(cast(socket.socket, key.fileobj))
            events = self._selector.select(0)
        return True

    def _listen_to(self, client: socket.socket) -> None:
        try:
            message, files, _, _ = socket.recv_fds(client, _MAX_MESSAGE, 1)
        except ConnectionError:
            message, files = b"", []
        if files:
            self._memory[client] = _mapped(files[0], *_MEMORY.unpack(message))
            os.close(files[0])
        elif message:
            height, width, pairs = _REQUEST.unpack(message)
            frames, codes = _views(self._memory[client], height, width)
            self._requests.append(_Request(client, frames[: pairs + 1], codes[:pairs]))
        else:  # the client has ended or died
            self._selector.unregister(client)
            self._memory.pop(client, None)
            self._requests = deque(request for request in self._requests if request.client is not client)
            client.close()

    def _next_batch(self) -> list[_Request]:
        """Remove from the queue the oldest request and all of its size that fit into one batch with it."""
        if not self._requests:
            return []
        size = self._requests[0].frames.shape[1:]
        room, taken, left = _batch_pairs(size), [], deque[_Request]()
        for request in self._requests:
            if request.frames.shape[1:] == size and len(request.codes) <= room:
                room -= len(request.codes)
                taken.append(request)
            else:
                left.append(request)
        self._requests = left
        return taken

    def _attempt(self, step, work, requests: list[_Request]) -> _Launched | None:
        """Do a step of the work; if it fails, answer these and all later requests with the reason."""
        try:
            if not self._failure:
                return step(work)
        except Exception as error:
            device = self._solver.device.type
            self._failure = f"flow.device: {device} failed ({reason(error)[:300]}); try flow.device: cpu"
        self._answer(requests, self._failure.encode())
        return None

    def _answer(self, requests: list[_Request], message: bytes) -> None:
        for request in requests:
            with contextlib.suppress(OSError):  # the client died, which its parent process reports
                request.client.send(message)

    def _launch(self, requests: list[_Request]) -> _Launched:
        """Start the device on a batch, without waiting for it: waiting would delay the packing of the next batch."""
        import torch

        frames, first = self._pack(requests)
        taken = sum(len(request.codes) for request in requests)
        codes = self._codes(frames, first)[:taken]
        if self._solver.device.type != "cuda":
            return _Launched(requests, codes, None)
        on_host = torch.empty(codes.shape, dtype=torch.uint8, pin_memory=True)
        on_host.copy_(codes, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()
        return _Launched(requests, on_host, ready)

    def _pack(self, requests: list[_Request]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the frames of all requests, uint8 [F, H, W], and the index of each pair's first frame, int64 [B].

        For a GPU they are in pinned memory, from which alone a copy does not wait.
        """
        import torch

        size, pin = requests[0].frames.shape[1:], self._solver.device.type == "cuda"
        frames = torch.empty(
            (sum(len(request.frames) for request in requests), *size), dtype=torch.uint8, pin_memory=pin
        )
        np.concatenate([request.frames for request in requests], out=frames.numpy())
        starts = np.cumsum([0, *(len(request.frames) for request in requests[:-1])])
        counts = [len(request.codes) for request in requests]
        first = np.concatenate([start + np.arange(count) for start, count in zip(starts, counts, strict=True)])
        padded = torch.from_numpy(np.pad(first, (0, _batch_pairs(size) - len(first)), mode="edge"))
        return frames, padded.pin_memory() if pin else padded

    def _codes(self, frames: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """Return the codes of the flow from each frame in `first` to the one after it, uint8 [B, H, 2, W]."""
        import torch

        while True:
            most = _pairs(self._part_px, frames[0].numel())
            try:
                return self._codes_in_parts(frames, first, most)
            except RuntimeError as error:  # an OutOfMemoryError, or that of a call of CUDA, such as recording a graph
                if most == 1 or "out of memory" not in str(error):
                    raise
            # Outside the except block, where the exception no longer keeps the failed allocations alive.
            self._part_px = most // 2 * frames[0].numel()
            torch.cuda.empty_cache()

    def _codes_in_parts(self, frames: torch.Tensor, first: torch.Tensor, most: int) -> torch.Tensor:
        import torch

        frames, first = (tensor.to(self._solver.device, non_blocking=True) for tensor in (frames, first))
        solve, bound_px = self._solver.code_batch, self._bound_px
        return torch.cat([solve(frames[part], frames[part + 1], bound_px) for part in first.split(most)])

    def _finish(self, launched: _Launched) -> None:
        """Copy the codes of a batch to the memory of its clients, and answer them."""
        if launched.ready is not None:
            launched.ready.synchronize()
        codes, at = launched.codes.numpy(), 0
        for request in launched.requests:
            request.codes[:] = codes[at : at + len(request.codes)]
            at += len(request.codes)
        self._answer(launched.requests, _SOLVED)
