"""A pretended GPU: what of the way of a batch on a GPU can be tested where there is none. Begin with pretended.py."""
