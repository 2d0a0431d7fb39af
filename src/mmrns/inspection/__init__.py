"""Looking into a model and a sampler: what is drawn for a triple and why, and the page that shows it."""
