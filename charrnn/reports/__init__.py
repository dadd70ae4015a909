"""Pictures and pages about runs and models."""
