"""The explorer's page is served by gradio to this machine only: its port, its style, and the hosts it may ask."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from mmvicreg.errors import InvalidValueError

HOST = "127.0.0.1"
MAX_UPLOAD = "32mb"
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "connect-src 'self'; frame-ancestors 'self'"
)
CSS = """footer{display:none!important}
.results{min-height:120px}
.results .grid-wrap{padding-top:2.2em!important;max-height:none!important;overflow:visible!important;
  height:auto!important}
.results .caption-label{left:0!important;right:0!important;max-width:100%!important;
  white-space:normal!important;text-align:left}
@media (max-width:640px){
.results .grid-container{grid-template-columns:repeat(2,minmax(0,1fr))!important}
.results .thumbnail-item{aspect-ratio:auto!important;flex-direction:column!important;height:auto!important}
.results .caption-label{position:static!important}}
#message{min-height:1.5em}"""


def check_port(port: int) -> None:
    """Raise InvalidValueError where another program listens on ``port``."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise InvalidValueError(
                f"port {port} of {HOST} cannot be used ({error}): another program has it, such as an explorer that "
                f"still runs; end that one, or give another with --port {port + 1 if port < 65535 else 7860}"
            ) from None


def serve(page: Any, port: int) -> None:
    """Serve the page on this machine until Ctrl-C."""
    from fastapi.middleware import Middleware

    gradio = load_gradio()
    theme = gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    page.queue(default_concurrency_limit=1, max_size=32)
    page.launch(
        server_name=HOST,
        server_port=port,
        share=False,
        quiet=True,
        show_error=True,
        ssr_mode=False,
        footer_links=[],
        enable_monitoring=False,
        max_file_size=MAX_UPLOAD,
        prevent_thread_lock=True,
        theme=theme,
        css=CSS,
        app_kwargs={"middleware": [Middleware(OwnHostOnly)], "docs_url": None, "redoc_url": None},
    )


class OwnHostOnly:
    """ASGI middleware: every answer tells the browser to load nothing from other hosts."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def answer(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"content-security-policy", POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        await self.app(scope, receive, answer if scope["type"] == "http" else send)


def load_gradio() -> Any:
    """The module gradio, told to send nothing. Raises InvalidValueError where it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = (
        "False"  # read when gradio is imported: no request for its newest version
    )
    try:
        import gradio
    except ImportError:
        raise InvalidValueError('the explorer needs gradio: pip install "mmvicreg[explore]"') from None
    return gradio
