"""Whether an image file is whole, which the libraries that read it do not all say."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import nibabel as nib
from nibabel.filebasedimages import ImageFileError

from amae_nnunet.errors import InputError


def check_complete(path: Path) -> None:
    """Refuse a file that was cut short or changed, which SimpleITK may read without a word.

    Raises:
        InputError: a checksum is wrong, or voxels are missing.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        if packed:
            with gzip.open(path) as file:
                while file.read(2**20):  # at its end the checksum is compared
                    pass
        elif path.suffix == ".nii":
            image = nib.load(path)
            if path.stat().st_size < image.dataobj.offset + math.prod(image.shape) * (
                image.dataobj.dtype.itemsize
            ):
                raise EOFError("the file ends before its voxels do")
    except (OSError, EOFError, zlib.error, ImageFileError) as error:
        reason = " ".join(str(error.args[-1]).split())
        raise InputError(f"{path.name} is damaged ({reason}): copy it again") from None
