"""The paper's networks, one file per component, in the paper's order. Nothing here knows nnU-Net.

Shapes: B batch (studies), N contrasts, M slots (a slot is one present contrast of one study),
L tokens of one contrast, T tokens in a flat list, E width, p voxels of a token.
"""
