"""Registration by small steps composed from coarse to fine: what such methods share."""
