"""Descriptors that tell anatomical structures apart, learned from labels: network, task, descriptor."""
