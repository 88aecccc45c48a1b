"""JPEGs: decoded in whole or in part, and written again with restart markers."""
