"""Searching for better settings than the recipe's: ``charrnn tune``."""
