"""Values and rules that every package uses. No I/O."""
