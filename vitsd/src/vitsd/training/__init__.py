"""Training, resuming and fine-tuning."""
