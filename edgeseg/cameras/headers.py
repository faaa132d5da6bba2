"""What a picture file says of itself: size, depth and damage, read before anything is decoded."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from struct import error as StructError
from struct import unpack_from

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm"}

_JPEG_SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_BARE = {0x01, *range(0xD0, 0xD9)}


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a picture file.

    Attributes:
        width, height: pixels, as stored (before any EXIF rotation).
        bits: per channel.
        alpha: True where a fourth channel is stored.
        whole: False where the file is cut short or its checksum is wrong.
    """

    width: int
    height: int
    bits: int = 8
    alpha: bool = False
    whole: bool = True


def read_header(data: bytes | bytearray) -> Header | None:
    """Read the header of a whole PNG, JPEG, BMP, WebP, PGM or PPM file; None for anything else."""
    for signature, reader in _READERS.items():
        if data.startswith(signature):
            try:
                return reader(data)
            except (StructError, IndexError, ValueError):  # the header itself is cut short
                return None
    return None


def _png(data: bytes | bytearray) -> Header:
    width, height, bits, colour = unpack_from(">IIBB", data, 16)
    return Header(width, height, bits, alpha=colour in (4, 6), whole=_png_is_whole(data))


def _png_is_whole(data: bytes | bytearray) -> bool:
    view, at = memoryview(data), 8
    while at + 12 <= len(data):
        (length,) = unpack_from(">I", data, at)
        body, end = view[at + 4 : at + 8 + length], at + 12 + length
        if end > len(data) or zlib.crc32(body) != unpack_from(">I", data, end - 4)[0]:
            return False
        if data[at + 4 : at + 8] == b"IEND":
            return True
        at = end
    return False


def _jpeg(data: bytes | bytearray) -> Header:
    at = 2
    while True:
        if data[at] != 0xFF:
            raise ValueError("no marker where one must be")
        marker = data[at + 1]
        if marker == 0xFF or marker in _JPEG_BARE:  # fill byte; markers without a body
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _JPEG_SIZES:
            bits, height, width = unpack_from(">BHH", data, at + 4)
            return Header(width, height, bits, whole=data.rfind(b"\xff\xd9") > at)
        at += 2 + int(unpack_from(">H", data, at + 2)[0])


def _bmp(data: bytes | bytearray) -> Header:
    if unpack_from("<I", data, 14)[0] == 12:  # OS/2
        width, height, _, depth = unpack_from("<HHHH", data, 18)
        packing = 0
    else:
        width, height, _, depth, packing = unpack_from("<iiHHI", data, 18)
    rows = (abs(width) * depth + 31) // 32 * 4 * abs(height)
    whole = packing in (1, 2) or unpack_from("<I", data, 10)[0] + rows <= len(data)
    return Header(abs(width), abs(height), alpha=depth == 32, whole=whole)


def _webp(data: bytes | bytearray) -> Header:
    size, form, chunk = unpack_from("<4xI4s4s", data)
    if form != b"WEBP":
        raise ValueError("RIFF, but no WebP")
    whole = size + 8 <= len(data)
    if chunk == b"VP8X":
        words = unpack_from("<IHBHB", data, 20)
        width, height = words[1] | words[2] << 16, words[3] | words[4] << 16
        return Header(width + 1, height + 1, alpha=bool(words[0] & 0x10), whole=whole)
    if chunk == b"VP8L":
        (word,) = unpack_from("<I", data, 21)
        return Header((word & 0x3FFF) + 1, (word >> 14 & 0x3FFF) + 1, alpha=True, whole=whole)
    width, height = unpack_from("<HH", data, 26)
    return Header(width & 0x3FFF, height & 0x3FFF, whole=whole)


def _pnm(data: bytes | bytearray) -> Header:
    numbers: list[int] = []
    at = 2
    while len(numbers) < 3:
        if data[at : at + 1].isspace():
            at += 1
        elif data[at] == ord("#"):
            at = data.index(b"\n", at)
        else:
            end = at
            while data[end : end + 1].isdigit():
                end += 1
            numbers.append(int(data[at:end]))
            at = end
    width, height, top = numbers
    sample = 2 if top > 255 else 1
    need = width * height * sample * (3 if data[:2] == b"P6" else 1)
    return Header(width, height, 8 * sample, whole=len(data) - at - 1 >= need)


_READERS = {
    b"\x89PNG\r\n\x1a\n": _png,
    b"\xff\xd8": _jpeg,
    b"BM": _bmp,
    b"RIFF": _webp,
    b"P5": _pnm,
    b"P6": _pnm,
}
