"""Recurrent cells as steps: one module a cell, named after it. ``layer`` holds what they share."""
