"""Descriptors learned without labels by a stacked autoencoder (Wu 2016): network, task, descriptor."""
