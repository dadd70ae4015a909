"""Recurrent cells for export: one module for each cell, named after it. ``layer`` holds what they share."""
