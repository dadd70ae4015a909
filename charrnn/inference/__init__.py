"""Opening, exporting, scoring and sampling trained models."""
