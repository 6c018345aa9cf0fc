"""Metrics that are summed over batches: accuracies, average precision, errors, PSNR."""
