"""Packed files, unpacked no further than they may be: a few bytes can unpack to a full disk.

A NIfTI file says how many voxels it holds, so no more is unpacked than that; a DICOM file is at
most as large as its format allows. Not in the paper.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import IO, Any

import nibabel as nib
from nibabel.filebasedimages import ImageFileError

#: Bytes of a volume, or of all volumes of a 4-D file; the largest real ones have a tenth.
MAX_BYTES = 16 << 30
_GZIP_MAGIC = b"\x1f\x8b"
_BLOCK = 1 << 20
_SPARE = 64 << 20  # bytes behind the voxels: some programs leave a little there


class TooLarge(ValueError):
    """A file that holds, or says it holds, more than any image does."""


def nifti_class(start: bytes) -> Any:
    """Nibabel's class for a file that starts like this.

    Raises:
        ImageFileError: it does not start like NIfTI.
    """
    for image_class in (nib.Nifti1Image, nib.Nifti2Image):
        if image_class.header_class.may_contain_header(start):
            return image_class
    raise ImageFileError("no NIfTI header")


def open_plain(path: Path) -> IO[bytes]:
    """Open a file for reading; gzip is undone, whatever it is called."""
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP_MAGIC
    return gzip.open(path, "rb") if packed else path.open("rb")  # type: ignore[return-value]


def declared_bytes(start: bytes) -> int:
    """How many bytes a NIfTI file has, by its header.

    Args:
        start: its first 540 bytes.

    Raises:
        TooLarge: more than ``MAX_BYTES``.
        ImageFileError, HeaderDataError, ValueError: it has no such header.
    """
    header_class = nifti_class(start).header_class
    header = header_class(start[: header_class.template_dtype.itemsize], check=False)
    try:
        size = header.get_data_dtype().itemsize
        offset = max(int(header["vox_offset"]), header_class.single_vox_offset)
    except (KeyError, OverflowError) as error:
        raise ImageFileError(f"its header is not that of an image: {error}") from None
    for length in header.get_data_shape():
        size *= max(0, int(length))
    if size > MAX_BYTES:
        raise TooLarge(f"its header declares {size / 1e9:.3g} GB of voxels")
    return offset + size


def read_nifti(path: Path) -> bytes:
    """The content of a NIfTI file, unpacked, without what lies behind its voxels.

    Raises:
        TooLarge: it is larger than an image is, or goes on long behind its voxels.
        EOFError: it ends before its voxels do.
        OSError, zlib.error, ImageFileError, HeaderDataError, ValueError: it cannot be read.
    """
    with open_plain(path) as file:
        blocks = [file.read(nib.Nifti2Header.template_dtype.itemsize)]
        wanted = declared_bytes(blocks[0])
        read = len(blocks[0])
        while read < wanted and (block := file.read(min(_BLOCK, wanted - read))):
            blocks.append(block)
            read += len(block)
        if read < wanted:
            raise EOFError(f"it ends after {read} of {wanted} bytes")
        _skip(file, _SPARE)
    return b"".join(blocks)


def check_nifti(path: Path) -> None:
    """Read a file to its end, and raise as ``read_nifti`` does; no voxel is kept in memory."""
    with open_plain(path) as file:
        start = file.read(nib.Nifti2Header.template_dtype.itemsize)
        wanted = declared_bytes(start)
        read = len(start) + _skip(file, wanted + _SPARE)
        if read < wanted:
            raise EOFError(f"it ends after {read} of {wanted} bytes")


def copy_packed(source: IO[bytes], target: IO[bytes], limit: int = MAX_BYTES) -> int:
    """Copy a stream that is unpacked on the way.

    Returns:
        How many bytes it had.

    Raises:
        TooLarge: more than ``limit``.
    """
    copied = 0
    while block := source.read(_BLOCK):
        copied += len(block)
        if copied > limit:
            raise TooLarge(f"it unpacks to more than {limit / 1e9:.3g} GB")
        target.write(block)
    return copied


def check_deflated(stream: IO[bytes], limit: int) -> None:
    """Raise TooLarge if a deflated stream without a header unpacks to more than ``limit`` bytes."""
    inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while not inflate.eof and (block := inflate.unconsumed_tail or stream.read(_BLOCK)):
        size += len(inflate.decompress(block, _BLOCK))
        if size > limit:
            raise TooLarge(f"it unpacks to more than {limit / 1e9:.3g} GB")


def _skip(file: IO[bytes], limit: int) -> int:
    """Read to the end, where gzip compares its checksum; how many bytes there were."""
    skipped = 0
    while block := file.read(_BLOCK):
        skipped += len(block)
        if skipped > limit:
            raise TooLarge("it goes on long behind its voxels")
    return skipped
