"""Synthetic multi-contrast brain studies from MR signal equations, for tests, demos and controls.

Not in the paper. Nothing here needs torch or nnU-Net.
"""
