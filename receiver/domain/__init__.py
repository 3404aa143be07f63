"""Values and rules that every package speaks. No I/O."""
