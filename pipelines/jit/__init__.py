"""What numba's Python lacks."""
