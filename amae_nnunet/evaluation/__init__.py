"""What predictions are worth: scores for subsets of contrasts, and pictures of them."""
