"""What pixels of every type become."""

from __future__ import annotations

import ast
import struct
import threading
import tracemalloc
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

import edgekit
from edgekit.decoding import decoded, decoder, pixels_from
from edgekit.decoding.frames import watched_frames
from edgekit.decoding.opening import FORMATS
from edgekit.errors import DataError
from edgekit.preprocess import Preprocess, pixels_of

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
    return packed_png(path, values.astype(">u2").view(np.uint8), 16, () if transparent is None else (transparent,))


def packed_png(path: Path, rows: NDArray[np.uint8], bits: int, transparent: tuple[int, ...], colour: int = 0) -> Path:
    """A PNG of the bytes of its rows: 0 is grey as ``colour``, 2 RGB; ``transparent`` is a value of each channel or nothing."""
    width = rows.shape[1] * 8 // bits // (3 if colour else 1)
    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    alpha = chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b""
    content = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + alpha + chunk(b"IDAT", content) + chunk(b"IEND", b""))
    return path


def tiff(path: Path, content: bytes, bits: int, sample_format: int = 1, photometric: int = 1) -> Path:
    """A grey TIFF of 64 by 4 pixels, byte by byte."""
    entries = (  # width, height, bits, compression, photometric, where the strip is, samples, its rows, its bytes, the type
        (256, 64),
        (257, 4),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 8),
        (277, 1),
        (278, 4),
        (279, len(content)),
        (339, sample_format),
    )
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(content)) + content + directory + b"\0" * 4)
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


@pytest.mark.parametrize("scale", [-1.0, 1.0])
def test_white_of_a_floating_point_map_is_in_its_units(tmp_path: Path, scale: float) -> None:
    values = (RAMP * 100).astype("<f4" if scale < 0 else ">f4")
    (tmp_path / "a.pfm").write_bytes(f"Pf\n64 4\n{scale}\n".encode() + values.tobytes())
    np.testing.assert_array_equal(grey(tmp_path / "a.pfm", 100), EIGHT_BITS)


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
    content = values.astype(f"<{values.dtype.str[1:]}").tobytes()
    path = tiff(tmp_path / "a.tif", content, bits=32, sample_format=1 if kind == "uint32" else 2)
    assert abs(grey(path).astype(int) - EIGHT_BITS).max() <= 1


