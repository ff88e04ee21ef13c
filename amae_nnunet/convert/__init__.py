"""Raw NIfTI studies to ``nnUNet_raw`` and ``contrasts.json``. Never imports torch."""
