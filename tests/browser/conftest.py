"""A real browser for the tests of this folder: the Chromium of the machine, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

_EXECUTABLES = ("chromium", "chromium-browser", "google-chrome")
_HERE = ("", "localhost", "127.0.0.1")  # hosts of file:, data:, blob: and about: addresses, and of this machine


@dataclass
class Seen:
    """Errors and requests of all pages of a test."""

    errors: list[str] = field(default_factory=list)  # of the console and of scripts, and requests that failed
    requests: list[str] = field(default_factory=list)  # every address that was requested

    def strangers(self) -> list[str]:
        """Requests that left the machine."""
        return [url for url in self.requests if (urlsplit(url).hostname or "") not in _HERE]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "browser: needs Chromium and Playwright; skipped where one is not installed")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
    executable = next(filter(None, map(shutil.which, _EXECUTABLES)), None)
    if executable is None:
        pytest.skip(f"no browser: none of {', '.join(_EXECUTABLES)} is installed")
    with sync_api.sync_playwright() as playwright:
        # Chromium's sandbox refuses to run as root, as which tests run in a container.
        chromium = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def seen() -> Seen:
    """Requests and errors of the pages of this test."""
    return Seen()


@pytest.fixture
def new_page(browser: Any, seen: Seen) -> Iterator[Callable[..., Any]]:
    """A function `new_page(width=1280, height=900, dark=False, **options)` that opens an empty page of that size."""
    contexts = []

    def open_page(width: int = 1280, height: int = 900, dark: bool = False, **options: Any) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", **options
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: seen.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on("request", lambda request: seen.requests.append(request.url))
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def page(new_page: Callable[..., Any]) -> Any:
    """An empty page, 1280 by 900, light."""
    return new_page()
