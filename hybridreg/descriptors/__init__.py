"""Descriptors to compare instead of intensities: a vector per voxel, as channels of an image."""
