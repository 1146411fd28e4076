"""Reading and writing files; other conventions are converted here."""
