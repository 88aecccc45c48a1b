"""Functions compiled by numba, and what its Python lacks."""
