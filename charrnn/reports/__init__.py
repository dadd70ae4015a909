"""Plots and HTML pages about runs and models."""
