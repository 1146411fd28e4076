"""Fast diffeomorphic registration of one pair: small steps, composed from coarse to fine."""

from hybridreg.methods.instance.method import Instance

__all__ = ["Instance"]
