"""Static sites that sample in the visitor's browser; ``static`` holds what every site has."""
