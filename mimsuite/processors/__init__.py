"""Image processors in Hugging Face form."""
