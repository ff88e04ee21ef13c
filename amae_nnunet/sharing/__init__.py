"""Pre-trained checkpoints handed on: the model card, and the layout of the Hugging Face hub."""
