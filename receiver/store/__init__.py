"""What the rest of the program needs of a store, and the stores that implement it."""
