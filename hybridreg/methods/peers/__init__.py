"""The methods of other packages behind the same protocol, each in a child process.

They are compared with, and are never needed: ``missing`` says what to install. ``python`` names a
Python that has the package, for one that does not fit into this environment. Scripts in ``scripts``
run there, and need nothing of hybridreg.
"""
