"""nnU-Net's plans and preprocessed data as we read them, and the "amae" block in the plans.

No torch at import; nnU-Net's modules, of which many need torch, are imported where they are used.
"""
