"""What is compared in place of intensities: a vector at every voxel, as channels of an image."""
