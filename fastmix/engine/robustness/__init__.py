"""Trained weights beyond top-1: calibration, corruptions, attacks, occlusion. docs/robustness.md has the equations."""
