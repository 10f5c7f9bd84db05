"""A hospital's node: pure machines that decide, one door for each outside library, and the joints between them."""
