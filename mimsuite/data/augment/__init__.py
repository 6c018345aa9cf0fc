"""What is done to a training image in a worker."""
