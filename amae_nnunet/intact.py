"""Whether an image file is whole, which the libraries that read it do not all say."""

from __future__ import annotations

import zlib
from pathlib import Path

from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from amae_nnunet.errors import InputError
from amae_nnunet.unpack import check_nifti


def check_complete(path: Path) -> None:
    """Refuse a file that was cut short or changed, which SimpleITK may read without a word.

    Raises:
        InputError: a checksum is wrong, or voxels are missing.
    """
    try:
        if path.name.endswith((".nii", ".nii.gz")):
            check_nifti(path)
    except (OSError, EOFError, zlib.error, ValueError, ImageFileError, HeaderDataError) as error:
        reason = " ".join(str(error.args[-1]).split())
        raise InputError(f"{path.name} is damaged ({reason}): copy it again") from None
