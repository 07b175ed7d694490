"""TIFF files put together from encoded blocks.

Windows of a raster are encoded in memory, here with ISA-L's deflate or by GDAL with any other codec; the blocks are
appended to one file, and at the end comes a directory that GDAL made, in which only their places are new. So windows
are encoded side by side, the bytes do not depend on how many threads did it, and every write to the disk is one whose
errors the system reports: GDAL says nothing of a full disk when it closes a file. The layout is that of TIFF 6.0 or
BigTIFF, little-endian; of a cloud-optimised GeoTIFF that of OGC 21-026, with the line by which GDAL knows it.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

OFFSETS, COUNTS = 324, 325  # tags: where each block lies, and how many bytes it has
SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}  # of types
WIDTH, HEIGHT, BITS, SAMPLES, ROWS_PER_STRIP, PLANAR, TILE_WIDTH, TILE_HEIGHT = 256, 257, 258, 277, 278, 284, 322, 323
BLOCK_FIELDS = (WIDTH, HEIGHT, BITS, SAMPLES, ROWS_PER_STRIP, PLANAR, TILE_WIDTH, TILE_HEIGHT)
VITAL = {  # tags that GDAL leaves out, with a warning to nobody, where their values are cut off
    BITS, 262, 273, 279, 320, OFFSETS, COUNTS, 338, 339,  # pixels and blocks
    33550, 33922, 34264, 34735, 34736, 34737,  # place and CRS
    42112, 42113,  # metadata, what a mask is; nodata
}  # fmt: skip
WHOLE = {3: "H", 4: "I", 16: "Q"}  # types of whole numbers
PIECE = 4096  # bytes of a file that are read at least
MOST_IMAGES, MOST_FIELDS = 1024, 65_536  # in a file, and in a directory
NUMBERS = {3: "<u2", 4: "<u4", 16: "<u8"}
KIND = 254  # tag: what an image is
REDUCED, MASK = 1, 4  # bits of it
OVERVIEW_FIELDS = {
    KIND, WIDTH, HEIGHT, BITS, 259, 262, 266, SAMPLES, PLANAR, 317, 320, TILE_WIDTH, TILE_HEIGHT, OFFSETS, COUNTS, 338,
    339, 42113,
}  # fmt: skip  # what an overview has of its image: coding, colours, nodata; not place and metadata
LAYOUT = (
    b"LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\nBLOCK_TRAILER=LAST_4_BYTES_REPEATED\n"
    b"KNOWN_INCOMPATIBLE_EDITION=NO\n MASK_INTERLEAVED_WITH_IMAGERY=YES\n"
)  # how GDAL's readers know what they may rely on
COG_HEADER = b"GDAL_STRUCTURAL_METADATA_SIZE=%06d bytes\n" % len(LAYOUT) + LAYOUT
LEADER, TRAILER = 4, 4  # bytes before a block: its size; and after it: its last ones again


@dataclass(frozen=True)
class Entry:
    """One field of a directory: its tag, type, number of values, and their bytes."""

    tag: int
    kind: int
    count: int
    value: bytes

    def numbers(self) -> NDArray[np.int64]:
        """The values, where they are whole numbers."""
        return np.frombuffer(self.value, NUMBERS[self.kind]).astype(np.int64)


@dataclass(frozen=True)
class _Form:
    """How a directory is packed: its length, an entry, an offset; and where the place of the first one stands."""

    number: str
    entry: str
    offset: str
    first: int
    header: bytes


CLASSIC = _Form("<H", "<HHI4s", "<I", 4, b"II*\0" + bytes(4))
BIG = _Form("<Q", "<HHQ8s", "<Q", 8, b"II+\0\x08\0\0\0" + bytes(8))


def read_directories(data: bytes | memoryview) -> list[list[Entry]]:
    """The directories of a TIFF file that GDAL made, in their order.

    Raises:
        ValueError: It is no little-endian TIFF.
    """
    if bytes(data[:4]) not in (CLASSIC.header[:4], BIG.header[:4]):
        raise ValueError("no little-endian TIFF")
    form = CLASSIC if bytes(data[:4]) == CLASSIC.header[:4] else BIG
    found: list[list[Entry]] = []
    (place,) = struct.unpack_from(form.offset, data, form.first)
    while place:
        (number,) = struct.unpack_from(form.number, data, place)
        start, size = place + struct.calcsize(form.number), struct.calcsize(form.entry)
        found.append([_read_entry(data, start + i * size, form) for i in range(number)])
        (place,) = struct.unpack_from(form.offset, data, start + number * size)
    return found


def _read_entry(data: bytes | memoryview, place: int, form: _Form) -> Entry:
    tag, kind, count, inline = struct.unpack_from(form.entry, data, place)
    size = SIZES[kind] * count
    if size <= len(inline):
        return Entry(tag, kind, count, inline[:size])
    (elsewhere,) = struct.unpack(form.offset, inline)
    return Entry(tag, kind, count, bytes(data[elsewhere : elsewhere + size]))


class _Foreign:
    """The directories of a TIFF file that may be anybody's, of either order of bytes.

    Raises:
        ValueError: It is no TIFF, or cut off.
    """

    def __init__(self, read: Callable[[int, int], bytes]) -> None:
        self._read, self._start, self._held = read, 0, b""
        self.end = 0
        orders = {b"II": "<", b"MM": ">"}
        if self._bytes(0, 2) not in orders:
            raise ValueError("no TIFF")
        self._order = orders[self._bytes(0, 2)]
        big = self._unpack("H", 2)[0] == 43
        self._number, self._entry, self._offset = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
        self.first: int = self._unpack(self._offset, 8 if big else 4)[0]

    def _size(self, form: str) -> int:
        return struct.calcsize(self._order + form)

    def _bytes(self, place: int, count: int) -> bytes:
        if not self._start <= place <= place + count <= self._start + len(self._held):
            self._start, self._held = place, self._read(place, max(count, PIECE))
        data = self._held[place - self._start :][:count]
        if len(data) < count:
            raise ValueError("a directory that is cut off")
        return data

    def _unpack(self, form: str, place: int) -> tuple[Any, ...]:
        return struct.unpack(self._order + form, self._bytes(place, self._size(form)))

    def directory(self, place: int) -> tuple[dict[int, int], int]:
        """The fields of a directory that say how large its blocks are, and where the next directory is.

        `end` is then at least where the values of its vital fields end.
        """
        (count,) = self._unpack(self._number, place)
        if count > MOST_FIELDS:
            raise ValueError("a directory without end")
        start, size, fields = place + self._size(self._number), self._size(self._entry), {}
        data = self._bytes(start, count * size + self._size(self._offset))
        for tag, kind, values, inline in struct.iter_unpack(self._order + self._entry, data[: count * size]):
            if tag in VITAL and SIZES.get(kind, 0) * values > len(inline):
                place = struct.unpack(self._order + self._offset, inline)[0]
                self.end = max(self.end, place + SIZES[kind] * values)
            if tag in BLOCK_FIELDS and kind in WHOLE:  # of several values, say bits of each band, the first
                if self._size(WHOLE[kind]) * values <= len(inline):
                    (fields[tag],) = struct.unpack_from(self._order + WHOLE[kind], inline)
                else:
                    (fields[tag],) = self._unpack(WHOLE[kind], struct.unpack(self._order + self._offset, inline)[0])
        return fields, struct.unpack_from(self._order + self._offset, data, count * size)[0]


def check_tiff(read: Callable[[int, int], bytes]) -> list[int]:
    """Bytes that a block of each image in a TIFF file takes when it is decoded, masks and overviews included.

    Args:
        read: Gives bytes of the file, which may be anybody's, by place and number.

    Raises:
        ValueError: It is no TIFF, its directories are broken or lead in a circle, there are too many, or the file ends
            before what they say of pixels, place and nodata.
    """
    file, sizes = _Foreign(read), []
    seen, place = set[int](), file.first
    while place:
        if place in seen or len(seen) == MOST_IMAGES:
            raise ValueError("directories without end")
        seen.add(place)
        fields, place = file.directory(place)
        sizes.append(_block_size(fields))
    if file.end and not read(file.end - 1, 1):
        raise ValueError(f"it is cut off before byte {file.end:,}")
    return sizes


def _block_size(fields: dict[int, int]) -> int:
    """Bytes of a decoded block by the fields of its directory; GDAL makes bytes of bits."""
    width, height = fields.get(TILE_WIDTH, fields.get(WIDTH, 0)), fields.get(TILE_HEIGHT, 0)
    height = height or min(fields.get(ROWS_PER_STRIP, 2**32 - 1), fields.get(HEIGHT, 0))
    samples = fields.get(SAMPLES, 1) if fields.get(PLANAR, 1) == 1 else 1
    return width * height * samples * -(-fields.get(BITS, 1) // 8)


def blocks_of(data: bytes | memoryview) -> list[list[bytes]]:
    """The encoded blocks of each image in a TIFF file, row by row; an empty one where the file has a hole."""
    found = []
    for directory in read_directories(data):
        fields = {entry.tag: entry for entry in directory}
        places = zip(fields[OFFSETS].numbers().tolist(), fields[COUNTS].numbers().tolist())
        found.append([bytes(data[start : start + count]) for start, count in places])
    return found


def deflated(pixels: NDArray[Any], side: int, predictor: int) -> list[bytes]:
    """The blocks of (bands, rows, cols), row by row, interleaved by pixel and compressed with deflate.

    Level 1 of ISA-L makes blocks of imagery no larger than level 6 of zlib does, in about a tenth of the time.

    Args:
        pixels: uint8, uint16, int16 or float32.
        side: Of a block, in pixels; blocks at the right and lower edge are filled up with 0.
        predictor: 1: none; 2: differences along rows; 3: the same of the bytes of floating-point numbers.
    """
    bands = pixels.shape[0]
    blocks = []
    for part in _parts(pixels, side):
        block = np.zeros((side, side, bands), pixels.dtype.newbyteorder("<"))
        block[: part.shape[1], : part.shape[2]] = np.moveaxis(part, 0, 2)
        blocks.append(isal_zlib.compress(PREDICTED[predictor](block), 1))
    return blocks


def deflated_bits(mask: NDArray[Any], side: int) -> list[bytes]:
    """The same of a mask (rows, cols), one bit a pixel, as GDAL keeps a mask inside a file."""
    blocks = []
    for part in _parts(mask[None], side):
        block = np.zeros((side, side), bool)
        block[: part.shape[1], : part.shape[2]] = part[0]
        blocks.append(isal_zlib.compress(np.packbits(block, axis=1), 1))
    return blocks


def _parts(pixels: NDArray[Any], side: int) -> Iterator[NDArray[Any]]:
    for row in range(0, pixels.shape[1], side):
        for col in range(0, pixels.shape[2], side):
            yield pixels[:, row : row + side, col : col + side]


def _differences(block: NDArray[Any]) -> NDArray[Any]:
    """Predictor 2 of TIFF 6.0: each pixel less the one before it, which wraps around."""
    different: NDArray[Any] = block.copy()
    different[:, 1:] -= block[:, :-1]
    return different


def _byte_differences(block: NDArray[Any]) -> NDArray[Any]:
    """Predictor 3 (TIFF Technical Note 3): bytes of a row by their weight, then as predictor 2."""
    rows, cols, bands = block.shape
    planes = block.astype(block.dtype.newbyteorder(">")).view(np.uint8).reshape(rows, cols * bands, -1)
    return _differences(np.swapaxes(planes, 1, 2).reshape(rows, -1, bands))


PREDICTED = {1: lambda block: block, 2: _differences, 3: _byte_differences}


class BlockFile:
    """A TIFF file in the making, of one image or of an image and its mask.

    Args:
        file: Where it goes; at its start.
        shape: Rows and columns of blocks.
        big: BigTIFF.
    """

    def __init__(self, file: BinaryIO, shape: tuple[int, int], *, big: bool) -> None:
        self._file, self._shape = file, shape
        self._form = BIG if big else CLASSIC
        self._places: dict[int, NDArray[np.uint64]] = {}
        self._end = file.write(self._form.header)

    def append(self, image: int, row: int, col: int, block: bytes) -> None:
        """Add a block of an image (0, or 1: the mask) at a row and column of blocks."""
        if image not in self._places:
            self._places[image] = np.zeros((2, *self._shape), np.uint64)
        self._places[image][:, row, col] = self._end, len(block)
        self._end += self._file.write(block)

    @property
    def images(self) -> int:
        """How many images have blocks."""
        return max(self._places, default=0) + 1

    def finish(self, template: bytes | memoryview) -> None:
        """Write the directories of a file without blocks, with the places of the blocks that were added."""
        directories = read_directories(template)
        for image, entries in enumerate(directories):
            places = self._places.get(image, np.zeros((2, *self._shape), np.uint64))
            self._end += self._file.write(bytes(self._end % 2))
            start = self._end
            last = image == len(directories) - 1
            self._end += self._file.write(_packed(_placed(entries, places, self._form), start, self._form, last=last))
            if image == 0:
                self._file.seek(self._form.first)
                self._file.write(struct.pack(self._form.offset, start))
                self._file.seek(self._end)


class CogFile:
    """A cloud-optimised TIFF file in the making: an image, or an image and its mask, and overviews of these.

    Args:
        file: Where blocks wait until all are there; at its start.
        shapes: Rows and columns of blocks of the image and of each overview.
        big: BigTIFF.
    """

    def __init__(self, file: BinaryIO, shapes: Sequence[tuple[int, int]], *, big: bool) -> None:
        self._file, self._shapes = file, shapes
        self._form = BIG if big else CLASSIC
        self._places: dict[tuple[int, int], NDArray[np.uint64]] = {}
        self._end = 0

    def append(self, image: int, row: int, col: int, block: bytes, level: int = 0) -> None:
        """Add a block of an image (0, or 1: the mask), or of an overview (level 1: the largest)."""
        if (level, image) not in self._places:
            self._places[level, image] = np.zeros((2, *self._shapes[level]), np.uint64)
        self._places[level, image][:, row, col] = self._end, len(block)
        self._end += self._file.write(block)

    @property
    def images(self) -> int:
        """How many images have blocks, overviews left out."""
        return max((image for _, image in self._places), default=0) + 1

    def finish(self, template: bytes | memoryview, sizes: Sequence[tuple[int, int]], dst: BinaryIO) -> None:
        """Write the whole file: directories, then blocks, those of the smallest overview first.

        Args:
            template: A file without blocks that GDAL made, whose directories these are.
            sizes: Rows and columns of the image and of each overview, in pixels.
            dst: Where to.
        """
        originals = read_directories(template)
        images = [(level, image) for level in range(len(sizes)) for image in range(len(originals))]
        entries = {(level, image): _reduced(originals[image], level, sizes[level], image) for level, image in images}
        places = {key: self._places.get(key, np.zeros((2, *self._shapes[key[0]]), np.uint64)) for key in images}
        head = self._form.header + COG_HEADER
        head += bytes(len(head) % 2)
        packed = [_packed(_placed(entries[key], places[key], self._form), 0, self._form, last=False) for key in images]
        starts = np.cumsum([len(head), *map(len, packed)]).tolist()
        order, places = self._laid_out(places, starts[-1], len(originals))
        dst.write(head[: self._form.first] + struct.pack(self._form.offset, starts[0]))
        dst.write(head[len(self._form.header) :])
        for key, start in zip(images, starts):
            fields = _placed(entries[key], places[key], self._form)
            dst.write(_packed(fields, start, self._form, last=key == images[-1]))
        for start, count in order:
            self._file.seek(start)
            block = self._file.read(count)
            dst.write(struct.pack("<I", count) + block + block[-TRAILER:])

    def _laid_out(
        self, places: dict[tuple[int, int], NDArray[np.uint64]], end: int, images: int
    ) -> tuple[Iterator[tuple[int, int]], dict[tuple[int, int], NDArray[np.uint64]]]:
        """Where each block waits, in the order of the file, and where it will lie; a mask's follow their image's."""
        waiting, final = [], {key: there.copy() for key, there in places.items()}
        for level in reversed(range(len(self._shapes))):
            there = np.stack([places[level, image] for image in range(images)], axis=-1).reshape(2, -1)
            rooms = np.where(there[1] > 0, there[1] + np.uint64(LEADER + TRAILER), np.uint64(0))
            starts = end + np.cumsum(rooms, dtype=np.uint64) - rooms + np.uint64(LEADER)
            for image in range(images):
                final[level, image][0] = np.where(rooms > 0, starts, 0)[image::images].reshape(self._shapes[level])
            end += int(rooms.sum())
            waiting.append(there[:, there[1] > 0])
        return ((int(start), int(count)) for part in waiting for start, count in part.T.tolist()), final


def _reduced(entries: Sequence[Entry], level: int, size: tuple[int, int], image: int) -> list[Entry]:
    """The directory of an overview of an image, or of its mask (image 1), made of the image's own."""
    if not level:
        return list(entries)
    kind = struct.pack("<I", REDUCED | (MASK if image else 0))
    fields = {entry.tag: entry for entry in entries if entry.tag in OVERVIEW_FIELDS}
    fields[KIND] = Entry(KIND, 4, 1, kind)
    for tag, length in zip((HEIGHT, WIDTH), size):
        fields[tag] = Entry(tag, 4, 1, struct.pack("<I", length))
    return list(fields.values())


