"""The page: a local web server that names the action in a video that is dropped on it, and shows what it saw."""

from __future__ import annotations

import signal
import socket
import sys
import tempfile
import threading
import webbrowser
from pathlib import Path
from types import FrameType

from twostream.errors import UserError


def serve(
    models: Path,
    split: int,
    host: str,
    port: int,
    max_megabytes: float,
    max_seconds: float,
    open_browser: bool,
) -> None:
    """Serve the page until Ctrl-C, and remove everything that was uploaded.

    Args:
        models: the folder of the trained models.
        split: the split whose models answer.
        host: the name or address to listen on; anything but a loopback address lets other machines use the page.
        port: 0 for any free one.
        max_megabytes: of an upload (10^6 bytes).
        max_seconds: of a video.
        open_browser: whether to show the page in a browser of this machine.

    Raises:
        UserError: the models are not usable, or the address is not free.
    """
    import uvicorn

    from twostream.inference.predict import Predictor
    from twostream.inference.serve.app import make_app

    with _listen(host, port) as listener, tempfile.TemporaryDirectory(prefix="twostream-serve-") as folder:
        print("Loading the models ...", flush=True)
        predictor = Predictor(models, split)
        app = make_app(predictor, Path(folder), host=host, max_megabytes=max_megabytes, max_seconds=max_seconds)

        class Server(uvicorn.Server):
            def handle_exit(self, sig: int, frame: FrameType | None) -> None:
                app.state.jobs.stop()  # or its pages, which listen for events, would keep the server up
                super().handle_exit(sig, frame)

        url = _url(host, listener.getsockname()[1])
        print(f"The page is at {url}. Ctrl-C ends it.", flush=True)
        if not _is_loopback(listener):
            print("Whoever reaches this machine over the network can use it.", flush=True)
        if open_browser:
            # In a thread: a browser that runs in the terminal comes back when it is closed.
            threading.Thread(target=webbrowser.open, args=[url], daemon=True).start()
        # Uvicorn passes the signal that ended it on to what was there before; left to itself SIGTERM would keep us
        # from removing the folder.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, ws="none", proxy_headers=False, server_header=False
        )
        try:
            Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            print()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"cannot listen on {host}, port {port} ({reason}); choose another with --host or --port"
        ) from None


def _is_loopback(listener: socket.socket) -> bool:
    address = listener.getsockname()[0]
    return address == "::1" or address.startswith("127.")


def _url(host: str, port: int) -> str:
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"
