"""Training data on disk: files, mixtures of them, one index over their records, and what is wrong with them."""
