"""Pose estimation by hierarchical regression of local image residuals (PEHL, Miao 2016)."""
