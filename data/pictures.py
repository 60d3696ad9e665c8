"""Picture files of any kind -> RGB on white."""

from __future__ import annotations

import io

from PIL import Image


def on_white(file: bytes, longest: int, *, square: bool) -> Image.Image:
    """An SVG, PNG or WebP file as RGB, transparency on white, its longest side ``longest`` pixels.

    With ``square`` it is padded to a square and every picture has one size; without, smaller bitmaps are
    kept as they are. SVG files are rendered at twice the size first and need resvg-py (the extra ``data``).
    """
    if file.lstrip()[:5] in (b"<svg ", b"<?xml"):
        file = render(file.decode(), 2 * longest)
    with Image.open(io.BytesIO(file)) as opened:
        drawing = opened.convert("RGBA")
    canvas_size = (max(drawing.size),) * 2 if square else drawing.size
    canvas = Image.new("RGBA", canvas_size, "white")
    canvas.alpha_composite(
        drawing, ((canvas_size[0] - drawing.width) // 2, (canvas_size[1] - drawing.height) // 2)
    )
    scale = longest / max(canvas_size)
    if not square:
        scale = min(scale, 1.0)
    size = (max(1, round(canvas_size[0] * scale)), max(1, round(canvas_size[1] * scale)))
    return canvas.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def render(drawing: str, width: int) -> bytes:
    """An SVG drawing as a PNG file of that width."""
    try:
        import resvg_py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('SVG pictures need resvg-py: pip install -e ".[data]"') from error
    return bytes(resvg_py.svg_to_bytes(svg_string=drawing, width=width, dpi=96))
