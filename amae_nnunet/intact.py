"""Whether an image file is whole, which the libraries that read it do not all say.

What they do say often names the folders that the file lies in, which may name a person.
"""

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
        reason = said(error.args[-1], path.parent)
        raise InputError(f"{path.name} is damaged ({reason}): copy it again") from None


def said(error: object, *folders: Path) -> str:
    """What a library says of files of some folders, in one line that does not name these."""
    text = " ".join(str(error).split())
    for folder in folders:
        text = text.replace(f"{folder}/", "")
    return text[:300]
