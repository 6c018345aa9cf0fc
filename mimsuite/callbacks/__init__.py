"""What happens around training steps: metrics, pictures, checkpoints, signals."""
