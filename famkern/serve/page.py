"""What a visitor sees: a picture goes in on the left, before and after it are on the right."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from .. import images
from ..engine import format_bytes
from ..ops.reduced import MOST_SCALE
from . import pictures
from .sessions import MOST, Session
from .settings import Settings

TITLE = "famkern: remove haze from a picture"
HEIGHT = 640  # pixels of the page that before and after take at most
SCALES: list[tuple[str, int | str]] = [
    ("1: every pixel", 1),
    ("auto: by the size of the picture", "auto"),
    *((f"{scale}: on a smaller picture", scale) for scale in range(2, MOST_SCALE + 1)),
]
CSS = """
footer { display: none !important }
.gradio-container { max-width: 1200px !important; margin: auto }
"""


class StoppedError(Exception):
    """Nobody waits for this picture any more."""


def theme() -> gr.themes.Base:
    """Colours and the system's own fonts: nothing is fetched from elsewhere."""
    return gr.themes.Default(
        primary_hue="sky",
        font=["ui-sans-serif", "system-ui", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    )


def page(
    settings: Settings, session_of: Callable[[gr.Request], Session | None], stopped: Callable[[Session], bool]
) -> gr.Blocks:
    """The page.

    Args:
        settings: of the server.
        session_of: whose request this is.
        stopped: whether a run for this session is to end, for nobody waits for it.
    """

    def dehaze(
        upload: dict[str, Any] | None,
        model: str,
        strength: float,
        scale: int | str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  how Gradio knows that this function tells its progress
    ) -> tuple[tuple[str, str], Any]:
        for component in (shown, download):
            component.temp_files.clear()  # Gradio's list of all that was ever shown, which grows; sessions know better
        session = session_of(request)
        path = session.find(str(upload.get("path"))) if session and upload else None
        if session is None or path is None:
            raise _error("There is no picture yet, or it was here too long ago: drop one on the field")

        def tell(fraction: float) -> None:
            if stopped(session):
                raise StoppedError
            progress(fraction, desc=path.name)

        try:
            result = pictures.dehaze(path, settings, model=model, strength=strength, scale=scale, progress=tell)
        except pictures.PictureError as error:
            raise _error(str(error)) from error
        return (str(result.before), str(result.after)), _button(result.target)

    models = [(label, name) for name, label in pictures.choices().items()]
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as blocks:
        gr.Markdown(f"# Remove haze from a picture\n{_what_is_taken(settings)}")
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                upload = gr.File(label="Hazy picture", file_types=_suffixes(), height=150)
                model = gr.Dropdown(models, value=models[0][1], label="Model")
                strength = gr.Slider(
                    0, 2, value=1, step=0.05, label="Strength", info="0: unchanged, 1: full effect; up to 2"
                )
                scale = gr.Dropdown(SCALES, value=1, label="Scale", info="At which the network sees the picture")
                start = gr.Button("Remove haze", variant="primary")
            with gr.Column(scale=3, min_width=320):
                shown = gr.ImageSlider(
                    label="Before | after", interactive=False, buttons=["fullscreen"], max_height=HEIGHT
                )
                download = gr.DownloadButton("Download the result", interactive=False)
        gr.on(
            [upload.upload, start.click],
            dehaze,
            [upload, model, strength, scale],
            [shown, download],
            concurrency_limit=1,
            show_progress_on=shown,
            preprocess=False,  # everything is checked here, and Gradio leaves an empty file behind for each upload
            api_visibility="private",
        )
        blocks.unload(_nothing)  # so that pages hold a request open for as long as they are
    blocks.state_session_capacity = MOST
    return blocks.queue(max_size=settings.queue)


def _nothing() -> None:
    pass


def _error(line: str) -> gr.Error:
    return gr.Error(html.escape(line, quote=False), duration=None, print_exception=False)


def _button(target: Path) -> Any:
    size = format_bytes(target.stat().st_size)
    return gr.DownloadButton(f"Download {target.name} ({size})", value=str(target), interactive=True, variant="primary")


def _suffixes() -> list[str]:
    return [suffix for suffix in images.READ_SUFFIXES if images.is_readable(suffix)]


def _what_is_taken(settings: Settings) -> str:
    formats = ", ".join(dict.fromkeys(images.READ_SUFFIXES[suffix] for suffix in _suffixes())).replace("WEBP", "WebP")
    return (
        f"{formats}; up to {settings.max_upload} and {settings.max_pixels:,} pixels. The result "
        "has the format, depth and metadata of your picture. Both are removed from the server when you close this page, or "
        f"after {settings.keep} minutes."
    )
