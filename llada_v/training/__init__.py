"""From records to weights: recipe, records, batches, noise, trainer."""
