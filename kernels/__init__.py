"""The kernels: one file each, with a reference, the Triton kernel, a launcher, test cases and ahead-of-time targets."""
