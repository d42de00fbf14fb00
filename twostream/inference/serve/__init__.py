"""Serve a local web page that predicts the action in a video that is dropped on it."""

from __future__ import annotations

import signal
import socket
import sys
import tempfile
import threading
import webbrowser
from pathlib import Path
from types import FrameType

from twostream.errors import UserError, reason


def serve(
    models: Path, split: int, host: str, port: int, max_megabytes: float, max_seconds: float, open_browser: bool
) -> None:
    """Serve the page until Ctrl-C, then remove everything that was uploaded.

    Args:
        models: the folder of the trained models.
        split: which split's models.
        host: the name or address to listen on; anything but a loopback address lets other machines use the page.
        port: 0 for any free one.
        max_megabytes: of an upload (10^6 bytes).
        max_seconds: of a video.
        open_browser: whether to open the page in a browser of this machine.

    Raises:
        UserError: the models are not usable, or the address is not free.
    """
    import uvicorn

    from twostream.fusion.events import read_settings
    from twostream.inference.predict import Predictor
    from twostream.inference.serve.app import make_app

    with _listen(host, port) as listener, tempfile.TemporaryDirectory(prefix="twostream-serve-") as folder:
        print("Loading the models ...", flush=True)
        predictor = Predictor(models, split)
        events = read_settings(models / f"events-{split}.json")
        limits = {"max_megabytes": max_megabytes, "max_seconds": max_seconds}
        app = make_app(predictor, Path(folder), host=host, **limits, event_settings=events)

        class Server(uvicorn.Server):
            def handle_exit(self, sig: int, frame: FrameType | None) -> None:
                app.state.jobs.stop()  # first: uvicorn waits for the connections of pages that listen for events
                super().handle_exit(sig, frame)

        address, port = listener.getsockname()[:2]
        name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        url = f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"
        print(f"The page is at {url}. Ctrl-C ends it.", flush=True)
        if not (address == "::1" or address.startswith("127.")):
            print("Other machines on the network can use it too.", flush=True)
        if open_browser:
            # In a thread: a browser that runs in the terminal returns only when it is closed.
            threading.Thread(target=webbrowser.open, args=[url], daemon=True).start()
        # Uvicorn raises the signal that ended it again for the handler from before. SIGTERM's default one would end the
        # process before the folder is removed.
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
        raise UserError(
            f"cannot listen on {host}, port {port} ({reason(error)}); choose another with --host or --port"
        ) from None
