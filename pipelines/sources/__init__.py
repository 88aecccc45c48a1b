"""Where data may come from: a path, an address, drawings."""