def _placed(entries: Sequence[Entry], places: NDArray[np.uint64], form: _Form) -> list[Entry]:
    """A directory with the places (2: offset and number of bytes, rows, cols) of its blocks."""
    kind = 16 if form is BIG else 4
    fields = {entry.tag: entry for entry in entries}
    for tag, numbers in zip((OFFSETS, COUNTS), places):
        fields[tag] = Entry(tag, kind, numbers.size, numbers.astype(NUMBERS[kind]).tobytes())
    return [fields[tag] for tag in sorted(fields)]


def _packed(entries: Sequence[Entry], start: int, form: _Form, *, last: bool) -> bytes:
    """A directory that is written at `start`; the next one follows it, at an even place."""
    room = struct.calcsize(form.offset)
    head = struct.calcsize(form.number) + len(entries) * struct.calcsize(form.entry) + room
    packed, values = [struct.pack(form.number, len(entries))], b""
    for entry in entries:
        inline = entry.value.ljust(room, b"\0")
        if len(entry.value) > room:
            inline = struct.pack(form.offset, start + head + len(values))
            values += entry.value + bytes(len(entry.value) % 2)
        packed.append(struct.pack(form.entry, entry.tag, entry.kind, entry.count, inline))
    length = head + len(values)
    packed.append(struct.pack(form.offset, 0 if last else start + length + length % 2))
    return b"".join(packed) + values + bytes(0 if last else length % 2)
