"""What is trained: one Lightning module for masked image modeling."""
