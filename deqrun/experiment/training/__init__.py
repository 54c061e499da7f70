"""Training: one loop, its objective, its draws, and its records."""
