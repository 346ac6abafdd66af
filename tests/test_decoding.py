"""What pixels of every type become."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from edgekit.decoding import FORMATS, decoded
from edgekit.errors import DataError
from edgekit.preprocess import Preprocess

RAMP = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (4, 1))
EIGHT_BITS = np.round(RAMP * 255).astype(np.uint8)


def grey(path: Path, white: float | None = None) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = decoded(path, "grey", (4, 64), white)[0]
    return pixels


def saved(path: Path, values: NDArray[Any], **options: Any) -> Path:
    Image.fromarray(values).save(path, **options)
    return path


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(path: Path, values: NDArray[np.uint16], transparent: int | None = None) -> Path:
    """A 16-bit grey PNG, byte by byte."""
    rows = b"".join(b"\0" + row.tobytes() for row in values.astype(">u2"))
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 0, 0, 0, 0)
    alpha = b"" if transparent is None else chunk(b"tRNS", struct.pack(">H", transparent))
    image = chunk(b"IHDR", header) + alpha + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + image)
    return path


def pgm(path: Path, values: NDArray[np.uint16], largest: int = 65535) -> Path:
    path.write_bytes(f"P5 {values.shape[1]} {values.shape[0]} {largest}\n".encode() + values.astype(">u2").tobytes())
    return path


def test_floating_point_is_of_0_to_1(tmp_path: Path) -> None:
    np.testing.assert_array_equal(grey(saved(tmp_path / "a.tif", RAMP)), EIGHT_BITS)


def test_floating_point_far_above_1_is_refused_unless_white_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", RAMP * 255)
    with pytest.raises(DataError, match=r"a\.tif has floating point pixels up to 255, and white is 1\.0; let data\.white"):
        grey(path)
    np.testing.assert_array_equal(grey(path, 255), EIGHT_BITS)


def test_pixels_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    values = RAMP.copy()
    values[1, 1] = np.nan
    with pytest.raises(DataError, match=r"a\.tif has pixels that are not finite"):
        grey(saved(tmp_path / "a.tif", values))


@pytest.mark.parametrize("bits", [8, 16])
def test_unsigned_integers_are_scaled_by_their_type(tmp_path: Path, bits: int) -> None:
    values = np.round(RAMP.astype(np.float64) * (2**bits - 1)).astype(f"uint{bits}")
    for suffix in ("tif", "png"):
        assert abs(grey(saved(tmp_path / f"a.{suffix}", values)).astype(int) - EIGHT_BITS).max() <= 1


@pytest.mark.parametrize(("kind", "largest"), [("uint32", 2**32 - 1), ("int32", 2**31 - 1)])
def test_integers_of_32_bits_are_scaled_by_their_type(tmp_path: Path, kind: str, largest: int) -> None:
    values = np.round(RAMP.astype(np.float64) * largest).astype(kind)
    sample_format = 1 if kind == "uint32" else 2
    entries = (  # width, height, bits, compression, photometric, where the strip is, samples, its rows, its bytes, the type
        (256, 64),
        (257, 4),
        (258, 32),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, 4),
        (279, values.nbytes),
        (339, sample_format),
    )
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    header = b"II*\0" + struct.pack("<I", 8 + values.nbytes)
    (tmp_path / "a.tif").write_bytes(header + values.astype(f"<{values.dtype.str[1:]}").tobytes() + directory + b"\0" * 4)
    assert abs(grey(tmp_path / "a.tif").astype(int) - EIGHT_BITS).max() <= 1


@pytest.mark.parametrize("top", [255, 256, 4095, 65535])
def test_what_one_picture_happens_to_hold_does_not_scale_it(tmp_path: Path, top: int) -> None:
    values = np.round(RAMP * top).astype(np.uint16)
    for path in (pgm(tmp_path / "a.pgm", values), png(tmp_path / "a.png", values), saved(tmp_path / "a.tif", values)):
        assert grey(path).max() == round(top / 257)


def test_white_scales_twelve_bits_in_sixteen(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", np.round(RAMP * 4095).astype(np.uint16))
    assert grey(path).max() == 16
    assert abs(grey(path, 4095).astype(int) - EIGHT_BITS).max() <= 1
    described = Preprocess("grey", 4, 64, (0.5,), (0.5,), white=4095.0)
    np.testing.assert_array_equal(described.open(path)[0], grey(path, 4095))


def test_white_does_not_touch_pictures_of_eight_bits(tmp_path: Path) -> None:
    np.testing.assert_array_equal(grey(saved(tmp_path / "a.png", EIGHT_BITS), 4095), EIGHT_BITS)


def test_a_transparent_value_of_sixteen_bits_is_black(tmp_path: Path) -> None:
    pixels = grey(png(tmp_path / "a.png", np.round(RAMP * 65535).astype(np.uint16), transparent=65535))
    np.testing.assert_array_equal(pixels[:, :-1], EIGHT_BITS[:, :-1])
    assert (pixels[:, -1] == 0).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_white_is_white_and_black_is_black_in_every_mode(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 2, axis=0)).convert("RGB")
    picture = picture.convert("L").convert(mode) if mode in ("1", "PA") else picture.convert(mode)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr", "LA", "PA") else "a.png")
    if mode == "HSV":
        picture = picture.convert("RGB")
    picture.convert("RGBA" if mode == "PA" else picture.mode).save(path)
    assert decoded(path, "rgb", (2, 2))[:, 0].tolist() == [[0, 255]] * 3


def test_lab_becomes_srgb(tmp_path: Path) -> None:
    colours = np.zeros((2, 3, 3), np.uint8)
    colours[:, 0], colours[:, 1], colours[:, 2] = (200, 30, 40), (128, 128, 128), (60, 90, 150)
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    image = ImageCms.profileToProfile(Image.fromarray(colours), srgb, lab, outputMode="LAB")
    assert image is not None
    image.save(tmp_path / "a.tif")
    back = decoded(tmp_path / "a.tif", "rgb", (2, 3)).transpose(1, 2, 0).astype(int)
    assert abs(back - colours).max() <= 4


def test_a_palette_with_transparency_is_flattened_onto_black(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([250, 250, 250, 100, 100, 100])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png", transparency=0)
    assert decoded(tmp_path / "a.png", "grey", (1, 2))[0].tolist() == [[0, 100]]


def test_broken_exif_is_ignored_and_the_orientation_that_can_be_read_counts(tmp_path: Path) -> None:
    entries = struct.pack("<HHI", 0x112, 3, 1) + struct.pack("<H", 6) + b"\0\0" + struct.pack("<HHII", 282, 10, 1, 38)
    tiff = b"II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<I", 0) + struct.pack("<ii", -1, 0)
    halves = np.zeros((32, 64), np.uint8)
    halves[16:] = 255
    saved(tmp_path / "a.jpg", halves, exif=b"Exif\0\0" + tiff, quality=95)
    saved(tmp_path / "b.png", halves, exif=b"\x00\x08\x00\x02\x01\x12\x00\x03")
    turned, straight = decoded(tmp_path / "a.jpg", "grey", (64, 32))[0], decoded(tmp_path / "b.png", "grey", (32, 64))[0]
    assert (turned[:, 0].mean(), turned[:, -1].mean()) == pytest.approx((255, 0), abs=9)
    np.testing.assert_array_equal(straight, halves)


@pytest.mark.parametrize("content", [b"%PDF-1.4\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"hello"])
def test_formats_that_are_not_named_are_refused_whatever_the_suffix_says(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png is not a picture of a format that is read"):
        grey(tmp_path / "a.png")


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    with pytest.raises(DataError, match=r"a\.png cannot be decoded: Image size \(3600000000 pixels\) exceeds limit"):
        grey(tmp_path / "a.png")


def test_whatever_a_decoder_raises_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trip(image: Image.Image) -> None:
        raise struct.error("argument out of range")

    path = saved(tmp_path / "a.png", EIGHT_BITS)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", trip)
    with pytest.raises(DataError, match=r"a\.png cannot be decoded: argument out of range"):
        grey(path)


def test_every_format_that_is_named_is_one_of_pillows() -> None:
    Image.init()
    extensions = Image.registered_extensions()
    for name, suffixes in FORMATS.items():
        assert {extensions[suffix] for suffix in suffixes} == {name}
