"""Studies: many trainings that belong together, compared on one footing, recorded, and told in a table."""
