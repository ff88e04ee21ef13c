"""Fine-tuning as nnU-Net trainers; stock nnU-Net's commands run them."""
