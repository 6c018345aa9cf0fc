"""What is trained: Lightning modules for masked image modeling and for classification."""
