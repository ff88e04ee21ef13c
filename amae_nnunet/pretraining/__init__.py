"""Self pre-training on preprocessed studies (section 2.2 and 2.4)."""
