"""Fine-tuning on a selection, with TRL's trainers."""
