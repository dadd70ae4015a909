"""What the units of a model do along a text: one self-contained page. Needs the runtime, not torch."""
