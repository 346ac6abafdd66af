"""Draw ``docs/way.svg``, the way from a recipe to a bundle, with the figures of the committed LeNet bundle.

python docs/way.py           draws the picture
python docs/way.py --check   exits with 1 if the picture is not up to date
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from arguments import asked_to_check

from edgekit.bundle.folder import open_bundle
from edgekit.bundle.manifest import Manifest

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "way.svg"
WIDTH, HEIGHT = 860, 372
INK, QUIET, LINE, STEP, FILE = "#1f2937", "#6b7280", "#9ca3af", "#dbeafe", "#fef3c7"
SANS = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


class Box(NamedTuple):
    """A rounded box at (x, y) with a title and lines of text; the title of a ``file`` is monospaced."""

    x: int
    y: int
    width: int
    title: str
    lines: Sequence[str]
    file: bool = False


def picture(manifest: Manifest, sizes: dict[str, int]) -> str:
    """The SVG: the four steps above, the bundle below."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
            f'role="img" aria-label="From a recipe to a bundle: train, export, verify, bench" font-family="{SANS}">',
            f'<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
            f'<path d="M0,0 L8,4 L0,8 z" fill="{LINE}"/></marker></defs>',
            f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="10" fill="#ffffff" stroke="#e5e7eb"/>',
            *_source(),
            *_steps(manifest),
            *_bundle(manifest, sizes),
            "</svg>",
            "",
        ]
    )


def _source() -> Iterator[str]:
    yield from _box(Box(20, 36, 126, "recipe.toml", ("or your model,", "or an ONNX file"), file=True))
    yield _arrow(146, 76, 172, 76)


def _steps(manifest: Manifest) -> Iterator[str]:
    fold = manifest.fold
    folded = f"{len(fold.folded)} of {len(fold.folded) + len(fold.kept)} norms" if fold else "batch norm"
    accuracy = f"accuracy {manifest.test_accuracy:.3f}" if manifest.test_accuracy else "to the bar you set"
    steps = (
        ("train", ("60,000 pictures,", accuracy)),
        ("export", (f"folds {folded},", "proved in float64")),
        ("verify", ("each backend against", "recorded float64")),
        ("bench", ("backends take turns,", "raw samples kept")),
    )
    for index, (title, about) in enumerate(steps):
        x = 172 + 172 * index
        yield from _box(Box(x, 36, 144, title, about))
        if index < len(steps) - 1:
            yield _arrow(x + 144, 76, x + 172, 76)
    yield _arrow(416, 114, 416, 176)
    yield _label(426, 152, "writes")
    yield _arrow(588, 176, 588, 114)
    yield _arrow(760, 176, 760, 114)
    yield _label(598, 152, "opens, by checksum")
    yield _label(770, 152, "opens")


def _bundle(manifest: Manifest, sizes: dict[str, int]) -> Iterator[str]:
    yield f'<rect x="172" y="176" width="668" height="150" rx="8" fill="#f9fafb" stroke="{LINE}" stroke-dasharray="5 4"/>'
    yield f'<text x="188" y="202" font-size="15" font-weight="600" fill="{INK}">bundle</text>'
    yield f'<text x="254" y="202" font-size="13" font-family="{MONO}" fill="{QUIET}">exported/{escape(manifest.name)}/</text>'
    about = {
        "model.onnx": ("the network,", "batch norm folded"),
        "golden.npz": (f"{manifest.golden.samples} inputs and", "their float64 outputs"),
        "manifest.json": ("shapes, preprocessing,", "tolerance, checksums"),
        "README.md": ("model card, with a", "program that calls it"),
    }
    for index, (name, lines) in enumerate(about.items()):
        size = f"{max(sizes[name] / 1000, 1):.0f} kB"
        yield from _box(Box(188 + 161 * index, 218, 152, name, (*lines, size), file=True))
    claim = "Immutable and checked by sha256; it runs without edgekit and without PyTorch."
    yield f'<text x="188" y="350" font-size="13" fill="{QUIET}">{claim}</text>'


def _box(box: Box) -> Iterator[str]:
    middle, height = box.x + box.width / 2, 40 + 17 * len(box.lines) + 4
    fill, size, family = (FILE, 14, f' font-family="{MONO}"') if box.file else (STEP, 16, "")
    centred = f'<text x="{middle:g}" text-anchor="middle" fill="{INK}"'
    yield f'<rect x="{box.x}" y="{box.y}" width="{box.width}" height="{height}" rx="8" fill="{fill}" stroke="{LINE}"/>'
    yield f'{centred} y="{box.y + 26}" font-size="{size}" font-weight="600"{family}>{escape(box.title)}</text>'
    for index, line in enumerate(box.lines):
        yield f'{centred} y="{box.y + 46 + 17 * index}" font-size="12">{escape(line)}</text>'


def _arrow(x1: int, y1: int, x2: int, y2: int) -> str:
    return f'<path d="M{x1},{y1} L{x2},{y2}" stroke="{LINE}" stroke-width="2" fill="none" marker-end="url(#head)"/>'


def _label(x: int, y: int, text: str) -> str:
    return f'<text x="{x}" y="{y}" font-size="12" fill="{QUIET}">{escape(text)}</text>'


def main() -> None:
    """Draw the picture, or check it against the bundle."""
    bundle = open_bundle(ROOT / "exported" / "lenet")
    sizes = {path.name: path.stat().st_size for path in bundle.root.iterdir()}
    drawing = picture(bundle.manifest, sizes)
    if not asked_to_check(__doc__):
        PICTURE.write_text(drawing, encoding="utf-8")
    elif not PICTURE.is_file() or PICTURE.read_text(encoding="utf-8") != drawing:
        sys.exit("docs/way.svg is not up to date with exported/lenet; run python docs/way.py")


if __name__ == "__main__":
    main()
