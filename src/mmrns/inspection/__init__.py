"""Looking into a model and a sampler: what is drawn for a triple and why, its page; what speaks for an answer."""
