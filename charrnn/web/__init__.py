"""Static sites that sample in the visitor's browser; ``static`` holds the files that all sites share."""
