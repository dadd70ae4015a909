"""Heat maps: a page that shows the values of a model's units along a text. Needs the runtime, not torch."""
