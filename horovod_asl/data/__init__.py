"""From photos to the batches that a rank reads."""
