"""The door: files in, files out; every foreign convention stops here."""
