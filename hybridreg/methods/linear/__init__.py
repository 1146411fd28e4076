"""Rigid, similarity and affine registration, coarse to fine, by quasi-Newton steps."""
