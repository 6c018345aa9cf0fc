"""What happens around training steps: figures, pictures, checkpoints, signals."""