def test_signed_integers_of_8_bits_are_scaled_by_their_type(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", np.round(RAMP * 127).astype("i1").tobytes(), bits=8, sample_format=2)
    for white in (None, 4095):
        assert abs(grey(path, white).astype(int) - EIGHT_BITS).max() <= 1


@pytest.mark.parametrize(("kind", "lowest"), [("i1", -1), ("i1", -128), ("<i2", -1), ("<i2", -1024), ("<i4", -1), ("<f4", -1)])
def test_pixels_below_black_are_refused(tmp_path: Path, kind: str, lowest: int) -> None:
    values = np.zeros((4, 64), kind)
    values[1, 1] = lowest
    sample_format = 3 if kind == "<f4" else 2
    path = tiff(tmp_path / "a.tif", values.tobytes(), values.itemsize * 8, sample_format)
    with pytest.raises(DataError, match=rf"a\.tif has pixels down to {lowest}, and black is 0; shift and scale its values"):
        grey(path)


def test_what_resampling_takes_below_black_is_black(tmp_path: Path) -> None:
    values = RAMP.copy()
    values[:, 0] = -0.2
    np.testing.assert_array_equal(grey(saved(tmp_path / "a.tif", values)), EIGHT_BITS)


def test_pixels_below_black_of_an_open_picture_are_a_data_error() -> None:
    with pytest.raises(DataError, match="picture has pixels down to -5, and black is 0"):
        pixels_of(Image.fromarray(np.full((2, 2), -5, np.int32)), "grey", (2, 2))


def test_unsigned_integers_above_those_that_have_a_sign_are_white(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", np.full((4, 64), 3_000_000_000, "<u4").tobytes(), bits=32)
    assert (grey(path, 1000) == 255).all()


@pytest.mark.parametrize(("bits", "sample_format"), [(64, 3), (16, 3), (64, 1)])
def test_a_tiff_with_pixels_that_are_not_read_is_told_as_one(tmp_path: Path, bits: int, sample_format: int) -> None:
    path = tiff(tmp_path / "a.tif", bytes(64 * 4 * bits // 8), bits, sample_format)
    with pytest.raises(DataError, match=r"a\.tif is a TIFF with pixels that are not read, like float64.*; save it as float32 or"):
        grey(path)


def twelve_bits(path: Path, values: NDArray[Any]) -> Path:
    """A TIFF with two values in three bytes."""
    pairs = values.reshape(-1, 2).astype(np.uint32)
    joined = (pairs[:, 0] << 12) | pairs[:, 1]
    content = np.stack([joined >> 16, joined >> 8 & 255, joined & 255], axis=1).astype(np.uint8).tobytes()
    return tiff(path, content, bits=12)


def test_a_tiff_of_twelve_bits_is_scaled_by_its_type(tmp_path: Path) -> None:
    path = twelve_bits(tmp_path / "a.tif", np.round(RAMP * 4095))
    assert abs(grey(path).astype(int) - EIGHT_BITS).max() <= 1
    np.testing.assert_array_equal(grey(path, 4095), grey(path))
    assert grey(path, 65535).max() == 16


def test_a_floating_point_tiff_in_which_zero_is_white_is_inverted(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", (1 - RAMP).astype("<f4").tobytes(), bits=32, sample_format=3, photometric=0)
    assert abs(grey(path).astype(int) - EIGHT_BITS).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_in_which_zero_is_white_is_inverted(tmp_path: Path, bits: int) -> None:
    values = np.round((1 - RAMP.astype(np.float64)) * (2**bits - 1)).astype(f"<u{bits // 8}")
    path = tiff(tmp_path / "a.tif", values.tobytes(), bits=bits, photometric=0)
    assert abs(grey(path).astype(int) - EIGHT_BITS).max() <= 1


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


@pytest.mark.parametrize("largest", [1023, 4095, 65535])
def test_white_is_in_the_units_of_a_pgm_whatever_its_largest_value(tmp_path: Path, largest: int) -> None:
    values = np.round(RAMP * 1000).astype(np.uint16)
    plain = tmp_path / "plain.pgm"
    plain.write_text(f"P2 64 4 {largest}\n{' '.join(map(str, values.ravel()))}\n")
    for path in (pgm(tmp_path / "a.pgm", values, largest), plain):
        assert grey(path).max() == round(1000 / largest * 255)
        assert grey(path, largest).max() == round(1000 / largest * 255)
        assert abs(grey(path, 1000).astype(int) - EIGHT_BITS).max() <= 1


def test_white_is_in_the_units_of_a_jpeg_2000_whatever_its_bits(tmp_path: Path) -> None:
    values = np.round(RAMP * 4095).astype(np.uint16)
    sixteen = saved(tmp_path / "16.jp2", values)
    assert abs(grey(sixteen, 4095).astype(int) - EIGHT_BITS).max() <= 1
    content = saved(tmp_path / "a.j2k", values + 2**15 - 2**11).read_bytes()  # values are stored less half their range
    bits = content.index(b"\xff\x4f\xff\x51") + 42
    (tmp_path / "12.j2k").write_bytes(content[:bits] + bytes([11]) + content[bits + 1 :])
    for white in (None, 4095):
        assert abs(grey(tmp_path / "12.j2k", white).astype(int) - EIGHT_BITS).max() <= 1
    assert grey(tmp_path / "12.j2k", 8190).max() == pytest.approx(127.5, abs=1)


def deep_colours(path: Path, values: NDArray[np.uint16]) -> Path:
    """A picture of 64 by 4 pixels with three channels, or an alpha channel besides, in 16 bits."""
    content, channels = values.astype(">u2").tobytes(), values.shape[2]
    if path.suffix == ".ppm":
        path.write_bytes(b"P6 64 4 65535\n" + content)
        return path
    rows = b"".join(b"\0" + row.tobytes() for row in values.astype(">u2"))
    header = struct.pack(">IIBBBBB", 64, 4, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    return path


@pytest.mark.parametrize(("suffix", "channels"), [("ppm", 3), ("png", 3), ("png", 4), ("png", 2)])
def test_white_that_colours_cannot_follow_is_refused(tmp_path: Path, suffix: str, channels: int) -> None:
    values = np.round(np.repeat(RAMP[:, :, None], channels, axis=2) * 65535).astype(np.uint16)
    values[:, :, 3:] = 65535
    path = deep_colours(tmp_path / f"a.{suffix}", values)
    with pytest.raises(DataError, match=r"has colours of more than 8 bits, which data\.white cannot scale; convert it to 8 bits"):
        grey(path, 4095)
    for white in (None, 65535):
        assert decoded(path, "rgb", (4, 64), white).max() >= 253


def test_white_that_is_a_ppms_own_is_not_refused(tmp_path: Path) -> None:
    values = np.round(np.repeat(RAMP[:, :, None], 3, axis=2) * 4095).astype(np.uint16)
    (tmp_path / "a.ppm").write_bytes(b"P6 64 4 4095\n" + values.astype(">u2").tobytes())
    assert abs(decoded(tmp_path / "a.ppm", "rgb", (4, 64), 4095)[0].astype(int) - EIGHT_BITS).max() <= 1


def test_white_does_not_touch_pictures_of_eight_bits(tmp_path: Path) -> None:
    np.testing.assert_array_equal(grey(saved(tmp_path / "a.png", EIGHT_BITS), 4095), EIGHT_BITS)


def test_a_transparent_value_of_sixteen_bits_is_black(tmp_path: Path) -> None:
    pixels = grey(png(tmp_path / "a.png", np.round(RAMP * 65535).astype(np.uint16), transparent=65535))
    np.testing.assert_array_equal(pixels[:, :-1], EIGHT_BITS[:, :-1])
    assert (pixels[:, -1] == 0).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_transparent_value_of_few_bits_is_black(tmp_path: Path, bits: int) -> None:
    levels = 2**bits
    values = (np.arange(64) % levels).astype(np.uint8)
    packed = np.packbits(np.unpackbits(values[:, None], axis=1)[:, 8 - bits :])[None]
    for transparent in {1, levels - 1, levels // 2}:
        path = packed_png(tmp_path / "a.png", packed, bits, (transparent,))
        expected = np.where(values == transparent, 0, values * (255 // (levels - 1)))
        np.testing.assert_array_equal(decoded(path, "grey", (1, 64))[0, 0], expected)


@pytest.mark.parametrize(
    ("colour", "pixel", "expected"),
    [
        ((60000, 50000, 40000), (60000, 50000, 40000), [0, 0, 0]),
        ((60000, 100, 200), (60000, 100, 200), [0, 0, 0]),
        ((0, 0, 100), (0, 0, 25600), [0, 0, 100]),
    ],
)
def test_a_transparent_colour_of_sixteen_bits_is_black(
    tmp_path: Path, colour: tuple[int, ...], pixel: tuple[int, ...], expected: list[int]
) -> None:
    rows = np.array([pixel], ">u2").view(np.uint8)
    path = packed_png(tmp_path / "a.png", rows, 16, colour, colour=2)
    assert decoded(path, "rgb", (1, 1))[:, 0, 0].tolist() == expected


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_white_is_white_and_black_is_black_in_every_mode_of_a_file(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 2, axis=0)).convert("RGB")
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr", "LA") else "a.png")
    picture.convert("L" if mode == "1" else "RGB").convert(mode).save(path)
    assert decoded(path, "rgb", (2, 2))[:, 0].tolist() == [[0, 255]] * 3


@pytest.mark.parametrize("mode", ["L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_white_is_white_and_black_is_black_in_every_mode_of_an_open_picture(mode: str) -> None:
    picture = Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 2, axis=0))
    steps = {"PA": ("P",), "La": ("LA",), "RGBa": ("RGBA",)}.get(mode, ("RGB",))
    for step in (*steps, mode):
        picture = picture.convert(step)
    assert picture.mode == mode
    assert pixels_of(picture, "rgb", (2, 2))[:, 0].tolist() == [[0, 255]] * 3


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa"])
def test_what_is_transparent_is_black_in_every_mode(mode: str) -> None:
    opaque = Image.new("L", (2, 1), 200)
    picture = opaque.convert("P").convert("PA") if mode == "PA" else opaque.convert("LA" if mode in ("LA", "La") else "RGBA")
    picture.putalpha(Image.fromarray(np.array([[0, 255]], np.uint8)))
    picture = picture.convert(mode)
    assert picture.mode == mode
    assert pixels_of(picture, "grey", (1, 2))[0].tolist() == [[0, 200]]


def test_a_palette_with_an_alpha_channel_is_flattened(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 1), 1)
    picture.putpalette([0, 0, 0, 200, 200, 200])
    picture = picture.convert("PA")
    picture.putalpha(Image.fromarray(np.array([[0, 255]], np.uint8)))
    picture.save(tmp_path / "a.tif")
    with Image.open(tmp_path / "a.tif") as opened:
        assert opened.mode == "PA"
    assert decoded(tmp_path / "a.tif", "grey", (1, 2))[0].tolist() == [[0, 200]]


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


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("mode", ["L", "I;16", "RGB", "RGBA", "CMYK"])
def test_a_tiff_in_any_orientation_is_turned_upright(tmp_path: Path, mode: str, compression: str | None) -> None:
    stored = np.arange(10, 70, 10, dtype=np.uint8).reshape(2, 3)
    image = Image.fromarray(stored.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(stored).convert(mode)
    turns = [stored, stored[:, ::-1], stored[::-1, ::-1], stored[::-1]]
    upright = [*turns, *(np.transpose(turns[index]) for index in (0, 3, 2, 1))]
    for orientation, expected in enumerate(upright, 1):
        image.save(tmp_path / "a.tif", compression=compression, tiffinfo={0x112: orientation})
        pixels = decoded(tmp_path / "a.tif", "grey", expected.shape)[0]
        assert abs(pixels.astype(int) - expected).max() <= 1, orientation


def test_a_large_deep_picture_is_not_copied_whole(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", np.full((3000, 3000), 40000, np.uint16))
    tracemalloc.start()
    try:
        pixels = decoded(path, "grey", (4, 4))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (pixels == round(40000 / 257)).all()
    assert peak < 40e6  # the picture in float64 would have 72


def test_blocks_of_a_deep_picture_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(256, dtype=np.uint16).reshape(4, 64) * 257
    monkeypatch.setattr("edgekit.decoding.depth._BLOCK_PIXELS", 3 * 64)
    np.testing.assert_array_equal(grey(saved(tmp_path / "a.png", values)).ravel(), np.arange(256))


def test_a_picture_that_memory_is_not_enough_for_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(image: Image.Image) -> None:
        raise MemoryError

    path = saved(tmp_path / "a.png", EIGHT_BITS)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", full)
    with pytest.raises(DataError, match=r"a\.png needs more memory than there is; give a smaller picture"):
        grey(path)


@pytest.mark.parametrize("content", [b"%PDF-1.4\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"hello"])
def test_formats_that_are_not_named_are_refused_whatever_the_suffix_says(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png is not a picture of a format that is read"):
        grey(tmp_path / "a.png")


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    with pytest.raises(DataError, match=r"a\.png has 3,600,000,000 pixels, and at most [\d,]+ are read"):
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


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.tiff", "a.webp", "a.mpo"])
def test_decoding_tells_of_several_frames_and_gives_the_pixels_of_the_first(tmp_path: Path, name: str) -> None:
    frames = [Image.new("L", (64, 4), value) for value in (0, 200)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    still = saved(tmp_path / f"still{Path(name).suffix}", np.zeros((4, 64), np.uint8))
    for path, several in ((tmp_path / name, name != "a.mpo"), (still, False)):  # MPO's are views of the same
        with watched_frames() as told:
            pixels = grey(path)
        assert told.several == several
        assert not pixels.any()


def test_frames_are_told_to_the_innermost_watch_of_the_thread_alone(tmp_path: Path) -> None:
    frames = [Image.new("L", (64, 4), value) for value in (0, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with watched_frames() as outer:
        with watched_frames() as inner:
            grey(tmp_path / "a.gif")
        thread = threading.Thread(target=grey, args=(tmp_path / "a.gif",))
        thread.start()
        thread.join()
    assert (outer.several, inner.several) == (False, True)


def test_a_second_frame_that_is_damaged_leaves_the_first_as_it_is(tmp_path: Path) -> None:
    frames = [Image.new("L", (64, 4), value) for value in (0, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    content = (tmp_path / "a.gif").read_bytes()
    second = content.rindex(b"\x2c")  # where the second frame is described
    (tmp_path / "cut.gif").write_bytes(content[: second + 3])
    with watched_frames() as told:
        assert not grey(tmp_path / "cut.gif").any()
    assert not told.several


def test_threads_that_decode_leave_the_filter_of_warnings_as_it_was() -> None:
    before = warnings.filters[:]
    picture = Image.new("L", (4, 4))
    entered, leave = threading.Event(), threading.Event()

    def first() -> None:
        with decoder("grey", (2, 2)):
            entered.set()
            leave.wait(600)

    thread = threading.Thread(target=first)
    thread.start()
    assert entered.wait(600)
    pixels_of(picture, "grey", (2, 2))  # begins after the other thread, and ends before it
    assert warnings.filters != before
    leave.set()
    thread.join()
    assert warnings.filters == before


def test_the_filter_is_there_until_the_last_thread_has_decoded() -> None:
    before = warnings.filters[:]
    with decoder("grey", (2, 2)):
        late = decoder("grey", (2, 2))
        late.__enter__()
    assert warnings.filters != before
    late.__exit__(None, None, None)
    assert warnings.filters == before


@pytest.mark.parametrize("filters", ["error", "always"])
def test_what_pillow_warns_of_reaches_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filters: Any) -> None:
    """An animation whose number of frames is wrong, and a picture below the limit of pixels, but more than half of it."""
    Image.fromarray(EIGHT_BITS).save(tmp_path / "a.png", save_all=True, append_images=[Image.new("L", (64, 4))])
    content = (tmp_path / "a.png").read_bytes()
    place = content.index(b"acTL") - 4
    (tmp_path / "a.png").write_bytes(content[:place] + chunk(b"acTL", bytes(8)) + content[place + 20 :])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", EIGHT_BITS.size - 1)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter(filters)
        for source in (tmp_path / "a.png", (tmp_path / "a.png").read_bytes()):
            assert (pixels_from(source, "grey", None)[0] == EIGHT_BITS).all()
        assert (grey(tmp_path / "a.png") == EIGHT_BITS).all()
    assert warned == []


def test_pictures_are_opened_where_their_warnings_and_errors_become_ours() -> None:
    package = Path(edgekit.__file__).parent
    openers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("Image.open", "pillow.open"))
    }
    assert openers == {"decoding/opening.py"}


def test_a_picture_beyond_the_limit_of_pixels_is_one_sentence_with_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.png"
    Image.new("L", (60, 50)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for source in (path, path.read_bytes()):
        with pytest.raises(DataError) as refusal:
            pixels_from(source, "grey", (8, 8), name="number 1")
        name = path if source is path else "number 1"
        assert str(refusal.value) == f"picture {name} has 3,000 pixels, and at most 2,000 are read; make it smaller"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)
    assert pixels_from(path, "grey", (8, 8)).shape == (1, 8, 8)
