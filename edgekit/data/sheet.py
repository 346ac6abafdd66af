"""A contact sheet: small pictures with captions, as one PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CELL, LINE, COLUMNS = 96, 12, 8
MADE_BY = "edgekit contact sheet"


def contact_sheet(images: Sequence[NDArray[np.uint8]], captions: Sequence[tuple[str, ...]]) -> bytes:
    """The PNG of ``images``, uint8 C x H x W each, with the lines of ``captions`` below them, eight in a row."""
    from PIL import Image, ImageDraw, PngImagePlugin

    lines = max((len(caption) for caption in captions), default=0)
    height = CELL + LINE * lines + 4
    rows = -(-len(images) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (CELL + 8), max(1, rows) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (pixels, caption) in enumerate(zip(images, captions, strict=True)):
        picture = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        left, top = place % COLUMNS * (CELL + 8) + 4, place // COLUMNS * height
        sheet.paste(picture.convert("RGB").resize((CELL, CELL), Image.Resampling.NEAREST), (left, top))
        for line, text in enumerate(caption):
            draw.text((left, top + CELL + LINE * line), text.encode("ascii", "replace").decode()[:16], fill="black")
    buffer, about = io.BytesIO(), PngImagePlugin.PngInfo()
    about.add_text("Software", MADE_BY)
    sheet.save(buffer, "PNG", pnginfo=about)
    return buffer.getvalue()
