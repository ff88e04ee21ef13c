"""Prediction with nnU-Net's predictor from whichever contrasts a case has, and what to expect."""
