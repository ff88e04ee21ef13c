"""DICOM: headers, stacks of slices, the rules that name a contrast, and reading one volume."""
