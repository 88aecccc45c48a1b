"""The `.beton` file: its format, and the way of a data set into it."""
